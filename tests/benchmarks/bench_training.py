"""How many images a second a step of training takes: plain, and as examples/train.py does it.

    python tests/benchmarks/bench_training.py
    python tests/benchmarks/bench_training.py --device cuda --batch-size 16

Plain is the loop one writes first: segmentation-models-pytorch's U-Net of that encoder (for
unet.small the zoo's own network), torch's cross entropy, AdamW, float32, images in the usual
layout. Ours is the same layers, built by the zoo, and the step of examples/train.py:
channels_last, autocast to bfloat16 where the hardware computes it (or as --precision says), the
zoo's cross entropy, fused AdamW, and on CPUs freed memory kept. All take turns, and what keeps
memory is on for both or for neither: it holds for the process, so that --keep-memory is a run of
its own. Then the images a second that the loader gives.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

import citysegzoo
from citysegzoo.benchmark import in_turn, print_times, ratio
from citysegzoo.data import Augmentation, Cityscapes, draw_streets
from citysegzoo.hardware import computes_bf16
from citysegzoo.losses import CrossEntropyLoss
from citysegzoo.memory import keep_freed_memory
from citysegzoo.peers import twin
from citysegzoo.training.sampling import Seeded, TrainingBatches

SIZE = (360, 480)
CLASSES = 11
NETWORKS = ("unet.small", "unet_resnet18", "unet_resnet50")


def plain_network(name: str) -> nn.Module:
    """smp's U-Net of the same encoder; it takes sides that 32 divides."""
    if name == "unet.small":
        return citysegzoo.create_model(name, num_classes=CLASSES)
    import segmentation_models_pytorch as smp

    encoder = name.removeprefix("unet_")
    return smp.Unet(encoder, encoder_weights=None, classes=CLASSES)


def our_network(name: str) -> nn.Module:
    """The same layers, built by the zoo."""
    network = plain_network(name)
    return network if name == "unet.small" else twin(network, "smp")[0]


def plain_step(name: str, images: Tensor, target: Tensor) -> Callable[[], Any]:
    model = plain_network(name).train().to(images.device)
    optimizer = torch.optim.AdamW(model.parameters())
    labels = target.long()
    # 360 is not divided by 32: such a loop pads, by 24 rows of zeros.
    rows = 0 if name == "unet.small" else -images.shape[-2] % 32
    mean = images.new_tensor([0.485, 0.456, 0.406], dtype=torch.float32)[:, None, None]
    deviation = images.new_tensor([0.229, 0.224, 0.225], dtype=torch.float32)[:, None, None]

    def step() -> None:
        optimizer.zero_grad()
        x = F.pad((images.float() / 255 - mean) / deviation, (0, 0, 0, rows))
        logits = model(x)[..., : images.shape[-2], :]
        F.cross_entropy(logits, labels, ignore_index=255).backward()
        optimizer.step()
        _wait(images.device)

    return step


def our_step(name: str, images: Tensor, target: Tensor, dtype: torch.dtype) -> Callable[[], Any]:
    model = our_network(name).train()
    model = model.to(images.device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    criterion = CrossEntropyLoss()
    lower = dtype != torch.float32

    def step() -> None:
        x = model.preprocessing(images).contiguous(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, dtype if lower else None, enabled=lower):
            logits = model(x)
        criterion(logits, target).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        _wait(images.device)

    return step


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_steps(args: argparse.Namespace) -> None:
    device = torch.device(args.device)
    lower = args.precision == "bf16" or (args.precision is None and computes_bf16(device))
    dtype = torch.bfloat16 if lower else torch.float32
    images = torch.randint(0, 256, (args.batch_size, 3, *SIZE), dtype=torch.uint8, device=device)
    target = torch.randint(0, CLASSES, (args.batch_size, *SIZE), dtype=torch.uint8, device=device)
    target[torch.rand(target.shape, device=device) < 0.05] = 255
    for name in args.networks:
        runs = {
            "plain": plain_step(name, images, target),
            f"ours, {str(dtype).removeprefix('torch.')}": our_step(name, images, target, dtype),
        }
        times, _ = in_turn(runs, args.rounds)
        print(f"\n{name}, {args.batch_size} images of {SIZE[0]}x{SIZE[1]} on {device}")
        print_times(times)
        plain, ours = runs
        speeds = [args.batch_size / statistics.median(times[run]) for run in runs]
        print(f"images/s: plain {speeds[0]:.2f}, ours {speeds[1]:.2f}", end="")
        print(f"; ours is {ratio(times, plain, ours):.2f} times as fast")


def time_loader(args: argparse.Namespace) -> None:
    """Drawn frames of CamVid's size, with the augmentation that train.py has without a recipe."""
    street = Augmentation(
        flip=0.5, scale=(0.5, 2.0), crop=(256, 320), brightness=0.3, contrast=0.3, saturation=0.3,
        hue=0.05,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        root = draw_streets(Path(folder) / "streets", images=16, size=SIZE)
        data = Cityscapes(root, transform=street.build(ignore_index=255))
        runs: dict[str, Callable[[], Any]] = {}
        for workers in (0, 1, 2):
            batches = TrainingBatches(len(data), args.batch_size)
            loader = DataLoader(
                Seeded(data),
                batch_sampler=batches,
                num_workers=workers,
                persistent_workers=workers > 0,
            )
            runs[f"{workers} workers"] = partial(_exhaust, loader)
        times, _ = in_turn(runs, args.rounds)
        print("\nloader, images/s")
        taken = len(data) // args.batch_size * args.batch_size
        for name, seconds in times.items():
            print(f"{name}: {taken / statistics.median(seconds):.1f}")


def _exhaust(loader: DataLoader[Any]) -> None:
    for _ in loader:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"))
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--keep-memory", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(0)
    if args.keep_memory:
        print(f"freed memory is kept: {keep_freed_memory()}")
    time_steps(args)
    time_loader(args)


if __name__ == "__main__":
    main()
