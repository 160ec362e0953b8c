"""Weighted sums of losses that share one pass over the logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from citysegzoo.arguments import check_number
from citysegzoo.losses.base import SegmentationLoss
from citysegzoo.losses.cross_entropy import CrossEntropyLoss
from citysegzoo.losses.statistics import SoftmaxStatistics, softmax_statistics


class CombinedLoss(nn.Module):
    """A weighted sum of losses, such as ``CombinedLoss(DiceLoss(), CrossEntropyLoss())``.

    Losses that agree on ``ignore_index``, ``upsample`` and ``count_ignored`` share their passes
    over the logits, so that a sum of them costs little more than one. The others (Lovasz-softmax,
    label smoothing, modules with a ``forward(logits, target)`` of their own) are computed by
    themselves.

    Args:
        *losses: The losses to add, at least one.
        weights: Factor of each, of at least 0; ones if not given.

    Raises:
        TypeError: If a loss is no module.
        ValueError: If there is no loss, or another number of weights.
    """

    def __init__(self, *losses: nn.Module, weights: Sequence[float] | None = None) -> None:
        super().__init__()
        if not losses:
            raise ValueError("a combined loss needs at least one loss, such as DiceLoss().")
        for loss in losses:
            if not isinstance(loss, nn.Module):
                raise TypeError(f"losses to combine are modules such as DiceLoss(), not {loss!r}.")
        weights = [1.0] * len(losses) if weights is None else weights
        if not hasattr(weights, "__len__"):
            raise TypeError(f"weights of losses are a list of numbers, not {weights!r}.")
        if len(weights) != len(losses):
            raise ValueError(f"{len(losses)} losses need as many weights, not {len(weights)}.")
        self.losses = nn.ModuleList(losses)
        self.weights = tuple(check_number("each weight", weight) for weight in weights)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The weighted sum for logits ``(N, C, H, W)`` and a target ``(N, H, W)``."""
        keys = [_key(loss) for loss in self.losses]
        sharing: dict[tuple[int | None, bool, bool], list[Any]] = {}
        for loss, key in zip(self.losses, keys, strict=True):
            if key is not None:
                sharing.setdefault(key, []).append(loss)
        statistics: dict[tuple[object, ...], SoftmaxStatistics] = {
            key: softmax_statistics(
                logits,
                target,
                ignore_index=key[0],
                upsample=key[1],
                count_ignored=key[2],
                regions=any(loss.regions for loss in its),
                squared=any(loss.squared for loss in its),
            )
            for key, its in sharing.items()
        }
        terms = []
        for loss, weight, key in zip(self.losses, self.weights, keys, strict=True):
            if key is not None and isinstance(loss, SegmentationLoss):
                terms.append(weight * loss.from_statistics(statistics[key]))
            else:
                terms.append(weight * loss(logits, target))
        if len({term.shape for term in terms}) > 1:
            raise ValueError(
                f"losses of shapes {', '.join(str(tuple(term.shape)) for term in terms)} cannot be "
                "added; use reduction='mean' or 'sum'."
            )
        return torch.stack(terms).sum(0)

    def extra_repr(self) -> str:
        return f"weights={self.weights}"


def _key(loss: nn.Module) -> tuple[int | None, bool, bool] | None:
    """What two losses must agree on to share statistics; None for a loss that does not."""
    if not isinstance(loss, SegmentationLoss) or not loss.shares_statistics:
        return None
    if type(loss).forward not in (SegmentationLoss.forward, CrossEntropyLoss.forward):
        return None  # it does something else with them
    return loss.ignore_index, loss.upsample, loss.count_ignored
