"""Scores of images of any size, a few rows at a time: from tiles that overlap and blend.

A tile's scores are kept as the small maps that the network gives, of the rows of tiles that are
still needed: two, where tiles overlap by half or less. Full-size scores exist of one block of
rows only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from threading import Lock
from typing import Any, NamedTuple

import torch
from torch import Tensor

from citysegzoo.layers import resize

BLOCK = 1 << 18
"""Scores at a time on a CPU: 1 MB of float32, little enough for the caches."""

BLOCK_ELSEWHERE = 1 << 26
"""Scores at a time on a GPU: as few blocks as 256 MB allow."""

_counting = Lock()

Maps = Sequence[Tensor]
"""Logits ``(C, h, w)`` of each view of one tile."""


class Tiling(NamedTuple):
    """How one side is cut up.

    Attributes:
        starts: First pixel of each tile.
        length: Pixels of each tile.
        weights: ``(tiles, length)``, float32; those of a pixel sum to 1 over the tiles.
    """

    starts: list[int]
    length: int
    weights: Tensor


def tiling(size: int, tile: int, overlap: int, stride: int) -> Tiling:
    """Cut ``size`` pixels into tiles of one length that overlap by at least ``overlap``.

    They are spread evenly, and start at multiples of ``stride``, where the network's own grid has
    its cells, but for the last one, which ends with the image. Weights fall linearly over the
    overlap.
    """
    tile = min(tile, size)
    step = max(1, tile - overlap)
    stride = min(stride, step)
    cells = math.ceil((size - tile) / stride)
    gaps = max(1, math.ceil(cells / (step // stride)))
    starts = sorted({min(i * cells // gaps * stride, size - tile) for i in range(gaps + 1)})
    # On the CPU whatever torch's default device is.
    along = torch.arange(tile, dtype=torch.float64, device="cpu")
    ramp = torch.minimum(along, along.flip(0)) + 0.5
    hat = (ramp / max(overlap, 1)).clamp(max=1)
    total = torch.zeros(size, dtype=torch.float64, device="cpu")
    for start in starts:
        total[start : start + tile] += hat
    weights = [hat / total[start : start + tile] for start in starts]
    return Tiling(starts, tile, torch.stack(weights).float())


def blended_rows(
    maps: Callable[[slice, slice], Maps],
    rows: Tiling,
    columns: Tiling,
    *,
    align_corners: bool,
    on_cpu: bool,
    reduce: Callable[[Tensor], Tensor],
) -> Iterator[Tensor]:
    """Scores of an image, block of rows by block of rows.

    Args:
        maps: The views' logits of the tile at these rows and columns.
        rows: The tiles along the height.
        columns: The tiles along the width.
        align_corners: Of the bilinear resize of the logits.
        on_cpu: Whether the logits are in the CPU's memory.
        reduce: What is made of a block, float32 ``(C, rows, W)``: the blended logits, or mean
            probabilities of several views.

    Yields:
        What ``reduce`` gives.
    """
    width = columns.starts[-1] + columns.length
    kept: dict[int, list[Maps]] = {}  # by row of tiles
    ends = [*rows.starts[1:], rows.starts[-1] + rows.length]
    limit = BLOCK if on_cpu else BLOCK_ELSEWHERE
    with one_core() if on_cpu else nullcontext(_called) as run:
        for number, (start, end) in enumerate(zip(rows.starts, ends, strict=True)):
            kept = {i: tiles for i, tiles in kept.items() if rows.starts[i] + rows.length > start}
            at = slice(start, start + rows.length)
            kept[number] = [maps(at, slice(x, x + columns.length)) for x in columns.starts]
            # Rows from here to the next tile are complete.
            height = max(1, limit // (len(kept[number][0][0]) * width))
            for top in range(start, end, height):
                bottom = min(top + height, end)
                yield run(_block, kept, rows, columns, top, bottom, align_corners, reduce)


def _block(
    kept: Mapping[int, Sequence[Maps]],
    rows: Tiling,
    columns: Tiling,
    top: int,
    bottom: int,
    align_corners: bool,
    reduce: Callable[[Tensor], Tensor],
) -> Tensor:
    """What becomes of the rows from ``top`` to ``bottom``, of the tiles that are there."""
    first = next(iter(kept.values()))[0][0]
    size = (rows.length, columns.length)
    block = first.new_zeros(len(first), bottom - top, columns.starts[-1] + columns.length)
    for i, tiles in kept.items():
        y = rows.starts[i]
        stop = min(bottom, y + rows.length)
        if stop <= top:
            continue
        for x, weights, views in zip(columns.starts, columns.weights, tiles, strict=True):
            scores = scores_of_rows(views, size, top - y, stop - y, align_corners)
            weight = rows.weights[i, top - y : stop - y, None] * weights
            part = block[:, : stop - top, x : x + columns.length]
            part.addcmul_(scores, weight.to(scores.device))
    return reduce(block)


def _called(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


def _compute_with(cores: int) -> None:
    torch.set_num_threads(cores)
    torch.get_num_threads()  # a thread takes the number then in force when it first asks


@contextmanager
def one_core() -> Iterator[Callable[..., Any]]:
    """What calls a function where PyTorch computes with one core, and gives what it gives.

    Small operations are faster so: 30 times, where other work needs the cores. It is a thread of
    its own, since a number of cores also holds for threads that have yet to compute; it is set
    back at once.
    """
    inference = torch.is_inference_mode_enabled()
    with ThreadPoolExecutor(1) as pool:
        # One at a time: another one would take the 1 in between for the number to go back to.
        with _counting:
            cores = torch.get_num_threads()
            pool.submit(_compute_with, 1).result()
            torch.set_num_threads(cores)

        def run(function: Callable[..., Any], *args: Any) -> Any:
            return pool.submit(torch.inference_mode(inference)(function), *args).result()

        yield run


def scores_of_rows(
    views: Maps, size: tuple[int, int], start: int, stop: int, align_corners: bool
) -> Tensor:
    """Rows of one tile's scores: its logits, or the mean of several views' probabilities."""
    if len(views) == 1:
        return _rows(views[0], size, start, stop, align_corners)
    scores = _rows(views[0], size, start, stop, align_corners).softmax(0)
    for view in views[1:]:
        scores += _rows(view, size, start, stop, align_corners).softmax(0)
    return scores.div_(len(views))


def _rows(
    logits: Tensor, size: tuple[int, int], start: int, stop: int, align_corners: bool
) -> Tensor:
    """Rows of logits ``(C, h, w)`` enlarged bilinearly, as a tensor of its own."""
    old, new = logits.shape[1], size[0]
    if old == new:
        rows = logits[:, start:stop].clone()
    else:
        y = torch.arange(start, stop, dtype=torch.float64, device="cpu")
        if align_corners:
            source = y * ((old - 1) / max(new - 1, 1))
        else:
            source = ((y + 0.5) * (old / new) - 0.5).clamp(0, old - 1)
        low = source.long().clamp(max=old - 1)
        high = (low + 1).clamp(max=old - 1)
        low, high, weight = (t.to(logits.device) for t in (low, high, (source - low).float()))
        rows = torch.lerp(logits[:, low], logits[:, high], weight[:, None])
    return resize(rows[None], (stop - start, size[1]), align_corners=align_corners)[0]
