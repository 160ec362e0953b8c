"""Train a model of the zoo, with the recipe of its report or with your own settings.

    python examples/train.py --model unet.small --data camvid --root camvid --output runs/unet
    python examples/train.py --model deeplabv3_resnet101.mei2019_dl2 --data cityscapes \
        --root cityscapes --output runs/dl2
    python examples/train.py --model unet_resnet50 --data folder --root own \
        --classes road kerb sky --output runs/own   # images/train, labels/train; .../val
    torchrun --nproc-per-node=4 examples/train.py ...   # the same batches, shared by four

Every setting of a recipe can be overridden; --help lists them. The output folder gets

    best.safetensors   the weights that score best on the validation split, with what made them;
                       `citysegzoo segment --model` takes it, and so does citysegzoo.load
    last.pt            the state of the run: --resume goes on from it, to the same last bit
    log.csv            rate, loss, mean IoU and the IoU of each class, by epoch
    curves.png, samples/    loss and score drawn; photograph, labels and prediction at each score
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import math
import multiprocessing
import os
import shlex
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

import citysegzoo
from citysegzoo.cli.common import option, trained
from citysegzoo.data import (
    Augmentation,
    CamVid,
    Cityscapes,
    Folder,
    LabeledImages,
    SampleError,
    SkipBroken,
)
from citysegzoo.data.camvid import SPLITS as CAMVID_SPLITS
from citysegzoo.data.cityscapes import SPLITS as CITYSCAPES_SPLITS
from citysegzoo.data.labels import LabelSet, default_labels, find_label_set
from citysegzoo.data.preprocessing import Preprocessing
from citysegzoo.data.streets import CITIES as DRAWN_CITIES
from citysegzoo.files import replacing, write_image
from citysegzoo.hardware import available_cores, computes_bf16
from citysegzoo.losses import (
    CLASS_WEIGHTS,
    CombinedLoss,
    CrossEntropyLoss,
    PixelCounts,
    count_pixels,
    create_loss,
)
from citysegzoo.memory import is_out_of_memory, keep_freed_memory, limit_memory
from citysegzoo.metrics import ConfusionMatrix, SegmentationScores
from citysegzoo.pretrained import save_pretrained
from citysegzoo.recipe import Recipe
from citysegzoo.registry import LOSSES, options_of
from citysegzoo.training.activation_checkpointing import checkpoint_activations
from citysegzoo.training.averaging import averaging
from citysegzoo.training.distributed import (
    Processes,
    start_processes,
    stop_processes,
    synchronise_batch_norm,
)
from citysegzoo.training.muon import Muon, split_weights
from citysegzoo.training.parts import part_weights
from citysegzoo.training.sampling import Seeded, TrainingBatches, seed_of
from citysegzoo.training.schedules import Cosine, Schedule, parse_schedule
from citysegzoo.training.state import UnfitStateError, load_state, save_state
from citysegzoo.visualize import draw_curves, overlay
from citysegzoo.weights.card import without_score

FRAMES = {"cityscapes": (1024, 2048), "camvid": (360, 480)}
TERMS = {
    "cityscapes": {
        "data": "Cityscapes",
        "licence": "the terms of Cityscapes: non-commercial use, name the source",
        "source": "Cordts et al., The Cityscapes Dataset for Semantic Urban Scene Understanding, "
        "CVPR 2016",
    },
    "camvid": {
        "data": "CamVid at 480x360",
        "licence": "CC BY-NC 4.0: the terms of CamVid, non-commercial use, name the source",
        "source": "Brostow, Fauqueur, Cipolla: Semantic object classes in video, Pattern "
        "Recognition Letters 30(2), 2009; split of the SegNet tutorial",
    },
    "drawn": {
        "data": "streets drawn by citysegzoo",
        "licence": "Apache-2.0",
        "source": "citysegzoo.data.draw_streets",
    },
    # What publish_to_hub.py asks for.
    "folder": {"data": "own images", "licence": "not stated"},
}
COLUMNS = ("epoch", "lr", "loss", "val_loss", "mean_iou", "seconds")
"""Of log.csv, beside those of the classes."""


@dataclass(frozen=True)
class Settings:
    """What decides the weights that come out. A recipe fills it; the command line overrides it."""

    optimizer: str = "adamw"
    lr: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 0.01
    schedule: Schedule | None = None  # cosine, a twentieth of it warm-up
    epochs: int = 100
    batch_size: int = 8
    accumulate: int = 1
    loss: str = "cross_entropy"
    loss_options: dict[str, Any] = field(default_factory=dict)
    class_weights: str | None = None
    augmentation: Augmentation = field(default_factory=Augmentation)
    clip_norm: float | None = None
    ema: float | None = None
    precision: str = "fp32"
    seed: int = 0
    kept: str = "best_mean_iou"

    def as_dict(self) -> dict[str, Any]:
        """Plain values, to compare and to store."""
        words = {"schedule": str(self.schedule), "augmentation": str(self.augmentation)}
        return {**asdict(replace(self, schedule=None)), **words}


# --- from recipe and command line to settings ----------------------------------------------------


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    p.add_argument("--model", required=True, help="a name from `citysegzoo models`")
    p.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help='an option of the model, such as --option "aspp_rates=(3, 6, 9)"',
    )
    p.add_argument("--data", choices=(*FRAMES, "folder"), required=True)
    p.add_argument("--root", type=Path, required=True, help="folder of the data set")
    p.add_argument(
        "--classes",
        nargs="+",
        metavar="NAME",
        help="of --data folder: what the values 0, 1, 2, ... of its label images are (255 is "
        "void), or a label set by name, such as cityscapes19",
    )
    p.add_argument("--output", type=Path, required=True, help="folder to write to")
    p.add_argument("--resume", action="store_true", help="go on with the run in --output")
    p.add_argument(
        "--initial", help="start from the weights of this folder, file, owner/name, or model"
    )
    p.add_argument(
        "--encoder-weights",
        help="ImageNet weights by name, or 'none'; the recipe's unless given",
    )

    recipe = p.add_argument_group(
        "settings",
        "the recipe's unless given; of a model without one: 100 epochs of adamw at 0.001, weight "
        "decay 0.01, batches of 8, cosine, cross_entropy, --ema 0.998, flips, scales of 0.5 to 2, "
        "light, and crops of 256x320 (camvid), 768x768 (cityscapes) or up to 512x512 (folder)",
    )
    recipe.add_argument("--epochs", type=int)
    recipe.add_argument("--batch-size", type=int, help="over all processes and parts")
    recipe.add_argument("--accumulate", type=int, help="parts in which a batch is computed")
    recipe.add_argument("--optimizer", choices=("sgd", "adam", "adamw", "muon"))
    recipe.add_argument("--lr", type=float)
    recipe.add_argument("--momentum", type=float, help="of sgd")
    recipe.add_argument("--weight-decay", type=float)
    recipe.add_argument(
        "--schedule",
        type=schedule_argument,
        help="constant, step:10:0.2, multistep:1,4,8:0.1, poly:0.9 or cosine:3 (epochs of warm-up)",
    )
    recipe.add_argument(
        "--loss",
        help="a name from citysegzoo.losses.list_losses(); joined by + "
        "they are added, as in cross_entropy+dice",
    )
    recipe.add_argument(
        "--class-weights",
        choices=("none", *CLASS_WEIGHTS),
        help="from the pixels of the training images",
    )
    recipe.add_argument("--clip-norm", type=float, help="largest norm of the gradients")
    recipe.add_argument("--ema", type=float, help="decay of averaged weights, such as 0.999")
    recipe.add_argument("--precision", choices=("fp32", "bf16", "fp16"))
    recipe.add_argument("--kept", choices=("best_mean_iou", "lowest_loss", "last"))
    recipe.add_argument("--seed", type=int)
    recipe.add_argument("--labels", choices=("train_id", "label_id", "category"))
    recipe.add_argument("--annotations", choices=("fine", "coarse"), help="of Cityscapes")
    recipe.add_argument(
        "--loss-option",
        action="append",
        metavar="NAME=VALUE",
        help='an option of the only loss, such as "gamma=1.5"; those of the recipe go',
    )
    for name in ("resize", "crop"):
        recipe.add_argument(f"--{name}", nargs="+", metavar="H W", help="height, width; or none")
    recipe.add_argument("--scale", type=float, nargs=2, metavar=("LOW", "HIGH"))
    recipe.add_argument("--flip", type=float, metavar="PROBABILITY")
    recipe.add_argument("--rotate", type=float, metavar="DEGREES")
    for name in ("rotate-probability", "brightness", "contrast", "saturation", "hue",
                 "photometric-probability"):  # fmt: skip
        recipe.add_argument(f"--{name}", type=float)

    machine = p.add_argument_group("the machine")
    machine.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    machine.add_argument(
        "--in-memory", action="store_true", help="decode the training images once and keep them"
    )
    machine.add_argument("--workers", type=int, default=1, help="processes that read images")
    machine.add_argument("--compile", action="store_true", help="torch.compile")
    machine.add_argument(
        "--checkpoint-activations", action="store_true", help="less memory, a third more time"
    )
    machine.add_argument("--evaluate-every", type=int, default=1, metavar="EPOCHS")
    machine.add_argument(
        "--save-every", type=int, default=0, metavar="STEPS", help="write last.pt within epochs too"
    )
    machine.add_argument("--skip-broken", action="store_true", help="go on past broken files")
    machine.add_argument("--limit", type=int, help="use only so many images of each split")
    args = p.parse_args(argv)
    for name in ("resize", "crop"):
        try:
            setattr(args, name, size_argument(getattr(args, name)))
        except ValueError:
            p.error(f"--{name} takes a height and a width, or none")
    least = dict.fromkeys(("epochs", "batch_size", "accumulate", "evaluate_every", "limit"), 1)
    for name, value in {**least, "save_every": 0, "workers": 0, "seed": 0}.items():
        if getattr(args, name) is not None and getattr(args, name) < value:
            p.error(f"--{name.replace('_', '-')} must be at least {value}")
    if args.workers > (most := 16 * available_cores()):
        p.error(f"--workers must be at most {most}, sixteen for each core")
    if args.seed is not None and args.seed >= 2**63:
        p.error("--seed must be below 2**63")
    if args.momentum is not None and not 0 <= args.momentum < 1:
        p.error("--momentum must be from 0 to below 1")
    if args.clip_norm is not None and not args.clip_norm > 0:
        p.error("--clip-norm must be above 0")
    if args.compile and args.checkpoint_activations:
        p.error("--compile and --checkpoint-activations do not go together; leave one out")
    return args


def size_argument(words: list[str] | None) -> tuple[int, int] | str | None:
    """(H, W), or "none" for leaving out what the recipe has; None where nothing is said."""
    if words is None or words == ["none"]:
        return words and "none"
    height, width = map(int, words)
    return height, width


def schedule_argument(text: str) -> Schedule:
    try:
        return parse_schedule(text)
    except ValueError as error:  # whose sentence argparse would not show
        raise argparse.ArgumentTypeError(str(error)) from error


def settings_of(
    args: argparse.Namespace, recipe: Recipe | None, images: int, frame: tuple[int, int]
) -> Settings:
    """The recipe of the model, adapted to the data, under what the command line says."""
    settings = Settings(precision="bf16" if computes_bf16(torch.device(args.device)) else "fp32")
    unsaid: list[str] = []
    if recipe is None:
        crop = {"cityscapes": (768, 768), "camvid": (256, 320)}.get(args.data)
        if crop is None:
            crop = (max(32, min(512, frame[0])), max(32, min(512, frame[1])))
            if not args.crop:
                print(f"crops are {crop[0]}x{crop[1]}: --crop takes another size.")
        street = Augmentation(flip=0.5, scale=(0.5, 2.0), crop=crop, brightness=0.3, contrast=0.3,
                              saturation=0.3, hue=0.05)  # fmt: skip
        settings = replace(settings, augmentation=street, ema=0.998)
    else:
        given = {
            "optimizer": recipe.optimizer, "lr": recipe.learning_rate, "momentum": recipe.momentum,
            "weight_decay": recipe.weight_decay, "schedule": recipe.schedule,
            "epochs": recipe.epochs, "batch_size": recipe.batch_size, "loss": recipe.loss,
            "loss_options": dict(recipe.loss_options), "kept": recipe.kept,
        }  # fmt: skip
        settings = replace(settings, **{k: v for k, v in given.items() if v is not None})
        if recipe.weight_decay is None:
            settings = replace(settings, weight_decay=0.0)
        known = ("optimizer", "lr", "weight_decay", "schedule", "batch_size", "kept")
        unsaid = [name for name in known if given[name] is None]
        unsaid += ["epochs"] if recipe.epochs is recipe.steps is None else []
        augmentation, options = recipe.augmentation, dict(recipe.loss_options)
        if args.data != recipe.dataset:
            augmentation = adapted(augmentation, frame)
            print(f"adapted from {recipe.dataset} to {args.data}: {augmentation}.")
        if args.data != recipe.dataset or args.labels not in (None, recipe.labels):
            options.pop("ignore_index", None)  # one of other labels
        if args.loss not in (None, recipe.loss):
            options = {}
        settings = replace(settings, augmentation=augmentation, loss_options=options)
    changes = {f.name: getattr(args, f.name, None) for f in fields(Augmentation)}
    changes = {k: tuple(v) if isinstance(v, list) else v for k, v in changes.items()}
    changes = {k: None if v == "none" else v for k, v in changes.items() if v is not None}
    augmentation = replace(settings.augmentation, **changes)
    over = {f.name: getattr(args, f.name, None) for f in fields(Settings)}
    if args.loss_option:
        over["loss_options"] = dict(option(text, "--loss-option") for text in args.loss_option)
    settings = replace(settings, **{k: v for k, v in over.items() if v is not None})
    if recipe and recipe.steps and args.epochs is None:
        in_epoch = max(1, images // settings.batch_size)
        settings = replace(settings, epochs=math.ceil(recipe.steps / in_epoch))
    schedule = settings.schedule or Cosine(warmup_epochs=settings.epochs / 20)
    settings = replace(settings, augmentation=augmentation, schedule=schedule)
    if recipe and recipe.momentum is None and settings.optimizer == "sgd":
        unsaid.append("momentum")
    if args.momentum is not None and settings.optimizer != "sgd":
        raise ValueError(f"--momentum is of --optimizer sgd; {settings.optimizer} has its own.")
    if augmentation.scale and not augmentation.crop:
        raise ValueError("--scale gives images of many sizes; add --crop to batch them.")
    taken = [f"{name} {getattr(settings, name)}" for name in unsaid if getattr(args, name) is None]
    if taken:
        print(f"the report does not say all; taken unless overridden: {', '.join(taken)}.")
    return settings


def adapted(augmentation: Augmentation, frame: tuple[int, int]) -> Augmentation:
    """The same changes on frames of another size: not resized, and crops no larger than frames."""
    crop = augmentation.crop
    if crop is not None:
        crop = min(crop[0], frame[0]), min(crop[1], frame[1])
    elif augmentation.scale is not None:
        crop = frame
    return replace(augmentation, resize=None, crop=crop)


# --- data, model, loss, optimiser ----------------------------------------------------------------


def open_data(
    args: argparse.Namespace, recipe: Recipe | None
) -> tuple[LabeledImages, LabeledImages]:
    """Training and validation images, in the annotations and labels of the recipe."""
    if args.data != "cityscapes" and (args.labels or args.annotations):
        raise ValueError("--labels and --annotations are of --data cityscapes; leave them out.")
    if args.data != "folder" and args.classes:
        raise ValueError(
            f"--classes are of --data folder; {args.data} has its own: leave them out."
        )
    if args.data == "folder" and not args.classes:
        raise ValueError(
            "--data folder needs --classes: names in the order of their values in the label "
            "images, or a label set such as cityscapes19."
        )
    official: dict[str, int] = {}
    if args.data == "folder":
        folders = [f"{kind}/{split}" for split in ("train", "val") for kind in ("images", "labels")]
        missing = [folder for folder in folders if not (args.root / folder).is_dir()]
        if missing:
            raise FileNotFoundError(
                f"{args.root} has no {', '.join(missing)}: --data folder needs "
                f"{', '.join(folders)} there, some images put aside in val."
            )
        train, val = (
            Folder(args.root / "images" / split, args.root / "labels" / split, classes_of(args))
            for split in ("train", "val")
        )
    elif args.data == "camvid":
        train, val = CamVid(args.root, "train"), CamVid(args.root, "val")
        official = CAMVID_SPLITS
    else:
        labels = args.labels or (recipe.labels if recipe else "train_id")
        args.annotations = args.annotations or (recipe.annotations if recipe else "fine")
        train, val = (
            Cityscapes(args.root, split, annotations=args.annotations, labels=labels)
            for split in ("train", "val")
        )
        official = CITYSCAPES_SPLITS[args.annotations]
    for split, images in (("train", train), ("val", val)):
        if len(images) < official.get(split, 0):
            print(f"{len(images)} of the {official[split]} images of the split {split} are here.")
    train.files, val.files = train.files[: args.limit], val.files[: args.limit]
    return train, val


def classes_of(args: argparse.Namespace) -> LabelSet:
    """The classes of one's own data: a label set by name, or names."""
    if len(args.classes) == 1:
        try:
            return find_label_set(args.classes[0])
        except ValueError as error:
            said = str(error).rstrip(".")
            raise ValueError(f"{said}; or name two classes and more, by spaces apart.") from error
    if len(args.classes) > 255:
        raise ValueError("--classes takes 255 names at most, as the value 255 is void.")
    for name in args.classes:
        if not name or name in COLUMNS:
            raise ValueError(f"a class cannot be called {name!r}; give it another name.")
    colors = default_labels(len(args.classes)).palette
    return LabelSet("own", tuple(args.classes), colors, ignore_index=255)


