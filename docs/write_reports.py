"""Write docs/reports.md from the data in citysegzoo.reports.

python docs/write_reports.py
"""

import re
from collections.abc import Iterator
from pathlib import Path

from citysegzoo.files import replacing
from citysegzoo.reports import REPORTS, Report
from citysegzoo.reports._report import figure_text
from citysegzoo.variant import Result

PAGE = Path(__file__).with_name("reports.md")

# Column -> the fields of a recipe in it, and how each is said.
RECIPE_COLUMNS = {
    "loss": {"loss": "`{}`", "loss_options": "{}"},
    "optimizer": {"optimizer": "{}", "momentum": "momentum {}", "weight_decay": "weight decay {}"},
    "learning rate": {"learning_rate": "{}", "schedule": "{}"},
    "length": {"epochs": "epochs {}", "steps": "steps {}"},
    "batch size": {"batch_size": "{}"},
    "augmentation": {"augmentation": "{}"},
    "data": {"dataset": "{}", "annotations": "{}", "labels": "{}"},
    "encoder weights": {"encoder_weights": "`{}`"},
    "kept": {"kept": "{}"},
}

INTRODUCTION = """\
<!-- Written by docs/write_reports.py from the data in citysegzoo.reports: change it there. -->

# Reports

The zoo builds every network of five student project reports on Cityscapes, with the exact parameter
counts, the report's preprocessing, its recipe and its printed figures:

```python
import citysegzoo

print(citysegzoo.reports.get_report("mei2019"))
info = citysegzoo.model_info("deeplabv3_resnet101.mei2019_dl2")
print(info.recipe.optimizer, info.recipe.learning_rate, info.recipe.schedule)
for result in info.results:
    print(result.metric, result.label, result.value, result.corrected)
```

The figures below are the reports' own, on Cityscapes, as printed: they were measured in five
different ways and are not to be compared with each other or with this project's own scores. Where
the evidence supports another figure, both are given. No weights of these runs are published here.

A recipe is data that a training can run, in the names of `citysegzoo.losses.create_loss` and of
`citysegzoo.recipe.Recipe`; "not said" is what neither report nor code says, and its notes tell what
had to be read into them.
"""


def page() -> str:
    """The whole page."""
    return "\n".join([INTRODUCTION, *(section(report) for report in REPORTS.values())])


def section(report: Report) -> str:
    """What one report built, printed and got wrong."""
    lines = [
        f"## {report.key}: {report.title}\n",
        f"{', '.join(report.authors)}. {report.institution}, {report.year}. "
        f"Code: {report.code or 'none found'}.\n",
        f"{report.summary}\n",
        "| model | what it is | printed, over all classes |",
        "|---|---|---|",
    ]
    for variant in report.variants:
        figures = "<br>".join(figure(r) for r in variant.results if headline(r))
        lines.append(f"| `{variant.name}` | {variant.summary} | {figures or 'none'} |")
    lines.extend(recipes(report))
    lines.append("\nWhat contradicts, and how it is resolved:\n")
    lines.extend(f"- {text}" for text in report.contradictions)
    return "\n".join(lines).replace("->", "→") + "\n"


def recipes(report: Report) -> Iterator[str]:
    """How each model was trained, a table, and the notes, each with the models it is of."""
    yield f"\n| recipe of | {' | '.join(RECIPE_COLUMNS)} |"
    yield "|---" * (1 + len(RECIPE_COLUMNS)) + "|"
    notes: dict[str, list[str]] = {}
    for variant in report.variants:
        texts = variant.recipe.described()
        cells = (
            ", ".join(form.format(texts[name]) for name, form in column.items() if name in texts)
            for column in RECIPE_COLUMNS.values()
        )
        yield f"| `{variant.name}` | {' | '.join(cell or '-' for cell in cells)} |"
        for note in variant.recipe.notes:
            notes.setdefault(note, []).append(f"`{variant.name}`")
    yield ""
    for note, models in notes.items():
        yield f"- {'All' if len(models) == len(report.variants) else ', '.join(models)}: {note}"


def headline(result: Result) -> bool:
    """Whether a figure is of all classes and of a final model."""
    return result.label is None and not result.metric.startswith("sweep")


def figure(result: Result) -> str:
    """One figure, with the images and the table (or kind of source) it comes from."""
    source = re.split(r",| \(", result.source)[0]
    return f"{figure_text(result)}, {result.split}, {source}"


if __name__ == "__main__":
    with replacing(PAGE) as partial:
        partial.write_text(page())
