"""Cross entropy: minus the log-probability of the true class."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from citysegzoo.arguments import check_probability
from citysegzoo.losses.base import (
    Reduction,
    SegmentationLoss,
    fitting_weights,
    pixel_weights,
    reduce_pixels,
    reduce_weighted,
)
from citysegzoo.losses.statistics import (
    SoftmaxStatistics,
    check_logits,
    check_target,
    compute_dtype,
)
from citysegzoo.registry import register_loss


def cross_entropy_loss(
    statistics: SoftmaxStatistics,
    *,
    class_weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Cross entropy, as :func:`torch.nn.functional.cross_entropy` defines it.

    Args:
        statistics: From :func:`softmax_statistics`.
        class_weights: ``(C,)``; the weight of each pixel is that of its true class.
        reduction: Over the pixels that count; the mean divides by the sum of their weights.
            ``"none"`` gives ``(N, H, W)``.
    """
    losses = -statistics.log_probability
    return reduce_pixels(losses, statistics, class_weights=class_weights, reduction=reduction)


@register_loss("cross_entropy")
class CrossEntropyLoss(SegmentationLoss):
    """Cross entropy: see :func:`cross_entropy_loss`.

    Args:
        label_smoothing: Share of the target that is spread evenly over all classes, 0 to 1
            (Szegedy et al. 2016, section 7).
        ignore_index: Label of the pixels that do not count; None if all do.
        class_weights: ``(C,)``, of the true class of each pixel.
        reduction: Over the pixels that count; ``"none"`` gives ``(N, H, W)``.
        upsample: Whether logits of another size are enlarged to the target's.
    """

    regions = False

    def __init__(
        self,
        *,
        label_smoothing: float = 0.0,
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
        self.label_smoothing = check_probability("label_smoothing", label_smoothing)
        self.shares_statistics = not label_smoothing

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        if not self.label_smoothing:
            return super().forward(logits, target)
        # The smoothed target asks for the log-probabilities of all classes: torch's own has them.
        logits = check_logits(logits, target, upsample=self.upsample)
        labels, valid = check_target(target, logits.shape[1], self.ignore_index)
        logits = logits.to(compute_dtype(logits))
        if valid is not None:
            logits = logits.where(valid[:, None], 0)  # whatever they are, they do not matter
        weights = self.class_weights
        if weights is not None:
            weights = fitting_weights(weights, logits.shape[1], logits)
        losses = F.cross_entropy(
            logits, labels, weights, reduction="none", label_smoothing=self.label_smoothing
        )
        if valid is not None:
            losses = losses.where(valid, 0)
        return reduce_weighted(losses, pixel_weights(labels, valid, weights), self.reduction)

    def from_statistics(self, statistics: SoftmaxStatistics) -> Tensor:
        if self.label_smoothing:
            return super().from_statistics(statistics)  # says that they are not enough
        return cross_entropy_loss(
            statistics, class_weights=self.class_weights, reduction=self.reduction
        )
