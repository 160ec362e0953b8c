"""From a table as a report prints it to the figures it holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from citysegzoo.data.labels import CITYSCAPES_19, CITYSCAPES_CATEGORIES
from citysegzoo.variant import Result

CLASSES_19 = CITYSCAPES_19.classes
"""The 19 evaluated classes in train-id order, the columns of most tables."""

CLASSES_5 = ("building", "traffic sign", "person", "car", "bicycle")
"""The five classes that the CSE 253 assignment asks for."""

CATEGORIES_7 = tuple(sorted(CITYSCAPES_CATEGORIES.classes))
"""The seven evaluated categories, in alphabetical order as the official evaluator prints them."""


class Column(NamedTuple):
    """What the figures of one column are; see :class:`citysegzoo.variant.Result`.

    Attributes:
        metric: What was measured.
        label: The class or category it is of, None for a figure over all.
        note: Of every figure in the column.
        split: The images it was measured on, where the columns of a table differ in that.
    """

    metric: str
    label: str | None = None
    note: str = ""
    split: str | None = None


def per_class(metric: str, labels: Iterable[str], note: str = "") -> tuple[Column, ...]:
    """One column for each class or category."""
    return tuple(Column(metric, label, note) for label in labels)


def read_table(
    text: str,
    columns: Iterable[Column],
    *,
    source: str,
    split: str = "val",
    row_note: str = 'row "{row}"',
    notes: Mapping[tuple[str, str], str] | None = None,
    corrected: Mapping[tuple[str, str], float] | None = None,
) -> dict[str, tuple[Result, ...]]:
    """Read a table.

    Args:
        text: For each row its name, ``|`` and one figure a column, ``-`` where a cell is empty.
            A line without ``|`` continues the one above.
        columns: What the columns are.
        source: Where the table stands; ``{row}`` in it stands for the row's name.
        split: The images the figures were measured on, unless the column says.
        row_note: Note of every figure in a row; ``{row}`` stands for the row's name.
        notes: Notes of single cells, by row and by the column's label, metric or split.
        corrected: Corrections of single cells, by the same.

    Returns:
        The figures of each row, by its name.

    Raises:
        ValueError: If a row has more or fewer figures than there are columns, or if a note or a
            correction is not of exactly one figure.
    """
    columns = tuple(columns)
    cells: dict[str, list[str]] = {}
    for line in text.strip().splitlines():
        name, bar, figures = line.rpartition("|")
        if bar:
            cells[row := " ".join(name.split())] = []
        cells[row].extend(figures.split())

    notes, corrected = dict(notes or {}), dict(corrected or {})
    for row, wanted in [*notes, *corrected]:
        if row not in cells or sum(wanted in column for column in columns) != 1:
            raise ValueError(f"{source}: {(row, wanted)} is not one cell of the table.")

    table = {}
    for row, figures_of_row in cells.items():
        if len(figures_of_row) != len(columns):
            raise ValueError(
                f"{source}: row {row!r} has {len(figures_of_row)} figures "
                f"for {len(columns)} columns."
            )
        results = []
        for column, figure in zip(columns, figures_of_row, strict=True):
            if figure == "-":
                continue
            keys = [(row, name) for name in column if name is not None]
            said = [row_note.replace("{row}", row), column.note]
            said += [notes[key] for key in keys if key in notes]
            results.append(
                Result(
                    metric=column.metric,
                    value=float(figure),
                    split=column.split or split,
                    source=source.replace("{row}", row),
                    label=column.label,
                    note="; ".join(part for part in said if part),
                    corrected=next((corrected[key] for key in keys if key in corrected), None),
                )
            )
        table[row] = tuple(results)
    return table
