"""Runs of train.py that differ in one thing, and how they are told side by side.

What the compare_*.py scripts have in common; not a script by itself. Every
run is a folder: a finished one is skipped, an interrupted one resumed, so that the same command
can be given again until all is done.
"""

from __future__ import annotations

import argparse
import csv
import math
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import citysegzoo
from citysegzoo import files

TRAIN = Path(__file__).with_name("train.py")
COLORS = [
    (31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40),
    (148, 103, 189), (140, 86, 75), (227, 119, 194), (23, 140, 160),
]  # fmt: skip
PAPER, INK, FAINT = (250, 250, 250), (32, 34, 38), (190, 194, 200)


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        name: What it is called in tables and plots.
        model: The network that was kept, with its card.
        log: The rows of log.csv; what was not measured in an epoch is left out.
    """

    name: str
    model: citysegzoo.SegmentationModel
    log: list[dict[str, float]]

    @property
    def kept(self) -> dict[str, float]:
        """The row of the epoch whose weights were kept."""
        return next(row for row in self.log if row["epoch"] == self.model.card["epoch"])

    @property
    def pixel_accuracy(self) -> float:
        return self.model.card["score"]["pixel_accuracy"]


def parser(description: str) -> argparse.ArgumentParser:
    """The arguments of a sweep; what it compares comes on top."""
    p = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="What follows -- is passed on to train.py, for every run: -- --crop 64 64",
    )
    p.add_argument("--data", choices=("cityscapes", "camvid"), required=True)
    p.add_argument("--root", required=True, help="folder of the data set")
    p.add_argument("--output", type=Path, required=True, help="folder of all runs")
    p.add_argument("--epochs", type=int, help="train.py's unless given")
    p.add_argument("--seed", type=int, default=0, help="the same for all runs [0]")
    p.add_argument("train", nargs="*", metavar="-- ARGUMENT", help="more arguments of train.py")
    return p


def run_all(arguments: Mapping[str, Sequence[str]], args: argparse.Namespace) -> list[Run]:
    """Train all that is not yet trained.

    Args:
        arguments: What train.py gets for each run, by its name, beside what all of them get.
        args: Of :func:`parser`.

    Raises:
        ValueError: If what all runs get sets what one of them sets itself.
        RuntimeError: If a run fails.
    """
    for name, own in arguments.items():
        if twice := flags(own) & flags(args.train):
            raise ValueError(f"{min(twice)} is what tells {name} apart; leave it out behind --.")
    runs = []
    for number, (name, own) in enumerate(arguments.items(), 1):
        print(f"[{number}/{len(arguments)}] {name}", flush=True)
        folder = args.output / name
        train(name, [*own, *common(args), "--root", args.root], folder)
        runs.append(read_run(name, folder))
    return runs


def flags(words: Sequence[str]) -> set[str]:
    """What is set in words of a command line: flags, and of options each of its own."""
    found = set()
    for word, value in zip(words, [*words[1:], ""], strict=False):
        flag, equals, own = word.partition("=")
        if flag.startswith("--"):
            several = flag in ("--option", "--loss-option")
            found.add(f"{flag} {(own if equals else value).partition('=')[0]}" if several else flag)
    return found


def common(args: argparse.Namespace) -> list[str]:
    """What decides all runs alike."""
    epochs = [] if args.epochs is None else ["--epochs", str(args.epochs)]
    return ["--data", args.data, "--seed", str(args.seed), *epochs, *args.train]


def train(name: str, words: list[str], folder: Path) -> None:
    """One run of train.py, unless it is there already."""
    finished, command = folder / "finished.txt", shlex.join(words)
    if finished.is_file() and finished.read_text() == command:
        print("    finished before")
        return
    # What has not saved anything yet begins anew. Of a run with other settings train.py says
    # which ones, and refuses to go on with it.
    resume = ["--resume"] if folder.is_dir() else []
    whole = [sys.executable, str(TRAIN), *words, "--output", str(folder), *resume]
    status = subprocess.run(whole).returncode
    if status:
        raise RuntimeError(
            f"{name} was not finished (exit status {status}); its reason is above. The same "
            "command goes on from there."
        )
    files.write(finished, command)


def read_run(name: str, folder: Path) -> Run:
    with (folder / "log.csv").open(newline="") as file:
        log = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
    return Run(name, citysegzoo.load(folder / "best.safetensors"), log)


def conditions(runs: list[Run], args: argparse.Namespace) -> str:
    """Under what the numbers of a table were measured."""
    cards = [run.model.card for run in runs]
    data = " or ".join(dict.fromkeys(card["data"] for card in cards))
    splits = " or ".join(dict.fromkeys(card["score"]["split"] for card in cards))
    labels = " or ".join(dict.fromkeys(card["labels"] for card in cards))
    return (
        f"Trained on {data}; scored on {splits}, in the classes of {labels}. One run each: "
        f"`train.py {shlex.join(common(args))}`; how far another seed would move a row was not "
        "measured."
    )


def loss_of(run: Run) -> str:
    """The loss of a run: the one that its command gives, or its recipe's, or train.py's own."""
    # The last command: that of weights to start from comes before it.
    words = shlex.split(run.model.card["command"].rpartition(" && ")[2])
    p = argparse.ArgumentParser(allow_abbrev=False)
    p.add_argument("--loss")
    recipe = citysegzoo.model_info(run.model.card["model"]).recipe
    return p.parse_known_args(words)[0].loss or (recipe and recipe.loss) or "cross_entropy"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.2f}"


def write(output: Path, text: str, runs: list[Run]) -> None:
    """results.md and results.png, and the table on the screen."""
    files.write(output / "results.md", text)
    files.write_image(draw(runs), output / "results.png")
    print(f"\n{text}\nwritten: {output / 'results.md'}, {output / 'results.png'}")


def draw(runs: list[Run], size: tuple[int, int] = (1080, 400)) -> Image.Image:
    """Mean IoU by epoch on common axes, and beside it the kept epochs as bars."""
    picture = Image.new("RGB", size, PAPER)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    top, bottom, left, middle, right = 40, size[1] - 34, 56, 620, size[0] - 20
    curves = [
        [(r["epoch"], 100 * r["mean_iou"]) for r in run.log if "mean_iou" in r] for run in runs
    ]
    highest = max(5.0, 5 * math.ceil(max(y for curve in curves for _, y in curve) / 5))
    last = max(x for curve in curves for x, _ in curve)
    down = scale(0, highest, bottom, top)
    across = scale(1, max(2, last), left, middle)
    pen.text((left, 14), "mean IoU on the validation split, %, by epoch", INK, font)
    for i in range(6):
        y = down(highest * i / 5)
        pen.line((left, y, middle, y), FAINT)
        pen.text((left - 8, y), f"{highest * i / 5:g}", INK, font, anchor="rm")
    pen.text((left, bottom + 8), "1", INK, font)
    pen.text((middle, bottom + 8), f"{max(2, last):g}", INK, font, anchor="ra")

    names = middle + 30
    bars = names + max(font.getlength(run.name) for run in runs) + 12
    length = scale(0, highest, bars, right - 46)
    pen.text((names, 14), "weights that were kept", INK, font)
    step = (bottom - top) / len(runs)
    for i, (run, curve) in enumerate(zip(runs, curves, strict=True)):
        color, y = COLORS[i % len(COLORS)], top + (i + 0.5) * step
        points = [(across(epoch), down(iou)) for epoch, iou in curve]
        pen.line(points, color, 2)
        for x, its_y in (points[-1], points[0]):
            pen.ellipse((x - 3, its_y - 3, x + 3, its_y + 3), color)
        end = length(100 * run.kept["mean_iou"])
        pen.text((names, y), run.name, INK, font, anchor="lm")
        pen.rectangle((bars, y - min(14, step / 3), end, y + min(14, step / 3)), color)
        pen.text((end + 6, y), percent(run.kept["mean_iou"]), INK, font, anchor="lm")
    return picture


def scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """The place on an axis of a value from low to high."""
    return lambda value: start + (value - low) / (high - low) * (end - start)


def run_script(name: str, main: Callable[[], None]) -> None:
    """Run a script's main: what is wrong is one sentence and exit status 2."""
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(f"{name}: stopped; the same command goes on from the last state that was saved.")
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        print(f"{name}: {str(error).strip().splitlines()[-1]}", file=sys.stderr)
        sys.exit(2)
