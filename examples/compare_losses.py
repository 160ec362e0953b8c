"""The reports' question: does another loss than plain cross entropy help, above all rare classes?

    python examples/compare_losses.py --data camvid --root camvid --output runs/losses

Trains one network with each loss, everything else equal, and writes results.md and results.png:
mean IoU, pixel accuracy and the IoU of the rarest classes. Given again, the command goes on where
it was stopped. Other losses, and any network of the zoo:

    python examples/compare_losses.py --data camvid --root camvid --output runs/losses50 \
        --model unet.small --losses weighted_inverse_root focal lovasz_softmax --epochs 50
"""

from __future__ import annotations

import argparse
import math

import sweep
import train

import citysegzoo
from citysegzoo.losses import count_pixels

# The weights are those of stevens2020 and xiang2020, here from the pixels of the training images.
LOSSES = {
    "cross_entropy": ("cross_entropy", "none"),
    "weighted_log_frequency": ("cross_entropy", "log_frequency"),
    "weighted_inverse_root": ("cross_entropy", "inverse_root"),
    "dice": ("dice", "none"),
    "cross_entropy+dice": ("cross_entropy+dice", "none"),
    "iou": ("iou", "none"),
    "focal": ("focal", "none"),
    "lovasz_softmax": ("lovasz_softmax", "none"),
}
REPORTED = list(LOSSES)[:6]


def rarest(args: argparse.Namespace, count: int) -> list[str]:
    """The classes with the fewest pixels in the training images, rarest first."""
    words = ["--model", args.model, "--root", args.root, "--output", str(args.output)]
    of_all = train.parse_args([*words, *sweep.common(args)])
    images, _ = train.open_data(of_all, citysegzoo.model_info(args.model).recipe)
    labels, maps = images.labels, train.label_maps(images, skip_broken=of_all.skip_broken)
    pixels = count_pixels(maps, len(labels), ignore_index=labels.ignore_index, progress=False)
    counts = zip(pixels.pixels.tolist(), labels.classes, strict=True)
    return [name for number, name in sorted(counts) if number][:count]


def main(argv: list[str] | None = None) -> None:
    p = sweep.parser(__doc__)
    p.add_argument("--model", default="unet.small", help="the network of all runs [unet.small]")
    p.add_argument(
        "--losses", nargs="+", choices=LOSSES, default=REPORTED, help="which [the reports' six]"
    )
    p.add_argument("--rare", type=int, default=4, help="how many rare classes are shown [4]")
    args = p.parse_args(argv)
    rare = rarest(args, args.rare)  # looks at the data before anything is trained
    arguments = {
        name: ["--model", args.model, "--loss", loss, "--class-weights", weights]
        for name, (loss, weights) in LOSSES.items()
        if name in args.losses
    }
    runs = sweep.run_all(arguments, args)
    head = ["loss", "mean IoU, %", "pixel accuracy, %", *(f"{name}, %" for name in rare), "epoch"]
    rows = [
        [
            run.name,
            sweep.percent(run.kept["mean_iou"]),
            sweep.percent(run.pixel_accuracy),
            *(sweep.percent(run.kept.get(name, math.nan)) for name in rare),
            f"{run.kept['epoch']:g}",
        ]
        for run in runs
    ]
    text = f"""\
# Losses: {args.model}

{sweep.conditions(runs, args)}

{sweep.table(head, rows)}

The classes shown are the {len(rare)} with the fewest pixels in the training images, rarest first;
a dash is a class that does not occur in the images scored.

![Mean IoU by epoch](results.png)
"""
    sweep.write(args.output, text, runs)


if __name__ == "__main__":
    sweep.run_script("compare_losses.py", main)
