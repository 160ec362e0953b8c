"""Fine-tune trained weights on your own photographs and classes.

    python examples/finetune_own_data.py --images photos --labels labels \
        --classes road building vegetation vehicle --output runs/own

A photograph's labels are a PNG of its name (photos/a.jpg, labels/a.png) whose pixel values are
0, 1, 2, ... in the order of --classes, and 255 where there is no class. Every fifth photograph is
held back to score on. The output folder gets the best weights, as `citysegzoo.load` and
`citysegzoo segment --model` take them, and one of the photographs segmented.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
import warnings
from pathlib import Path

import torch
from torch.utils.data import DataLoader

import citysegzoo
from citysegzoo.data import Augmentation, Folder, LabeledImages, LabelSet, default_labels
from citysegzoo.hardware import find_device
from citysegzoo.losses import CombinedLoss, CrossEntropyLoss, DiceLoss
from citysegzoo.metrics import ConfusionMatrix, SegmentationScores


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--images", type=Path, required=True, help="folder of photographs")
    p.add_argument("--labels", type=Path, required=True, help="folder of label images")
    p.add_argument("--classes", nargs="+", required=True, metavar="NAME")
    p.add_argument("--output", type=Path, required=True, help="folder to write to")
    p.add_argument(
        "--model", default=citysegzoo.DEFAULT_MODEL, help="of `citysegzoo models --pretrained`"
    )
    p.add_argument("--freeze-encoder", action="store_true", help="train the rest alone")
    p.add_argument("--epochs", type=int, default=20)
    p.add_argument("--batch-size", type=int, default=4)
    p.add_argument("--crop", type=int, nargs=2, default=(256, 256), metavar=("H", "W"))
    p.add_argument("--lr", type=float, default=3e-4)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = p.parse_args(argv)
    if args.epochs < 1:
        p.error("--epochs must be at least 1")
    if args.output.exists() and not args.output.is_dir():
        p.error(f"{args.output} is a file; name a folder for --output")
    return args


def open_data(args: argparse.Namespace, labels: LabelSet) -> tuple[LabeledImages, LabeledImages]:
    """Photographs to train on, changed at random, and the others, whole."""
    augmentation = Augmentation(
        flip=0.5, scale=(0.75, 1.5), crop=tuple(args.crop), brightness=0.3, contrast=0.3
    )
    changes = augmentation.build(ignore_index=labels.ignore_index)
    train, val = (Folder(args.images, args.labels, labels, transform=t) for t in (changes, None))
    val.files = val.files[::5]
    train.files = [file for i, file in enumerate(train.files) if i % 5]
    if len(train) < args.batch_size:
        raise ValueError(
            f"{len(train)} photographs are left to train on, fewer than a batch of "
            f"{args.batch_size}; add some, or choose a smaller --batch-size."
        )
    return train, val


def create(args: argparse.Namespace, labels: LabelSet) -> citysegzoo.SegmentationModel:
    """The trained network with a classifier for other classes."""
    model = citysegzoo.create_model(args.model, pretrained=True)
    if len(model.labels) != len(labels):
        with warnings.catch_warnings(record=True) as told:  # that the classifier starts afresh
            warnings.simplefilter("always")
            model = citysegzoo.create_model(args.model, pretrained=True, num_classes=len(labels))
        for warning in told:
            print(f"note: {warning.message}")
    elif model.labels.classes != labels.classes:
        model.classifier = citysegzoo.create_model(args.model, num_classes=len(labels)).classifier
        print(
            "note: the weights tell as many other classes apart: the classifier starts untrained."
        )
    model.labels = labels
    if args.freeze_encoder:
        model.freeze_encoder()
    return model.to(find_device(args.device))


@torch.inference_mode()
def score(model: citysegzoo.SegmentationModel, data: LabeledImages) -> SegmentationScores:
    """Scores of whole photographs, of any sizes."""
    model.eval()
    device = next(model.parameters()).device
    confusion = ConfusionMatrix(len(model.labels), model.labels.ignore_index)
    for image, target in data:
        confusion.update(model(model.preprocessing(image[None].to(device))).cpu(), target[None])
    return confusion.scores(model.labels)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    torch.manual_seed(0)
    colors = default_labels(len(args.classes)).palette
    labels = LabelSet("own", tuple(args.classes), colors, ignore_index=255)
    train, val = open_data(args, labels)
    model = create(args, labels)
    start = copy.deepcopy(dict(model.card))
    device = next(model.parameters()).device
    loader = DataLoader(train, args.batch_size, shuffle=True, drop_last=True)
    criterion = CombinedLoss(CrossEntropyLoss(), DiceLoss())  # both leave 255 out
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, args.lr)
    steps = args.epochs * len(loader)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=steps)

    best = -1.0
    for epoch in range(1, args.epochs + 1):
        model.train()
        total = 0.0
        for images, targets in loader:
            logits = model(model.preprocessing(images.to(device)))
            loss = criterion(logits, targets.to(device))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            total += loss.item()
        if not math.isfinite(total):  # its labels would be class 0, which scores
            raise ValueError(f"the loss is no number any more in epoch {epoch}; lower --lr.")
        scores = score(model, val)
        print(f"epoch {epoch}: loss {total / len(loader):.4f}, mean IoU {scores.mean_iou:.2%}")
        if scores.mean_iou > best:
            best = scores.mean_iou
            card = {
                "data": f"{len(train)} own photographs; started from {args.model}, trained on "
                f"{start['data']}",
                "licence": start["licence"],  # weights keep the terms of what they come from
                "source": start["source"],
                "score": {
                    "metric": "mean class IoU, one confusion matrix, single scale",
                    "split": f"{len(val)} own photographs, also used to choose the epoch",
                    "mean_iou": round(best, 4),
                },
            }
            model.save_pretrained(args.output, card=card)

    if best < 0:
        raise ValueError("no photograph that is scored on has a labelled pixel: nothing was kept.")
    print(f"kept: {args.output}, mean IoU {best:.2%}")
    result = citysegzoo.load(args.output).segment(val.files[0][0])
    print(f"segmented: {', '.join(map(str, result.save(args.output)))}")


if __name__ == "__main__":
    try:
        main()
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        print(f"finetune_own_data.py: {str(error).strip().splitlines()[-1]}", file=sys.stderr)
        sys.exit(2)
