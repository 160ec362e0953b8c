"""Write docs/reports.md and a page for each report from the data in citysegzoo.reports.

python docs/write_reports.py
"""

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from tables import table

from citysegzoo.files import write
from citysegzoo.reports import REPORTS, Report, figure_text, overall_iou
from citysegzoo.reports._report import _number as number
from citysegzoo.variant import Result, Variant

DOCS = Path(__file__).parent

# Column -> the fields of a recipe in it, and how each is said.
RECIPE_COLUMNS = {
    "loss": {"loss": "`{}`", "loss_options": "{}"},
    "optimizer": {"optimizer": "{}", "momentum": "momentum {}", "weight_decay": "weight decay {}"},
    "learning rate": {"learning_rate": "{}", "schedule": "{}"},
    "length": {"epochs": "epochs {}", "steps": "steps {}"},
    "batch size": {"batch_size": "{}"},
    "augmentation": {"augmentation": "{}"},
    "data": {"dataset": "{}", "annotations": "{}", "labels": "{}"},
    "encoder weights": {"encoder_weights": "`{}`", "frozen": "{} frozen"},
    "kept": {"kept": "{}"},
}

MARK = (
    "<!-- Written by docs/write_reports.py from the data in citysegzoo.reports: "
    "change it there. -->"
)

INDEX = """\
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

The figures are the reports' own, on Cityscapes, as printed: they were measured in
[five different ways](metrics.md#five-mean-ious) and are not to be compared with each other or with
this project's own scores. Where the evidence supports another figure, both are given. No weights of
these runs are published here.

A recipe is data that a training can run, in the names of `citysegzoo.losses.create_loss` and of
`citysegzoo.recipe.Recipe`; "not said" is what neither report nor code says; the notes tell what
had to be assumed.

| report | what they built and found | names here |
|---|---|---|
"""

NEXT = """
## Reproduce one

1. Get the data: [Cityscapes](datasets/cityscapes.md); fixman2024 trained on the coarse
   annotations, `gtCoarse.zip`. Without it there is [a short training on CamVid](camvid.md).
2. Train with the recipe: the command is on the report's page, and [training](training.md) says
   what can be changed.
3. Score with `examples/evaluate.py`: the official class and category IoU, which stevens2020
   prints. mei2019's mean IoU is the same number; chen2020 does not say whether void counts.

fixman2024 and xiang2020 count otherwise ([why](metrics.md#five-mean-ious)):

```py
from citysegzoo.data import Cityscapes
from citysegzoo.inference import Segmenter
from citysegzoo.metrics import ConfusionMatrix, PerImageScores

segmenter = Segmenter(citysegzoo.load("runs/mine/best.safetensors"), precision="fp32")
fixman = PerImageScores(34, ignore_index=0, absent="zero")  # for a network of 34 label ids
for image, target in Cityscapes("cityscapes", "val", annotations="coarse", labels="label_id"):
    fixman.update(segmenter(image.permute(1, 2, 0).numpy()).labels, target)
print(fixman.mean_iou)

xiang = ConfusionMatrix(19, ignore_index=255)  # for one of 19 train ids: in such a loop
# xiang.update(..., target) with labels="train_id", and after it
# xiang.scores(void_as_false_positive=True).mean_iou
```
"""


def pages() -> dict[Path, str]:
    """Every page by its path."""
    index = "".join(
        f"| [{report.key}](reports/{report.key}.md) | {report.summary} | {len(report.variants)} |\n"
        for report in REPORTS.values()
    )
    written = {DOCS / "reports.md": f"{MARK}\n\n{INDEX}{index}{NEXT}"}
    for report in REPORTS.values():
        text = "\n\n".join(map(str.rstrip, sections(report))).replace("->", "→")
        written[DOCS / "reports" / f"{report.key}.md"] = f"{MARK}\n\n{text}\n"
    return written


def sections(report: Report) -> Iterator[str]:
    """What one report built, how it was trained, what it printed and got wrong."""
    yield f"# {report.key}: {report.title}"
    yield (
        f"{', '.join(report.authors)}. {report.institution}, {report.year}. "
        f"Code: {report.code or 'none found'}."
    )
    yield report.summary
    yield "## Models"
    yield "How each is called here, and what was printed about it over all classes."
    yield table(
        ("model", "what it is", "printed"),
        (
            (f"`{v.name}`", v.summary, "<br>".join(figure(r) for r in v.results if headline(r)))
            for v in report.variants
        ),
    )
    yield "## Recipes"
    yield from recipes(report)
    yield from by_class(report)
    remarks: dict[str, list[str]] = {}
    for variant in report.variants:
        for result in filter(headline, variant.results):
            # Which row of the table it is says nothing that the model's name does not.
            note = "; ".join(n for n in result.note.split("; ") if not n.startswith("row "))
            if note:
                remarks.setdefault(note, []).append(f"`{variant.name}`, {figure_text(result)}")
    if remarks:
        yield "## Remarks on the figures"
        yield "\n".join(f"- {'; '.join(figures)}: {note}." for note, figures in remarks.items())
    yield "## Contradictions"
    yield "What contradicts what, and how it is resolved here."
    yield table(
        ("contradiction", "resolved"),
        (text.removesuffix(".").split(" -> ", 1) for text in report.contradictions),
    )


