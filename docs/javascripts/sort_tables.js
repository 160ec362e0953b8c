// Click on a column's head to sort by it; as mkdocs-material documents it for tablesort.
document$.subscribe(() => {
  for (const table of document.querySelectorAll("article table:not([class])")) new Tablesort(table)
})
