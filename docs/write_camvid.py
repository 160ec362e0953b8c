"""Write docs/camvid.md: the networks of the reports, trained on CamVid, beside what they print.

    python docs/write_camvid.py                                  # from the cards in camvid.json
    python docs/write_camvid.py --collect reports=runs/reports   # from finished runs of a sweep

What is collected is kept in camvid.json, in place of what the group had of the same runs.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tables import table, tenths

import citysegzoo
from citysegzoo.benchmark import count_flops
from citysegzoo.data import CAMVID_11
from citysegzoo.data.camvid import SPLITS
from citysegzoo.files import write
from citysegzoo.reports import figure_text, list_reports, overall_iou

CARDS = Path(__file__).with_name("camvid.json")
PAGE = Path(__file__).with_name("camvid.md")
MARK = "<!-- Written by docs/write_camvid.py from docs/camvid.json: change it there. -->"
REPORTED = [name for key in list_reports() for name in citysegzoo.list_models(report=key)]

INTRODUCTION = """\
# Reports on CamVid

Someone without Cityscapes can ask the reports' questions of CamVid: {count} of their {reported}
networks, trained here on its 367 training images with the recipe of each report and scored on the
101 validation images at 480x360. **Read the tables as a short, equal training on a small machine,
not as what the networks can do**: {epochs} epochs each from random weights, where the reports
train up to 150 on eight times the images, and one run each, so that a difference of a few points
may be that of another seed.

