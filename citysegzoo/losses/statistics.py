"""One pass over the logits that all losses share.

Nearly every segmentation loss is a short formula on few numbers: the log-probability of each
pixel's true class, and per class the sums over pixels that make up true positives, predicted and
true area. :func:`softmax_statistics` computes them in one pass over the logits and differentiates
them in another, in pieces that stay in the processor's cache; the softmax that the first one keeps
becomes the gradient in place. A loss is then a formula on :class:`SoftmaxStatistics`,
differentiated by autograd, and any number of losses share the two passes::

    statistics = softmax_statistics(logits, target, ignore_index=255)
    loss = dice_loss(statistics) + cross_entropy_loss(statistics)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_PIXELS = 1 << 16
"""Pixels at a time on a CPU: with 19 classes 5 MB, which the caches of a few cores hold."""

# Log-probability, mass, true mass, squared mass, pixels.
_Found = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None]

_LARGE = 1e30  # a sum of exponentials that still is far from overflow


@dataclass(frozen=True, eq=False)
class SoftmaxStatistics:
    """What the losses need to know of logits and target; gradients flow back into the logits.

    Attributes:
        log_probability: ``(N, H, W)``, log-probability of each pixel's true class, 0 where ignored.
        mass: ``(N, C)``, sum of the probabilities of each class over the pixels that count; like
            the next three None if not asked for.
        true_mass: ``(N, C)``, the same over the pixels of that class alone.
        squared_mass: ``(N, C)``, sum of the squared probabilities.
        pixels: ``(N, C)``, number of pixels of each class, without gradient.
        target: int64 ``(N, H, W)``, the labels, 0 where ignored.
        valid: bool ``(N, H, W)``, False where ignored, or None if no pixel is.
        num_classes: C.
    """

    log_probability: Tensor
    mass: Tensor | None
    true_mass: Tensor | None
    squared_mass: Tensor | None
    pixels: Tensor | None
    target: Tensor
    valid: Tensor | None
    num_classes: int

    def areas(self) -> tuple[Tensor, Tensor, Tensor]:
        """True mass, mass and pixels of each class, ``(N, C)`` each.

        Raises:
            ValueError: If they were not asked for.
        """
        if self.true_mass is None or self.mass is None or self.pixels is None:
            raise ValueError("losses of regions need softmax_statistics(..., regions=True).")
        return self.true_mass, self.mass, self.pixels


def softmax_statistics(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int | None = 255,
    upsample: bool = False,
    regions: bool = True,
    squared: bool = False,
    count_ignored: bool = False,
) -> SoftmaxStatistics:
    """Compute what the losses need in one pass over the logits.

    Args:
        logits: ``(N, C, H, W)``, any floating dtype; computed in float32 (float64 for float64).
        target: ``(N, H, W)`` labels, any integer dtype.
        ignore_index: Label of the pixels that do not count, or None if all do.
        upsample: Whether logits of another size are enlarged bilinearly to the target's.
        regions: Whether to sum over the pixels of each class, which losses of single pixels such as
            cross entropy do without.
        squared: Whether the squared probabilities are summed as well.
        count_ignored: Whether ignored pixels count in the masses nevertheless.

    Returns:
        The statistics, in float64 where they are sums (float32 on devices without it).

    Raises:
        TypeError: If the logits are not floating-point or the target holds no integers.
        ValueError: If shapes do not match, there is no pixel, or a label is neither a class nor
            ``ignore_index``. Labels are not looked at in a compiled graph.
    """
    logits = check_logits(logits, target, upsample=upsample)
    labels, valid = check_target(target, logits.shape[1], ignore_index)
    compute = _plain if torch.compiler.is_compiling() else _Statistics.apply
    found: _Found = compute(logits, labels, valid, regions, squared, count_ignored)
    return SoftmaxStatistics(*found, labels, valid, logits.shape[1])


def _plain(
    logits: Tensor,
    target: Tensor,
    valid: Tensor | None,
    regions: bool,
    squared: bool,
    count_ignored: bool,
) -> _Found:
    """The definition, in operations that a compiler fuses."""
    images, classes = logits.shape[:2]
    sums = sum_dtype(logits)
    if valid is not None and not count_ignored:
        logits = logits.where(valid[:, None], 0)  # of no number there, softmax gives such gradients
    log_probabilities = F.log_softmax(logits, 1, dtype=compute_dtype(logits))
    log_probability = log_probabilities.gather(1, target[:, None])[:, 0]
    if valid is not None:
        log_probability = log_probability.where(valid, 0)
    if not regions:
        return log_probability, None, None, None, None
    probabilities = log_probabilities.exp()
    counts = torch.ones_like(log_probability)
    if valid is not None:
        counts = valid.to(counts.dtype)
        if not count_ignored:
            probabilities = probabilities.where(valid[:, None], 0)

    def by_class(values: Tensor) -> Tensor:
        zeros = torch.zeros(images, classes, dtype=sums, device=logits.device)
        return zeros.scatter_add(1, target.flatten(1), values.flatten(1).to(sums))

    return (
        log_probability,
        probabilities.sum((2, 3), dtype=sums),
        by_class(log_probability.exp() * counts),
        probabilities.square().sum((2, 3), dtype=sums) if squared else None,
        by_class(counts),
    )


class _Statistics(torch.autograd.Function):
    """The same in pieces.

    For backward it keeps the softmax, which becomes the gradient in place, so that there is never
    more than one tensor of the logits' size. Where that cannot be (half precision, a second
    backward), the softmax is computed again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        target: Tensor,
        valid: Tensor | None,
        regions: bool,
        squared: bool,
        count_ignored: bool,
    ) -> _Found:
        images, classes, height, width = logits.shape
        rows, labels = logits.flatten(2), target.flatten(1)
        log_probability = rows.new_empty(labels.shape, dtype=compute_dtype(logits))
        counts = torch.ones_like(log_probability)
        if valid is not None:
            counts = valid.flatten(1).to(counts.dtype)
        # Softmax is exp(x - shift) * share. The score of the true class is as good a shift as the
        # largest one, and is needed anyway.
        shift, share = torch.empty_like(log_probability), torch.empty_like(log_probability)
        sums = rows.new_zeros(4, images, classes, dtype=sum_dtype(logits))
        mass, true_mass, squared_mass, pixels = sums
        keep = ctx.needs_input_grad[0] and _is_direct(rows)
        ctx.softmax = torch.empty_like(rows) if keep else None
        with torch.autocast(logits.device.type, enabled=False):
            for image, part, x, p, g in pieces(rows, into=ctx.softmax):
                by, weight = shift[image, part], share[image, part]
                torch.gather(x, 0, labels[image, part][None], out=by[None])
                total = torch.sub(x, by, out=p).exp_().sum(0)
                above = None
                if x.device.type != "cpu" or not total.amax() <= _LARGE:
                    # The true class is so unlikely that the exponentials overflow, or something is
                    # infinite or no number; where ignored, that is not to matter.
                    if valid is not None and not count_ignored:
                        x = x.where(valid.flatten(1)[image, part], 0)
                        by.masked_fill_(~valid.flatten(1)[image, part], 0)
                    largest = x.amax(0)
                    above = by - largest
                    by.copy_(largest)
                    total = torch.sub(x, by, out=p).exp_().sum(0)
                torch.reciprocal(total, out=weight)
                found = torch.neg(total.log_(), out=log_probability[image, part])
                if above is not None:
                    found += above
                if not count_ignored:
                    weight.mul_(counts[image, part])  # so that the softmax is 0 where ignored
                if not regions and not keep:
                    continue
                p.mul_(weight)
                if regions:
                    mass[image] += torch.mv(p, torch.ones_like(weight))
                if squared:
                    squared_mass[image] += torch.mul(p, p, out=g).sum(1)
        if valid is not None:
            log_probability.masked_fill_(~valid.flatten(1), 0)
        if regions:
            true_mass.scatter_add_(1, labels, (log_probability.exp() * counts).to(sums.dtype))
            pixels.scatter_add_(1, labels, counts.to(sums.dtype))
            ctx.mark_non_differentiable(pixels)
        log_probability = log_probability.view(images, height, width)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(logits, target, valid, shift, share, log_probability)
        if not regions:
            return log_probability, None, None, None, None
        return log_probability, mass, true_mass, squared_mass if squared else None, pixels

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,
        grad_log: Tensor | None,
        grad_mass: Tensor | None,
        grad_true: Tensor | None,
        grad_squared: Tensor | None,
        _: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        logits, target, valid, shift, share, log_probability = ctx.saved_tensors
        rows, labels = logits.flatten(2), target.flatten(1)
        # The log-probability of the true class has its own gradient and, through exp, that of the
        # true mass.
        if grad_true is not None:
            at_target = grad_true.to(shift.dtype).gather(1, labels).view_as(log_probability)
            at_target.mul_(log_probability.exp())
            grad_log = at_target if grad_log is None else at_target.add_(grad_log)
        if grad_log is None:
            grad_log = torch.zeros_like(log_probability)
        elif valid is not None:
            grad_log = grad_log.where(valid, 0)
        grad_log = grad_log.flatten(1)
        by_mass = None if grad_mass is None else grad_mass.to(shift.dtype)
        by_square = None if grad_squared is None else 2 * grad_squared.to(shift.dtype)
        grad, ctx.softmax = ctx.softmax, None
        again = grad is None
        if again:
            grad = torch.empty_like(rows)
        # With p the softmax, y the one-hot target, h the gradient of the latter's log-probability
        # and g that of each p: d logits = p * (g - sum(p * g) - h) + y * h.
        with torch.autocast(logits.device.type, enabled=False):
            for image, part, x, p, g in pieces(rows, into=grad):
                if again:
                    torch.sub(x, shift[image, part], out=p).exp_().mul_(share[image, part])
                    p.masked_fill_(share[image, part] == 0, 0)
                h = grad_log[image, part]
                if by_square is not None:
                    torch.mul(p, by_square[image, :, None], out=g)
                    if by_mass is not None:
                        g += by_mass[image, :, None]
                    p.mul_(g.sub_((p * g).sum(0).add_(h)))
                elif by_mass is not None:
                    along = torch.mv(p.t(), by_mass[image]).add_(h)
                    p.mul_(torch.sub(by_mass[image, :, None], along, out=g))
                else:
                    p.mul_(-h)
                p.scatter_add_(0, labels[image, part][None], h[None])
        return grad.view(logits.shape), None, None, None, None, None


