"""Counting the pixels of each class in a data set."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
import torch
from torch import Tensor
from torch.utils.data import Dataset

from citysegzoo.arguments import check_ignore_index, check_positive
from citysegzoo.images import read_ids

_LONGEST_RANGE = 1 << 16  # of label values that are counted by position, not by sorting


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
            values are labels, the path of a PNG, BMP or TIFF of that kind, or a tuple or list that
            ends in one of these, such as ``(image, labels)``.
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
        array = read_ids(labels)
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
            f"path of a label image, not {type(labels).__name__}."
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
