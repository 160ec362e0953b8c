"""``citysegzoo evaluate``: label images scored against ground truth."""

from __future__ import annotations

import argparse
import json
from itertools import chain
from pathlib import Path

from citysegzoo.cli.common import (
    Commands,
    add_max_megapixels,
    check_file_writable,
    check_not_read,
    counted,
    labels_named,
    say,
)


def add_parsers(commands: Commands) -> None:
    """Add what this module runs to the commands."""
    evaluate = commands.add_parser(
        "evaluate",
        help="score label images against ground truth",
        description="Print the IoU of each class. Label ids of Cityscapes are scored by its "
        "official protocol, with iIoU and categories. Every ground-truth file needs one "
        "prediction: <city>_<sequence>_<frame>*.png where it is named as in Cityscapes, its own "
        "name, or that and _labels as `citysegzoo segment` writes it, elsewhere.",
    )
    evaluate.add_argument("predictions", metavar="PREDICTIONS", help="a folder, or one file")
    evaluate.add_argument("ground_truth", metavar="GROUNDTRUTH", help="a folder, or one file")
    evaluate.add_argument(
        "--labels",
        metavar="NAME",
        help="what the values are: cityscapes34 (label ids), cityscapes19 (train ids), "
        "camvid11 or cityscapes_categories, or a saved model, for its classes "
        "[what the names of the ground truth say: "
        "cityscapes34 for *_gtFine_labelIds.png, cityscapes19 for *_gtFine_labelTrainIds.png]",
    )
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="write the result there too")
    evaluate.add_argument("--workers", type=int, metavar="N", help="threads [one for each core]")
    evaluate.add_argument(
        "--instances",
        action=argparse.BooleanOptionalAction,
        help="score iIoU with the *_gtFine_instanceIds.png beside the ground truth "
        "[if they are there]",
    )
    add_max_megapixels(evaluate)
    evaluate.set_defaults(run=_evaluate)


def _evaluate(args: argparse.Namespace) -> int:
    from citysegzoo.files import write
    from citysegzoo.images import images_up_to
    from citysegzoo.metrics.cityscapes import CityscapesScores
    from citysegzoo.metrics.folders import evaluate_pairs, find_instances, labels_for, pair_files

    labels = labels_for(args.ground_truth, labels_named(args.labels))
    pairing = pair_files(args.predictions, args.ground_truth, labels)
    if args.json:
        check_not_read(chain.from_iterable(pairing.pairs), [args.json], flag="--json")
        check_file_writable(args.json)

    instances = find_instances(pairing, labels, args.instances)
    with images_up_to(args.max_megapixels):
        scores = evaluate_pairs(
            pairing, labels=labels, progress=True, workers=args.workers, instances=instances
        )
    if pairing.unused:
        say(f"predictions without a ground truth, which are left out: {len(pairing.unused)}.")
    if isinstance(scores, CityscapesScores) and not instances and args.instances is None:
        say("no *_gtFine_instanceIds.png are beside the ground truth: iIoU is left out.")
    if args.json:
        try:
            if isinstance(scores, CityscapesScores):
                scores.save(args.json)
            else:
                write(args.json, json.dumps(scores.to_dict(), indent=4))
        except OSError as error:
            if error.errno is None:  # a sentence of `replacing`
                raise
            raise OSError(f"{args.json} cannot be written: {error.strerror}.") from error
    print(f"{labels.name}, {counted(len(pairing.pairs), 'frame')}\n\n{scores.table()}")
    return 0
