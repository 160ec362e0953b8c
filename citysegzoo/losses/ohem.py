"""Cross entropy of the hardest pixels (online hard example mining)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from citysegzoo.arguments import check_number, check_positive, check_probability
from citysegzoo.losses.base import Reduction, SegmentationLoss, reduce_pixels
from citysegzoo.losses.sorting import sort_descending
from citysegzoo.losses.statistics import SoftmaxStatistics, sum_dtype
from citysegzoo.registry import register_loss


def ohem_cross_entropy_loss(
    statistics: SoftmaxStatistics,
    *,
    fraction: float | None = None,
    threshold: float | None = None,
    min_kept: int | None = None,
    class_weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Cross entropy of the hardest pixels of the batch, those of least probability p_t.

    By threshold, the pixels with p_t below it and in any case the ``min_kept`` hardest: online hard
    example mining (Shrivastava et al. 2016) as segmentation took it up. Or by ``fraction``, that
    share of the pixels that count, rounded down but at least one: the bootstrapped loss of Wu et
    al. 2016, "Bridging category-level and instance-level semantic image segmentation". Pixels as
    hard as the last one kept are kept too.

    Args:
        statistics: From :func:`softmax_statistics`.
        fraction: Share of the pixels to keep, above 0 and at most 1; None goes by threshold.
        threshold: Probability below which a pixel counts as hard; None is 0.7.
        min_kept: Pixels of the batch that are kept even if they are easy; None is 100,000.
        class_weights: ``(C,)``; of the true class of each pixel, without say in what is kept.
        reduction: Over the pixels kept; the mean divides by the sum of their weights.
            ``"none"`` gives ``(N, H, W)``, 0 where a pixel is not kept.
    """
    threshold, min_kept = _limits(fraction, threshold, min_kept)
    losses = -statistics.log_probability
    hardness = losses.detach().abs()  # also turns -0.0 into 0.0
    valid = statistics.valid
    if valid is None:
        valid = torch.ones_like(statistics.target, dtype=torch.bool)
    # Ignored pixels have hardness 0 and sort behind all others, or beside equals.
    ordered = sort_descending(hardness.flatten())
    count = valid.sum()
    if fraction is None:
        keep = count.clamp(max=min_kept)
    else:
        # 0.29 of 100 are 29, though the nearest floats to 0.29 and to the product lie below.
        dtype = sum_dtype(losses)
        share = fraction * (1 + 2 * torch.finfo(dtype).eps)
        keep = torch.minimum((count.to(dtype) * share).long(), count).clamp(min=1)
    # min_kept=0 leaves it to the threshold: nothing is as hard as infinity.
    last = ordered.gather(0, (keep - 1).clamp(min=0)[None]).where(keep > 0, torch.inf)
    # Of pixels as hard as the last, only as many as there is room for: a float32 loss is exactly 0
    # from a margin of 17 on, and where those are many, the mean would be that of nearly all pixels.
    harder, ties = (hardness > last) & valid, (hardness == last) & valid
    room = keep - harder.sum()
    kept = harder | (ties & (ties.flatten().cumsum(0).view_as(ties) <= room))
    kept = kept | hardness.isnan()  # what is no number is not to be hidden
    if fraction is None:
        kept = kept | (statistics.log_probability.detach().exp() < threshold)
    kept = kept & valid
    return reduce_pixels(
        losses.where(kept, 0),
        replace(statistics, valid=kept),
        class_weights=class_weights,
        reduction=reduction,
    )


@register_loss("ohem_cross_entropy")
class OhemCrossEntropyLoss(SegmentationLoss):
    """Cross entropy of the hardest pixels: see :func:`ohem_cross_entropy_loss`.

    Args:
        fraction: Share of the pixels to keep; None goes by threshold.
        threshold: Probability below which a pixel counts as hard; None is 0.7.
        min_kept: Pixels of the batch that are kept even if they are easy; None is 100,000.
        ignore_index: Label of the pixels that do not count; None if all do.
        class_weights: ``(C,)``, of the true class of each pixel.
        reduction: Over the pixels kept; ``"none"`` gives ``(N, H, W)``.
        upsample: Whether logits of another size are enlarged to the target's.
    """

    regions = False

    def __init__(
        self,
        *,
        fraction: float | None = None,
        threshold: float | None = None,
        min_kept: int | None = None,
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
        _limits(fraction, threshold, min_kept)
        self.fraction = fraction
        self.threshold = threshold
        self.min_kept = min_kept

    def from_statistics(self, statistics: SoftmaxStatistics) -> Tensor:
        return ohem_cross_entropy_loss(
            statistics,
            fraction=self.fraction,
            threshold=self.threshold,
            min_kept=self.min_kept,
            class_weights=self.class_weights,
            reduction=self.reduction,
        )


def _limits(
    fraction: float | None, threshold: float | None, min_kept: int | None
) -> tuple[float, int]:
    """Threshold and number to keep, once the options are found to make sense together."""
    if fraction is not None:
        if threshold is not None or min_kept is not None:
            raise ValueError("hard pixels go by fraction, or by threshold and min_kept; not both.")
        if not 0 < check_number("fraction", fraction) <= 1:
            raise ValueError(f"fraction is above 0 and at most 1, not {fraction!r}.")
    threshold = 0.7 if threshold is None else check_probability("threshold", threshold)
    return threshold, 100_000 if min_kept is None else check_positive("min_kept", min_kept, least=0)