def pieces(
    rows: Tensor, *, into: Tensor | None = None
) -> Iterator[tuple[int, slice, Tensor, Tensor, Tensor]]:
    """Walk through ``(N, C, pixels)`` in pieces that stay in the cache.

    Args:
        rows: Values to read.
        into: Tensor of the same shape and dtype that the buffers end up in, if any.

    Yields:
        Image, slice of pixels, the values ``(C, m)`` in the dtype to compute in, and two buffers
        like them, of which the first ends up in ``into``.
    """
    images, classes, pixels = rows.shape
    step = min(pixels, CHUNK_PIXELS) if rows.device.type == "cpu" else pixels
    direct = _is_direct(rows)
    spare = [
        rows.new_empty(classes, step, dtype=compute_dtype(rows))
        for _ in range(1 if direct and into is not None else 2 if direct else 3)
    ]
    for image in range(images):
        for start in range(0, pixels, step):
            part = slice(start, min(start + step, pixels))
            values, *buffers = rows[image, :, part], *(s[:, : part.stop - start] for s in spare)
            if not direct:
                values = buffers.pop().copy_(values)
            elif into is not None:
                buffers.insert(0, into[image, :, part])
            yield image, part, values, buffers[0], buffers[1]
            if into is not None and not direct:
                into[image, :, part] = buffers[0]


