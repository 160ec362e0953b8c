"""Every network of the five reports, trained on the same images and scored alike.

    python examples/compare_reports.py --data camvid --root camvid --output runs/reports \
        --epochs 40 -- --encoder-weights none

Trains each with the recipe of its report, adapted to the data as train.py prints it, and writes
results.md and results.png. The reports' own figures, measured in five ways on other data, are in a
table of their own. Given again, the command goes on where it was stopped; --models chooses some:

    python examples/compare_reports.py --data camvid --root camvid --output runs/reports \
        --models "unet.*" "fcn.xiang2020_*" --epochs 40
"""

from __future__ import annotations

from fnmatch import fnmatchcase

import sweep

import citysegzoo
from citysegzoo.reports import REPORTS, figure_text, list_reports, overall_iou

REPORTED = [name for key in list_reports() for name in citysegzoo.list_models(report=key)]


ADAPTED = {
    "camvid": "frames are not resized and crops no larger than frames; classes and ignored pixels\n"
    "are those of the data; class weights are of its pixels by the report's formula",
    "cityscapes": "all learn the 19 classes from the fine annotations, whatever those of the\n"
    "report are; class weights are by its formula",
}


def chosen(patterns: list[str]) -> list[str]:
    """The reported models whose names match one of the patterns."""
    names = [n for n in REPORTED if any(fnmatchcase(n, pattern) for pattern in patterns)]
    if not names:
        raise ValueError(
            f"no model of a report matches {' or '.join(patterns)}; see `citysegzoo models`."
        )
    return names


def measured(runs: list[sweep.Run]) -> str:
    head = ["model", "parameters", "loss", "mean IoU, %", "pixel accuracy, %", "epoch"]
    rows = [
        [
            f"`{run.name}`",
            f"{sum(p.numel() for p in run.model.parameters()):,}",
            sweep.loss_of(run),
            sweep.percent(run.kept["mean_iou"]),
            sweep.percent(run.pixel_accuracy),
            f"{run.kept['epoch']:g}",
        ]
        for run in runs
    ]
    return sweep.table(head, rows)


def printed(names: list[str]) -> str:
    """The IoU over all classes that a report prints for each model, as it prints it."""
    rows = []
    for name in names:
        result = overall_iou(citysegzoo.model_info(name).results)
        if result:
            rows.append([f"`{name}`", figure_text(result), result.split, result.source])
    return sweep.table(["model", "printed", "split", "source"], rows)


def main(argv: list[str] | None = None) -> None:
    p = sweep.parser(__doc__)
    p.add_argument("--models", nargs="+", default=["*"], metavar="PATTERN", help="which [all]")
    args = p.parse_args(argv)
    names = chosen(args.models)
    # The recipes differ in labels and annotations, and scores of other classes do not compare.
    same = {"camvid": [], "cityscapes": ["--labels", "train_id", "--annotations", "fine"]}
    runs = sweep.run_all({name: ["--model", name, *same[args.data]] for name in names}, args)
    text = f"""\
# The networks of {len(REPORTS)} reports

## Measured here

{sweep.conditions(runs, args)}

Each with the recipe of its report, adapted: {ADAPTED[args.data]}; what the report leaves unsaid is
train.py's own.

{measured(runs)}

![Mean IoU by epoch](results.png)

## Printed in the reports, not measured here

On Cityscapes, in five ways of counting: not to be set against the table above.

{printed(names)}
"""
    sweep.write(args.output, text, runs)


if __name__ == "__main__":
    sweep.run_script("compare_reports.py", main)
