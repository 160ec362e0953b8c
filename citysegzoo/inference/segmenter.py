"""A model at work on many images: reading, computing and writing at the same time."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL.Image
import torch
from torch import Tensor

from citysegzoo.arguments import check_flag, check_number, check_positive, check_positives
from citysegzoo.base import MIN_SIZE
from citysegzoo.images import Image, read_image
from citysegzoo.inference.folder import segment_folder
from citysegzoo.inference.network import Network, Precision
from citysegzoo.inference.segmentation import Names, Segmentation, file_of, label_maps
from citysegzoo.inference.stream import Failure, Pixels, computed, warn
from citysegzoo.inference.tiles import Maps, Tiling, blended_rows, tiling
from citysegzoo.layers import resize_smoothly
from citysegzoo.lead import leading_classes
from citysegzoo.model import SegmentationModel, require_labels_that_fit


class Segmenter:
    """Segments images, folders and video frames with a model.

    The model stays as it is: the segmenter has a copy of its own, which shares the weights that
    it can use unchanged. A model that is trained on, converted or loads other weights needs
    another segmenter; this one then raises. (What is written through ``weight.data``, in
    inference mode or by a fused optimizer is seen by a few values of each weight.)

    With ``precision="fp32", fold=False, channels_last=False`` labels are those of the model
    itself. Folding and channels last change logits by rounding alone, bf16 and fp16 by more: a
    few pixels on the edges between classes get another label.

    Args:
        model: The model, with at most 256 classes.
        device: Where to compute, such as ``"cuda"``; ``"auto"`` is a GPU if there is one.
        precision: ``"fp32"``, ``"bf16"``, ``"fp16"``, or ``"auto"``: bf16 where the hardware
            computes it, else fp32.
        compile: Whether the network goes through :func:`torch.compile`, on a GPU with CUDA
            graphs: one graph for each size of image, so tiles or images of one size suit it.
        tile: Side of the square tiles, or their (H, W), that larger images are cut into; they
            are blended where they overlap. None: images go through the network whole.
        overlap: How many pixels tiles overlap at least, a quarter of the tile by default.
        scales: The class probabilities are averaged over the image at these scales.
        flip: Whether they are averaged over the image and its mirror image too.
        fused: Whether labels are found without logits at full size, which are the same labels.
        fold: Whether batch norm is folded into the convolutions.
        channels_last: Whether the channels are innermost in memory.

    Raises:
        ValueError: If the model has no weights or too many classes, the device is not there, or
            a tile, overlap, scale or precision cannot be used.
        TypeError: If one of these is of another type.
    """

    def __init__(
        self,
        model: SegmentationModel,
        *,
        device: str | torch.device = "auto",
        precision: Precision = "auto",
        compile: bool = False,  # noqa: A002
        tile: int | Sequence[int] | None = None,
        overlap: int | None = None,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        fused: bool = True,
        fold: bool = True,
        channels_last: bool = True,
    ) -> None:
        if not isinstance(model, SegmentationModel):
            raise TypeError(
                f"a Segmenter takes a SegmentationModel, not {type(model).__name__}; of a model "
                "wrapped for training give its .module, of a compiled one its ._orig_mod and "
                "compile=True."
            )
        require_labels_that_fit(model)
        if not isinstance(scales, Iterable) or isinstance(scales, str):
            raise TypeError(f"scales are one or more numbers, such as (0.75, 1.0), not {scales!r}.")
        self.scales = tuple(check_number("each of scales", scale, above=0) for scale in scales)
        if not self.scales:
            raise ValueError(f"scales are one or more numbers above 0, not {scales!r}.")
        self.flip = check_flag("flip", flip)
        self.fused = check_flag("fused", fused)
        self._stride = max(model.encoder.strides)
        self.tile = None if tile is None else self._checked_tile(tile, model.min_size)
        if self.tile and min(self.scales) * min(self.tile) < model.min_size:
            raise ValueError(
                f"tiles of {self.tile} at scale {min(self.scales):g} are smaller than the "
                f"{model.min_size} pixels that the network takes; choose larger ones."
            )
        self.overlap = self._checked_overlap(overlap)
        self._network = Network(
            model,
            device=device,
            precision=precision,
            compile=check_flag("compile", compile),
            fold=check_flag("fold", fold),
            channels_last=check_flag("channels_last", channels_last),
        )
        self.device, self.dtype = self._network.device, self._network.dtype

    def _checked_tile(self, tile: int | Sequence[int], least: int) -> tuple[int, int]:
        sides = check_positives("tile", tile if isinstance(tile, Sequence) else [tile] * 2)
        least = max(least, self._stride)
        if len(sides) != 2 or min(sides) < least:
            raise ValueError(
                f"a tile is at least {least}x{least} for this model, whose deepest stride is "
                f"{self._stride}; not {tile!r}."
            )
        return sides[0], sides[1]

    def _checked_overlap(self, overlap: int | None) -> int:
        if self.tile is None:
            if overlap is not None:
                raise ValueError("overlap is that of tiles; give tile too.")
            return 0
        if overlap is None:
            return min(self.tile) // 4
        if check_positive("overlap", overlap, least=0) >= min(self.tile):
            raise ValueError(f"tiles of {self.tile} cannot overlap by {overlap} pixels; by less.")
        return overlap

    def __call__(self, image: Image) -> Segmentation:
        """Segment one image.

        Args:
            image: A path, a PIL image or a uint8 array ``(H, W, 3)``. Of an array, such as a
                memory map, only tiles are read where there are tiles.

        Raises:
            ValueError: If the image is broken or too small, or the network gives NaN or infinity.
            OSError: If a file cannot be read.
        """
        pixels = self._read(image)
        return self._result(pixels, self._labels([pixels])[0], Path(file_of(image)).stem or "image")

    def probabilities(self, image: Image) -> npt.NDArray[np.float32]:
        """The probability of every class in every pixel.

        Returns:
            float32 ``(C, H, W)``: 80 MB per megapixel for 20 classes.

        Raises:
            ValueError: As in calling the segmenter.
            OSError: As in calling the segmenter.
        """
        self._network.require_current()
        pixels = self._read(image)
        result = np.empty((self._network.model.num_classes, *pixels.shape[:2]), np.float32)
        top = 0
        with torch.inference_mode():
            for rows in self._reduced(pixels, self._shares):
                result[:, top : top + rows.shape[1]] = rows.numpy()
                top += rows.shape[1]
        return result

    def stream(
        self,
        images: Iterable[Image],
        *,
        batch_size: int = 1,
        on_error: Callable[[Failure], object] | None = None,
    ) -> Generator[Segmentation, None, None]:
        """Segment images one after the other, reading ahead in threads.

        Memory is bounded however many there are. Closing the generator ends the threads, once
        ``images`` has given what it is being asked for: a live source has to end, too.

        Args:
            images: Anything iterable over paths, PIL images and arrays, such as video frames. It
                is iterated in another thread, some images ahead: an array must not be written
                to before its result is there.
            batch_size: How many images of one size in a row go through the network together; one
                at a time with tiles, scales or flips.
            on_error: Called with an image that failed, in its turn; the others go on unless it
                raises. By default it is a warning. The error has a traceback, which holds images
                and activations, until this returns.

        Yields:
            The results in the order of the images, but for those that failed. Those without a
            file are named ``image_0``, ``image_1``, ..., and of those of one name all but the
            first have their number at the end.

        Raises:
            TypeError: If ``images`` is one image, and not several.
            ValueError: If ``batch_size`` is less than 1.
            Exception: What ``images`` and ``on_error`` raise. Of an unfinished batch no results
                are given then.
        """
        one = isinstance(images, (str, os.PathLike, PIL.Image.Image)) or (
            isinstance(images, np.ndarray) and (images.ndim < 3 or images.shape[2:] == (3,))
        )
        if one or not isinstance(images, Iterable):
            raise TypeError(
                f"stream takes several images, not one {type(images).__name__}; call the segmenter "
                "with a single one, or `folder` with a folder."
            )
        return self._stream(images, check_positive("batch_size", batch_size), on_error or warn)

    def folder(
        self,
        photos: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        output: str | os.PathLike[str],
        *,
        batch_size: int = 1,
        progress: bool = True,
        on_saved: Callable[[Segmentation, tuple[Path, Path]], object] | None = None,
        on_error: Callable[[Failure], object] | None = None,
    ) -> list[Failure]:
        """Segment the photographs in folders and write label maps and overlays, in a thread.

        Args:
            photos: Files and folders, as :func:`find_images` takes them.
            output: Where to; made if it does not exist. Every file is whole or not there.
            batch_size: As in :meth:`stream`.
            progress: Whether a bar shows it, on a terminal.
            on_saved: Called with every result and its files, in order.
            on_error: As in :meth:`stream`.

        Returns:
            What failed.

        Raises:
            FileNotFoundError: If there is no photograph.
            ValueError: If two photographs would be written as one file, or one be overwritten.
            OSError: If the folder cannot be made.
        """
        return segment_folder(
            self,
            photos,
            output,
            batch_size=batch_size,
            progress=progress,
            on_saved=on_saved,
            on_error=on_error,
        )

    def _stream(
        self, images: Iterable[Image], batch_size: int, on_error: Callable[[Failure], object]
    ) -> Generator[Segmentation, None, None]:
        run = computed(images, self._read, self._labels, batch_size=batch_size, on_error=on_error)
        names = Names()
        with closing(run):
            for source, labels in run:
                yield self._result(source.pixels, labels, names.of(source.file, source.number))

    def _result(self, pixels: Pixels, labels: Pixels, name: str) -> Segmentation:
        return Segmentation(pixels, labels, self._network.model.labels, name)

    def _read(self, image: Image) -> Pixels:
        if self.tile and isinstance(image, np.ndarray) and image.shape[2:] == (3,):
            readable = image.dtype == np.uint8 and min(image.shape[:2]) >= MIN_SIZE
            return image if readable else read_image(image)  # a memory map is not read whole
        return read_image(image)

    @property
    def _averages(self) -> bool:
        return self.flip or len(self.scales) > 1

    @torch.inference_mode()
    def _labels(self, images: Sequence[Pixels]) -> Pixels:
        """Label maps ``(N, H, W)`` of images of one size."""
        network, size = self._network, images[0].shape[:2]
        network.require_current()
        if self.tile is None and self.scales == (1.0,) and not self.flip:
            logits = network(network.images(_batch(images)))
            maps = label_maps(network.model, logits, size, fused=self.fused)
            found: Pixels = maps.cpu().numpy()
            return found
        labels = np.empty((len(images), *size), np.uint8)
        for pixels, own in zip(images, labels, strict=True):
            top = 0
            for leaders in self._reduced(pixels, _leaders):
                own[top : top + len(leaders)] = leaders.numpy()
                top += len(leaders)
        return labels

    def _reduced(self, pixels: Pixels, reduce: Callable[[Tensor], Tensor]) -> Iterator[Tensor]:
        """What becomes of scores ``(C, rows, W)``: logits, or mean probabilities of views."""
        rows, columns = self._tilings(pixels.shape[:2])
        return blended_rows(
            lambda y, x: self._maps(pixels[y, x]),
            rows,
            columns,
            align_corners=self._network.model.align_corners,
            on_cpu=self.device.type == "cpu",
            reduce=reduce,
        )

    def _shares(self, scores: Tensor) -> Tensor:
        """Probabilities, which those of several views are already."""
        return (scores if self._averages else scores.softmax(0)).cpu()

    def _tilings(self, size: Sequence[int]) -> Iterator[Tiling]:
        for length, tile in zip(size, self.tile or size, strict=True):
            yield tiling(length, tile, self.overlap, self._stride)

    def _maps(self, pixels: Pixels) -> Maps:
        """Logits ``(C, h, w)`` of every view of an image."""
        network = self._network
        image = network.images(_batch([pixels]))
        maps = []
        for scale in self.scales:
            least = network.model.min_size / min(image.shape[-2:])  # both sides by one factor
            size = tuple(round(max(least, scale) * side) for side in image.shape[-2:])
            scaled = resize_smoothly(image, size)
            for mirrored in (False, True)[: 1 + self.flip]:
                logits = network(scaled.flip(-1) if mirrored else scaled)
                if network.model.working_size is not None:
                    logits = network.model.enlarge(logits, size)
                maps.append((logits.flip(-1) if mirrored else logits)[0])
        return maps


def _leaders(scores: Tensor) -> Tensor:
    return leading_classes(scores[None])[0].cpu()


def _batch(images: Sequence[Pixels]) -> Tensor:
    """uint8 ``(N, H, W, 3)``, a copy: torch does not take read-only memory."""
    return torch.from_numpy(np.stack(images))
