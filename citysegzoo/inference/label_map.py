"""The label map of upsampled logits, without the upsampled logits.

Where one class leads at all four corners of a cell of the small map it leads in the whole cell,
as bilinear weights are convex. That holds in exact arithmetic; in floating point a lead may be
rounded away, so only leads above a bound on all rounding count. The other cells are interpolated,
operation by operation as PyTorch's own kernel does, in blocks that stay in cache: those alone
where they are few or the map shrinks, all of them in turn where they are many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from citysegzoo.lead import BLOCK, lead

SMALL = 128
"""Up to this H + W, PyTorch has other kernels on a CPU, and no memory needs to be saved."""

FEW = 0.25
"""Share of the cells up to which it is faster to pick them out."""

# Two ways to compute one upsampled logit differ by less than 16 roundings (half an epsilon each)
# of sum(weight * |corner|), which for a class that comes close to the lead is at most 3 times that
# of the leading logits; and two classes are compared: 48 epsilons, rounded up.
_ROUNDINGS = 64

Multiply = Callable[[Tensor, Tensor, Tensor], Tensor]
Between = Callable[[Tensor], Tensor]
Formula = Callable[[Multiply, Tensor, Tensor, Tensor], Between]


@torch.no_grad()
def upsampled_labels(logits: Tensor, size: Sequence[int], *, align_corners: bool = False) -> Tensor:
    """The leading class of every pixel after a bilinear resize.

    Equal to ``F.interpolate(logits.float(), size, mode="bilinear",
    align_corners=align_corners).argmax(1)`` in every pixel, ties and infinities included (float64
    stays float64). NaN counts as greatest, as there. (PyTorch 2.6 rounds the last few classes of
    some layouts otherwise, and classes that are a rounding apart may change places there.)

    On a CPU the upsampled logits never exist; only maps with values that are NaN, infinite or
    close to overflow take long. On a GPU they do, those of one image at a time.

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
    dtype = torch.promote_types(logits.dtype, torch.float32)
    layout = _layout(logits, dtype)
    labels = torch.zeros(len(logits), size[0], size[1], dtype=torch.uint8, device=logits.device)
    if logits.shape[1] == 1:
        return labels
    arithmetic = None
    if logits.is_cpu and sum(size) > SMALL:
        arithmetic = _arithmetic(logits.shape[1], dtype, layout, align_corners)
    if arithmetic is None:
        images = torch.split(logits, 1)
        if _layout(images[0], dtype) != layout:  # every other of several, for instance
            images = (logits,)
        for image, label_map in zip(images, torch.split(labels, len(images[0])), strict=True):
            resized = F.interpolate(
                image.to(dtype), tuple(size), mode="bilinear", align_corners=align_corners
            )
            label_map.copy_(resized.argmax(1))
        return labels
    sizes = zip(logits.shape[2:], size, strict=True)
    rows, columns = (
        _axis(old, new, align_corners, arithmetic.index_multiply, dtype) for old, new in sizes
    )
    for image, label_map in zip(logits, labels, strict=True):
        _Upsampling(image, rows, columns, dtype, arithmetic).fill(label_map)
    return labels


Layout = Literal["classes outermost", "channels last", "classes innermost"]


def _layout(logits: Tensor, dtype: torch.dtype) -> Layout:
    """The memory layout after a conversion to ``dtype``, which decides on PyTorch's kernel."""
    like = logits
    if logits.dtype != dtype:  # copies leave nothing between the rows
        like = torch.empty_like(logits, dtype=dtype, device="meta")
    if like.is_contiguous(memory_format=torch.channels_last):
        return "channels last"
    innermost = not like.is_contiguous() and like.stride(1) == 1
    return "classes innermost" if innermost else "classes outermost"


class _Axis(NamedTuple):
    """Where the pixels along one side of the label map lie between those of the logits.

    Cell i lies between the logits i - 1 and i; at either end a logit is its own neighbour.

    Attributes:
        low: Logit before each pixel.
        high: Logit after each pixel.
        weight: Of ``high``.
        pixels: ``(most, old + 1)``: the pixels of each cell, the last one repeated.
        weights: ``weight`` of those.
        empty: Whether a cell has no pixels, ``(old + 1,)``.
        cells: From the first to the last cell with pixels.
        unbroken: Whether all between have some too.
    """

    low: Tensor
    high: Tensor
    weight: Tensor
    pixels: Tensor
    weights: Tensor
    empty: Tensor
    cells: slice
    unbroken: bool


