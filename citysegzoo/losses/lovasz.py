"""Lovasz-softmax: the convex extension of the Jaccard loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from citysegzoo.arguments import check_flag
from citysegzoo.losses.base import Reduction, SegmentationLoss, reduce_classes
from citysegzoo.losses.sorting import sort_errors
from citysegzoo.losses.statistics import (
    check_logits,
    check_target,
    compute_dtype,
    pieces,
    sum_dtype,
)
from citysegzoo.registry import register_loss


def lovasz_softmax_loss(
    logits: Tensor,
    target: Tensor,
    *,
    per_image: bool = False,
    ignore_index: int | None = 255,
    class_weights: Tensor | None = None,
    reduction: Reduction = "mean",
    upsample: bool = False,
) -> Tensor:
    """Lovasz-softmax, the Lovasz extension of the Jaccard loss at the softmax errors.

    Of each class present, the errors (1 - p where the class is true, p elsewhere) are sorted; each
    is weighed with what the Jaccard loss gains when its pixel becomes an error after all larger
    ones. From Berman et al. 2018, "The Lovasz-softmax loss", equations 8, 9 and 11. The sort is of
    all classes' errors, so this takes longer than the other losses and is not among those that
    :func:`softmax_statistics` serves.

    Args:
        logits: ``(N, C, H, W)``, any floating dtype.
        target: ``(N, H, W)`` labels, any integer dtype.
        per_image: Whether each image has losses of its own; else they are of the whole batch.
        ignore_index: Label of the pixels that do not count; None if all do.
        class_weights: ``(C,)``, of the losses of the classes.
        reduction: Over the classes present; ``"none"`` gives ``(C,)`` or, per image, ``(N, C)``,
            whose mean is over all that are present, where the paper's code has that of each
            image's own mean.
        upsample: Whether logits of another size are enlarged to the target's.

    Raises:
        TypeError: If the logits are not floating-point or the target holds no integers.
        ValueError: If shapes do not match or a label is neither a class nor ``ignore_index``.
    """
    logits = check_logits(logits, target, upsample=upsample)
    labels, valid = check_target(target, logits.shape[1], ignore_index)
    if valid is not None:
        labels = labels.masked_fill(~valid, -1)
    compute = _plain if torch.compiler.is_compiling() else _Lovasz.apply
    losses, present = compute(logits, labels, per_image)
    loss = reduce_classes(losses, present, class_weights=class_weights, reduction=reduction)
    return loss.to(compute_dtype(logits))


def jaccard_steps(true: Tensor, dtype: torch.dtype) -> Tensor:
    """What the Jaccard loss gains as one pixel after the other becomes an error.

    With G true pixels of which f were passed, and b others passed, the loss is
    1 - (G - f) / (G + b): a true pixel adds 1 / (G + b), another
    (G - f) / ((G + b - 1) (G + b)). In this form no difference of nearly equal numbers loses the
    digits of float32, as differences of a running Jaccard do.

    Args:
        true: bool ``(M,)``, whether each pixel is of the class, in the order of the errors.
        dtype: Of the result.
    """
    exact = dtype if len(true) <= 1 << 24 else torch.float64  # whole numbers stay whole
    passed = true.cumsum(0, dtype=exact)
    left = passed[-1] - passed  # true pixels not yet passed
    union = torch.arange(1, len(true) + 1, dtype=exact, device=true.device) + left
    share = left / (union - 1)
    return share.masked_fill_(true, 1).div_(union).to(dtype)


def _plain(logits: Tensor, labels: Tensor, per_image: bool) -> tuple[Tensor, Tensor]:
    """The definition, in operations that a compiler fuses; absent classes included."""
    logits = logits.where((labels >= 0)[:, None], 0)  # no number there gives no gradient
    probabilities = logits.softmax(1, dtype=compute_dtype(logits))
    losses, presents = [], []
    for group in _groups(len(labels), per_image):
        valid = (labels[group] >= 0).flatten()
        for index in range(logits.shape[1]):
            true = (labels[group] == index).flatten()
            errors = (true.to(probabilities.dtype) - probabilities[group, index].flatten()).abs()
            # Ignored pixels come last, behind errors of 0, and weigh on an error of 0.
            order = errors.detach().where(valid, -1).sort(descending=True)[1]
            present = true.any()
            steps = jaccard_steps(true[order] | ~present, errors.dtype)
            losses.append((errors.where(valid, 0)[order] * steps).sum(dtype=sum_dtype(logits)))
            presents.append(present)
    shape = (-1, logits.shape[1]) if per_image else (-1,)
    return torch.stack(losses).view(shape), torch.stack(presents).view(shape)


def _groups(images: int, per_image: bool) -> list[slice]:
    return [slice(i, i + 1) for i in range(images)] if per_image else [slice(None)]


class _Lovasz(torch.autograd.Function):
    """The same on the classes present and pixels that count, keeping one logits-sized tensor."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, per_image: bool) -> tuple[Tensor, Tensor]:
        images, classes = logits.shape[:2]
        # First the probabilities; then, class by class, the slope of the loss along them.
        slopes = logits.flatten(2).softmax(1, dtype=compute_dtype(logits))
        groups = _groups(images, per_image)
        losses = slopes.new_zeros(len(groups), classes, dtype=sum_dtype(logits))
        present = torch.zeros(len(groups), classes, dtype=torch.bool, device=logits.device)
        for i, group in enumerate(groups):
            label = labels[group].flatten()
            counts = torch.bincount(label + 1, minlength=classes + 1)
            present[i] = counts[1:] > 0
            ignored = label < 0 if counts[0] else None
            spread = torch.zeros(len(label), dtype=slopes.dtype, device=slopes.device)
            for index in range(classes):
                slope = slopes[group, index]
                if not present[i, index]:
                    slope.zero_()
                    continue
                errors, true, order = sort_errors(
                    slope.flatten(), label == index, ignored, len(label) - int(counts[0])
                )
                steps = jaccard_steps(true, slopes.dtype)
                losses[i, index] = (errors * steps).sum(dtype=losses.dtype)
                # Ignored pixels are in no order and keep their 0.
                spread.scatter_(0, order, torch.where(true, -steps, steps))
                slope.copy_(spread.view_as(slope))
        if not per_image:
            losses, present = losses[0], present[0]
        ctx.mark_non_differentiable(present)
        ctx.save_for_backward(logits, labels, slopes)
        return losses, present

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        logits, labels, slopes = ctx.saved_tensors
        rows = logits.flatten(2)
        factors = grad.to(slopes.dtype).expand(len(rows), -1)
        result = torch.empty_like(rows)
        for image, part, x, p, g in pieces(rows, into=result):
            torch.sub(x, x.amax(0), out=p).exp_()
            p.div_(p.sum(0))
            torch.mul(slopes[image, :, part], factors[image, :, None], out=g)
            g.sub_((p * g).sum(0))
            p.mul_(g)
        result = result.view(logits.shape)
        if (labels < 0).any():
            result.masked_fill_((labels < 0)[:, None], 0)  # also where the logits are no numbers
        return result, None, None


@register_loss("lovasz_softmax")
class LovaszSoftmaxLoss(SegmentationLoss):
    """Lovasz-softmax: see :func:`lovasz_softmax_loss`.

    Args:
        per_image: Whether each image has losses of its own.
        ignore_index: Label of the pixels that do not count; None if all do.
        class_weights: ``(C,)``.
        reduction: Over the classes present.
        upsample: Whether logits of another size are enlarged to the target's.
    """

    shares_statistics = False  # it sorts all probabilities

    def __init__(
        self,
        *,
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
        self.per_image = check_flag("per_image", per_image)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return lovasz_softmax_loss(
            logits,
            target,
            per_image=self.per_image,
            ignore_index=self.ignore_index,
            class_weights=self.class_weights,
            reduction=self.reduction,
            upsample=self.upsample,
        )
