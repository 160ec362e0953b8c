"""Segmenting photographs with a model, at their full resolution."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import PIL.Image
import torch
from torch import Tensor

from citysegzoo.data.labels import LabelSet, Palette
from citysegzoo.files import write_image
from citysegzoo.images import Image, read_image
from citysegzoo.inference.label_map import upsampled_labels
from citysegzoo.lead import leading_classes
from citysegzoo.model import SegmentationModel, require_labels_that_fit, require_weights

_LONGEST_JPEG = 65_500
"""Pixels of a side, of libjpeg."""


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A photograph and the class of each of its pixels.

    Attributes:
        image: The photograph, uint8 ``(H, W, 3)``, RGB.
        labels: The class of each pixel, uint8 ``(H, W)``.
        label_set: Names and colours of the classes.
        name: Stem of the photograph's file name, ``"image"`` where it has none.
    """

    image: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]
    label_set: LabelSet
    name: str = "image"

    @cached_property
    def shares(self) -> dict[str, float]:
        """Share of the pixels (0..1) of each class that occurs, largest first."""
        from citysegzoo.visualize import class_shares

        return class_shares(self.labels, self.label_set)

    def overlay(
        self, *, alpha: float = 0.5, legend: bool = True, palette: Palette | None = None
    ) -> PIL.Image.Image:
        """The classes laid over the photograph in their colours.

        Args:
            alpha: Weight of the colours, 0..1.
            legend: Whether a legend with the share of each class is drawn below.
            palette: ``"safe"`` for colours that the colour-blind tell apart, ``"standard"`` for
                the published ones; by default those of the label set.
        """
        from citysegzoo.visualize import overlay

        return overlay(
            self.image, self.labels, self.label_set, alpha=alpha, legend=legend, palette=palette
        )

    def label_image(self, *, palette: Palette | None = None) -> PIL.Image.Image:
        """The label map as a palette image: pixel values are classes, shown in their colours.

        Args:
            palette: As in :meth:`overlay`; the pixel values do not depend on it.
        """
        from citysegzoo.visualize import label_image

        return label_image(self.labels, self.label_set, palette=palette)

    def save(self, folder: str | os.PathLike[str]) -> tuple[Path, Path]:
        """Write ``NAME_labels.png`` and ``NAME_overlay.jpg``, each whole or not at all.

        Args:
            folder: Where to; made if it does not exist.

        Returns:
            The two files.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        labels, overlay = output_files(self.name, folder)
        write_image(self.label_image(), labels)
        picture = self.overlay()
        picture.thumbnail((_LONGEST_JPEG, _LONGEST_JPEG))  # changes larger pictures only
        write_image(picture, overlay)
        return labels, overlay


def output_files(name: str, folder: Path) -> tuple[Path, Path]:
    """The files :meth:`Segmentation.save` writes for a photograph of that name."""
    return folder / f"{name}_labels.png", folder / f"{name}_overlay.jpg"


def check_outputs(photos: Sequence[Path], folder: Path) -> None:
    """Refuse to segment photographs into a folder where one would be lost.

    Raises:
        ValueError: If two would be written as one file, or one would be overwritten.
    """
    outputs: dict[Path, Path] = {}
    inputs = set(map(os.path.realpath, photos))
    for photo in photos:
        other = outputs.setdefault(output_files(photo.stem, folder)[0], photo)
        if other != photo:
            raise ValueError(
                f"{other} and {photo} would both be written as {photo.stem}_labels.png; "
                "segment them into different folders."
            )
        for output in output_files(photo.stem, folder):
            if os.path.realpath(output) in inputs:
                raise ValueError(
                    f"{output} is to be segmented and written; name another output folder."
                )


@overload
def segment(model: SegmentationModel, image: Image) -> Segmentation: ...
@overload
def segment(model: SegmentationModel, image: list[Image]) -> list[Segmentation]: ...
def segment(model: SegmentationModel, image: Any) -> Any:
    """Segment photographs at full resolution, one after the other.

    The model is used in evaluation mode, on the device and in the precision it is in, and every
    part of it is left in the mode it was in. A model in evaluation mode may be shared by threads.

    Args:
        model: The model.
        image: A path, a PIL image, a uint8 array ``(H, W, 3)``, or a list of them.

    Returns:
        A :class:`Segmentation`, or a list of them for a list, each with a name of its own.

    Raises:
        ValueError: If an image is broken or smaller than 32 pixels, or the model has more
            classes than a uint8 can tell apart.
        OSError: If a file cannot be read.
    """
    if isinstance(image, Sequence) and not isinstance(image, str):
        names = Names()
        return [
            replace(_segment(model, item), name=names.of(file_of(item), number))
            for number, item in enumerate(image)
        ]
    return _segment(model, image)


def _segment(model: SegmentationModel, image: Image) -> Segmentation:
    require_labels_that_fit(model)
    require_weights(model)
    pixels = read_image(image)
    weight = next(model.parameters())
    training = [module for module in model.modules() if module.training]
    if training:
        model.eval()
    try:
        with torch.inference_mode():
            batch = torch.from_numpy(pixels).to(weight.device).permute(2, 0, 1)[None]
            logits = model.coarse_logits(model.preprocessing(batch).to(weight.dtype))
            if not logits.amax() < torch.inf:  # which NaN is not either
                raise ValueError("the network gives NaN or infinite logits; check its weights.")
            labels = label_maps(model, logits, pixels.shape[:2])[0].cpu().numpy()
    finally:
        for module in training:
            module.training = True
    return Segmentation(pixels, labels, model.labels, Path(file_of(image)).stem or "image")


def label_maps(
    model: SegmentationModel, logits: Tensor, size: Sequence[int], *, fused: bool = True
) -> Tensor:
    """The leading class of every pixel: ``model.enlarge(logits, size).argmax(1)``.

    Args:
        model: Of at most 256 classes.
        logits: What its ``coarse_logits`` gives, ``(N, C, h, w)``.
        size: (H, W) of the images.
        fused: Whether to do without the enlarged logits, where that gives the same.

    Returns:
        uint8 ``(N, H, W)``.
    """
    # Enlarged in half precision, logits are rounded: their label map is another one.
    full = logits.dtype in (torch.float32, torch.float64)
    if fused and full and model.working_size is None and logits.shape[-2:] != torch.Size(size):
        return upsampled_labels(logits, size, align_corners=model.align_corners)
    maps = [leading_classes(model.enlarge(one, size)) for one in torch.split(logits, 1)]
    return torch.cat(maps)


def file_of(image: Image) -> str:
    """Path of the file an image comes from, "" where there is none."""
    if isinstance(image, np.ndarray):
        return ""  # a mapped one has the name of a file, and so has each frame of it
    path = image if isinstance(image, (str, os.PathLike)) else getattr(image, "filename", "")
    return os.fsdecode(path or "")


class Names:
    """A name of its own for every image of a run; of frames without a file none is kept."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._frames = False

    def of(self, file: str, number: int) -> str:
        """The stem of the file, with its number where that is taken, or ``image_`` and that."""
        self._frames |= not file
        name = first = Path(file).stem or f"image_{number}"
        # Pages of one file, files of one name in several folders, or a file with a frame's name.
        renamed = self._frames and file and re.fullmatch(r"image_\d+", first)
        numbers = count(number)
        while renamed or name in self._taken:
            name, renamed = f"{first}_{next(numbers)}", None
        if file or name != first:
            self._taken.add(name)
        return name
