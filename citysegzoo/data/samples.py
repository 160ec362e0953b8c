"""Reading images with their label maps, pair by pair."""

from __future__ import annotations

import errno
import warnings
from collections.abc import Callable, Iterable, Mapping
from itertools import count, groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from citysegzoo.data.labels import LabelSet, find_label_set
from citysegzoo.images import read_ids, read_image

Transform = Callable[[Any, Any], tuple[Any, Any]]
"""Called with an image and its labels, returns both."""

Pair = tuple[Path, Path]
"""The files of an image and of its label map."""


class SampleError(ValueError):
    """A sample that cannot be used; the message is one sentence that names its files."""

    def __init__(self, message: str) -> None:
        # A worker of a DataLoader hands the error over as the text of its traceback, which ends
        # in the sentence.
        super().__init__(message.rsplit(f"{type(self).__name__}: ", 1)[-1].strip())


def _pair(files: Pair) -> Pair:
    """The files of an image and of its label map, or one sentence saying what is there instead."""
    try:
        photo, truth = () if isinstance(files, str) else files
        return Path(photo), Path(truth)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"each of the files must be a pair, an image and its label map, not {files!r:.80}."
        ) from error


class LabeledImages(Dataset[tuple[Tensor, Tensor]]):
    """Images with their label maps; the datasets of this package differ in how they find them.

    Args:
        files: Each image with its label image, of one size.
        labels: The classes, or the name of a label set.
        values: Value in the label images -> class, for all values there are; by default they are
            the classes and the ignored value themselves.
        transform: Called with image and labels, returns both.

    Attributes:
        labels: The classes.
        files: Each image with its label image.
        transform: As given; may be replaced.
    """

    labels: LabelSet
    files: list[Pair]

    def __init__(
        self,
        files: Iterable[Pair],
        labels: LabelSet | str,
        *,
        values: Mapping[int, int] | None = None,
        transform: Transform | None = None,
    ) -> None:
        labels = find_label_set(labels)
        if values is None:
            ignored = () if labels.ignore_index is None else (labels.ignore_index,)
            values = {value: value for value in (*range(len(labels)), *ignored)}
        if not all(0 <= value <= 255 for pair in values.items() for value in pair):
            raise ValueError(
                f"label set {labels.name!r} has values outside 0..255, which label images of 8 "
                f"bits do not hold; use at most 256 classes and an ignored value below 256."
            )
        known = {*range(len(labels)), labels.ignore_index}
        if wrong := set(values.values()) - known:
            raise ValueError(
                f"values name the class {min(wrong)}, which label set {labels.name!r} of "
                f"{len(labels)} classes does not have."
            )
        self.files = [_pair(pair) for pair in files]
        self.labels = labels
        self.transform = transform
        self._classes = np.full(256, -1, np.int16)  # of each value; -1: there is no such value
        self._classes[list(values)] = list(values.values())
        # By their files: the list of those may change later.
        self._held: dict[
            tuple[Path, Path], tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]
        ] = {}

    def hold(self) -> int:
        """Decode every image now and keep it, so that no epoch waits for files again.

        Kept before the transform, three bytes a pixel and one for its label, and shared with the
        forked workers of a ``DataLoader`` (``multiprocessing_context="fork"``: from Python 3.14 on,
        and elsewhere than on Linux, workers get a copy each otherwise). Broken samples are not
        kept: they raise when they are asked for, as without this.

        Returns:
            The bytes that are kept.

        Raises:
            MemoryError: If they do not fit.
        """
        from tqdm import tqdm

        total = 0
        for index, pair in enumerate(tqdm(self.files, "reading", leave=False, disable=None)):
            try:
                sample = self._read(*pair)
            except SampleError:
                continue
            except MemoryError as error:
                self._held.clear()
                raise MemoryError(
                    f"the {len(self.files)} images do not fit into memory once decoded; the first "
                    f"{index} take {total / 1e9:.1f} GB; do without hold() and --in-memory."
                ) from error
            total += sum(part.nbytes for part in sample)
            self._held[pair[0], pair[1]] = sample
        return total

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Image and labels after the transform, if there is one.

        Returns:
            ``tv_tensors.Image`` uint8 ``(3, H, W)`` in RGB and ``tv_tensors.Mask`` uint8
            ``(H, W)`` before the transform.

        Raises:
            SampleError: If a file cannot be read, sizes differ or a value is no label.
        """
        from torchvision import tv_tensors

        photo, truth = self.files[index]
        held = self._held.get((photo, truth))
        # Copies: what is done to a sample in place shall not be found in it next time.
        pixels, target = (held[0].copy(), held[1].copy()) if held else self._read(photo, truth)
        sample = (
            tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1)),
            tv_tensors.Mask(torch.from_numpy(target)),
        )
        return self.transform(*sample) if self.transform else sample

    def read_labels(self, index: int) -> npt.NDArray[np.uint8]:
        """The labels of a sample alone, without a transform, such as for counting pixels.

        Returns:
            uint8 ``(H, W)``.

        Raises:
            SampleError: If the file cannot be read or a value is no label.
        """
        file = self.files[index][1]
        try:
            ids = read_ids(file)
        except (OSError, ValueError) as error:
            raise _broken(error) from error
        return self._target(ids, file)

    def _read(
        self, image: Path, label: Path
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        # By Pillow. torchvision.io.decode_png takes 0.88 of its time (27 and 31 ms for a drawn
        # 2048x1024 image on one core, torchvision 0.29, Pillow 13), but a file with a wrong
        # checksum ends the process there, by a segmentation fault, where Pillow raises.
        try:
            pixels, ids = read_image(image), read_ids(label)
        except (OSError, ValueError) as error:
            raise _broken(error) from error
        if pixels.shape[:2] != ids.shape:
            (height, width), (its_height, its_width) = pixels.shape[:2], ids.shape
            raise SampleError(
                f"{image} is {width}x{height} but its labels {label} are {its_width}x{its_height}; "
                f"both must be of one size."
            )
        return pixels, self._target(ids, label)

    def _target(self, ids: npt.NDArray[Any], file: Path) -> npt.NDArray[np.uint8]:
        """The class of each pixel."""
        if ids.dtype == np.uint8 or 0 <= ids.min() <= ids.max() <= 255:
            target = self._classes.take(ids)
            if target.min() >= 0:
                return target.astype(np.uint8)
        known = np.flatnonzero(self._classes >= 0).tolist()
        unknown = np.setdiff1d(ids, known).tolist()
        raise SampleError(
            f"{file} has {'the value' if len(unknown) == 1 else 'values'} "
            f"{', '.join(map(str, unknown[:5]))}{', ...' * (len(unknown) > 5)}, no "
            f"{'label' if len(unknown) == 1 else 'labels'} of this dataset, which has "
            f"{_ranges(known)}."
        )


def _broken(error: OSError | ValueError) -> OSError | SampleError:
    """What is wrong with a file; the error itself where it is the machine that lacks something."""
    if getattr(error.__cause__, "errno", None) in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        assert isinstance(error, OSError)
        return error
    return SampleError(str(error))


class SkipBroken(Dataset[tuple[Tensor, Tensor]]):
    """A dataset that gives the next readable sample in place of a broken one.

    Its length stays, so batches do; which sample stands in depends on the files alone. Each
    broken file is told once, in a warning, whatever the number of epochs and of workers.

    Args:
        dataset: The dataset; what counts as broken is what raises :class:`SampleError` there.

    Attributes:
        labels: The classes.
        files: Each image with its label image, broken ones included.
    """

    def __init__(self, dataset: LabeledImages) -> None:
        self.dataset = dataset
        self.labels = dataset.labels
        self.files = dataset.files
        # In shared memory: the workers of a DataLoader mark here what has been told.
        self._broken = torch.zeros(len(dataset), dtype=torch.bool)
        self._broken.share_memory_()  # type: ignore[no-untyped-call]

    @property
    def broken(self) -> list[Pair]:
        """The files of the broken samples met so far."""
        return [self.files[i] for i in self._broken.nonzero().flatten().tolist()]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """The sample, or the next one that can be read, the first coming after the last.

        Raises:
            SampleError: If no sample can be read.
        """
        size = len(self)
        if not -size <= index < size:
            raise IndexError(f"there is no sample {index} among {size}.")
        for i in range(index, index + size):
            try:
                return self.dataset[i % size]
            except SampleError as error:
                last = error
                self._tell(i % size, error)
        raise SampleError(f"none of the {size} samples can be read, the last because {last}")

    def read(self, index: int) -> tuple[Tensor, Tensor] | None:
        """The sample itself, None if it is broken: where another in its place would count twice."""
        try:
            return self.dataset[index]
        except SampleError as error:
            self._tell(index, error)
            return None

    def _tell(self, index: int, error: SampleError) -> None:
        if not self._broken[index]:
            self._broken[index] = True
            warnings.warn(f"left out: {error}", stacklevel=3)


def _ranges(values: list[int]) -> str:
    """Such as ``0..18 and 255`` for ascending values."""
    steps = count()
    runs = [list(run) for _, run in groupby(values, key=lambda value: value - next(steps))]
    return " and ".join(f"{run[0]}..{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