def _is_direct(rows: Tensor) -> bool:
    """Whether pieces of it can be computed with as they are, and written in place."""
    return rows.dtype == compute_dtype(rows) and rows.stride(2) == 1


def compute_dtype(logits: Tensor) -> torch.dtype:
    """The dtype that losses compute in: float64 for float64, else float32."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def sum_dtype(logits: Tensor) -> torch.dtype:
    """The dtype that sums over pixels are kept in: a million terms need more than float32."""
    return torch.float32 if logits.device.type == "mps" else torch.float64


def check_logits(logits: Tensor, target: Tensor, *, upsample: bool = False) -> Tensor:
    """The logits at the target's size, or one sentence saying what is wrong with them."""
    if not isinstance(logits, Tensor) or not isinstance(target, Tensor):
        wrong = logits if not isinstance(logits, Tensor) else target
        raise TypeError(
            f"logits and target must be tensors, not {type(wrong).__name__}; torch.from_numpy "
            "makes one of an array."
        )
    if not logits.is_floating_point():
        raise TypeError(f"logits must be floating-point scores of classes, not {logits.dtype}.")
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise TypeError(f"target must hold integer labels, not {target.dtype}; use target.long().")
    shapes = f"logits are {tuple(logits.shape)} and target is {tuple(target.shape)}"
    if logits.ndim != 4 or target.ndim != 3:
        raise ValueError(f"logits must be (N, C, H, W) and target (N, H, W), but {shapes}.")
    if logits.shape[0] != target.shape[0]:
        raise ValueError(f"logits and target must have as many images, but {shapes}.")
    if not logits.numel() or not target.numel():
        raise ValueError(f"there is no pixel to learn from: {shapes}.")
    if logits.device != target.device:
        raise ValueError(
            f"logits are on {logits.device} and target on {target.device}; move them together."
        )
    if logits.shape[2:] == target.shape[1:]:
        return logits
    if not upsample:
        raise ValueError(
            f"logits and target must have the same height and width, but {shapes}; "
            "upsample=True enlarges smaller logits."
        )
    if logits.shape[2] > target.shape[1] or logits.shape[3] > target.shape[2]:
        raise ValueError(
            f"logits are larger than the target and cannot be enlarged to it: {shapes}."
        )
    logits = logits.to(compute_dtype(logits))
    return F.interpolate(logits, target.shape[1:], mode="bilinear", align_corners=False)


