"""Generalised Dice: one Dice of all classes, each weighted against its size."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from citysegzoo.arguments import check_choice, check_flag, check_number
from citysegzoo.losses.base import Reduction, SegmentationLoss, fitting_weights
from citysegzoo.losses.statistics import SoftmaxStatistics
from citysegzoo.registry import register_loss


def generalized_dice_loss(
    statistics: SoftmaxStatistics,
    *,
    smooth: float = 0.0,
    per_image: bool = False,
    class_weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Generalised Dice, 1 - (2 sum_c w_c I_c + s) / (sum_c w_c (P_c + T_c) + s), w_c = 1 / T_c^2.

    I, P and T as in :func:`dice_loss`. From Sudre et al. 2017, "Generalised Dice overlap as a
    deep learning loss function for highly unbalanced segmentations", section 2.

    Args:
        statistics: From :func:`softmax_statistics`.
        smooth: The number s; beside weights of 1 / T_c^2 a small one is already large.
        per_image: Whether each image has a ratio of its own; else there is one of the batch.
        class_weights: ``(C,)``, factors on w_c.
        reduction: Over the images that have a pixel, where there is one ratio for each;
            ``"none"`` gives ``()`` or ``(N,)``.
    """
    check_choice("reduction", reduction, ("mean", "sum", "none"))
    check_number("smooth", smooth)
    hits, predicted, true = statistics.areas()
    if not per_image:
        hits, predicted, true = (sums.sum(0, keepdim=True) for sums in (hits, predicted, true))
    weights = (true > 0) / true.clamp(min=1).square()
    if class_weights is not None:
        weights = weights * fitting_weights(class_weights, weights.shape[1], weights)
    overlap, areas = (weights * hits).sum(1), (weights * (predicted + true)).sum(1)
    present = weights.sum(1) > 0
    losses = (1 - (2 * overlap + smooth) / (areas + smooth).where(present, 1)).where(present, 0)
    if reduction == "none":
        loss = losses if per_image else losses[0]
    else:
        loss = losses.sum()
        if reduction == "mean":
            loss = loss / present.sum().clamp(min=1)
    return loss.to(statistics.log_probability.dtype)


@register_loss("generalized_dice")
class GeneralizedDiceLoss(SegmentationLoss):
    """Generalised Dice: see :func:`generalized_dice_loss`.

    Args:
        smooth: Added to numerator and denominator.
        per_image: Whether each image has a ratio of its own.
        ignore_index: Label of the pixels that do not count; None if all do.
        class_weights: ``(C,)``, factors on the weights that follow from the sizes.
        reduction: Over the images, where each has a ratio of its own.
        upsample: Whether logits of another size are enlarged to the target's.
    """

    def __init__(
        self,
        *,
        smooth: float = 0.0,
        per_image: bool = False,
        ignore_index: int | None = 255,
        class_weights: Tensor | Sequence[float] | None = None,
        reduction: Reduction = "mean",
        upsample: bool = False,
    ) -> None:
        super().__init__(
            ignore_index=ignore_index,
            class_weights=class_weights,
            reduction=reduction,
            upsample=upsample,
        )
        self.smooth = check_number("smooth", smooth)
        self.per_image = check_flag("per_image", per_image)

    def from_statistics(self, statistics: SoftmaxStatistics) -> Tensor:
        return generalized_dice_loss(
            statistics,
            smooth=self.smooth,
            per_image=self.per_image,
            class_weights=self.class_weights,
            reduction=self.reduction,
        )
