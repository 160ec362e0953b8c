"""Class weights from pixel counts, and counting the pixels of a data set.

Streets are mostly road and building. A weight for each class, drawn from how often it occurs,
keeps a loss from learning those alone.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
import torch
from torch import Tensor
from torch.utils.data import Dataset

from citysegzoo.layers import check_ignore_index, check_positive

Counts = Tensor | npt.NDArray[Any] | Sequence[float]
"""Pixels of each class: C numbers, none negative."""

_LONGEST_RANGE = 1 << 16  # of label values that are counted by position, not by sorting


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
    _check_number("mu", mu, above=0)
    _check_number("floor", floor, least=0)

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
    _check_number("largest", largest, above=0)
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
    _check_number("c", c, above=1)
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


@dataclass(frozen=True, eq=False)  # a tensor has no single truth to compare by
class PixelCounts:
    """What :func:`count_pixels` found.

    Attributes:
        pixels: Pixels of each class, int64 ``(C,)``.
        image_pixels: Pixels that are not ignored in the images in which each class occurs, int64
            ``(C,)``; what :func:`median_frequency_weights` takes.
        ignored: Pixels of the ignore index.
        images: Label maps counted.
    """

    pixels: Tensor
    image_pixels: Tensor
    ignored: int
    images: int


def count_pixels(
    dataset: Iterable[Any] | Dataset[Any],
    num_classes: int,
    *,
    ignore_index: int | None = 255,
    progress: bool = True,
) -> PixelCounts:
    """Count the pixels of each class in a data set, in one pass over it.

    Where a data set also decodes photographs that are not looked at, the paths of its label images
    are the faster thing to count.

    Args:
        dataset: Label maps, as anything that can be iterated over or, like a PyTorch ``Dataset``,
            indexed from 0. Each is an integer tensor or array ``(H, W)``, a PIL image whose pixel
            values are labels, the path of a PNG of that kind, or a tuple or list that ends in one
            of these, such as ``(image, labels)``.
        num_classes: Number of classes C; labels are 0..C-1.
        ignore_index: Label that is no class, or None where every pixel must have one. A label
            0..C-1 given here is ignored as well: its class has no pixel.
        progress: Whether to show progress; only a terminal gets to see it.

    Returns:
        The counts, on the CPU.

    Raises:
        ValueError: If a label is neither a class nor ignored, an item is no label map ``(H, W)``,
            an image cannot be decoded, or there is no item.
        TypeError: If the data set or an item is of another type, or labels are no integers.
        OSError: If an image cannot be opened, as the subclass that says why.
    """
    from tqdm import tqdm

    check_positive("num_classes", num_classes)
    check_ignore_index(ignore_index)
    items, total = _items(dataset)
    pixels = np.zeros(num_classes, np.int64)
    image_pixels = np.zeros(num_classes, np.int64)
    ignored = images = 0
    for item in tqdm(items, total=total, unit="image", disable=None if progress else True):
        values, counts = _label_counts(item, images)
        void = np.full(values.shape, False) if ignore_index is None else values == ignore_index
        known = (values >= 0) & (values < num_classes) & ~void
        strange = ~known & ~void & (counts > 0)
        if strange.any():
            raise ValueError(
                f"{_name(item, images)} has label {values[strange][0]} in "
                f"{counts[strange][0]} of {counts.sum()} pixels, which is neither a class "
                f"0..{num_classes - 1} nor ignored (ignore_index={ignore_index}); "
                f"check num_classes and ignore_index."
            )
        here = np.zeros(num_classes, np.int64)
        here[values[known].astype(np.int64)] = counts[known]
        pixels += here
        image_pixels += np.where(here > 0, here.sum(), 0)
        ignored += int(counts[void].sum())
        images += 1
    if not images:
        raise ValueError("the data set holds no label map; check its folder or split.")
    return PixelCounts(torch.from_numpy(pixels), torch.from_numpy(image_pixels), ignored, images)


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
        _check_number("absent", absent, least=0)
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


def _check_number(
    name: str, value: object, *, least: float = -math.inf, above: float = -math.inf
) -> None:
    """Raise for a ``value`` that is no finite number in range."""
    bound = f"above {above:g}" if above > -math.inf else f"of at least {least:g}"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number {bound}, not {value!r}.")
    if not (math.isfinite(value) and value >= least and value > above):
        raise ValueError(f"{name} must be a finite number {bound}, not {value}.")


def _items(dataset: Any) -> tuple[Iterator[Any], int | None]:
    """The items of a data set, and how many there are if it says so."""
    if isinstance(dataset, (str, os.PathLike, PIL.Image.Image)):
        raise TypeError(
            f"a data set must be a sequence of label maps, not one {type(dataset).__name__}; "
            f"put it into a list."
        )
    try:
        total = len(dataset)
    except (TypeError, NotImplementedError):  # a generator, or a stream of unknown length
        total = None
    if isinstance(dataset, Iterable):
        return iter(dataset), total
    if total is None or not hasattr(dataset, "__getitem__"):
        raise TypeError(
            f"a data set must be iterable or have a length and items, which "
            f"{type(dataset).__name__} has not; give a Dataset or a list of label maps."
        )
    # A Dataset need not raise IndexError at its end, so it is not left to iter().
    return (dataset[i] for i in range(total)), total


def _label_counts(item: Any, number: int) -> tuple[npt.NDArray[Any], npt.NDArray[np.intp]]:
    """Label values and how many pixels each has (none, perhaps), of one item."""
    ids = _label_map(item, number)
    if ids.dtype == np.uint8:
        return np.arange(256), np.bincount(ids.ravel(), minlength=256)
    low, high = int(ids.min()), int(ids.max())
    if -_LONGEST_RANGE <= low <= high < _LONGEST_RANGE:
        offsets = ids.ravel().astype(np.intp)
        offsets -= low
        return np.arange(low, high + 1), np.bincount(offsets)
    return np.unique(ids, return_counts=True)


def _label_map(item: Any, number: int) -> npt.NDArray[Any]:
    """The labels of one item as an array ``(H, W)`` of integers."""
    labels = item
    if isinstance(item, (tuple, list)):
        if not item:
            raise ValueError(f"{_name(item, number)} is empty; it must end in a label map.")
        labels = item[-1]
    if isinstance(labels, (str, os.PathLike)):
        array = _read(labels)
    elif isinstance(labels, PIL.Image.Image):
        array = np.asarray(labels)
    elif isinstance(labels, Tensor):
        # NumPy lacks bfloat16, which is refused below like every type that is no integer.
        array = (labels.double() if labels.is_floating_point() else labels).numpy(force=True)
    elif isinstance(labels, np.ndarray):
        array = labels
    else:
        raise TypeError(
            f"{_name(item, number)} must be, or end in, a tensor, an array, a PIL image or the "
            f"path of a PNG, not {type(labels).__name__}."
        )
    if array.ndim != 2 or array.size == 0:
        raise ValueError(
            f"{_name(item, number)} must be a label map (H, W) that is not empty, "
            f"not {tuple(array.shape)}; "
            f"give one map of class numbers, no batch, colours or scores."
        )
    if array.dtype.kind not in "iu":
        dtype = labels.dtype if isinstance(labels, Tensor) else array.dtype
        raise TypeError(
            f"{_name(item, number)} must hold integers, not {dtype}; convert it to integer labels."
        )
    return array


def _name(item: Any, number: int) -> str:
    """How a message calls an item."""
    labels = item[-1] if isinstance(item, (tuple, list)) and item else item
    if isinstance(labels, PIL.Image.Image):
        labels = getattr(labels, "filename", "")
    path = os.fsdecode(labels) if isinstance(labels, (str, os.PathLike)) else ""
    return f"item {number} ({path})" if path else f"item {number}"


def _read(path: str | os.PathLike[str]) -> npt.NDArray[Any]:
    """The pixel values of a PNG, palette indices included."""
    name = os.fsdecode(path)
    try:
        # Other formats may be lossy, which turns labels into others.
        with PIL.Image.open(path, formats=("PNG",)) as image:
            return np.array(image)
    except FileNotFoundError:
        raise FileNotFoundError(f"{name} does not exist; check the path.") from None
    except Exception as error:  # Pillow lets SyntaxError, struct.error, EOFError... through
        if isinstance(error, OSError) and error.strerror:
            raise type(error)(f"{name} cannot be read ({error.strerror}); check it.") from error
        raise ValueError(
            f"{name} is no PNG, or a damaged one; save label maps as PNG, which loses nothing."
        ) from error
