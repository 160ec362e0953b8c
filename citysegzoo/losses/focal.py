"""Focal loss: cross entropy that turns away from pixels already well classified."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from citysegzoo.arguments import check_number
from citysegzoo.losses.base import Reduction, SegmentationLoss, reduce_pixels
from citysegzoo.losses.statistics import SoftmaxStatistics
from citysegzoo.registry import register_loss


def focal_loss(
    statistics: SoftmaxStatistics,
    *,
    gamma: float = 2.0,
    class_weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Focal loss of softmax probabilities, -(1 - p_t)^gamma log p_t.

    p_t is the softmax probability of the true class. From Lin et al. 2017, "Focal loss for dense
    object detection", equation 4, with the softmax over all classes in place of a sigmoid for
    each; ``class_weights`` are its alpha.

    Args:
        statistics: From :func:`softmax_statistics`.
        gamma: Focusing exponent of at least 0; 0 is cross entropy.
        class_weights: ``(C,)``; the weight of each pixel is that of its true class.
        reduction: Over the pixels that count; the mean divides by the sum of their weights.
            ``"none"`` gives ``(N, H, W)``.
    """
    check_number("gamma", gamma)
    log_probability = statistics.log_probability
    if gamma == 0:
        losses = -log_probability
    else:
        missing = -log_probability.expm1()  # 1 - p_t, without cancellation where p_t is near 1
        if gamma < 1:
            # The power's slope is infinite at 0, where the loss itself and its slope are 0.
            missing = missing.clamp(min=1e-30)
        # square, the usual case, has a cheaper derivative than a power.
        losses = (missing.square() if gamma == 2 else missing**gamma) * -log_probability
    return reduce_pixels(losses, statistics, class_weights=class_weights, reduction=reduction)


@register_loss("focal")
class FocalLoss(SegmentationLoss):
    """Focal loss: see :func:`focal_loss`.

    Args:
        gamma: Focusing exponent of at least 0; 0 is cross entropy.
        ignore_index: Label of the pixels that do not count; None if all do.
        class_weights: ``(C,)``, the alpha of each class.
        reduction: Over the pixels that count; ``"none"`` gives ``(N, H, W)``.
        upsample: Whether logits of another size are enlarged to the target's.
    """

    regions = False

    def __init__(
        self,
        *,
        gamma: float = 2.0,
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
        self.gamma = check_number("gamma", gamma)

    def from_statistics(self, statistics: SoftmaxStatistics) -> Tensor:
        return focal_loss(
            statistics,
            gamma=self.gamma,
            class_weights=self.class_weights,
            reduction=self.reduction,
        )
