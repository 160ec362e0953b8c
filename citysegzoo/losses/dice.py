"""Soft Dice: one minus twice the overlap over the sum of both areas."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from citysegzoo.arguments import check_choice, check_flag, check_number
from citysegzoo.losses.base import Average, Reduction, SegmentationLoss
from citysegzoo.losses.overlap import overlap_loss
from citysegzoo.losses.statistics import SoftmaxStatistics
from citysegzoo.registry import register_loss


def dice_loss(
    statistics: SoftmaxStatistics,
    *,
    smooth: float = 0.0,
    average: Average = "macro",
    squared: bool = False,
    per_image: bool = False,
    class_weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Soft Dice, 1 - (2 I + s) / (P + T + s) = 1 - (2TP + s) / (2TP + FP + FN + s).

    I is the probability of the true class summed over the pixels of a class, P the probability
    of the class summed over all pixels, T their number (Milletari et al. 2016, V-Net, equation 2
    has the squared denominator; chen2020 the formula on the right).

    Args:
        statistics: From :func:`softmax_statistics`, with ``squared=True`` if ``squared``.
        smooth: The number s added to numerator and denominator.
        average: ``"macro"`` over the classes present in the target, or ``"micro"``: all pixels and
            classes at once.
        squared: Whether P is the sum of the squared probabilities.
        per_image: Whether each image has ratios of its own; else they are of the whole batch.
        class_weights: ``(C,)``; of the ratios in a macro average, of the sums in a micro one.
        reduction: Over the ratios. ``"none"`` gives ``(C,)`` or ``(N, C)`` (macro; 0 for classes
            that are not there), ``()`` or ``(N,)`` (micro).
    """
    return overlap_loss(
        statistics,
        false_positives=0.5,
        false_negatives=0.5,
        smooth=smooth / 2,
        average=average,
        squared=squared,
        per_image=per_image,
        class_weights=class_weights,
        reduction=reduction,
    )


@register_loss("dice")
class DiceLoss(SegmentationLoss):
    """Soft Dice: see :func:`dice_loss`.

    Args:
        smooth: Added to numerator and denominator.
        average: ``"macro"`` over the classes present, or ``"micro"`` over everything at once.
        squared: Whether predicted area is the sum of squared probabilities.
        per_image: Whether each image has ratios of its own.
        count_ignored: Whether ignored pixels count in the predicted area nevertheless.
        ignore_index: Label of the pixels that do not count; None if all do.
        class_weights: ``(C,)``.
        reduction: Over the ratios.
        upsample: Whether logits of another size are enlarged to the target's.
    """

    def __init__(
        self,
        *,
        smooth: float = 0.0,
        average: Average = "macro",
        squared: bool = False,
        per_image: bool = False,
        count_ignored: bool = False,
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
        self.average: Average = check_choice("average", average, ("macro", "micro"))
        self.squared = check_flag("squared", squared)
        self.per_image = check_flag("per_image", per_image)
        self.count_ignored = check_flag("count_ignored", count_ignored)

    def from_statistics(self, statistics: SoftmaxStatistics) -> Tensor:
        return dice_loss(
            statistics,
            smooth=self.smooth,
            average=self.average,
            squared=self.squared,
            per_image=self.per_image,
            class_weights=self.class_weights,
            reduction=self.reduction,
        )