def recipes(report: Report) -> Iterator[str]:
    """How each model was trained, a table, and the notes, each with the models it is of."""
    notes: dict[str, list[str]] = {}
    rows = []
    for variant in report.variants:
        texts = variant.recipe.described()
        cells = (
            ", ".join(form.format(texts[name]) for name, form in column.items() if name in texts)
            for column in RECIPE_COLUMNS.values()
        )
        rows.append((f"`{variant.name}`", *cells))
        for note in variant.recipe.notes:
            notes.setdefault(note, []).append(variant.name)
    yield table(("model", *RECIPE_COLUMNS), rows)
    yield (
        "The last column says which weights were kept: those after the last epoch, or those of the "
        "best score or the lowest loss on the validation images."
    )
    best = max(report.variants, key=overall)
    coarse = " Training needs `gtCoarse.zip`." * (best.recipe.annotations == "coarse")
    yield (
        "To train the best of them by its recipe, and to score it on the fine annotations by the "
        f"official protocol of Cityscapes:{coarse}"
    )
    yield (
        "```sh\n"
        f"python examples/train.py --model {best.name} --data cityscapes --root cityscapes \\\n"
        "    --output runs/mine\n"
        "python examples/evaluate.py --model runs/mine/best.safetensors --data cityscapes "
        "--root cityscapes\n"
        "```"
    )
    yield "\n".join(f"- {of(models, report)}: {note}" for note, models in notes.items())


def overall(variant: Variant) -> float:
    """What is printed about a model over all classes, to find the best of a report."""
    result = overall_iou(variant.results)
    return result.value if result else 0.0


def of(models: Sequence[str], report: Report) -> str:
    """Several models of a report in few words: all, all of an architecture, or their names."""
    if len(models) == len(report.variants):
        return "All"
    said = []
    for kind in dict.fromkeys(model.partition(".")[0] for model in models):
        these = [model for model in models if model.partition(".")[0] == kind]
        every = [v.name for v in report.variants if v.name.partition(".")[0] == kind]
        whole = len(these) == len(every) > 2
        said += [f"all of `{kind}`"] if whole else [f"`{model}`" for model in these]
    text = ", ".join(said)
    return text[0].upper() + text[1:]


def by_class(report: Report) -> Iterator[str]:
    """The figures of single classes and categories: a table for each source and metric."""
    tables: dict[tuple[str, str, str], dict[str, dict[str, Result]]] = {}
    for variant in report.variants:
        for result in variant.results:
            if result.label is not None:
                key = (source(result), result.metric, result.split)
                labels = tables.setdefault(key, {}).setdefault(result.label, {})
                labels[variant.name] = result
    if tables:
        yield "## Figures by class"
    for (origin, metric, split), labels in tables.items():
        models = dict.fromkeys(model for row in labels.values() for model in row)
        what = re.sub("_(pct|frac)$", "", metric).replace("_", " ").replace("iou", "IoU")
        yield f"{origin}, {what}{', %' if metric.endswith('_pct') else ''}, {split}:"
        yield table(
            (what.partition(" ")[0], *(f"`{model}`" for model in models)),
            ((label, *(cell(row.get(model)) for model in models)) for label, row in labels.items()),
        )


def cell(result: Result | None) -> str:
    """The bare number, and the right one where that is another."""
    if result is None:
        return ""
    value = number(result.value)
    if result.corrected is None:
        return value
    return f"{value} ({'wrong' if math.isnan(result.corrected) else number(result.corrected)})"


def headline(result: Result) -> bool:
    """Whether a figure is of all classes and of a final model."""
    return result.label is None and not result.metric.startswith("sweep")


def figure(result: Result) -> str:
    """One figure, with the images and the table (or kind of source) it comes from."""
    return f"{figure_text(result)}, {result.split}, {source(result)}"


def source(result: Result) -> str:
    """The table a figure stands in, or the kind of its source."""
    return re.split(r",| \(", result.source)[0]


if __name__ == "__main__":
    (DOCS / "reports").mkdir(exist_ok=True)
    for path, text in pages().items():
        write(path, text)
