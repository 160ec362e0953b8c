"""Long runs: reading ahead of the network, and what fails on the way."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from citysegzoo.ahead import read_ahead
from citysegzoo.images import Image
from citysegzoo.inference.segmentation import file_of
from citysegzoo.memory import is_out_of_memory

Pixels = npt.NDArray[np.uint8]

# What one image may raise, and the next not; RuntimeError is torch's, above all of memory.
FAILURES = (ValueError, TypeError, OSError, MemoryError, RuntimeError)


@dataclass(frozen=True)
class Failure:
    """An image of a long run that could not be segmented.

    Attributes:
        image: Its file, or ``image 7`` where it has none (counted from 0).
        error: Why.
    """

    image: str
    error: Exception

    def __str__(self) -> str:
        reason = " ".join(str(self.error).split()) or type(self.error).__name__
        if is_out_of_memory(self.error):
            return (
                f"{self.image} could not be segmented, as there is not enough memory for it; "
                "segment it in tiles, or smaller ones (--tile 1024, Segmenter(tile=1024))."
            )
        if isinstance(self.error, RuntimeError):
            return f"{self.image} could not be segmented; PyTorch says: {reason:.300}"
        return reason if self.image in reason else f"{self.image}: {reason}"


def without_frames(failure: Failure) -> Failure:
    """The same, once its traceback is of no use: the frames hold images and activations."""
    error: BaseException | None = failure.error
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
    return failure


class Source(NamedTuple):
    """An image that was read.

    Attributes:
        pixels: uint8 ``(H, W, 3)``.
        file: Its path, "" where it has none.
        number: Its place in the run, from 0.
    """

    pixels: Pixels
    file: str
    number: int


def warn(failure: Failure) -> None:
    """Say what failed in a warning, every time: Python shows the same text of a line only once."""
    warnings.warn_explicit(str(failure), UserWarning, "citysegzoo", 1)


def computed(
    images: Iterable[Image],
    read: Callable[[Image], Pixels],
    compute: Callable[[Sequence[Pixels]], Pixels],
    *,
    batch_size: int,
    on_error: Callable[[Failure], object],
) -> Generator[tuple[Source, Pixels], None, None]:
    """Read images ahead in threads and compute batches of one size.

    Args:
        images: Anything iterable.
        read: From an image to its pixels, called in threads.
        compute: From several images of one size to a label map of each.
        batch_size: How many those are at most.
        on_error: Called with an image that failed, in its turn. Afterwards the error loses its
            traceback, which holds images and activations.

    Yields:
        Each image with its label map, in order, but for those that failed.
    """

    def failed(failure: Failure) -> None:
        on_error(failure)
        without_frames(failure)

    numbers = count()
    batch: list[Source] = []
    with closing(read_ahead(images, read, ahead=2 * batch_size)) as reading:
        for image, future in reading:
            file, number = file_of(image), next(numbers)
            try:
                pixels = future.result()
            except FAILURES as error:
                yield from _results(batch, compute, failed)
                batch = []
                failed(Failure(file or f"image {number}", error))
                continue
            if batch and pixels.shape != batch[0].pixels.shape:
                yield from _results(batch, compute, failed)
                batch = []
            batch.append(Source(pixels, file, number))
            if len(batch) == batch_size:
                yield from _results(batch, compute, failed)
                batch = []
        yield from _results(batch, compute, failed)


def _results(
    batch: Sequence[Source],
    compute: Callable[[Sequence[Pixels]], Pixels],
    on_error: Callable[[Failure], object],
) -> Iterator[tuple[Source, Pixels]]:
    if not batch:
        return
    labels = None
    try:
        labels = compute([source.pixels for source in batch])
    except FAILURES as error:
        if len(batch) == 1:
            on_error(Failure(batch[0].file or f"image {batch[0].number}", error))
            return
    if labels is not None:
        yield from zip(batch, labels, strict=True)
        return
    # One of them fails, or they are too many for the memory, which the error holds no more here.
    for source in batch:
        yield from _results([source], compute, on_error)
