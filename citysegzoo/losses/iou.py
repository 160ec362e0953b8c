"""Soft IoU (Jaccard): one minus intersection over union."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from citysegzoo.arguments import check_choice, check_flag, check_number
from citysegzoo.losses.base import Average, Reduction, SegmentationLoss
from citysegzoo.losses.overlap import overlap_loss
from citysegzoo.losses.statistics import SoftmaxStatistics
from citysegzoo.registry import register_loss


def iou_loss(
    statistics: SoftmaxStatistics,
    *,
    smooth: float = 0.0,
    average: Average = "macro",
    per_image: bool = False,
    include_absent: bool = False,
    class_weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Soft IoU, 1 - (I + s) / (P + T - I + s) = 1 - (TP + s) / (TP + FP + FN + s).

    I, P and T as in :func:`dice_loss`. From Rahman and Wang 2016, "Optimizing
    intersection-over-union in deep neural networks for image segmentation", equation 3.

    Args:
        statistics: From :func:`softmax_statistics`.
        smooth: The number s added to numerator and denominator.
        average: ``"macro"`` over the classes present in the target, or ``"micro"``: all pixels and
            classes at once.
        per_image: Whether each image has ratios of its own; else they are of the whole batch.
        include_absent: Whether classes without a pixel count; where smooth is 0 theirs is 1.
        class_weights: ``(C,)``; of the ratios in a macro average, of the sums in a micro one.
        reduction: Over the ratios. ``"none"`` gives ``(C,)`` or ``(N, C)`` (macro; 0 for classes
            that are not there), ``()`` or ``(N,)`` (micro).
    """
    return overlap_loss(
        statistics,
        false_positives=1.0,
        false_negatives=1.0,
        smooth=smooth,
        average=average,
        per_image=per_image,
        include_absent=include_absent,
        class_weights=class_weights,
        reduction=reduction,
    )


@register_loss("iou")
class IoULoss(SegmentationLoss):
    """Soft IoU: see :func:`iou_loss`.

    Args:
        smooth: Added to numerator and denominator.
        average: ``"macro"`` over the classes present, or ``"micro"`` over everything at once.
        per_image: Whether each image has ratios of its own.
        include_absent: Whether classes without a pixel count.
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
        per_image: bool = False,
        include_absent: bool = False,
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
        self.per_image = check_flag("per_image", per_image)
        self.include_absent = check_flag("include_absent", include_absent)

    def from_statistics(self, statistics: SoftmaxStatistics) -> Tensor:
        return iou_loss(
            statistics,
            smooth=self.smooth,
            average=self.average,
            per_image=self.per_image,
            include_absent=self.include_absent,
            class_weights=self.class_weights,
            reduction=self.reduction,
        )
