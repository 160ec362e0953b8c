"""``citysegzoo data``: check a dataset, or draw one."""

from __future__ import annotations

import argparse
from pathlib import Path

from citysegzoo.cli.common import Commands, add_max_megapixels


def add_parsers(commands: Commands) -> None:
    """Add what this module runs to the commands."""
    data = commands.add_parser("data", help="check a dataset, or draw one")
    data_actions = data.add_subparsers(required=True, metavar="ACTION")
    check = data_actions.add_parser(
        "check",
        help="say what of a dataset is there, what is missing and where to get it",
        description="Exit status 0 if the (fine) train and val splits can be used, 2 if not.",
    )
    check.add_argument("root", type=Path, metavar="ROOT", help="folder of the dataset")
    check.add_argument(
        "--data", choices=["cityscapes", "camvid"], help="which one [what its folders' names say]"
    )
    check.add_argument(
        "--read", action="store_true", help="read every image and label file, to find broken ones"
    )
    add_max_megapixels(check)
    check.set_defaults(run=_data_check)
    draw = data_actions.add_parser(
        "draw",
        help="draw streets in the layout of Cityscapes, to run everything without a download",
    )
    draw.add_argument("folder", type=Path, metavar="FOLDER", help="a new folder")
    draw.add_argument("--images", type=int, default=8, metavar="N", help="of each split [8]")
    draw.add_argument(
        "--size", type=int, nargs=2, default=(128, 256), metavar=("H", "W"), help="[128 256]"
    )
    draw.add_argument("--seed", type=int, default=0, metavar="S", help="others, other streets [0]")
    draw.set_defaults(run=_data_draw)


def _data_check(args: argparse.Namespace) -> int:
    from citysegzoo.data import check
    from citysegzoo.images import images_up_to

    with images_up_to(args.max_megapixels):
        report = check(args.root, data=args.data, read=args.read, progress=True)
    print(report)
    if not report.usable:
        unusable = [split.name for split in report.splits if split.required and not split.usable]
        raise ValueError(
            f"{args.root} cannot be used as it is: see {' and '.join(unusable)} above."
        )
    return 0


def _data_draw(args: argparse.Namespace) -> int:
    from citysegzoo.data import draw_streets

    root = draw_streets(
        args.folder, images=args.images, size=tuple(args.size), seed=args.seed, progress=True
    )
    print(f"drawn: {root}\n  citysegzoo.data.Cityscapes({str(root)!r})")
    return 0
