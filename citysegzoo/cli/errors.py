"""``citysegzoo errors``: a report of what is wrong with predictions."""

from __future__ import annotations

import argparse
from itertools import chain
from pathlib import Path

from citysegzoo.cli.common import (
    Commands,
    add_max_megapixels,
    add_palette,
    check_file_writable,
    check_not_read,
    counted,
    labels_named,
    say,
)


def add_parsers(commands: Commands) -> None:
    """Add what this module runs to the commands."""
    errors = commands.add_parser(
        "errors",
        help="report where label images are wrong, as a page to read offline",
        description="Write one HTML file with the IoU of each class, the confusions, how errors "
        "lie to boundaries, and the worst images. Files are paired as by `citysegzoo evaluate`.",
    )
    errors.add_argument("predictions", metavar="PREDICTIONS", help="a folder, or one file")
    errors.add_argument("ground_truth", metavar="GROUNDTRUTH", help="a folder, or one file")
    errors.add_argument("--output", type=Path, default=Path("report.html"), metavar="FILE")
    errors.add_argument(
        "--images", type=Path, metavar="FOLDER", help="photographs to show beside the worst"
    )
    errors.add_argument(
        "--labels",
        metavar="NAME",
        help="what the values are, as for `citysegzoo evaluate` [what the names say]",
    )
    errors.add_argument(
        "--worst", type=int, default=8, metavar="N", help="images shown, at most 100 [8]"
    )
    add_palette(errors)
    add_max_megapixels(errors)
    errors.set_defaults(run=_errors)


def _errors(args: argparse.Namespace) -> int:
    from citysegzoo.files import write
    from citysegzoo.images import images_up_to
    from citysegzoo.metrics.folders import labels_for, pair_files
    from citysegzoo.visualize.errors import find_errors, find_photos
    from citysegzoo.visualize.report import error_report

    if not 0 <= args.worst <= 100:
        raise ValueError(f"--worst is 0 to 100 images, not {args.worst}.")
    labels = labels_for(args.ground_truth, labels_named(args.labels))
    pairing = pair_files(args.predictions, args.ground_truth, labels)
    photos = find_photos(args.images, pairing) if args.images else {}
    check_not_read(chain(*pairing.pairs, photos.values()), [args.output])
    check_file_writable(args.output)

    with images_up_to(args.max_megapixels):
        errors = find_errors(pairing, labels=labels, worst=args.worst, progress=True)
        page = error_report(errors, photos=photos, palette=args.palette)
    write(args.output, page.encode(errors="backslashreplace"))
    if pairing.unused:
        say(f"predictions without a ground truth, which are left out: {len(pairing.unused)}.")
    print(
        f"{labels.name}, {counted(errors.frames, 'frame')}: "
        f"mean IoU {100 * errors.mean_iou:.2f} %, "
        f"pixel accuracy {100 * errors.pixel_accuracy:.2f} %\n  -> {args.output}"
    )
    return 0