def check_target(
    target: Tensor, classes: int, ignore_index: int | None
) -> tuple[Tensor, Tensor | None]:
    """Labels as int64, 0 where ignored, and where they are valid (None: everywhere)."""
    labels, valid = target.long(), None
    if ignore_index == 255 and classes > 255:
        raise ValueError(
            f"ignore_index is 255, which is one of {classes} classes; set it to None or -1."
        )
    if ignore_index is not None:
        valid = labels != ignore_index
        labels = labels.where(valid, 0)
    if not torch.compiler.is_compiling():
        low, high = labels.aminmax()
        if low < 0 or high >= classes:
            raise ValueError(_wrong_labels(labels, classes, ignore_index))
    return labels, valid


def _wrong_labels(labels: Tensor, classes: int, ignore_index: int | None) -> str:
    values, counts = torch.unique(labels[(labels < 0) | (labels >= classes)], return_counts=True)
    found = ", ".join(
        f"{count} pixel{'s' if count > 1 else ''} labelled {value}"
        for value, count in zip(values.tolist()[:5], counts.tolist(), strict=False)
    )
    more = f" and {len(values) - 5} other values" if len(values) > 5 else ""
    ignored = "no label is ignored" if ignore_index is None else f"{ignore_index} is ignored"
    return (
        f"target has {found}{more}, but the logits are of {classes} classes, 0 to {classes - 1} "
        f"({ignored}); map such labels to a class or to ignore_index."
    )
