"""How long the losses take, forward and backward, beside the peers', in one run.

    python tests/benchmarks/bench_losses.py

Logits (2, 19, 512, 1024), blocks of labels, 5 % ignored. Every loss is timed in turn with the
peers' (segmentation-models-pytorch, monai, torch), each right after one of its own that does not
count. Peers without an ignored label get labels without one.
"""

import argparse
import os
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from citysegzoo import losses
from citysegzoo.benchmark import in_turn, print_times, ratio

# Ours, the peer, and how many times faster ours is meant to be.
GOALS = {
    ("dice", "smp dice"): 4.5,
    ("iou", "smp dice"): 4.5,
    ("generalized dice", "smp dice"): 4.5,
    ("dice", "monai dice"): 1.0,
    ("iou", "monai dice"): 1.0,
    ("generalized dice", "monai dice"): 1.0,
    ("focal", "smp focal"): 15.0,
    ("focal", "cross entropy"): 1 / 1.1,
    ("focal", "torch cross entropy"): 1 / 1.1,
    ("lovasz softmax", "smp lovasz"): 4.0,
    ("dice + cross entropy", "dice"): 1 / 1.3,
    ("cross entropy", "torch cross entropy"): 1 / 1.05,
}


def scene(images: int = 2, height: int = 512, width: int = 1024) -> tuple[Tensor, Tensor]:
    """Logits, and labels in blocks of 16 pixels with 5 % of the pixels ignored."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(images, 19, height, width, generator=generator)
    target = torch.randint(0, 19, (images, height // 16, width // 16), generator=generator)
    target = target.repeat_interleave(16, 1).repeat_interleave(16, 2).contiguous()
    target[torch.rand(target.shape, generator=generator) < 0.05] = 255
    return logits, target


def contenders(target: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    """Every loss to time, as a function of the logits."""
    import segmentation_models_pytorch as smp
    from monai.losses import DiceLoss as MonaiDice
    from monai.losses import FocalLoss as MonaiFocal

    labelled = target.clamp(max=18)
    ours = {
        "cross entropy": losses.CrossEntropyLoss(),
        "dice": losses.DiceLoss(),
        "iou": losses.IoULoss(),
        "generalized dice": losses.GeneralizedDiceLoss(),
        "tversky": losses.TverskyLoss(),
        "focal": losses.FocalLoss(),
        "ohem cross entropy": losses.OhemCrossEntropyLoss(),
        "dice + cross entropy": losses.CombinedLoss(losses.DiceLoss(), losses.CrossEntropyLoss()),
        "lovasz softmax": losses.LovaszSoftmaxLoss(),
        "xiang2020_dice": losses.create_loss("xiang2020_dice"),
    }
    theirs = {
        "smp dice": smp.losses.DiceLoss("multiclass", ignore_index=255),
        "smp focal": smp.losses.FocalLoss("multiclass", ignore_index=255),
        "smp lovasz": smp.losses.LovaszLoss("multiclass", ignore_index=255, per_image=False),
    }
    unaware = {
        "smp jaccard": (smp.losses.JaccardLoss("multiclass"), labelled),
        "monai dice": (
            MonaiDice(softmax=True, to_onehot_y=True, batch=True),
            labelled[:, None],
        ),
        "monai focal": (MonaiFocal(use_softmax=True, to_onehot_y=True), labelled[:, None]),
    }
    return {
        **{name: lambda x, f=loss: f(x, target) for name, loss in {**ours, **theirs}.items()},
        **{name: lambda x, f=loss, t=t: f(x, t) for name, (loss, t) in unaware.items()},
        "torch cross entropy": lambda x: F.cross_entropy(x, target, ignore_index=255),
    }


def measure(rounds: int, size: tuple[int, int, int] = (2, 512, 1024)) -> dict[str, list[float]]:
    """Seconds of forward and backward of every loss."""
    logits, target = scene(*size)

    def step(loss: Callable[[Tensor], Tensor]) -> None:
        loss(logits.detach().requires_grad_()).backward()

    runs = {name: lambda f=loss: step(f) for name, loss in contenders(target).items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return in_turn(runs, rounds)[0]


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    times = measure(args.rounds)
    print(
        f"forward and backward, (2, 19, 512, 1024), torch {torch.__version__}, "
        f"{os.cpu_count()} cores"
    )
    print_times(times)
    print("\ntimes faster, median of the rounds")
    for (ours, theirs), goal in GOALS.items():
        found = ratio(times, theirs, ours)
        print(f"{ours:22} than {theirs:22} {found:6.2f}  (goal {goal:.2f})")


if __name__ == "__main__":
    main()
