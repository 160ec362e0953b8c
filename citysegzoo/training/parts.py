"""What a part of a batch weighs in the loss of the whole batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from citysegzoo.losses import (
    CombinedLoss,
    CrossEntropyLoss,
    FocalLoss,
    OhemCrossEntropyLoss,
    SegmentationLoss,
)
from citysegzoo.training.distributed import Processes

_PIXELWISE = (CrossEntropyLoss, FocalLoss, OhemCrossEntropyLoss)


def part_weights(
    criterion: nn.Module, targets: Sequence[Tensor], processes: Processes
) -> list[Tensor]:
    """Factors for the losses of the parts of a batch, so that their gradients add up to its own.

    The parts of a batch, taken one after the other or by several processes, have other numbers
    of labelled pixels; the mean of their cross entropies is not the cross entropy of the batch.
    Weighted by these factors it is, averaged over the processes as
    :class:`~torch.nn.parallel.DistributedDataParallel` averages gradients. A loss that adds up
    pixels (the reduction ``"sum"``) is added up. All others (focal, sums of several losses, Dice
    and Lovasz, whose ``"sum"`` is over classes) have no such factors, or none that are known here:
    their parts count by their images, and the loss of a batch is the mean of those of its parts.

    Args:
        criterion: The loss.
        targets: Labels of each part that this process takes, ``(n, H, W)``.
        processes: Those that share the batch.

    Returns:
        A scalar for each part.

    Raises:
        ValueError: If it is a sum of losses of which some are added up and some are not.
    """
    if isinstance(criterion, CombinedLoss) and len(targets) * processes.world_size > 1:
        kinds = {_adds_up_pixels(loss) for loss in criterion.losses}
        if len(kinds) > 1:
            raise ValueError(
                "a sum of losses of which some add up pixels and some average cannot be taken in "
                "parts: train in one process and without --accumulate, or with one of them."
            )
        criterion = criterion.losses[0] if kinds == {True} else criterion
    if _adds_up_pixels(criterion):
        return [torch.tensor(float(processes.world_size), device=t.device) for t in targets]
    weights = [_weight(criterion, target) for target in targets]
    total = processes.sum(torch.stack(weights).sum())
    return [w * processes.world_size / total.clamp(min=1e-12) for w in weights]


def _adds_up_pixels(criterion: nn.Module) -> bool:
    """Whether a loss is that of its parts added up; the zoo's other losses add up classes."""
    over_classes = isinstance(criterion, SegmentationLoss) and not isinstance(criterion, _PIXELWISE)
    return getattr(criterion, "reduction", "mean") == "sum" and not over_classes


def _weight(criterion: nn.Module, target: Tensor) -> Tensor:
    """What the mean in the loss of a part divides by."""
    if not isinstance(criterion, CrossEntropyLoss):
        return torch.tensor(float(len(target)), device=target.device)
    counts = torch.ones_like(target, dtype=torch.bool)
    if criterion.ignore_index is not None:
        counts = target != criterion.ignore_index
    if criterion.class_weights is None:
        return counts.sum().float()
    # Without picking pixels out, for whose number an accelerator would have to be waited for.
    weights = criterion.class_weights[target.long().where(counts, 0)].where(counts, 0)
    return weights.sum(dtype=torch.float64).float()
