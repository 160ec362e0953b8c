"""Class weights from pixel counts, as :func:`~citysegzoo.losses.count_pixels` makes them.

Streets are mostly road and building. A weight for each class, drawn from how often it occurs,
keeps a loss from learning those alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from citysegzoo.arguments import check_number

Counts = Tensor | npt.NDArray[Any] | Sequence[float]
"""Pixels of each class: C numbers, none negative."""


def log_frequency_weights(
    counts: Counts, *, mu: float = 0.15, floor: float = 1.0, absent: float | None = None
) -> Tensor:
    """``max(floor, ln(mu * sum / n_c))`` for each class, the weights of stevens2020.

    Formulas (3) and (4) of the report; the logarithm is the natural one.

    Args:
        counts: Pixels of each class, ``(C,)``.
        mu: Share of all pixels, above 0: a class of that share has logarithm 0.
        floor: Least weight, 0 or more.
        absent: Weight of the classes without a pixel, which have no finite one of their own.

    Returns:
        float32 ``(C,)``.

    Raises:
        ValueError: If the counts are no counts, an option is out of range, or a class has no pixel
            and ``absent`` is None.
        TypeError: If the counts or an option are no numbers.
    """
    check_number("mu", mu, above=0)
    check_number("floor", floor, least=0)

    def weigh(n: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.maximum(floor, np.log(mu * n.sum() / n))

    return _weigh_present(_checked("counts", counts), absent, weigh)


def inverse_root_weights(
    counts: Counts, *, largest: float = 5.0, absent: float | None = None
) -> Tensor:
    """``largest * sqrt(min n / n_c)`` for each class, the weights of xiang2020.

    Args:
        counts: Pixels of each class, ``(C,)``.
        largest: Weight of the rarest class, above 0.
        absent: Weight of the classes without a pixel. They are left out of the minimum.

    Returns:
        float32 ``(C,)``.

    Raises:
        ValueError: If the counts are no counts, an option is out of range, or a class has no pixel
            and ``absent`` is None.
        TypeError: If the counts or an option are no numbers.
    """
    check_number("largest", largest, above=0)
    return _weigh_present(
        _checked("counts", counts), absent, lambda n: largest * np.sqrt(n.min() / n)
    )


def median_frequency_weights(
    counts: Counts, *, image_pixels: Counts | None = None, absent: float | None = None
) -> Tensor:
    """Median frequency balancing: ``median frequency / frequency`` of each class.

    Eigen, Fergus, "Predicting Depth, Surface Normals and Semantic Labels with a Common Multi-Scale
    Convolutional Architecture", ICCV 2015. The frequency of a class is its share of
    the pixels of those images in which it occurs, so that a class which fills few images counts as
    frequent there. The median of an even number of classes is the mean of the middle two.

    Args:
        counts: Pixels of each class, ``(C,)``.
        image_pixels: Pixels of the images in which each class occurs, ``(C,)``, as
            :class:`PixelCounts` has them. Without them the share of all pixels is the frequency.
        absent: Weight of the classes without a pixel. They are left out of the median.

    Returns:
        float32 ``(C,)``.

    Raises:
        ValueError: If the counts are no counts, ``image_pixels`` does not fit them, or a class has
            no pixel and ``absent`` is None.
        TypeError: If the counts or ``absent`` are no numbers.
    """
    pixels = _checked("counts", counts)
    if image_pixels is None:
        return _weigh_present(pixels, absent, lambda n: np.median(n) / n)
    room = _checked("image_pixels", image_pixels)
    if room.shape != pixels.shape:
        raise ValueError(
            f"image_pixels must hold one number for each of the {pixels.size} classes, "
            f"not {room.size}."
        )
    if (room < pixels).any():
        raise ValueError(
            f"image_pixels of class {_numbers(room < pixels)} must be at least the class's own "
            f"count; give the pixels of the images in which the class occurs."
        )
    room = room[pixels > 0]

    def weigh(n: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray(np.median(n / room) / (n / room))

    return _weigh_present(pixels, absent, weigh)


def inverse_frequency_weights(counts: Counts, *, absent: float | None = None) -> Tensor:
    """``sum / (C * n_c)`` for each class: every class weighs the same in all, a pixel 1 on average.

    Args:
        counts: Pixels of each class, ``(C,)``.
        absent: Weight of the classes without a pixel. They are left out of C, so that the average
            over the pixels stays 1.

    Returns:
        float32 ``(C,)``.

    Raises:
        ValueError: If the counts are no counts, or a class has no pixel and ``absent`` is None.
        TypeError: If the counts or ``absent`` are no numbers.
    """
    return _weigh_present(_checked("counts", counts), absent, lambda n: n.sum() / (n.size * n))


def enet_weights(counts: Counts, *, c: float = 1.02, absent: float | None = None) -> Tensor:
    """``1 / ln(c + n_c / sum)`` for each class, the weights of ENet.

    Paszke, Chaurasia, Kim, Culurciello, "ENet: A Deep Neural Network Architecture for Real-Time
    Semantic Segmentation", arXiv:1606.02147, 2016. At 1.02 they lie between 1.42 and 50.5.

    Args:
        counts: Pixels of each class, ``(C,)``.
        c: Bounds the weights to at most ``1 / ln(c)``; above 1.
        absent: Weight of the classes without a pixel. None gives them what the formula does, the
            largest weight, ``1 / ln(c)``; unlike the other weights this one is finite.

    Returns:
        float32 ``(C,)``.

    Raises:
        ValueError: If the counts are no counts, or an option is out of range.
        TypeError: If the counts or an option are no numbers.
    """
    check_number("c", c, above=1)
    return _weigh_present(
        _checked("counts", counts),
        1 / math.log(c) if absent is None else absent,
        lambda n: 1 / np.log(c + n / n.sum()),
    )


CLASS_WEIGHTS: dict[str, Callable[..., Tensor]] = {
    "enet": enet_weights,
    "inverse_frequency": inverse_frequency_weights,
    "inverse_root": inverse_root_weights,
    "log_frequency": log_frequency_weights,
    "median_frequency": median_frequency_weights,
}
"""The formulas by name, to choose one on a command line; each takes counts and ``absent``."""


def _checked(name: str, counts: Counts) -> npt.NDArray[np.float64]:
    """``counts`` as float64 ``(C,)``, or one sentence saying what they must be."""
    kind = f"{name} must be a sequence of numbers, one for each class"
    try:
        if isinstance(counts, Tensor):
            array = (counts.double() if counts.is_floating_point() else counts).numpy(force=True)
        else:
            array = np.asarray(counts)
    except ValueError as error:  # rows of unequal length
        raise ValueError(f"{kind}, not one of sequences.") from error
    if array.dtype.kind not in "iuf":
        what = type(counts).__name__ if array.ndim == 0 else f"values such as {array.flat[0]!r}"
        raise TypeError(f"{kind}, not {what}.")
    if array.ndim != 1:
        raise ValueError(f"{kind}, not of shape {array.shape}.")
    if array.size == 0:
        raise ValueError(f"{name} is empty; give one number for each class.")
    array = array.astype(np.float64)
    wrong = ~(np.isfinite(array) & (array >= 0))
    if wrong.any():
        raise ValueError(
            f"{name} must hold finite numbers of at least 0, not {array[wrong][0]:g} "
            f"for class {np.flatnonzero(wrong)[0]}."
        )
    if not array.any():
        raise ValueError(f"{name} is 0 for every class; count a data set that has labels.")
    return array


def _weigh_present(
    counts: npt.NDArray[np.float64],
    absent: float | None,
    weigh: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]],
) -> Tensor:
    """Weights by ``weigh`` of the classes that occur, and ``absent`` for the others."""
    present = counts > 0
    if absent is not None:
        check_number("absent", absent, least=0)
    elif not present.all():
        raise ValueError(
            f"no pixel is of class {_numbers(~present)}, so no weight follows; "
            f"give such classes one with absent=, for example absent=0."
        )
    weights = np.full(counts.shape, absent or 0.0, np.float64)
    weights[present] = weigh(counts[present])
    return torch.from_numpy(weights.astype(np.float32))


def _numbers(mask: npt.NDArray[np.bool_]) -> str:
    """The numbers of the classes in the mask, as in ``"3, 7 and 9"``."""
    *first, last = map(str, np.flatnonzero(mask).tolist())
    return f"{', '.join(first)} and {last}" if first else last
