"""Write docs/reports.md from the data in citysegzoo.reports.

python docs/write_reports.py
"""

import re
from pathlib import Path

from citysegzoo.files import replacing
from citysegzoo.reports import REPORTS, Report
from citysegzoo.reports._report import figure_text
from citysegzoo.variant import Result

PAGE = Path(__file__).with_name("reports.md")

INTRODUCTION = """\
<!-- Written by docs/write_reports.py from the data in citysegzoo.reports: change it there. -->

# Reports

The zoo builds every network of five student project reports on Cityscapes, with the exact parameter
counts, the report's preprocessing, its recipe and its printed figures:

```python
import citysegzoo

print(citysegzoo.reports.get_report("mei2019"))
info = citysegzoo.model_info("deeplabv3_resnet101.mei2019_dl2")
print(info.recipe.learning_rate, info.recipe.schedule)
for result in info.results:
    print(result.metric, result.label, result.value, result.corrected)
```

The figures below are the reports' own, on Cityscapes, as printed: they were measured in five
different ways and are not to be compared with each other or with this project's own scores. Where
the evidence supports another figure, both are given. No weights of these runs are published here.
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
    lines.append("\nWhat contradicts, and how it is resolved:\n")
    lines.extend(f"- {text}" for text in report.contradictions)
    return "\n".join(lines).replace("->", "→") + "\n"


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