How the recipes were adapted: optimiser, learning rate, schedule, batch size, loss and augmentation
are the report's, and train.py's own where the report does not say (the last column below: AdamW,
0.001, cosine, batches of 8). Frames are not resized; every network sees crops of {crop} of
whole-size frames, and is scored on whole frames; class weights are those of CamVid's pixels by the
report's formula; nothing is pretrained, though most of the reports' ResNets are. Scores are taken
every fifth epoch, and the best is kept unless the report keeps its last or that of the lowest loss.
Schedules that count epochs count them as in the report: the rate of `unet.stevens2020_baseline`,
which falls tenfold after each of its 3 epochs there, is next to nothing after the fifth here. [Left
out](#left-out) are larger networks.

The two [sets of weights that ship](weights.md) trained for longer, and score more than twice as
much as most of these by the same measure.

"""
QUESTIONS = {
    "the loss, xiang2020's FCN": (
        "reports",
        {
            "cross entropy": "fcn.xiang2020_baseline",
            "weighted": "fcn.xiang2020_weighted",
            "Dice": "fcn.xiang2020_dice",
        },
    ),
    "the loss, chen2020's FCN": (
        "reports",
        {"cross entropy": "fcn.chen2020_baseline", "Dice": "fcn.chen2020_dice"},
    ),
    "the network, chen2020's": (
        "reports",
        {
            "FCN": "fcn.chen2020_baseline",
            "a convolution more": "fcn.chen2020_adapted",
            "U-Net": "unet.chen2020",
        },
    ),
    "the network, fixman2024's": (
        "reports",
        {
            "FCN": "fcn.fixman2024_baseline",
            "U-Net, enhanced": "unet.fixman2024_enhanced",
        },
    ),
    "the network, mei2019's": (
        "reports",
        {
            "SegNet": "segnet_vgg16.mei2019",
            "DeepLabv3": "deeplabv3_resnet101.mei2019_dl1",
        },
    ),
    "the network, xiang2020's": (
        "reports",
        {
            "FCN": "fcn.xiang2020_baseline",
            "U-Net": "unet.xiang2020",
            "U-Net with ASPP": "unet_aspp.xiang2020",
        },
    ),
    "the decoder on ResNet-50, xiang2020's": (
        "reports",
        {
            "transposed convolutions": "fcn_resnet50.xiang2020",
            "ASPP": "aspp_resnet50.xiang2020",
            "DeepLabv3": "deeplabv3_resnet50.xiang2020",
        },
    ),
    "the encoder under ASPP, xiang2020's": (
        "reports",
        {"ResNet-50": "aspp_resnet50.xiang2020", "ResNet-101": "aspp_resnet101.xiang2020"},
    ),
    "the loss, stevens2020's U-Net": (
        "reports",
        {"cross entropy": "unet.stevens2020_run1", "weighted": "unet.stevens2020_run2"},
    ),
    "flips, scales and rotation, xiang2020's FCN": (
        "reports",
        {"without": "fcn.xiang2020_baseline", "with": "fcn.xiang2020_augmented"},
    ),
    "skips ([more](#with-skips-and-without))": (
        "skips",
        {"FCN, without": "fcn", "U-Net, with": "unet"},
    ),
    "the encoder, xiang2020's networks": (
        "reports",
        {
            "plain, FCN": "fcn.xiang2020_baseline",
            "ResNet-50, FCN": "fcn_resnet50.xiang2020",
            "ResNet-101, ASPP": "aspp_resnet101.xiang2020",
            "ResNet-50, DeepLabv3": "deeplabv3_resnet50.xiang2020",
        },
    ),
    "the pyramid, mei2019's DeepLabv3": (
        "reports",
        {
            "rates 6, 12, 18": "deeplabv3_resnet101.mei2019_dl1",
            "3, 6, 9": "deeplabv3_resnet101.mei2019_dl2",
            "8, 16, 24, kernels of 4x4": "deeplabv3_resnet101.mei2019_dl3",
            "6, 12, 18, 24": "deeplabv3_resnet101.mei2019_dl4",
        },
    ),
    "atrous rates, ResNet-18 ([more](#atrous-rates))": (
        "rates",
        {"6, 12, 18": "DL-1", "3, 6, 9": "DL-2"},
    ),
}
"""What the reports ask: the group of runs, and which of them are the answers."""

ASKED = """\
## The reports' questions

Mean IoU of runs that differ in what is asked, all of them in the tables below. Those of chen2020
differ in the learning rate too: 0.005 in the report for the FCN with cross entropy, 0.0001 for the
U-Net (in batches of 2), and 0.001 here for the others, for which it names none. So do those of
mei2019: 0.007 for DeepLabv3, and none named for the SegNet, which has 0.001 here.

"""
MEASURED = """
## Measured on CamVid

Mean IoU over the 11 classes, from one confusion matrix over the split, single scale, in percent.
The last column names what the report leaves unsaid: train.py's own here.

"""
RATES = """
## Atrous rates

mei2019's own networks are among those above. Two of their pyramids again, on ResNet-18
(`deeplabv3_resnet18`) in place of ResNet-101 and by train.py's own recipe with
[Muon](training.md#muon), which learns more in {epochs} epochs from random weights:
{rates}.
At stride 16 a crop of {crop} is a map of 12x15, on which a rate of 18 reaches no neighbour: the
report's crops of 513x513 give maps of 33x33.

"""
SKIPS = """
## With skips and without

`unet.small` beside an FCN of the same encoder widths, pooled as well and without skips, by
train.py's own recipe with Muon. After so few epochs the rare classes are near 0 in both; skips gain
on pavement, building and road. `unet.small` itself reaches 73.1 % in 80
epochs of larger crops ([weights](weights.md)).

"""
LEFT_OUT = """
## Left out

What a network costs for one image of {crop}, forwards; training takes about three times that,
{images:,} times. The largest of the reports' networks above takes {most} GFLOPs. A frozen encoder
stays as ImageNet left it, and without such weights there is nothing to keep. The commands below
train these as well, by their names.

"""
PRINTED = """
## Printed in the reports, on Cityscapes

Not measured here, in [five ways of counting](metrics.md#five-mean-ious), on other data and other
classes: not to be set against the tables above, nor most of them against each other.

"""
COMMANDS = """
## Do it again

CamVid is read from `camvid/` ([how to get it](datasets/camvid.md)). All was trained and scored in
bf16, train.py's default on processors with AVX512-bf16 or AMX: elsewhere add `--precision bf16`.
Other processors and versions of PyTorch round differently, and their scores differ somewhat.

```text
{commands}
```

`--resume` goes on with a run that was stopped; `examples/compare_reports.py` and
`examples/compare_atrous_rates.py` run many of them, and resume by themselves. The card of every
run (its command, data, licence and the IoU of each class) is in `docs/camvid.json`. The weights
are not published here: those that do well in {epochs} epochs are not worth a download, and the
commands make them. What you train goes to the Hub with `python examples/publish_to_hub.py
runs/reports/NAME/best.safetensors OWNER/NAME`; weights trained on CamVid are for non-commercial
use.
"""


def collect(group: str, folder: Path) -> None:
    """Keep the cards of the finished runs in a folder among those of a group."""
    found = {}
    for file in sorted(folder.glob("*/best.safetensors")):
        model = citysegzoo.load(file)
        if not finished(file.parent, model.card["command"]):
            continue
        parameters = sum(p.numel() for p in model.parameters())
        run = file.parent.name
        found[run] = {"run": run, "parameters": parameters, "card": model.card}
    if not found:
        raise SystemExit(f"{folder} holds no finished run.")
    if group == "reports" and (unknown := set(found) - set(REPORTED)):
        raise SystemExit(f"{', '.join(sorted(unknown))}: no network of a report; mend the folder.")
    kept = cards()
    runs = {run["run"]: run for run in kept.get(group, [])} | found
    kept[group] = [runs[name] for name in sorted(runs)]
    write(CARDS, json.dumps(kept, indent=1) + "\n")


def finished(folder: Path, command: str) -> bool:
    """Whether a run has trained all epochs of its command."""
    with (folder / "log.csv").open(newline="") as file:
        last = max((int(row["epoch"]) for row in csv.DictReader(file)), default=0)
    words = command.split()
    if "--epochs" not in words:  # the number of the recipe: only sweep.py says when it is done
        return (folder / "finished.txt").is_file()
    return last == int(words[words.index("--epochs") + 1])


def cards() -> dict[str, list[dict[str, Any]]]:
    """What was collected: runs with their cards, by group."""
    return json.loads(CARDS.read_text()) if CARDS.exists() else {}


def page() -> str:
    """The whole page."""
    groups = cards()
    order = {name: i for i, name in enumerate(REPORTED)}
    runs = sorted(groups["reports"], key=lambda run: order[run["run"]])
    epochs, crop = same(runs, "--epochs"), "x".join(same(runs, "--crop", 2).split())
    names = [run["run"] for run in runs]
    head = INTRODUCTION.format(count=len(runs), reported=len(REPORTED), epochs=epochs, crop=crop)
    text = f"{MARK}\n\n{head}{ASKED}{answers(groups)}{MEASURED}"
    text += table(
        ["model", *COLUMNS, "not said"], ([*row(run), unsaid(run["run"])] for run in runs)
    )
    text += "\nBy class, in percent:\n\n" + by_class(runs)
    if "rates" in groups:
        rates = ", ".join(f"{run['run']} has rates {rates_of(run)}" for run in groups["rates"])
        text += RATES.format(epochs=epochs, rates=rates, crop=crop) + table(
            ["pyramid", *COLUMNS], map(row, groups["rates"])
        )
    if "skips" in groups:
        text += SKIPS + table(["network", *COLUMNS], map(row, groups["skips"]))
        text += "\n" + by_class(groups["skips"])
    size = tuple(map(int, crop.split("x")))
    text += LEFT_OUT.format(
        crop=crop,
        images=int(epochs) * SPLITS["train"],
        most=max(gigaflops(name, size) for name in names),
    ) + left_out([name for name in REPORTED if name not in names], names, size)
    text += PRINTED + printed(names)
    commands = "\n".join(command(group, run) for group in groups for run in groups[group])
    return text + COMMANDS.format(epochs=epochs, commands=commands)


def rates_of(run: dict[str, Any]) -> str:
    """The atrous rates in a run's command, such as ``6, 12, 18``."""
    found = re.search(r"aspp_rates=\(([\d, ]+)\)", run["card"]["command"])
    return found[1] if found else "of the network"


def command(group: str, run: dict[str, Any]) -> str:
    """What made a run, with the folder that the cards leave out."""
    return run["card"]["command"].replace(
        f"--output {run['run']}", f"--output runs/{group}/{run['run']}"
    )


COLUMNS = ["parameters", "loss", "mean IoU, %", "pixel accuracy, %", "epoch kept"]


def row(run: dict[str, Any]) -> list[str]:
    """The line of a run in a table."""
    card = run["card"]
    figures = (card["score"]["mean_iou"], card["score"]["pixel_accuracy"])
    shown = f"`{run['run']}`"
    percent = [tenths(figure) for figure in figures]
    return [shown, f"{run['parameters']:,}", f"`{loss_of(run)}`", *percent, str(card["epoch"])]


def loss_of(run: dict[str, Any]) -> str:
    """The loss that a run's command gives, or its recipe's, or train.py's own."""
    if "--loss" in last_command(run):
        return setting(run, "--loss")
    recipe = citysegzoo.model_info(run["card"]["model"]).recipe
    return recipe.loss if recipe and recipe.loss else "cross_entropy"


def unsaid(name: str) -> str:
    """What of a training the report leaves to others."""
    recipe = citysegzoo.model_info(name).recipe
    parts = {
        "optimiser": recipe.optimizer,
        "rate": recipe.learning_rate,
        "schedule": recipe.schedule,
        "batch": recipe.batch_size,
    }
    return ", ".join(part for part, value in parts.items() if value is None)


def by_class(runs: Sequence[dict[str, Any]]) -> str:
    """The IoU of every class."""
    classes = list(runs[0]["card"]["score"]["class_iou"])
    rows = [
        [f"`{run['run']}`", *(tenths(run["card"]["score"]["class_iou"][c]) for c in classes)]
        for run in runs
    ]
    return table(["model", *classes], rows)


def printed(names: Sequence[str]) -> str:
    """The IoU over all classes that a report prints for each, with its split."""
    rows = []
    for name in names:
        info = citysegzoo.model_info(name)
        result = overall_iou(info.results)
        if result:
            report = f"[{info.report}](reports/{info.report}.md)"
            rows.append([f"`{name}`", figure_text(result), result.split, report])
    return table(["model", "printed", "split", "report"], rows)


def answers(groups: dict[str, list[dict[str, Any]]]) -> str:
    """A line for each question."""
    rows = []
    for question, (group, runs) in QUESTIONS.items():
        ious = {run["run"]: run["card"]["score"]["mean_iou"] for run in groups.get(group, [])}
        found = [f"{label}: {tenths(ious[run])}" for label, run in runs.items() if run in ious]
        rows.append([question, "; ".join(found)])
    return table(["question", "mean IoU, %"], rows)


def gigaflops(name: str, size: tuple[int, int]) -> int:
    """A forward of a network with CamVid's classes, rounded."""
    with torch.device("meta"):
        model = citysegzoo.create_model(name, num_classes=len(CAMVID_11))
    return round(count_flops(model, size) / 1e9)


def left_out(names: Sequence[str], trained: Sequence[str], size: tuple[int, int]) -> str:
    """What was not trained, and why."""
    rows = []
    for name in names:
        frozen = " and ".join(citysegzoo.model_info(name).recipe.frozen)
        same = next((other for other in trained if same_here(name, other)), None)
        note = f"`{same}` is the same here" if same else frozen and f"frozen: {frozen}"
        rows.append([f"`{name}`", str(gigaflops(name, size)), note])
    return table(["model", "GFLOPs", "note"], rows)


def same_here(one: str, other: str) -> bool:
    """Whether two networks and their recipes differ in what is the same for all runs here alone."""
    infos = [citysegzoo.model_info(name) for name in (one, other)]
    networks = [(info.architecture, info.preset) for info in infos]
    recipes = [
        replace(
            info.recipe,
            augmentation=replace(info.recipe.augmentation, resize=None),
            epochs=None,
            notes=(),
        )
        for info in infos
    ]
    return networks[0] == networks[1] and recipes[0] == recipes[1]


def last_command(run: dict[str, Any]) -> list[str]:
    """The words of the command that made the weights: that of those it began with comes before."""
    return shlex.split(run["card"]["command"].rpartition(" && ")[2])


def setting(run: dict[str, Any], name: str, count: int = 1) -> str:
    """What follows an option in the command of a run."""
    words = last_command(run)
    start = words.index(name) + 1
    return " ".join(words[start : start + count])


def same(runs: Sequence[dict[str, Any]], name: str, count: int = 1) -> str:
    """What follows an option in the commands of all runs, which the page says of all."""
    given = {setting(run, name, count): run["run"] for run in runs}
    if len(given) > 1:
        raise SystemExit(f"{name} differs: {given}; the page is of runs that are trained alike.")
    return next(iter(given))


def main(argv: list[str] | None = None) -> None:
    """Collect what is asked for, and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--collect", nargs="+", default=[], metavar="GROUP=FOLDER")
    for given in parser.parse_args(argv).collect:
        group, named, folder = given.partition("=")
        if not named:
            parser.error(f"--collect takes GROUP=FOLDER, not {given}")
        collect(group, Path(folder))
    write(PAGE, page())


if __name__ == "__main__":
    main()
