"""How many images a second reading and augmentation give, beside plain torchvision, in one run.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_loader.py

Frames of 2048x1024 drawn in the layout of Cityscapes, 2 MB PNGs; scale 0.5 to 2, crop 513x513,
flip, change of light; batches of 4. Also a millisecond for each step of the augmentation alone.
"""

import argparse
import itertools
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets, tv_tensors
from torchvision.transforms import v2

from citysegzoo.benchmark import in_turn, print_times, ratio
from citysegzoo.data.augmentation import MEAN_COLOR, Augmentation
from citysegzoo.data.cityscapes import Cityscapes

sys.path.insert(0, str(Path(__file__).parent.parent))
from cityscapes_frames import draw_frame

LIGHT = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4}
WINDOW = Augmentation(scale=(0.5, 2.0), crop=(513, 513))
OURS = replace(WINDOW, flip=0.5, **LIGHT)
FRAME = (1024, 2048)


def write_frames(root: Path, count: int) -> None:
    """Gradients, edges of the drawn labels and noise: as hard to compress as a photograph."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[: FRAME[0], : FRAME[1]]
    for i in range(count):
        labels, _ = draw_frame(random, FRAME)
        # Edges, smooth light, and two grey levels of noise that all channels share.
        pixels = 4 * labels[..., None] + np.stack([y / 16, x / 32, (x + y) / 48], axis=-1)
        pixels = pixels + random.normal(0, 2, (*FRAME, 1))
        frame = f"aachen_{i:06}_000019"
        for folder, name, drawn in (
            ("leftImg8bit", "leftImg8bit", pixels.clip(0, 255).astype(np.uint8)),
            ("gtFine", "gtFine_labelIds", labels),
        ):
            path = root / folder / "train" / "aachen" / f"{frame}_{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(drawn).save(path)


def torchvision_transform(*, hue: float) -> v2.Transform:
    """What one writes with torchvision: resize the whole image, then crop."""
    return v2.Compose(
        [
            v2.ToImage(),
            v2.RandomResize(FRAME[0] // 2, 2 * FRAME[0] + 1),
            v2.RandomCrop(
                (513, 513),
                pad_if_needed=True,
                fill={tv_tensors.Image: MEAN_COLOR, tv_tensors.Mask: 255},
            ),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(**LIGHT, hue=hue),
        ]
    )


def torchvision_dataset(root: Path, transform: v2.Transform) -> Dataset[Any]:
    """Cityscapes as torchvision reads it; its labels stay label ids."""
    return datasets.wrap_dataset_for_transforms_v2(
        datasets.Cityscapes(root, "train", target_type="semantic", transforms=transform)
    )


def time_loaders(root: Path, rounds: int) -> None:
    """Images a second of each loader, taking turns."""
    ours = Cityscapes(root, "train", transform=OURS.build(ignore_index=255))
    theirs = torchvision_dataset(root, torchvision_transform(hue=0.0))
    decoding = Cityscapes(root, "train")
    runs: dict[str, Callable[[], Any]] = {}
    for workers in (0, 2):
        for name, dataset in (("ours", ours), ("torchvision", theirs), ("reading alone", decoding)):
            batch = None if dataset is decoding else 4
            loader = DataLoader(dataset, batch, num_workers=workers, persistent_workers=workers > 0)
            runs[f"{name}, {workers} workers"] = partial(_exhaust, loader)
    times, _ = in_turn(runs, rounds)
    print(f"\n{'':30} images/s (least to most)")
    for name, taken in times.items():
        speeds = sorted(len(ours) / seconds for seconds in taken)
        print(f"{name:30} {statistics.median(speeds):8.1f} ({speeds[0]:.1f} to {speeds[-1]:.1f})")
    for workers in (0, 2):
        faster = ratio(times, f"torchvision, {workers} workers", f"ours, {workers} workers")
        print(f"ours over torchvision, {workers} workers: {faster:.2f}")


def _exhaust(loader: DataLoader[Any]) -> None:
    for _ in loader:
        pass


def time_steps(root: Path, rounds: int) -> None:
    """Milliseconds of the augmentation of a frame that is already read."""
    frame = Cityscapes(root, "train")[0]
    small = tuple(part[..., :360, :480] for part in frame)
    small = tv_tensors.Image(small[0].contiguous()), tv_tensors.Mask(small[1].contiguous())
    crop = Augmentation(crop=(513, 513)).build(ignore_index=255)(*frame)
    steps = {
        "scale 0.5 to 2, crop 513x513": (frame, WINDOW),
        "the same, rotation by 10": (frame, replace(WINDOW, rotate=10)),
        "rotation by 10 of the whole": (frame, Augmentation(rotate=10)),
        "resize to 512x1024": (frame, Augmentation(resize=(512, 1024))),
        "crop 513x513": (frame, Augmentation(crop=(513, 513))),
    } | {
        f"{what} of {size}": (piece, Augmentation(**{what: 0.1}))
        for size, piece in (("513x513", crop), ("360x480", small))
        for what in ("brightness", "contrast", "saturation", "hue")
    }
    runs: dict[str, Callable[[], Any]] = {
        name: partial(_repeat, partial(augmentation.build(ignore_index=255), *piece))
        for name, (piece, augmentation) in steps.items()
    }
    theirs = {
        "scale, crop": v2.Compose(torchvision_transform(hue=0.0).transforms[1:3]),
        "rotation": v2.RandomRotation(10, v2.InterpolationMode.BILINEAR),
        "resize": v2.Resize((512, 1024)),
    }
    for name, transform in theirs.items():
        runs[f"torchvision: {name}"] = partial(_repeat, partial(transform, *frame))
    times, _ = in_turn(runs, rounds)
    print("\nof one frame")
    print_times({name: [seconds / 10 for seconds in taken] for name, taken in times.items()})


def _repeat(run: Callable[[], Any]) -> None:
    for _ in itertools.repeat(None, 10):
        run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_frames(root, args.images)
        sizes = [path.stat().st_size for path in root.glob("leftImg8bit/*/*/*.png")]
        print(f"{args.images} frames, median PNG {statistics.median(sizes) / 1e6:.2f} MB")
        time_steps(root, args.rounds)
        time_loaders(root, args.rounds)


if __name__ == "__main__":
    main()
