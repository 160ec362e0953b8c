"""Sorting a million numbers exactly, several times faster than as floats.

The bits of floats of at least 0, read as integers, are in the order of the floats, and PyTorch
sorts integers on a CPU by radix: about ten times faster.
"""

from __future__ import annotations

import torch
from torch import Tensor

_INFINITY = 0x7F800000  # its bits
_ONE = 0x3F800000  # its bits
_LAST = 0x7FFFFFFF  # the largest key


def sort_descending(values: Tensor) -> Tensor:
    """Sort numbers of at least 0, largest first.

    Args:
        values: ``(M,)``, float32 or float64, none negative (-0.0 included) or nan.
    """
    if values.dtype != torch.float32 or values.device.type != "cpu":
        return values.sort(descending=True)[0]
    keys, _ = (_INFINITY - values.view(torch.int32)).sort(stable=True)
    return (_INFINITY - keys).view(torch.float32)


def sort_errors(
    probability: Tensor, true: Tensor, ignored: Tensor | None, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Sort the errors of one class, |true - probability|, largest first.

    Args:
        probability: ``(M,)``, float32 or float64 in 0..1.
        true: bool ``(M,)``, whether a pixel is of the class.
        ignored: bool ``(M,)`` of pixels to leave out, or None.
        count: Number of the pixels that are not ignored.

    Returns:
        ``(count,)`` each: the errors, whether their pixels are of the class, and the index of
        each pixel. Equal errors of pixels of the class come before others.
    """
    errors = torch.where(true, 1 - probability, probability)
    if errors.dtype != torch.float32 or errors.device.type != "cpu":
        if ignored is not None:
            errors = errors.masked_fill(ignored, -1)
        # A stable sort of what is sorted by truth already puts true pixels first among equals.
        by_truth = true.int().sort(descending=True, stable=True)[1]
        errors, order = errors[by_truth].sort(descending=True, stable=True)
        order = by_truth[order[:count]]
        return errors[:count], true[order], order
    # One integer holds the error, turned round, and below it whether the pixel is of the class.
    keys = errors.view(torch.int32).sub_(_ONE).mul_(-2)
    keys.add_(true.view(torch.int8), alpha=-1).add_(1)
    if ignored is not None:
        keys.masked_fill_(ignored, _LAST)
    keys, order = keys.sort(stable=True)
    keys = keys[:count].sub_(1).neg_()
    errors = (keys >> 1).add_(_ONE).view(torch.float32)
    return errors, keys.bitwise_and_(1).bool(), order[:count]