def look_over(
    args: argparse.Namespace, train: LabeledImages, val: LabeledImages
) -> tuple[int, int]:
    """Look at all label images of one's own before training begins; say the images' usual size."""
    if args.data in FRAMES:
        return FRAMES[args.data]
    sizes: list[tuple[int, ...]] = []

    def seen(images: LabeledImages) -> Iterator[Any]:
        for labels in label_maps(images, skip_broken=args.skip_broken):
            sizes.append(tuple(labels.shape))
            yield labels
        if not sizes:
            images.read_labels(0)  # which says what is wrong with it

    classes, void = train.labels.classes, train.labels.ignore_index
    for split, images in (("val", val), ("train", train)):
        sizes.clear()
        pixels = count_pixels(seen(images), len(classes), ignore_index=void).pixels
        absent = [f"{name} ({i})" for i, name in enumerate(classes) if not pixels[i]]
        said = f"no label image in labels/{split} has a pixel of {', '.join(absent)}"
        needed = split == "train" and len(args.classes) > 1 and not args.limit
        if len(absent) == len(classes) or (absent and needed):
            raise ValueError(
                f"{said}; write 0, 1, ... in the order of --classes, {void} where there is none."
            )
        if absent:
            print(f"{said}.")
    heights, widths = (sorted(sides) for sides in zip(*sizes, strict=True))
    return heights[len(heights) // 2], widths[len(widths) // 2]


def are_drawn(images: LabeledImages) -> bool:
    """Whether these are no photographs, but what `citysegzoo data draw` wrote."""
    return all(Path(photo).parent.name in DRAWN_CITIES["train"] for photo, _ in images.files)


def say_void(train: LabeledImages, augmentation: Augmentation) -> None:
    """Say where crops are made for larger images than these, and mostly void."""
    crop = augmentation.crop
    if crop is None:
        return
    size = augmentation.resize
    if size is None:
        with contextlib.suppress(SampleError):  # which is said where the sample's turn comes
            size = train.read_labels(0).shape
    if size and 4 * size[0] * size[1] <= crop[0] * crop[1]:
        sides = " ".join(str(side // 2) for side in size)
        print(
            f"crops of {crop[0]}x{crop[1]} are void for the most part, as images are "
            f"{size[0]}x{size[1]}: --crop {sides} would not be."
        )


def augment(train: LabeledImages, val: LabeledImages, augmentation: Augmentation) -> None:
    """Change training images at random, and resize validation images as those are resized."""
    fill = 0 if train.labels.ignore_index is None else None  # "unlabeled", where it is a class
    train.transform = augmentation.build(ignore_index=train.labels.ignore_index, label_fill=fill)
    if augmentation.resize:
        val.transform = partial(resize_image, size=augmentation.resize)


def quiet(worker: int) -> None:
    """In a process that reads images: its errors are handed over and said by the main process.

    What is left is that nobody takes an image over any more, when a run is stopped.
    """
    sys.excepthook = lambda *_: None


class Readable(Dataset[Any]):
    """Samples to be scored, None for a broken one: another in its place would count twice."""

    def __init__(self, samples: LabeledImages) -> None:
        self.samples = SkipBroken(samples)
        self.files = self.samples.files

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor] | None:
        return self.samples.read(index)


def fingerprint(files: list[tuple[Path, Path]]) -> str:
    """Of the names and sizes of files, wherever their folder is."""

    def size(file: Path) -> int:
        try:
            return file.stat().st_size
        except OSError:  # which is said, or skipped, where the sample's turn comes
            return -1

    known = "\n".join(f"{file.name} {size(file)}" for pair in files for file in pair)
    return hashlib.sha256(known.encode()).hexdigest()[:12]


def resize_image(image: Tensor, target: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Validation at the size of training: the image is resized, its labels are not."""
    from torchvision.transforms.v2 import functional

    return functional.resize(image, list(size), antialias=True), target


def create(args: argparse.Namespace, labels: LabelSet) -> nn.Module:
    """The model, its encoder with the ImageNet weights of the recipe."""
    options = dict(option(text, "--option") for text in args.option)
    if "num_classes" in options:
        raise ValueError(f"num_classes is that of the labels, {len(labels)}; leave it out.")
    encoder_weights: str | bool | None = args.encoder_weights
    if encoder_weights is None:
        recipe = citysegzoo.model_info(args.model).recipe
        encoder_weights = bool(recipe and recipe.encoder_weights and not args.initial)
    elif encoder_weights == "none":
        encoder_weights = None
    with warnings.catch_warnings():
        if args.initial or args.resume:  # all weights follow
            warnings.filterwarnings("ignore", "the encoder of .* is frozen")
        model = citysegzoo.create_model(
            args.model,
            num_classes=len(labels),
            encoder_weights=None if args.resume else encoder_weights,
            **options,
        )
    model.labels = labels
    if args.initial and not args.resume:
        start = trained(args.initial, None)
        if len(start.labels) != len(labels):  # all but the classifier, which a warning says
            start = trained(args.initial, None, num_classes=len(labels))
        elif start.labels.classes != labels.classes:
            start.classifier = model.classifier
            start.card = without_score(start.card)
            print(f"{args.initial} tells as many other classes apart: the classifier starts anew.")
        model.preprocessing = start.preprocessing
        try:
            model.load_state_dict(start.state_dict())
        except RuntimeError as error:
            raise ValueError(f"{args.initial} holds another model than {args.model}.") from error
        model.card = start.card
    return model


PIXELWISE = ("cross_entropy", "focal", "ohem_cross_entropy")
"""Losses that --class-weights weigh; those over regions count every class alike as they are."""


def label_maps(images: LabeledImages, *, skip_broken: bool) -> Iterator[Any]:
    """The labels of all images, or of all that can be read."""
    for i in range(len(images)):
        try:
            yield images.read_labels(i)
        except SampleError:
            if not skip_broken:
                raise


def loss_of(
    settings: Settings, train: LabeledImages, *, own: bool, skip_broken: bool = False
) -> nn.Module:
    """The loss, or a sum of several.

    Class weights are of the pixels of the training images: those asked for, and those of a
    report's loss, whose printed counts are of other data (``own``) or of other classes.
    """
    labels = train.labels

    @cache
    def counts() -> PixelCounts:
        maps = label_maps(train, skip_broken=skip_broken)
        return count_pixels(maps, len(labels), ignore_index=labels.ignore_index)

    losses, names = [], settings.loss.split("+")
    weighted = settings.class_weights not in (None, "none")
    for name in names:
        known = options_of(LOSSES[name])
        options = dict(settings.loss_options)
        if "ignore_index" in known:
            options.setdefault("ignore_index", labels.ignore_index)
        if weighted and name in PIXELWISE:
            weigh = CLASS_WEIGHTS[settings.class_weights]
            images = {"image_pixels": counts().image_pixels}
            images = {k: v for k, v in images.items() if k in options_of(weigh)}
            options["class_weights"] = weigh(counts().pixels, absent=1.0, **images)
        if "pixel_counts" in known and (
            own or len(create_loss(name, **options).class_weights) != len(labels)
        ):
            pixels = counts().pixels  # a class that is not there may weigh what the rarest does
            options["pixel_counts"] = pixels.where(pixels > 0, pixels[pixels > 0].min())
        if settings.class_weights == "none" and (
            "pixel_counts" in known or "class_weights" in options
        ):
            raise ValueError(f"{name} weighs classes itself; take another --loss to have none.")
        losses.append(create_loss(name, **options))
        if getattr(losses[-1], "reduction", "mean") == "none":
            raise ValueError(
                f"{name} with reduction='none' is no single number to train on; take 'mean' or "
                "'sum'."
            )
    if weighted and not set(names) & set(PIXELWISE):
        raise ValueError(
            f"--class-weights {settings.class_weights} has nothing to weigh in {settings.loss}; it "
            f"goes with {', '.join(PIXELWISE)}, or a sum with one of these."
        )
    return losses[0] if len(losses) == 1 else CombinedLoss(*losses)


def optimizers_of(settings: Settings, model: nn.Module) -> list[torch.optim.Optimizer]:
    """One for all weights, or Muon and AdamW, which share them out."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    rate, decay = settings.lr, settings.weight_decay
    fp16 = settings.precision == "fp16"
    if settings.optimizer == "sgd":
        # Fused, a first step that the scaler skips leaves its momentum as the memory was.
        return [
            torch.optim.SGD(
                parameters, rate, momentum=settings.momentum, weight_decay=decay, fused=not fp16
            )
        ]
    if settings.optimizer == "muon" and fp16:  # each scaler would skip steps of one alone
        raise ValueError("--optimizer muon goes with --precision bf16 or fp32, not fp16.")
    optimizers: list[torch.optim.Optimizer] = []
    if settings.optimizer == "muon":
        matrices, parameters = split_weights(model)
        optimizers.append(Muon(matrices, rate, weight_decay=decay))
    kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
    return [*optimizers, kind(parameters, rate, weight_decay=decay, fused=True)]


# --- one run -------------------------------------------------------------------------------------


class Run:
    """A model in training. ``fit`` is the whole of it; the state is what --resume needs."""

    def __init__(
        self,
        model: nn.Module,
        criterion: nn.Module,
        train: Dataset[Any],
        val: Dataset[Any],
        settings: Settings,
        processes: Processes,
        args: argparse.Namespace,
        card: dict[str, Any],
    ) -> None:
        self.settings, self.processes, self.args, self.card = settings, processes, args, card
        device = processes.device
        self.batches = TrainingBatches(
            len(train),
            settings.batch_size,
            seed=settings.seed,
            accumulate=settings.accumulate,
            rank=processes.rank,
            world_size=processes.world_size,
        )
        workers = {
            "num_workers": args.workers,
            "persistent_workers": args.workers > 0,
            "worker_init_fn": quiet,
        }
        pin = {"pin_memory": device.type == "cuda"}
        if args.in_memory and args.workers and sys.platform == "linux":
            workers["multiprocessing_context"] = "fork"  # which shares what is held
        self.loader = DataLoader(Seeded(train), batch_sampler=self.batches, **workers, **pin)
        mine = range(processes.rank, len(val), processes.world_size)
        self.val = val
        self.files = fingerprint([*train.files, *val.files])
        self.val_loader = DataLoader(Subset(val, mine), batch_size=None, **workers, **pin)

        self.model = model.to(device, memory_format=torch.channels_last)
        self.averaged = None
        if settings.ema:
            self.averaged = AveragedModel(
                model, multi_avg_fn=averaging(settings.ema), use_buffers=True
            )
        self.criterion = criterion.to(device)
        self.optimizers = optimizers_of(settings, model)
        self.scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "fp16")
        runner = model
        if processes.world_size > 1:
            runner = synchronise_batch_norm(runner, device)
        if args.checkpoint_activations:
            checkpoint_activations(runner)
        if args.compile:
            runner = torch.compile(runner)
        if processes.world_size > 1:
            runner = nn.parallel.DistributedDataParallel(runner)
        self.runner = runner

        self.epoch = self.step = 0  # passes over the images, and steps of this one, that are done
        self.losses = torch.zeros(self.batches.steps, dtype=torch.float64, device=device)
        self.best: float | None = None
        self.best_iou: float | None = None
        self.scoring = False
        self.scored = 0  # validation images
        self.log: list[dict[str, Any]] = []

    def fit(self) -> None:
        settings, output = self.settings, self.args.output
        while self.epoch < settings.epochs:
            start = time.perf_counter()
            loss = self.train_epoch()
            self.epoch, self.step = self.epoch + 1, 0
            row = {"epoch": self.epoch, "lr": self.rate(-1), "loss": loss}
            if self.epoch % self.args.evaluate_every == 0 or self.epoch == settings.epochs:
                scores, val_loss = self.evaluate()
                if math.isnan(scores.mean_iou):
                    raise ValueError("no pixel of the validation images has a class; check them.")
                row |= {"val_loss": val_loss, "mean_iou": scores.mean_iou, **scores.class_iou}
                self.keep(scores, val_loss)
            self.log.append({**row, "seconds": time.perf_counter() - start})
            if self.processes.first:
                self.write_log()
                self.save()  # last: a run that is stopped before it does all of this again
                score = f", val mean IoU {100 * row['mean_iou']:.2f}" if "mean_iou" in row else ""
                print(f"epoch {self.epoch}: loss {loss:.4f}{score}", flush=True)
        if self.processes.first and self.best is not None:
            print(f"kept: {output / 'best.safetensors'}, val mean IoU {100 * self.best_iou:.2f}")

    def train_epoch(self) -> float:
        """One pass over the images, or what is left of it; the mean loss of its steps."""
        self.batches.start(self.epoch, self.step)
        self.model.train()
        parts = iter(self.loader)
        steps = range(self.step, self.batches.steps)
        name = f"epoch {self.epoch + 1}/{self.settings.epochs}"
        quiet = None if self.processes.first else True
        for step in tqdm(steps, name, self.batches.steps, initial=self.step, disable=quiet):
            # What is drawn in the model (dropout) follows from the step alone: it can be resumed.
            torch.manual_seed(seed_of(self.settings.seed, self.epoch, step, self.processes.rank))
            batch = [next(parts) for _ in range(self.settings.accumulate)]
            self.losses[step] = self.train_step(batch)
            self.step = step + 1
            last, every = self.step == self.batches.steps, self.args.save_every
            saving = not last and every and self.step % every == 0
            if last or saving or self.step % 10 == 0:
                self.check_numbers()
            if saving and self.processes.first:
                self.save()
        return float(self.losses.mean())

    def check_numbers(self) -> None:
        """Raise where loss or weights are no numbers any more, before they are saved."""
        values = [self.losses[: self.step], *self.final.parameters(), *self.model.parameters()]
        if not all(bool(value.isfinite().all()) for value in values):
            best = self.args.output / "best.safetensors"
            start = f"; --initial {best} starts it from the best weights" * best.is_file()
            raise ArithmeticError(
                f"the loss is no number any more in epoch {self.epoch + 1}; begin a run in another "
                f"--output with a lower --lr, --clip-norm 1 or --precision fp32{start}."
            )

    def train_step(self, batch: list[tuple[Tensor, Tensor]]) -> Tensor:
        """One step of the optimiser, in one part or several; the loss of the whole batch."""
        device = self.processes.device
        batch = [tuple(t.to(device, non_blocking=True) for t in part) for part in batch]
        weights = part_weights(self.criterion, [target for _, target in batch], self.processes)
        total = torch.zeros((), device=device)
        for i, ((images, target), weight) in enumerate(zip(batch, weights, strict=True)):
            last = i == len(batch) - 1 or self.processes.world_size == 1
            with contextlib.nullcontext() if last else self.runner.no_sync():
                with self.autocast():
                    logits = self.runner(self.prepared(images))
                loss = self.criterion(logits, target) * weight
                self.scaler.scale(loss).backward()
            total += loss.detach()
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        if self.settings.clip_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.rate(self.step)
            self.scaler.step(optimizer)
            optimizer.zero_grad(set_to_none=True)
        self.scaler.update()
        if self.averaged is not None:
            self.averaged.update_parameters(self.model)
        return self.processes.sum(total) / self.processes.world_size

    @torch.inference_mode()
    def evaluate(self) -> tuple[SegmentationScores, float]:
        """Scores from one confusion matrix over all validation images, and their mean loss."""
        self.scoring = True
        model, labels, device = self.final.eval(), self.model.labels, self.processes.device
        confusion = ConfusionMatrix(len(labels), labels.ignore_index, device=device)
        losses = torch.zeros(2, dtype=torch.float64, device=device)
        for sample in self.val_loader:
            if sample is None:  # broken
                continue
            image, target = (tensor[None].to(device) for tensor in sample)
            logits = F.interpolate(self.logits(model, image), target.shape[-2:], mode="bilinear")
            confusion.update(logits, target)
            losses += torch.stack([self.criterion(logits, target), losses.new_ones(())])
        if self.processes.world_size > 1:
            confusion.all_reduce()
            losses = self.processes.sum(losses)
        if self.processes.first:
            self.write_samples(model)
        self.scoring, self.scored = False, int(losses[1])
        if not self.scored:
            raise SampleError("none of the validation images can be read; each was told above")
        return confusion.scores(labels), float(losses[0] / losses[1])

    def logits(self, model: nn.Module, image: Tensor) -> Tensor:
        """Of one image ``(1, 3, H, W)``, at its size; as when photographs are segmented."""
        with self.autocast():
            coarse = model.coarse_logits(self.prepared(image))
        return model.enlarge(coarse.float(), image.shape[-2:])

    # --- what is where --------------------------------------------------------------------------

    @property
    def final(self) -> nn.Module:
        """The network that is evaluated and kept: the averaged one, where there is one."""
        return self.model if self.averaged is None else self.averaged.module

    def rate(self, step: int) -> float:
        """The learning rate of a step of this epoch."""
        steps = self.batches.steps
        done = max(0, self.epoch * steps + step)
        return self.settings.lr * self.settings.schedule.factor(
            done, steps_per_epoch=steps, total_steps=self.settings.epochs * steps
        )

    def prepared(self, images: Tensor) -> Tensor:
        """8-bit images as the network takes them, in the layout that is fastest."""
        images = self.model.preprocessing(images)
        return images.contiguous(memory_format=torch.channels_last)

    def autocast(self) -> torch.autocast:
        kind = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
        dtype = kind[self.settings.precision]
        return torch.autocast(self.processes.device.type, dtype, enabled=dtype is not None)

    # --- files: each written whole or not at all -------------------------------------------------

    def keep(self, scores: SegmentationScores, val_loss: float) -> None:
        """Write best.safetensors if this is what the recipe keeps."""
        value = {
            "best_mean_iou": scores.mean_iou, "lowest_loss": -val_loss, "last": float(self.epoch)
        }[self.settings.kept]  # fmt: skip
        if self.best is not None and not (value > self.best or math.isnan(self.best)):
            return
        self.best, self.best_iou = value, scores.mean_iou
        if not self.processes.first:
            return
        of = {
            "best_mean_iou": "also used to choose the epoch",
            "lowest_loss": "whose loss chose the epoch",
            "last": "after the last epoch",
        }
        resized = self.settings.augmentation.resize
        at = f", of images resized to {resized[0]}x{resized[1]}" if resized else ""
        card = {
            **self.card,
            "epoch": self.epoch,
            "score": {
                "metric": f"mean class IoU, one confusion matrix over the split, single scale{at}",
                "split": f"{self.card['data'].split(',')[0]}, validation split, {self.scored} "
                f"images, {of[self.settings.kept]}",
                "mean_iou": round(scores.mean_iou, 4),
                "class_iou": {
                    k: None if math.isnan(v) else round(v, 4) for k, v in scores.class_iou.items()
                },
                "pixel_accuracy": round(scores.pixel_accuracy, 4),
            },
        }
        self.final.card = card
        save_pretrained(self.final, self.args.output / "best.safetensors", card=card)

    def save(self) -> None:
        """Write last.pt: all that decides how the run goes on."""
        state = {
            "epoch": self.epoch, "step": self.step, "losses": self.losses, "best": self.best,
            "best_iou": self.best_iou, "log": self.log, "card": self.card,
            "preprocessing": asdict(self.model.preprocessing),  # that of ImageNet weights
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "scaler": self.scaler.state_dict(),
            "averaged": self.averaged.state_dict() if self.averaged else None,
        }  # fmt: skip
        save_state(self.args.output / "last.pt", state, settings=self.fixed())

    def resume(self) -> None:
        """Go on where last.pt was written."""
        state = load_state(self.args.output / "last.pt", settings=self.fixed())
        for name in ("epoch", "step", "best", "best_iou", "log", "card"):
            setattr(self, name, state[name])
        for model in (self.model, self.final):
            model.preprocessing = Preprocessing(**state["preprocessing"])
        self.losses.copy_(state["losses"])
        self.model.load_state_dict(state["model"])
        for optimizer, its in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(its)
        self.scaler.load_state_dict(state["scaler"])
        if self.averaged is not None:
            self.averaged.load_state_dict(state["averaged"])
        print(f"resumed after {self.epoch} epochs and {self.step} steps.")

    def fixed(self) -> dict[str, Any]:
        """What a run must have in common with the one it resumes."""
        model = {"model": self.model.name, "options": repr(self.model.blueprint.options)}
        data = {"data": self.args.data, "images": self.batches.length}
        data |= {"labels": self.model.labels.name, "annotations": self.args.annotations}
        data |= {"classes": self.args.classes} if self.args.classes else {}
        scored = {"validation images": len(self.val), "evaluate_every": self.args.evaluate_every}
        shared = {}
        if self.processes.world_size > 1 and not isinstance(self.criterion, CrossEntropyLoss):
            shared = {"processes": self.processes.world_size}  # each takes the loss of its part
        files = {"files": self.files}
        return {**model, **data, **scored, **files, **shared, **self.settings.as_dict()}

    def write_log(self) -> None:
        """log.csv and curves.png, and TensorBoard's file where that is installed."""
        names = list(dict.fromkeys(name for row in self.log for name in row))
        log = self.args.output / "log.csv"
        with replacing(log) as partial_file, partial_file.open("w", newline="") as file:
            table = csv.DictWriter(file, names)
            table.writeheader()
            table.writerows(self.log)
        curves = {
            name: [(row["epoch"], row[name]) for row in self.log if name in row]
            for name in ("loss", "val_loss", "mean_iou")
        }
        drawn = draw_curves({name: points for name, points in curves.items() if points})
        write_image(drawn, self.args.output / "curves.png")
        if self.board is not None:
            for name, value in self.log[-1].items():
                self.board.add_scalar(name, value, self.epoch)
            self.board.flush()

    @cached_property
    def board(self) -> Any:
        """TensorBoard's writer, or None where it is not installed."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return None
        return SummaryWriter(self.args.output / "tensorboard", purge_step=self.epoch)

    def write_samples(self, model: nn.Module, count: int = 3) -> None:
        """Photographs, labels and predictions of the first validation images side by side."""
        rows, labels = [], self.model.labels
        for i in range(min(count, len(self.val))):
            if (sample := self.val[i]) is None:
                continue
            image, target = sample
            logits = self.logits(model, image[None].to(self.processes.device))
            truth = F.interpolate(target[None, None], image.shape[-2:], mode="nearest")[0, 0]
            pixels = image.permute(1, 2, 0).cpu().numpy()
            maps = (truth.cpu().numpy(), logits[0].argmax(0).byte().cpu().numpy())
            pictures = [overlay(pixels, m, labels, legend=False) for m in maps]
            rows.append([Image.fromarray(pixels), *pictures])
        if not rows:
            return
        width, height = rows[0][0].size
        sheet = Image.new("RGB", (3 * width, len(rows) * height))
        for y, row in enumerate(rows):
            for x, picture in enumerate(row):
                sheet.paste(picture.resize((width, height)), (x * width, y * height))
        folder = self.args.output / "samples"
        folder.mkdir(exist_ok=True)
        write_image(sheet, folder / f"epoch_{self.epoch:04}.jpg", quality=85)


# --- from the command line to the end ------------------------------------------------------------


def begun(output: Path, resume: bool, processes: Processes) -> bool:
    """Whether there is a state to go on from; raise where a run would be lost, or is not there."""
    state, best, there = output / "last.pt", output / "best.safetensors", output.is_dir()
    seen = int(processes.sum(torch.tensor(float(state.exists()), device=processes.device)))
    if seen not in (0, processes.world_size):
        raise ValueError(
            f"{seen} of {processes.world_size} processes see {state}; name an --output that all "
            "of them share."
        )
    if seen and not resume:
        raise FileExistsError(
            f"{output} holds a run already; add --resume to go on with it, or name another "
            "--output."
        )
    # A run that ended just before its first state was written has weights of its first epoch.
    if not seen and best.exists() and not (resume and citysegzoo.load(best).card.get("epoch") == 1):
        raise FileExistsError(
            f"{output} holds the weights of a run without its state; name another --output."
        )
    if resume and not seen:
        if not there:
            raise FileNotFoundError(f"there is no run to resume: {output} does not exist.")
        print(f"{output} has no last.pt yet, so the run begins anew.")
    return bool(seen)


def train(args: argparse.Namespace, processes: Processes, command: str) -> None:
    """The whole run."""
    output = args.output
    if output.exists() and not output.is_dir():
        raise FileExistsError(f"{output} is a file; name a folder for --output.")
    args.device = str(processes.device)
    args.resume = begun(output, args.resume, processes)
    output.mkdir(parents=True, exist_ok=True)
    if processes.first:
        for left in (*output.glob(".*.part*"), *output.glob("samples/.*.part*")):
            left.unlink(missing_ok=True)  # of a run that was killed while it wrote
    recipe = citysegzoo.model_info(args.model).recipe
    train, val = open_data(args, recipe)
    settings = settings_of(args, recipe, len(train), look_over(args, train, val))
    say_void(train, settings.augmentation)
    augment(train, val, settings.augmentation)
    if args.in_memory:
        train.hold()
    terms = TERMS["drawn" if are_drawn(train) else args.data]
    card = {
        **terms,
        "model": args.model,
        "labels": train.labels.name,
    }
    card["data"] += f", {len(train)} training images"
    if settings.augmentation.resize:
        card["resized_to"] = list(settings.augmentation.resize)
    own = args.data != "cityscapes"  # whose pixels the reports count
    run: Run | None = None
    try:
        torch.manual_seed(settings.seed)
        model = create(args, train.labels)
        if args.precision is None:  # another machine may choose another
            command = f"{command} --precision {settings.precision}"
        # Weights that went on from others were made by the commands of both, and keep their terms.
        card["command"] = " && ".join(filter(None, (model.card.get("command"), command)))
        for name in ("data", "licence", "source"):
            before, here = model.card.get(name), card.get(name)
            if before not in (None, here):
                card[name] = f"{here}; started from weights of: {before}" if here else before
        criterion = loss_of(settings, train, own=own, skip_broken=args.skip_broken)
        if args.skip_broken:
            train, val = SkipBroken(train), Readable(val)
        run = Run(model, criterion, train, val, settings, processes, args, card)
        if args.resume:
            run.resume()
        run.fit()
    except (MemoryError, RuntimeError) as error:
        if processes.world_size > 1 and "by peer" in str(error):
            raise ConnectionError("another process of this run ended; it says why.") from error
        if "each tensor to be equal size" in str(error):
            raise ValueError(
                "the images are of several sizes; add --crop to batch them."
            ) from error
        if "shared memory" in str(error):
            raise MemoryError(
                "the processes that read images have no shared memory left: give the container "
                "more (docker run --shm-size 8g), or use --workers 0."
            ) from error
        # A worker that reads images and that the system ended had no memory, most likely.
        if not is_out_of_memory(error) and "DataLoader worker (pid" not in str(error):
            raise
        if run is not None and run.scoring:
            raise MemoryError(
                "out of memory with one validation image; begin in another --output with a "
                "--resize that makes it smaller."
            ) from error
        raise MemoryError(
            f"out of memory with {settings.batch_size} images of "
            f"{settings.augmentation.crop or 'full size'}: add --checkpoint-activations, or begin "
            f"in another --output with --accumulate {2 * settings.accumulate} or a smaller --crop."
        ) from error


def command_of(args: argparse.Namespace, words: list[str], processes: int = 1) -> str:
    """The command that makes these weights, without the folders of this machine."""
    folders = {args.root: args.data, args.output: args.output.name}
    if args.initial and Path(args.initial).exists():
        initial = Path(args.initial)
        folders[initial] = Path(*initial.parts[-2 if initial.is_file() else -1 :])
    alone = ["python"] if processes == 1 else ["torchrun", f"--nproc-per-node={processes}"]
    named = [*alone, "examples/train.py"]
    places = ("--root", "--output", "--initial")
    for before, word in zip(["", *words], words, strict=False):
        flag, equals, value = word.partition("=")
        if before in places:
            named.append(str(folders.get(Path(word), word)))
        elif equals and flag in places:
            named.append(f"{flag}={folders.get(Path(value), value)}")
        elif word != "--resume":
            named.append(word)
    return shlex.join(named)


def main(argv: list[str] | None = None) -> None:
    """Run, and end with a sentence where that is not possible."""
    words = sys.argv[1:] if argv is None else argv
    args = parse_args(words)
    try:
        processes = start_processes(args.device)
        if processes.device.type == "cpu":
            keep_freed_memory()
            limit_memory(int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
        with contextlib.redirect_stdout(sys.stdout if processes.first else None):
            train(args, processes, command_of(args, words, processes.world_size))
        stop_processes()
        if processes.world_size > 1:
            leave()
    except KeyboardInterrupt:
        sys.exit(f"train.py: stopped.{rescue(args)}")
    except (ArithmeticError, MemoryError, OSError, TypeError, ValueError) as error:
        # An error in a process that reads images comes with its traceback; the last line says it.
        line = str(error).strip().splitlines()[-1].rstrip(".")
        # The same settings come to the same end where numbers are none any more, and a state that
        # does not fit is not gone on from.
        anew = (FileExistsError, ArithmeticError, UnfitStateError)
        ending = "" if isinstance(error, anew) else rescue(args)
        print(f"train.py: {line}.{ending}", file=sys.stderr)
        sys.exit(2)


def leave() -> None:
    """End this process, one of several, at once and not by Python's own way out.

    On that one a finished process was aborted now and then ("terminate called without an active
    exception"), and torchrun called the whole run failed. All files are written by now.
    """
    for reader in multiprocessing.active_children():
        reader.terminate()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def rescue(args: argparse.Namespace) -> str:
    """What there is to go on from, for the end of a message."""
    last = args.output / "last.pt"
    return f" The last good state is in {last}; --resume goes on from it." * last.is_file()


if __name__ == "__main__":
    main()
