"""What every loss takes and how it reduces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from citysegzoo.arguments import check_choice, check_flag, check_ignore_index
from citysegzoo.layers import check_class_weights
from citysegzoo.losses.statistics import SoftmaxStatistics, softmax_statistics, sum_dtype

Reduction = Literal["mean", "sum", "none"]
Average = Literal["macro", "micro"]


class SegmentationLoss(nn.Module):
    """The contract of every loss.

    ``loss(logits, target)`` takes logits ``(N, C, H, W)`` of any floating dtype (float16 and
    bfloat16 are computed in float32) and a target ``(N, H, W)`` of any integer dtype. Ignored
    pixels touch neither numerator nor denominator. Where no pixel counts, the loss is zero with
    a zero gradient.

    Args:
        ignore_index: Label of the pixels that do not count; None if all do.
        class_weights: ``(C,)``, one weight of at least 0 for each class; kept as a buffer (float32
            unless it is a tensor of another floating dtype), so that it moves with the module, and
            not saved with it.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``; over what, the loss says.
        upsample: Whether logits of another size are enlarged bilinearly to the target's.

    Raises:
        ValueError: If a weight is negative or not finite, or an option has no such value.
    """

    class_weights: Tensor | None
    regions = True  # whether the formula needs sums over the pixels of each class
    squared = False  # whether it needs those of squared probabilities
    count_ignored = False  # whether the sums of probabilities run over ignored pixels as well
    shares_statistics = True  # whether it can do with the statistics that losses share

    def __init__(
        self,
        *,
        ignore_index: int | None = 255,
        class_weights: Tensor | Sequence[float] | None = None,
        reduction: Reduction = "mean",
        upsample: bool = False,
    ) -> None:
        super().__init__()
        self.ignore_index = check_ignore_index(ignore_index)
        # A copy: weights that the caller goes on to change are the caller's.
        weights = None if class_weights is None else check_class_weights(class_weights).clone()
        self.register_buffer("class_weights", weights, persistent=False)
        self.reduction: Reduction = check_choice("reduction", reduction, ("mean", "sum", "none"))
        self.upsample = check_flag("upsample", upsample)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of logits ``(N, C, H, W)`` against a target ``(N, H, W)``."""
        return self.from_statistics(
            softmax_statistics(
                logits,
                target,
                ignore_index=self.ignore_index,
                upsample=self.upsample,
                regions=self.regions,
                squared=self.squared,
                count_ignored=self.count_ignored,
            )
        )

    def from_statistics(self, statistics: SoftmaxStatistics) -> Tensor:
        """The loss from what :func:`softmax_statistics` found, to share it between losses."""
        raise ValueError(
            f"{type(self).__name__} needs more than the shared statistics; call it with logits and "
            "target."
        )

    def extra_repr(self) -> str:
        hidden = {"training", "shares_statistics"}
        shown = {k: v for k, v in vars(self).items() if not k.startswith("_") and k not in hidden}
        if self.class_weights is not None:
            shown["class_weights"] = f"{len(self.class_weights)} classes"
        return ", ".join(f"{name}={value}" for name, value in shown.items())


def pixel_weights(
    target: Tensor, valid: Tensor | None, class_weights: Tensor | None
) -> Tensor | None:
    """What each pixel ``(N, H, W)`` counts: its class's weight, 0 where ignored; None if 1 each."""
    if class_weights is None:
        return valid
    weights = class_weights[target]
    return weights if valid is None else weights.where(valid, 0)


def reduce_weighted(losses: Tensor, weights: Tensor | None, reduction: Reduction) -> Tensor:
    """Reduce losses ``(N, H, W)`` that are weighted already, 0 where ignored.

    The mean divides by the sum of the weights, as :func:`torch.nn.functional.cross_entropy` does.
    """
    check_choice("reduction", reduction, ("mean", "sum", "none"))
    if reduction == "none":
        return losses
    sums = sum_dtype(losses)
    total = losses.sum(dtype=sums)
    if reduction == "mean":
        count = total.new_tensor(losses.numel()) if weights is None else weights.sum(dtype=sums)
        total = total / count.where(count > 0, 1)
    return total.to(losses.dtype)


def reduce_pixels(
    losses: Tensor,
    statistics: SoftmaxStatistics,
    *,
    class_weights: Tensor | None,
    reduction: Reduction,
) -> Tensor:
    """Weigh and reduce a ``(N, H, W)`` loss of each pixel, 0 where ignored."""
    if class_weights is not None:
        class_weights = fitting_weights(class_weights, statistics.num_classes, losses)
    weights = pixel_weights(statistics.target, statistics.valid, class_weights)
    if class_weights is not None and weights is not None:
        losses = losses * weights
    return reduce_weighted(losses, weights, reduction)


def reduce_classes(
    losses: Tensor, present: Tensor, *, class_weights: Tensor | None, reduction: Reduction
) -> Tensor:
    """Reduce a loss of each class, ``(C,)`` or one row for each image, over classes present.

    Classes that are not present are 0 in ``"none"`` and left out of sum and mean.
    """
    check_choice("reduction", reduction, ("mean", "sum", "none"))
    weights = present.to(losses.dtype)
    if class_weights is not None:
        weights = weights * fitting_weights(class_weights, losses.shape[-1], losses)
    losses = losses.where(present, 0) * weights
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    count = weights.sum()
    return losses.sum() / count.where(count > 0, 1)


def fitting_weights(weights: Tensor, classes: int, like: Tensor) -> Tensor:
    """The class weights in the dtype of ``like``, once they are found to fit the logits."""
    if weights.shape != (classes,):
        raise ValueError(
            f"class_weights has shape {tuple(weights.shape)}, but the logits are of "
            f"{classes} classes; give one weight for each."
        )
    if weights.device != like.device:
        raise ValueError(
            f"class_weights are on {weights.device} and the logits on {like.device}; "
            f"move them together, such as loss.to({like.device.type!r})."
        )
    if not torch.compiler.is_compiling() and weights.device.type == "cpu":
        check_class_weights(weights)
    return weights.to(like.dtype)
