"""Tversky: overlap with wrongly found and missed pixels weighed separately."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from citysegzoo.arguments import check_choice, check_flag, check_number
from citysegzoo.losses.base import Average, Reduction, SegmentationLoss
from citysegzoo.losses.overlap import overlap_loss
from citysegzoo.losses.statistics import SoftmaxStatistics
from citysegzoo.registry import register_loss


def tversky_loss(
    statistics: SoftmaxStatistics,
    *,
    alpha: float = 0.3,
    beta: float = 0.7,
    smooth: float = 0.0,
    average: Average = "macro",
    per_image: bool = False,
    class_weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Tversky, 1 - (TP + s) / (TP + alpha FP + beta FN + s), on soft counts.

    From Salehi et al. 2017, "Tversky loss function for image segmentation using 3D fully
    convolutional deep networks", equation 4. Halves make it Dice, ones make it IoU.

    Args:
        statistics: From :func:`softmax_statistics`.
        alpha: Factor of the false positives.
        beta: Factor of the false negatives.
        smooth: The number s added to numerator and denominator.
        average: ``"macro"`` over the classes present in the target, or ``"micro"``: all pixels and
            classes at once.
        per_image: Whether each image has ratios of its own; else they are of the whole batch.
        class_weights: ``(C,)``; of the ratios in a macro average, of the sums in a micro one.
        reduction: Over the ratios. ``"none"`` gives ``(C,)`` or ``(N, C)`` (macro; 0 for classes
            that are not there), ``()`` or ``(N,)`` (micro).
    """
    return overlap_loss(
        statistics,
        false_positives=alpha,
        false_negatives=beta,
        smooth=smooth,
        average=average,
        per_image=per_image,
        class_weights=class_weights,
        reduction=reduction,
    )


@register_loss("tversky")
class TverskyLoss(SegmentationLoss):
    """Tversky: see :func:`tversky_loss`.

    Args:
        alpha: Factor of the false positives.
        beta: Factor of the false negatives.
        smooth: Added to numerator and denominator.
        average: ``"macro"`` over the classes present, or ``"micro"`` over everything at once.
        per_image: Whether each image has ratios of its own.
        ignore_index: Label of the pixels that do not count; None if all do.
        class_weights: ``(C,)``.
        reduction: Over the ratios.
        upsample: Whether logits of another size are enlarged to the target's.
    """

    def __init__(
        self,
        *,
        alpha: float = 0.3,
        beta: float = 0.7,
        smooth: float = 0.0,
        average: Average = "macro",
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
        self.alpha = check_number("alpha", alpha)
        self.beta = check_number("beta", beta)
        self.smooth = check_number("smooth", smooth)
        self.average: Average = check_choice("average", average, ("macro", "micro"))
        self.per_image = check_flag("per_image", per_image)

    def from_statistics(self, statistics: SoftmaxStatistics) -> Tensor:
        return tversky_loss(
            statistics,
            alpha=self.alpha,
            beta=self.beta,
            smooth=self.smooth,
            average=self.average,
            per_image=self.per_image,
            class_weights=self.class_weights,
            reduction=self.reduction,
        )
