"""The label map of upsampled logits, without the upsampled logits.

Where one class leads at all four corners of a cell of the small map it leads in the whole cell,
as bilinear weights are convex. Only the other cells are interpolated, in blocks that stay in
cache. Both hold in exact arithmetic; in floating point a lead may be rounded away, so only leads
above a bound on all rounding count. The few pixels below it are computed once more, operation by
operation as PyTorch's own kernel does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 1 << 20
"""Logits interpolated at a time: 4 MB of float32, little enough for the caches."""

SMALL = 128
"""Up to this H + W, PyTorch has other kernels, and no memory needs to be saved."""

# Two ways to compute one upsampled logit differ by less than 16 roundings (half an epsilon each)
# of sum(weight * |corner|), which is at most 3 times the greatest leading logit for a class that
# comes close to the lead; and two classes are compared: 48 epsilons, rounded up.
_ROUNDINGS = 64

Multiply = Callable[[Tensor, Tensor, Tensor], Tensor]
Corners = Sequence[Tensor]


@torch.no_grad()
def upsampled_labels(logits: Tensor, size: Sequence[int], *, align_corners: bool = False) -> Tensor:
    """The leading class of every pixel after a bilinear resize.

    Equal to ``F.interpolate(logits.float(), size, mode="bilinear",
    align_corners=align_corners).argmax(1)`` in every pixel, ties and infinities included (float64
    stays float64). NaN counts as greatest, as there. Maps with ties everywhere take the slow way
    in every pixel, and so do those with values that are infinite or close to overflow.

    Args:
        logits: ``(N, C, h, w)``, floating point, of at most 256 classes, in any memory layout.
        size: (H, W) of the label map, larger or smaller than (h, w).
        align_corners: As in :func:`torch.nn.functional.interpolate`.

    Returns:
        The labels, uint8 ``(N, H, W)``, on the device of ``logits``.

    Raises:
        TypeError: If ``logits`` is not floating point.
        ValueError: If ``logits`` is not ``(N, C, h, w)``, is empty or has more than 256 classes,
            or ``size`` is not two positive numbers.
    """
    if not logits.is_floating_point():
        raise TypeError(f"logits must be floating point, not {logits.dtype}.")
    if logits.ndim != 4 or logits.numel() == 0 or logits.shape[1] > 256:
        raise ValueError(
            f"logits must be of shape (N, C, h, w), not empty and of at most 256 classes, "
            f"not {tuple(logits.shape)}."
        )
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size is (H, W), both at least 1, not {tuple(size)}.")
    channels_last = logits.is_contiguous(memory_format=torch.channels_last)
    dtype = torch.promote_types(logits.dtype, torch.float32)
    labels = torch.zeros(len(logits), size[0], size[1], dtype=torch.uint8, device=logits.device)
    if logits.shape[1] == 1:
        return labels
    arithmetic = None
    if sum(size) > SMALL:
        arithmetic = _arithmetic(
            logits.shape[1], dtype, logits.device, channels_last, align_corners
        )
    if arithmetic is None:
        for image, label_map in zip(torch.split(logits, 1), labels, strict=True):
            if channels_last:  # one image of several may no longer count as such
                image = image.contiguous(memory_format=torch.channels_last)
            resized = F.interpolate(
                image.to(dtype), tuple(size), mode="bilinear", align_corners=align_corners
            )
            label_map.copy_(resized[0].argmax(0))
        return labels
    sizes = zip(logits.shape[2:], size, strict=True)
    rows, columns = (
        _axis(old, new, align_corners, arithmetic.index_multiply, dtype, logits.device)
        for old, new in sizes
    )
    for image, label_map in zip(logits, labels, strict=True):
        _Upsampling(image, rows, columns, dtype, arithmetic, channels_last).fill(label_map)
    return labels


class _Axis(NamedTuple):
    """Where the pixels along one side of the label map lie between those of the logits.

    Attributes:
        low: Logit before each pixel.
        high: Logit after each pixel.
        weight: Of ``high``.
        pixels: ``(most, h)``: the pixels that have each logit as ``low``, the last one repeated.
        weights: ``weight`` of those.
        empty: Whether a logit is before no pixel, ``(h,)``.
    """

    low: Tensor
    high: Tensor
    weight: Tensor
    pixels: Tensor
    weights: Tensor
    empty: Tensor


class _Arithmetic(NamedTuple):
    """How a kernel of PyTorch rounds.

    Attributes:
        index_multiply: Multiplication with addition, for the positions.
        formulas: Channels and how their logits are computed.
    """

    index_multiply: Multiply
    formulas: Sequence[tuple[Tensor, Callable[..., Tensor], Multiply]]

    def interpolated(self, corners: Corners, rows: Tensor, columns: Tensor) -> Tensor:
        """Logits ``(C, ...)`` from four corners ``(C, ...)`` and the weights of the higher."""
        values = torch.empty_like(corners[0] * rows)
        for channels, formula, multiply in self.formulas:
            own = [corner[channels] for corner in corners]
            values[channels] = formula(multiply, *own, 1 - rows, rows, 1 - columns, columns)
        return values


class _Upsampling:
    """One image's logits on their way to a label map."""

    def __init__(
        self,
        logits: Tensor,
        rows: _Axis,
        columns: _Axis,
        dtype: torch.dtype,
        arithmetic: _Arithmetic,
        channels_last: bool,
    ) -> None:
        self.classes, self.height, self.width = logits.shape
        # As a table that one index selects from, a view wherever the layout allows.
        self.channels_last = channels_last
        self.table = logits.permute(1, 2, 0).flatten(0, 1) if channels_last else logits.flatten(1)
        self.rows, self.columns = rows, columns
        self.dtype = dtype
        self.arithmetic = arithmetic
        # Above all classes, so that the number of a class tells whether others are added to it.
        self.base = 1 << (self.classes - 1).bit_length()
        self.numbers = torch.arange(self.classes, device=logits.device).to(dtype) + self.base

    def fill(self, labels: Tensor) -> None:
        """Write the label map ``(H, W)``."""
        rows, columns = self.rows, self.columns
        leaders, sure, bound = self._leaders_of_logits()
        labels.copy_(leaders.index_select(1, columns.low).index_select(0, rows.low))
        below = (torch.arange(self.height, device=labels.device) + 1).clamp(max=self.height - 1)
        right = (torch.arange(self.width, device=labels.device) + 1).clamp(max=self.width - 1)
        same = sure & (leaders == leaders[:, right]) & sure[:, right]
        mixed = ~(same & (leaders == leaders[below]) & same[below])
        mixed &= ~(rows.empty[:, None] | columns.empty)
        per_cell = self.classes * len(rows.pixels) * len(columns.pixels)
        flat = labels.view(-1)
        # Few pixels of a block are unsure, so they wait until they fill one of their own.
        unsure: list[Tensor] = []
        for cells in torch.split(mixed.nonzero(), max(1, BLOCK // per_cell)):
            unsure.append(self._fill_cells(flat, cells[:, 0], cells[:, 1], bound))
            if self.classes * sum(map(len, unsure)) > BLOCK:
                self._fill_exactly(flat, torch.cat(unsure))
                unsure = []
        if unsure:
            self._fill_exactly(flat, torch.cat(unsure))

    def _leaders_of_logits(self) -> tuple[Tensor, Tensor, Tensor]:
        """Class and whether it is sure, both ``(h, w)``; and what makes a lead sure anywhere."""
        leaders, sure, bounds = [], [], []
        for block in torch.split(
            self.table, max(1, BLOCK // self.classes), 0 if self.channels_last else 1
        ):
            values = block.t() if self.channels_last else block
            values = values.to(self.dtype, copy=True, memory_format=torch.contiguous_format)
            top = values.amax(0)
            bound = self._bound(top.abs(), values)
            leader, is_sure = self._leaders(values, top, bound)
            leaders.append(leader)
            sure.append(is_sure)
            bounds.append(bound.amax())
        shape = (self.height, self.width)
        return (
            torch.cat(leaders).view(shape),
            torch.cat(sure).view(shape),
            torch.stack(bounds).max(),
        )

    def _bound(self, top: Tensor, values: Tensor) -> Tensor:
        """The lead that no rounding can undo; NaN, which no lead exceeds, if sums may overflow."""
        limits = torch.finfo(self.dtype)
        spoilt = (16 * torch.stack(values.aminmax())).sum() * 0
        return top * (_ROUNDINGS * limits.eps) + _ROUNDINGS * limits.tiny + spoilt

    def _leaders(self, values: Tensor, top: Tensor, bound: Tensor) -> tuple[Tensor, Tensor]:
        """Leading class of logits ``(C, P)``, which are spent, and whether it is sure to lead."""
        # A comparison within floats and a product with a vector: several times faster than
        # argmax, and than a comparison that gives booleans. All sums are exact, as all are small.
        # Those that are far are summed: none is far from a top that is NaN.
        far = values.lt_(top - bound)
        with torch.autocast(values.device.type, enabled=False):  # which would round them
            close = self.numbers.sum() - torch.mv(far.t(), self.numbers)
        sure = close < 2 * self.base
        return close.sub_(self.base).clamp_(0, 255).to(torch.uint8), sure

    def _fill_cells(self, labels: Tensor, i: Tensor, j: Tensor, bound: Tensor) -> Tensor:
        """Interpolate the cells (i, j) and write their pixels; return those that are not sure."""
        y = self.rows.pixels.index_select(1, i)[:, None]
        x = self.columns.pixels.index_select(1, j)
        row_weight = self.rows.weights.index_select(1, i)[:, None]
        column_weight = self.columns.weights.index_select(1, j)
        below, right = (i + 1).clamp(max=self.height - 1), (j + 1).clamp(max=self.width - 1)
        a, b, c, d = (self._logits(*at)[:, None] for at in _corners(i, below, j, right))
        upper, lower = torch.lerp(a, b, column_weight), torch.lerp(c, d, column_weight)
        values = torch.lerp(upper[:, None], lower[:, None], row_weight).flatten(1)
        leaders, sure = self._leaders(values, values.amax(0), bound)
        positions = (y * len(self.columns.low) + x).flatten()
        labels.scatter_(0, positions, leaders)
        return positions[~sure]

    def _fill_exactly(self, labels: Tensor, positions: Tensor) -> None:
        for some in torch.split(positions, max(1, BLOCK // self.classes)):
            labels.scatter_(0, some, self._exactly(some))

    def _exactly(self, positions: Tensor) -> Tensor:
        """Labels of some pixels, each logit computed as PyTorch's kernel does."""
        y = positions.div(len(self.columns.low), rounding_mode="floor")
        x = positions - y * len(self.columns.low)
        rows, columns = self.rows, self.columns
        places = _corners(rows.low[y], rows.high[y], columns.low[x], columns.high[x])
        corners = [self._logits(*at) for at in places]
        values = self.arithmetic.interpolated(corners, rows.weight[y], columns.weight[x])
        return values.argmax(0).to(torch.uint8)

    def _logits(self, i: Tensor, j: Tensor) -> Tensor:
        """Logits ``(C, ...)`` at some places."""
        index = i * self.width + j
        if self.channels_last:
            return self.table.index_select(0, index).t().to(self.dtype).contiguous()
        return self.table.index_select(1, index).to(self.dtype)


def _corners(
    top: Tensor, bottom: Tensor, left: Tensor, right: Tensor
) -> list[tuple[Tensor, Tensor]]:
    return [(top, left), (top, right), (bottom, left), (bottom, right)]


def _axis(
    old: int,
    new: int,
    align_corners: bool,
    multiply: Multiply,
    dtype: torch.dtype,
    device: torch.device,
) -> _Axis:
    """Positions as PyTorch computes them, in the logits' precision."""
    pixels = torch.arange(new, device=device)
    if old == new:
        low = high = pixels
        weight = torch.zeros(new, dtype=dtype, device=device)
    else:
        place = pixels.to(dtype)
        one = torch.ones((), dtype=dtype, device=device)
        if align_corners:
            source = place * (one * (old - 1) / max(new - 1, 1))
        else:
            source = multiply(place + 0.5, one * old / new, -0.5 * one).clamp(min=0)
        low = source.float().long().clamp(max=old - 1)  # floorf, of float64 as well
        high = (low + 1).clamp(max=old - 1)
        weight = (source - low).clamp(0, 1)
    bounds = torch.searchsorted(low, torch.arange(old + 1, device=device))
    first, last = bounds[:-1], bounds[1:] - 1
    most = int((last - first).max()) + 1
    steps = torch.arange(most, device=device)[:, None]
    # The pixels of logits without any are never looked at, but must exist.
    spread = torch.minimum(first + steps, last).clamp(0, new - 1)
    return _Axis(low, high, weight, spread, weight[spread], last < first)


def _fused(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """``a * b + c`` rounded once, where the processor can and PyTorch was built for it."""
    return torch.addcmul(c, a, b)


def _rounded(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """``a * b + c``, the product rounded too."""
    return a * b + c


# The orders in which PyTorch's kernels sum up: corners a b / c d, weights of the upper and lower
# row and of the left and right column.
def _by_axis(
    fma: Multiply,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor,
    up: Tensor,
    low: Tensor,
    left: Tensor,
    right: Tensor,
) -> Tensor:
    """Columns first: maps with the classes outermost."""
    return fma(fma(a, left, b * right), up, fma(c, left, d * right) * low)


def _forwards(
    fma: Multiply,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor,
    up: Tensor,
    low: Tensor,
    left: Tensor,
    right: Tensor,
) -> Tensor:
    """By corners: the last classes of maps with the classes innermost."""
    return fma(d, low * right, fma(c, low * left, fma(a, up * left, b * (up * right))))


def _backwards(
    fma: Multiply,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor,
    up: Tensor,
    low: Tensor,
    left: Tensor,
    right: Tensor,
) -> Tensor:
    """By corners: the classes of such maps that fill whole vector registers."""
    return fma(a, up * left, fma(b, up * right, fma(d, low * right, c * (low * left))))


@lru_cache
def _arithmetic(
    classes: int,
    dtype: torch.dtype,
    device: torch.device,
    channels_last: bool,
    align_corners: bool,
) -> _Arithmetic | None:
    """Find out how PyTorch rounds on this machine; None if it is none of the known ways."""
    size = (14, 131)
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(1, classes, 9, 11, generator=generator, dtype=torch.float64)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    probe = probe.to(device, dtype).contiguous(memory_format=layout)
    expected = F.interpolate(probe, size, mode="bilinear", align_corners=align_corners)[0]
    every = torch.arange(classes, device=device)
    for index_multiply in (_rounded, _fused):
        rows, columns = (
            _axis(old, new, align_corners, index_multiply, dtype, device)
            for old, new in zip(probe.shape[2:], size, strict=True)
        )
        places = _corners(rows.low[:, None], rows.high[:, None], columns.low, columns.high)
        corners = [probe[0][:, i, j] for i, j in places]
        unknown = torch.ones(classes, dtype=torch.bool, device=device)
        formulas = []
        for formula in (_by_axis, _forwards, _backwards):
            for multiply in (_fused, _rounded):
                way = _Arithmetic(index_multiply, [(every, formula, multiply)])
                values = way.interpolated(corners, rows.weight[:, None], columns.weight)
                found = unknown & (values == expected).flatten(1).all(1)
                if found.any():
                    formulas.append((every[found], formula, multiply))
                    unknown &= ~found
        if not unknown.any():
            return _Arithmetic(index_multiply, formulas)
    return None
