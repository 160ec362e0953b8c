"""The leading class of every pixel, several times faster on a CPU than argmax."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 1 << 19
"""Logits looked at together: 2 MB of float32, little enough for the caches."""


def lead(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The greatest logit of every pixel, and its class: ``torch.max(logits, 1)`` without NaN.

    Args:
        logits: ``(N, C, *size)``, floating point. On a CPU fastest where one class of one image
            lies in a row.

    Returns:
        Logits and classes (int64), both ``(N, *size)``. The first class where several are as
        great; one that is NaN, not always the first, where some are.
    """
    if not logits.is_cpu:
        top, leaders = logits.max(1)
        return top, leaders
    number, classes, *size = logits.shape
    pixels = logits.reshape(number, classes, 1, -1).contiguous().permute(0, 3, 1, 2)
    # One vectorised pass over all classes, which max and argmax are not.
    top, leaders = F.max_pool2d(pixels, (classes, 1), return_indices=True)
    return top.reshape(number, *size), leaders.reshape(number, *size)


@torch.no_grad()
def leading_classes(logits: Tensor, *, refuse_nan: bool = False) -> Tensor:
    """The leading class of every pixel: ``logits.argmax(1)``.

    Args:
        logits: ``(N, C, H, W)``, floating point, in any memory layout.
        refuse_nan: Whether NaN raises, which on other devices than a CPU is not looked for.

    Returns:
        ``(N, H, W)``, uint8 of at most 256 classes, else int64.

    Raises:
        ValueError: If a logit is NaN and that is refused.
    """
    number, classes, height, width = logits.shape
    dtype = torch.uint8 if classes <= 256 else torch.int64
    if not logits.is_cpu or not logits.numel():
        return logits.argmax(1).to(dtype)
    leaders = torch.empty(number, height, width, dtype=dtype, device=logits.device)
    step = max(1, BLOCK // (classes * width))
    for image, own in zip(logits, leaders, strict=True):
        for rows in (slice(first, first + step) for first in range(0, height, step)):
            some = image[:, rows].transpose(0, 1)
            top, found = lead(some)
            nan = bool(top.isnan().any())
            if nan and refuse_nan:
                raise ValueError("the logits hold NaN: the network has diverged, or its input has.")
            own[rows] = some.argmax(1) if nan else found
    return leaders
