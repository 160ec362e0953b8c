"""Counting which label was predicted where which one is true."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_BYTE = np.uint64(0xFF)
_EACH_BYTE = np.uint64(0x0101010101010101)
_PIECE = 1 << 18  # pixels whose keys stay in the cache


def count_pairs(
    prediction: npt.NDArray[np.uint8], target: npt.NDArray[np.uint8]
) -> npt.NDArray[np.int64]:
    """Count pixel pairs: entry ``[t, p]`` is the number of pixels of label t predicted as p.

    Streets are made of areas: most runs of eight pixels have one label and one prediction, and
    such a run is counted at once. Where that is not so, pixels are counted one by one.

    Args:
        prediction: uint8 array of any shape.
        target: uint8 array of the same shape.

    Returns:
        int64 ``(256, 256)``.
    """
    p, t = np.ascontiguousarray(prediction).reshape(-1), np.ascontiguousarray(target).reshape(-1)
    whole = t.size - t.size % 8
    runs_p, runs_t = p[:whole].view(np.uint64), t[:whole].view(np.uint64)
    sample = _even(runs_p[::16], runs_t[::16])
    if 2 * np.count_nonzero(sample) < sample.size:
        return _count(p, t)
    even = _even(runs_p, runs_t)
    table = 8 * _count(runs_p[even].astype(np.uint8), runs_t[even].astype(np.uint8))
    uneven = ~even
    table += _count(runs_p[uneven].view(np.uint8), runs_t[uneven].view(np.uint8))
    if whole < t.size:
        table += _count(p[whole:], t[whole:])
    return table


def _even(p: npt.NDArray[np.uint64], t: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Which runs have one value: those that are their last byte, eight times over."""
    return ((p & _BYTE) * _EACH_BYTE == p) & ((t & _BYTE) * _EACH_BYTE == t)


def _count(p: npt.NDArray[np.uint8], t: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    table = np.zeros(1 << 16, np.int64)
    for start in range(0, t.size, _PIECE):
        keys = t[start : start + _PIECE].astype(np.uint16)
        keys <<= 8
        keys |= p[start : start + _PIECE]
        table += np.bincount(keys, minlength=1 << 16)
    return table.reshape(256, 256)
