"""The formula behind Dice, IoU and Tversky: overlap of what is predicted and what is true."""

from __future__ import annotations

from torch import Tensor

from citysegzoo.arguments import check_choice, check_number
from citysegzoo.losses.base import Average, Reduction, fitting_weights, reduce_classes
from citysegzoo.losses.statistics import SoftmaxStatistics


def overlap_loss(
    statistics: SoftmaxStatistics,
    *,
    false_positives: float,
    false_negatives: float,
    smooth: float,
    average: Average,
    per_image: bool,
    squared: bool = False,
    include_absent: bool = False,
    class_weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """1 - (TP + s) / (TP + a FP + b FN + s) on soft counts.

    TP is the probability of the true class summed over the pixels of a class, FP what the class
    is given elsewhere, FN what it lacks. The sums run over all pixels of the batch, or of each
    image.

    Args:
        statistics: From :func:`softmax_statistics`; with ``squared=True`` if ``squared``.
        false_positives: The factor a.
        false_negatives: The factor b.
        smooth: The number s added to numerator and denominator.
        average: ``"macro"``: one ratio for each class, reduced over the classes present.
            ``"micro"``: numerators and denominators of all classes summed, one ratio.
        per_image: Whether each image has its own ratios, all reduced alike.
        squared: Whether predicted area is the sum of squared probabilities.
        include_absent: Whether classes without a pixel count; their loss is 1 where smooth is 0.
        class_weights: ``(C,)``; of the ratios in a macro average, of the sums in a micro one.
        reduction: Over the ratios. ``"none"`` gives ``(C,)`` or ``(N, C)`` (macro), ``()`` or
            ``(N,)`` (micro).
    """
    check_choice("average", average, ("macro", "micro"))
    check_number("smooth", smooth)
    check_number("the factor of false positives", false_positives)
    check_number("the factor of false negatives", false_negatives)
    hits, predicted, true = statistics.areas()
    if squared:
        if statistics.squared_mass is None:
            raise ValueError("a squared denominator needs softmax_statistics(..., squared=True).")
        predicted = statistics.squared_mass
    if not per_image:
        predicted, hits, true = predicted.sum(0), hits.sum(0), true.sum(0)
    if average == "micro":
        if class_weights is not None:
            weights = fitting_weights(class_weights, true.shape[-1], true)
            predicted, hits, true = predicted * weights, hits * weights, true * weights
            class_weights = None
        predicted, hits, true = (sums.sum(-1, keepdim=True) for sums in (predicted, hits, true))
    present = true > 0
    denominator = (
        hits + false_positives * (predicted - hits) + false_negatives * (true - hits) + smooth
    )
    if include_absent:
        present = present.any(-1, keepdim=True).expand_as(present)  # of nothing, nothing is absent
        denominator = denominator.clamp(min=1e-6)
    # A present class may lack a denominator: where false negatives weigh nothing.
    losses = 1 - (hits + smooth) / denominator.masked_fill(~present | (denominator == 0), 1)
    loss = reduce_classes(losses, present, class_weights=class_weights, reduction=reduction)
    if reduction == "none" and average == "micro":
        loss = loss.squeeze(-1)
    return loss.to(statistics.log_probability.dtype)