class _Arithmetic(NamedTuple):
    """How a kernel of PyTorch rounds.

    Attributes:
        index_multiply: Multiplication with addition, for the positions.
        formulas: Classes and how their logits are computed, in order.
    """

    index_multiply: Multiply
    formulas: Sequence[tuple[slice, Formula, Multiply]]

    def interpolate(self, left: Tensor, right: Tensor, columns: Tensor) -> Between:
        """Interpolate within rows of logits.

        Args:
            left: Before n cells in each of R + 1 rows, ``(R + 1, C, 1, n)``.
            right: After them.
            columns: Weights of ``right`` for X pixels of each cell, ``(X, n)``.

        Returns:
            What interpolates between these rows: from weights that broadcast with
            ``(Y, R, 1, 1, n)`` to logits ``(Y, R, C, X, n)``.
        """
        parts = [
            formula(multiply, left[:, classes], right[:, classes], columns)
            for classes, formula, multiply in self.formulas
        ]
        if len(parts) == 1:
            return parts[0]
        return lambda rows: torch.cat([part(rows) for part in parts], -3)


class _Upsampling:
    """One image's logits on their way to a label map."""

    def __init__(
        self,
        logits: Tensor,
        rows: _Axis,
        columns: _Axis,
        dtype: torch.dtype,
        arithmetic: _Arithmetic,
    ) -> None:
        self.logits = logits
        self.classes = len(logits)
        # All logits of a place in a row: a view where the classes lie outermost or innermost.
        self.table = logits.permute(1, 2, 0).flatten(0, 1)
        self.rows, self.columns = rows, columns
        self.dtype = dtype
        self.arithmetic = arithmetic

    def fill(self, labels: Tensor) -> None:
        """Write the label map ``(H, W)``."""
        rows, columns = self.rows, self.columns
        flat = labels.view(-1)
        leaders = self._leaders_of_logits()
        if leaders is None:
            step = self._at_once(1)
            for first in range(0, len(flat), step):
                own = flat[first : first + step]
                pixels = torch.arange(first, first + len(own), device="cpu")
                own.copy_(self._pixels(pixels).argmax(0))
            return
        padded = [torch.arange(-1, n + 1, device="cpu").clamp(0, n - 1) for n in leaders.shape]
        around = leaders[padded[0][:, None], padded[1]]
        corner = around[:-1, :-1]
        mixed = (corner < 0) | (corner != around[:-1, 1:])
        mixed |= (corner != around[1:, :-1]) | (corner != around[1:, 1:])
        mixed &= ~(rows.empty[:, None] | columns.empty)
        if rows.unbroken and columns.unbroken and mixed.sum() > FEW * mixed.numel():
            self._fill_rows(flat)
            return
        # Rows are selected many times faster than columns.
        across = leaders.to(torch.uint8).t().contiguous().index_select(0, columns.low)
        torch.index_select(across.t().contiguous(), 0, rows.low, out=labels)
        picked = mixed.nonzero()
        step = self._at_once(len(columns.pixels))
        for cells in torch.split(picked, step) if len(picked) else []:
            self._fill_cells(flat, cells[:, 0], cells[:, 1])

    def _leaders_of_logits(self) -> Tensor | None:
        """Leading classes ``(h, w)``, -1 where rounding may change one.

        Returns:
            None if some logits are NaN, infinite, or so large that sums of them may be.
        """
        found: list[tuple[Tensor, ...]] = []
        height, width = self.logits.shape[1:]
        step = self._at_once(width)
        shape = (min(step, height), self.classes, width)
        block = torch.empty(shape, dtype=self.dtype, device="cpu")
        for first in range(0, height, step):
            rows = self.logits[:, first : first + step].transpose(0, 1)
            values = block[: len(rows)].copy_(rows)
            least = values.amin()[None]
            top, leaders = lead(values)
            second = values.scatter_(1, leaders[:, None], -torch.inf).amax(1)
            found.append((least, top, leaders.short(), second))
        least, top, leaders, second = map(torch.cat, zip(*found, strict=True))
        if not (16 * torch.stack([least.amin(), top.amax()])).isfinite().all():
            return None
        limits = torch.finfo(self.dtype)
        bound = top.abs().mul_(_ROUNDINGS * limits.eps).add_(_ROUNDINGS * limits.tiny)
        return leaders.masked_fill_(top.sub_(second) <= bound, -1)

    def _fill_rows(self, flat: Tensor) -> None:
        """Interpolate all cells, some rows of them at a time."""
        rows, columns = self.rows, self.columns
        x, column_weights = (of[:, columns.cells] for of in (columns.pixels, columns.weights))
        step = self._at_once(x.numel())
        for first in range(rows.cells.start, rows.cells.stop, step):
            own = slice(first, min(first + step, rows.cells.stop))
            logits = self._padded(own.start, own.stop)[:, :, None]
            left, right = (logits[..., i:][..., columns.cells] for i in (0, 1))
            y, weights = (of[:, own, None, None] for of in (rows.pixels, rows.weights))
            self._fill(flat, left, right, y, weights[..., None], x, column_weights)

    def _fill_cells(self, flat: Tensor, i: Tensor, j: Tensor) -> None:
        """Interpolate the cells (i, j)."""
        rows, columns = self.rows, self.columns
        height, width = self.logits.shape[1:]
        left, right = self._around(
            ((i - 1).clamp(min=0), i.clamp(max=height - 1)),
            ((j - 1).clamp(min=0), j.clamp(max=width - 1)),
        )
        y, weights = (of[:, None, None, i] for of in (rows.pixels, rows.weights))
        x = columns.pixels[:, j]
        self._fill(flat, left, right, y, weights[:, None], x, columns.weights[:, j])

    def _fill(
        self,
        flat: Tensor,
        left: Tensor,
        right: Tensor,
        y: Tensor,
        row_weights: Tensor,
        x: Tensor,
        column_weights: Tensor,
    ) -> None:
        """Interpolate cells of Y by X pixels, n in each of R rows.

        Args:
            flat: The label map, its pixels in a row.
            left: Logits before the cells, ``(R + 1, C, 1, n)``.
            right: Logits after them.
            y: Rows of the pixels, broadcast with ``(Y, R, 1, n)``.
            row_weights: Broadcast with ``(Y, R, 1, 1, n)``.
            x: Columns of the pixels, ``(X, n)``.
            column_weights: ``(X, n)``.
        """
        between = self.arithmetic.interpolate(left, right, column_weights)
        step = self._at_once((len(left) - 1) * x.numel())
        parts = zip(torch.split(y, step), torch.split(row_weights, step), strict=True)
        for rows, weights in parts:
            _, leaders = lead(between(weights).flatten(0, 1))
            positions = rows * len(self.columns.low) + x
            flat.scatter_(0, positions.flatten(), leaders.to(torch.uint8).flatten())

    def _at_once(self, pixels: int) -> int:
        """How many times the logits of so many pixels fit into a block."""
        return max(1, BLOCK // (self.classes * pixels))

    def _pixels(self, positions: Tensor) -> Tensor:
        """The logits of some pixels, ``(C, n)``."""
        rows, columns = self.rows, self.columns
        y = positions.div(len(columns.low), rounding_mode="floor")
        x = positions - y * len(columns.low)
        left, right = self._around((rows.low[y], rows.high[y]), (columns.low[x], columns.high[x]))
        between = self.arithmetic.interpolate(left, right, columns.weight[None, x])
        return between(rows.weight[y].view(1, 1, 1, 1, -1))[0, 0, :, 0]

    def _around(self, rows: Sequence[Tensor], columns: Sequence[Tensor]) -> list[Tensor]:
        """Logits on the left and on the right of n places, each ``(2, C, 1, n)``."""
        width = self.logits.shape[2]
        return [
            torch.stack([self.table[i * width + j].t().to(self.dtype) for i in rows])[:, :, None]
            for j in columns
        ]

    def _padded(self, first: int, end: int) -> Tensor:
        """Logits around some rows of cells, ``(R + 1, C, w + 2)``, repeated beyond the edges."""
        height, width = self.logits.shape[1:]
        rows = self.logits[:, max(first - 1, 0) : end].transpose(0, 1)
        shape = (end - first + 1, self.classes, width + 2)
        padded = torch.empty(shape, dtype=self.dtype, device="cpu")
        inside = padded[int(first == 0) :][: len(rows)]
        inside[..., 1:-1] = rows
        inside[..., 0], inside[..., -1] = inside[..., 1], inside[..., -2]
        if first == 0:
            padded[0] = padded[1]
        if end > height:
            padded[-1] = padded[-2]
        return padded


def _axis(
    old: int,
    new: int,
    align_corners: bool,
    multiply: Multiply,
    dtype: torch.dtype,
) -> _Axis:
    """Positions as PyTorch computes them, in the logits' precision."""
    pixels = torch.arange(new, device="cpu")
    if old == new:
        source = pixels.to(dtype)
    elif align_corners:
        one = torch.ones((), dtype=dtype, device="cpu")
        source = pixels.to(dtype) * (one * (old - 1) / max(new - 1, 1))
    else:
        one = torch.ones(new, dtype=dtype, device="cpu")
        source = multiply(pixels.to(dtype) + 0.5, one * old / new, -0.5 * one)
    outside = source < 0
    source = source.clamp(min=0)
    low = source.float().long().clamp(max=old - 1)  # floorf, of float64 as well
    high = low if old == new else (low + 1).clamp(max=old - 1)
    weight = (source - low).clamp(0, 1)
    cell = (low + 1).masked_fill_(outside, 0)
    counts = torch.bincount(cell, minlength=old + 1)
    first = counts.cumsum(0) - counts
    steps = torch.arange(int(counts.max()), device="cpu")[:, None]
    # The pixels of cells without any are never looked at, but must exist.
    spread = (first + torch.minimum(steps, counts - 1)).clamp(0, new - 1)
    cells = slice(int(cell[0]), int(cell[-1]) + 1)
    empty = counts == 0
    unbroken = not empty[cells].any()
    return _Axis(low, high, weight, spread, weight[spread], empty, cells, unbroken)


def _fused(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """``a * b + c`` in place of ``c``, rounded once where the processor and PyTorch's build can."""
    return c.addcmul_(a, b)


def _rounded(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """``a * b + c``, the product rounded too."""
    return a * b + c


# The orders in which PyTorch's kernels sum up the corners 0 1 / 2 3, by weights of the right
# ones and of the lower ones.
def _by_axis(fma: Multiply, left: Tensor, right: Tensor, columns: Tensor) -> Between:
    """Columns first: maps with the classes outermost."""
    across = fma(left, 1 - columns, right * columns)
    return lambda rows: fma(across[:-1], 1 - rows, across[1:] * rows)


def _by_corners(*order: int) -> Formula:
    """By corners, of the numbers 0 to 3, in this order: maps with the classes innermost."""

    def formula(fma: Multiply, left: Tensor, right: Tensor, columns: Tensor) -> Between:
        corners = (left[:-1], right[:-1], left[1:], right[1:])

        def between(rows: Tensor) -> Tensor:
            weights = [
                row * column for row in (1 - rows, rows) for column in (1 - columns, columns)
            ]
            first, *others = order
            values = corners[first] * weights[first]
            for i in others:
                values = fma(corners[i], weights[i], values)
            return values

        return between

    return formula


# The last classes, and those that fill whole vector registers.
_FORMULAS = (_by_axis, _by_corners(1, 0, 2, 3), _by_corners(2, 3, 1, 0))


@lru_cache
def _arithmetic(
    classes: int,
    dtype: torch.dtype,
    layout: Layout,
    align_corners: bool,
) -> _Arithmetic | None:
    """Find out how PyTorch rounds on this machine; None if it is none of the known ways."""
    size = (14, 131)
    generator = torch.Generator("cpu").manual_seed(0)
    probe = torch.randn(1, classes, 9, 11, generator=generator, dtype=dtype, device="cpu")
    if layout != "classes outermost":
        probe = probe.contiguous(memory_format=torch.channels_last)
    if layout == "classes innermost":  # with something between the rows
        probe = F.pad(probe, (0, 1))[..., :-1]
    expected = F.interpolate(probe, size, mode="bilinear", align_corners=align_corners)
    expected = expected[0].flatten(1)
    every = torch.arange(expected.shape[1], device="cpu")
    for index_multiply in (_rounded, _fused):
        rows, columns = (
            _axis(old, new, align_corners, index_multiply, dtype)
            for old, new in zip(probe.shape[2:], size, strict=True)
        )
        ways: list[tuple[Formula, Multiply] | None] = [None] * classes
        for formula in _FORMULAS:
            for multiply in (_fused, _rounded):
                way = _Arithmetic(index_multiply, [(slice(None), formula, multiply)])
                values = _Upsampling(probe[0], rows, columns, dtype, way)._pixels(every)
                for i, same in enumerate((values == expected).all(1).tolist()):
                    ways[i] = ways[i] or ((formula, multiply) if same else None)
        formulas, start = [], 0
        for found, same in groupby(ways):
            end = start + len(list(same))
            if found is None:
                break
            formulas.append((slice(start, end), *found))
            start = end
        else:
            return _Arithmetic(index_multiply, formulas)
    return None
