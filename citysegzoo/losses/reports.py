"""The losses of the five reports, as each used them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from citysegzoo.losses.base import SegmentationLoss
from citysegzoo.losses.class_weights import (
    Counts,
    inverse_root_weights,
    log_frequency_weights,
)
from citysegzoo.losses.cross_entropy import CrossEntropyLoss
from citysegzoo.losses.dice import DiceLoss
from citysegzoo.losses.iou import IoULoss
from citysegzoo.losses.statistics import check_logits, check_target, compute_dtype
from citysegzoo.registry import register_loss


@register_loss("stevens2020_weighted_cross_entropy")
def stevens2020_weighted_cross_entropy(
    *,
    ignore_index: int | None = None,
    pixel_counts: Counts | None = None,
    absent: float | None = None,
) -> CrossEntropyLoss:
    """Cross entropy over all 34 label ids, weighted by log frequency (equations 2 to 4).

    The mean divides by the sum of the pixels' weights, which equation 2 leaves out.

    Args:
        ignore_index: Label of the pixels that do not count; None if all do.
        pixel_counts: Pixels of each class in other data, for weights by the same formula; None
            takes the counts of Cityscapes, which the report used.
        absent: Weight of the classes without a pixel in other data, which otherwise are refused.
    """
    from citysegzoo.reports.stevens2020 import PIXEL_COUNTS

    counts = PIXEL_COUNTS if pixel_counts is None else pixel_counts
    weights = log_frequency_weights(counts, absent=absent)
    return CrossEntropyLoss(ignore_index=ignore_index, class_weights=weights)


@register_loss("stevens2020_cross_entropy")
def stevens2020_cross_entropy(*, ignore_index: int | None = None) -> CrossEntropyLoss:
    """Cross entropy over all 34 label ids (equation 1)."""
    return CrossEntropyLoss(ignore_index=ignore_index)


@register_loss("chen2020_cross_entropy")
def chen2020_cross_entropy(*, ignore_index: int | None = None) -> CrossEntropyLoss:
    """Cross entropy over all 34 label ids."""
    return CrossEntropyLoss(ignore_index=ignore_index)


@register_loss("chen2020_dice")
def chen2020_dice(*, ignore_index: int | None = None) -> DiceLoss:
    """Soft Dice, 1 - 2TP / (2TP + FP + FN) (section 3.5).

    The report gives the ratio alone; that it is soft, and a mean over the classes present, is
    this library's reading.
    """
    return DiceLoss(ignore_index=ignore_index)


@register_loss("fixman2024_cross_entropy")
def fixman2024_cross_entropy(*, ignore_index: int | None = None) -> CrossEntropyLoss:
    """Cross entropy over all 34 label ids, summed over the pixels of the batch, none ignored.

    The text says that background does not count; in the code it does.
    """
    return CrossEntropyLoss(ignore_index=ignore_index, reduction="sum")


@register_loss("fixman2024_iou")
def fixman2024_iou(*, ignore_index: int | None = None) -> IoULoss:
    """Soft IoU of each image and class, over all 34 classes whether they are there or not.

    A perfect prediction of an image with k classes costs 1 - k / 34: a class that is not there
    has an IoU of about 0, whatever is predicted.
    """
    return IoULoss(ignore_index=ignore_index, per_image=True, include_absent=True)


@register_loss("mei2019_cross_entropy")
def mei2019_cross_entropy(*, ignore_index: int | None = 255) -> CrossEntropyLoss:
    """Cross entropy over 19 classes, void ignored."""
    return CrossEntropyLoss(ignore_index=ignore_index)


@register_loss("xiang2020_cross_entropy")
def xiang2020_cross_entropy(*, ignore_index: int | None = 255) -> CrossEntropyLoss:
    """Cross entropy over 19 classes, void ignored."""
    return CrossEntropyLoss(ignore_index=ignore_index)


@register_loss("xiang2020_weighted_cross_entropy")
def xiang2020_weighted_cross_entropy(
    *,
    ignore_index: int | None = 255,
    pixel_counts: Counts | None = None,
    absent: float | None = None,
) -> CrossEntropyLoss:
    """Cross entropy over 19 classes, void ignored, weighted by 5 sqrt(min n / n_c).

    Args:
        ignore_index: Label of the pixels that do not count; None if all do.
        pixel_counts: Pixels of each class in other data, for weights by the same formula; None
            takes the counts of Cityscapes, which the report used.
        absent: Weight of the classes without a pixel in other data, which otherwise are refused.
    """
    from citysegzoo.reports.xiang2020 import PIXEL_COUNTS

    counts = PIXEL_COUNTS if pixel_counts is None else pixel_counts
    weights = inverse_root_weights(counts, absent=absent)
    return CrossEntropyLoss(ignore_index=ignore_index, class_weights=weights)


@register_loss("xiang2020_dice")
def xiang2020_dice(*, ignore_index: int | None = 255) -> DiceLoss:
    """Soft Dice over all pixels and classes at once, squared denominator, smoothed by 1.

    1 - (2 sum p t + 1) / (sum p^2 + sum t^2 + 1); what is predicted on void pixels counts in the
    denominator. This is the code; the text prints neither the 2 nor the squares.
    """
    return DiceLoss(
        smooth=1.0, average="micro", squared=True, count_ignored=True, ignore_index=ignore_index
    )


@register_loss("fixman2024_dice")
class Fixman2024DiceLoss(SegmentationLoss):
    """fixman2024's Dice loss as coded: about 1 - 1/C for any prediction.

    1 - (2 sum p t + 1) / (sum p + sum t + 1) over all pixels and classes, but with p flattened
    class by class and t pixel by pixel, so that they do not belong together. It explains the
    report's constant column of 0.97 and teaches nothing; it is here to reproduce that column.
    """

    shares_statistics = False

    def __init__(self) -> None:
        super().__init__(ignore_index=None)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        logits = check_logits(logits, target)
        labels, _ = check_target(target, logits.shape[1], None)
        p = logits.softmax(1, dtype=compute_dtype(logits)).reshape(-1)
        t = F.one_hot(labels, logits.shape[1]).reshape(-1)
        overlap = p[t == 1].sum(dtype=torch.float64)
        loss = 1 - (2 * overlap + 1) / (p.sum(dtype=torch.float64) + labels.numel() + 1)
        return loss.to(p.dtype)


@register_loss("stevens2020_dice")
class Stevens2020DiceLoss(SegmentationLoss):
    """The unused Dice loss of stevens2020's repository, which "does not work, loss=nan".

    It takes exp of the logits for probabilities, so that large logits overflow: the mean over the
    classes of 1 - 2 sum e t / (sum (e + t) + 0.0001), with e the exponentials and all weights 1. It
    is here to see that.
    """

    shares_statistics = False

    def __init__(self) -> None:
        super().__init__(ignore_index=None)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        logits = check_logits(logits, target)
        labels, _ = check_target(target, logits.shape[1], None)
        e = logits.to(compute_dtype(logits)).exp()
        t = F.one_hot(labels, logits.shape[1]).movedim(-1, 1)
        overlap = e.where(t == 1, 0).sum((0, 2, 3))
        return (1 - 2 * overlap / ((e + t).sum((0, 2, 3)) + 1e-4)).mean()
