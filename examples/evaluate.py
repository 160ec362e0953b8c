"""Score a model on Cityscapes, by its official protocol, or on CamVid.

    python examples/evaluate.py --model runs/dl2/best.safetensors --data cityscapes \
        --root cityscapes --save-labels predictions --output scores.json
    python examples/evaluate.py --model unet.small --data camvid --root camvid \
        --scales 0.75 1.0 1.25 --flip

Images are predicted whole, one by one, and compared at full size. --save-labels writes the
predictions as PNGs: for Cityscapes label ids under the names that the benchmark server and
cityscapesscripts expect, so that `--split test --save-labels submission` makes a submission.

With several --scales or --flip the probabilities of all views are averaged. That score is printed
beside the one of a single scale, never in its place: most papers compare single scales.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.utils.data import DataLoader
from tqdm import tqdm

import citysegzoo
from citysegzoo.cli.common import check_file_writable, trained
from citysegzoo.data import CAMVID_11, CITYSCAPES_34, CamVid, Cityscapes, LabelSet
from citysegzoo.data.cityscapes import LABELS as CITYSCAPES_VALUES
from citysegzoo.files import write, write_image
from citysegzoo.hardware import available_cores
from citysegzoo.inference import Segmenter
from citysegzoo.metrics import CityscapesEvaluator, ConfusionMatrix
from citysegzoo.metrics.folders import FramePair, Pairing, find_instances


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--model", required=True, help="name with weights, folder, file or owner/name")
    p.add_argument("--data", choices=("cityscapes", "camvid"), required=True)
    p.add_argument("--root", type=Path, required=True, help="folder of the data set")
    p.add_argument("--split", default="val")
    p.add_argument("--scales", type=float, nargs="+", default=[1.0], help="of the full size")
    p.add_argument("--flip", action="store_true", help="average with mirrored images")
    p.add_argument("--save-labels", type=Path, metavar="FOLDER", help="write predictions as PNGs")
    p.add_argument("--output", type=Path, metavar="FILE", help="write all scores as JSON")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--workers", type=int, default=1, help="processes that read images")
    args = p.parse_args(argv)
    if min(args.scales) <= 0:
        p.error("--scales must be above 0")
    if args.workers > (most := 16 * available_cores()):
        p.error(f"--workers must be at most {most}, sixteen for each core")
    return args


def ids_of(labels: LabelSet, data: str) -> npt.NDArray[np.uint8]:
    """What is written and scored for each class of the model: label ids for Cityscapes."""
    identity = {i: i for i in range(len(CAMVID_11))}
    # Of a category nothing says which of its label ids is meant, so it is not among these.
    known = {
        "camvid": [(CAMVID_11, identity)],
        "cityscapes": [CITYSCAPES_VALUES["train_id"], CITYSCAPES_VALUES["label_id"]],
    }[data]
    for label_set, class_of in known:
        if labels.classes == label_set.classes:
            id_of = {cls: value for value, cls in class_of.items()}
            return np.array([id_of[i] for i in range(len(labels))], np.uint8)
    raise ValueError(
        f"the model tells the classes of {labels.name} apart, which cannot be turned into those "
        f"that {data} is scored for ({' or '.join(label_set.name for label_set, _ in known)})."
    )


def segmenters(
    model: citysegzoo.SegmentationModel, args: argparse.Namespace
) -> dict[str, Segmenter]:
    """What is scored by protocol, in float32 and unchanged layers; the last is what was asked."""
    exact: dict[str, Any] = {"device": args.device, "precision": "fp32"}
    exact |= {"fold": False, "channels_last": False}
    scales = [f"{scale:g}" for scale in args.scales]
    asked = Segmenter(model, scales=args.scales, flip=args.flip, **exact)
    if len(scales) == 1 and not args.flip:
        return {"single scale" if scales == ["1"] else f"single scale {scales[0]}": asked}
    name = f"average of scales {' '.join(scales)}{' and flip' if args.flip else ''}"
    return {"single scale": Segmenter(model, **exact), name: asked}


def say_size(card: Mapping[str, Any], size: tuple[int, ...], scales: list[float]) -> None:
    """Say where images are not of the size that the model was trained on, as its card has it."""
    height, width = card.get("resized_to", size)
    if (height, width) == size or scales != [1.0]:
        return
    scale, other = height / size[0], width / size[1]
    way = f"; --scales {scale:g} scores it at that size" if scale == other else ""
    tqdm.write(
        f"the model was trained on images resized to {height}x{width}, and is scored on images of "
        f"{size[0]}x{size[1]}{way}."
    )


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if args.output:
        check_file_writable(args.output)
    model = trained(args.model, None)
    ids = ids_of(model.labels, args.data)
    protocols = segmenters(model, args)

    official = args.data == "cityscapes"
    dataset: Cityscapes | CamVid
    if official:
        dataset = Cityscapes(args.root, args.split, labels="label_id")
        pairs = Pairing(tuple(FramePair(*pair) for pair in dataset.files))
        instances = find_instances(pairs, CITYSCAPES_34)
    else:
        dataset, instances = CamVid(args.root, args.split), False
    scored = not (official and args.split == "test")
    if not scored and not args.save_labels:
        raise ValueError("the labels of the test split are not public: only --save-labels is left.")
    if args.save_labels:
        args.save_labels.mkdir(parents=True, exist_ok=True)

    # One frame at a time: memory does not grow with the number of images.
    evaluators: dict[str, CityscapesEvaluator | ConfusionMatrix] = {}
    frames = DataLoader(dataset, batch_size=None, num_workers=args.workers)
    for i, (pixels, target) in enumerate(tqdm(frames, unit="image", disable=None)):
        if i == 0:
            say_size(model.card, tuple(target.shape), args.scales)
        for protocol, segmenter in protocols.items():
            labels = ids[segmenter(pixels.permute(1, 2, 0).numpy()).labels]
            if not scored:
                continue
            if protocol not in evaluators:
                evaluators[protocol] = (
                    CityscapesEvaluator(instances=instances)
                    if official
                    else ConfusionMatrix(len(model.labels), dataset.labels.ignore_index)
                )
            more = [dataset.read_instances(i)] if instances else []
            evaluators[protocol].update(labels, target, *more)
        if args.save_labels:  # of the last protocol, which is the one that was asked for
            photo = dataset.files[i][0]
            name = f"{photo.stem.removesuffix('_leftImg8bit')}_labels.png"
            write_image(Image.fromarray(labels), args.save_labels / name)

    result: dict[str, Any] = {"model": args.model, "data": args.data, "split": args.split}
    result |= {"images": len(dataset), "protocols": {}}
    for name, evaluator in evaluators.items():
        if isinstance(evaluator, ConfusionMatrix):
            scores: Any = evaluator.scores(model.labels)
        else:
            scores = evaluator.scores()
        result["protocols"][name] = scores.to_dict()
        print(f"{args.data} {args.split}, {len(dataset)} images, {name}\n\n{scores.table()}\n")
    if official and scored and not instances:
        print("no *_gtFine_instanceIds.png are beside the labels: iIoU is left out.")
    if args.save_labels:
        print(f"label images: {args.save_labels} ({protocol})")
    if args.output:
        write(args.output, json.dumps(result, indent=4))
        print(f"scores: {args.output}")


if __name__ == "__main__":
    try:
        main()
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        print(f"evaluate.py: {str(error).strip().splitlines()[-1]}", file=sys.stderr)
        sys.exit(2)
