"""Segmenting photographs with a model, at their full resolution."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt
import PIL.Image
import torch

from citysegzoo.data.labels import LabelSet
from citysegzoo.files import replacing
from citysegzoo.inference.images import Image, read_image

if TYPE_CHECKING:
    from citysegzoo.model import SegmentationModel


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

    def overlay(self, *, alpha: float = 0.5, legend: bool = True) -> PIL.Image.Image:
        """The classes laid over the photograph in their colours.

        Args:
            alpha: Weight of the colours, 0..1.
            legend: Whether a legend with the share of each class is drawn below.
        """
        from citysegzoo.visualize import overlay

        return overlay(self.image, self.labels, self.label_set, alpha=alpha, legend=legend)

    def label_image(self) -> PIL.Image.Image:
        """The label map as a palette image: pixel values are classes, shown in their colours."""
        from citysegzoo.visualize import label_image

        return label_image(self.labels, self.label_set)

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
        with replacing(labels) as partial:
            self.label_image().save(partial)
        with replacing(overlay) as partial:
            self.overlay().save(partial, quality=92)
        return labels, overlay


def output_files(name: str, folder: Path) -> tuple[Path, Path]:
    """The files :meth:`Segmentation.save` writes for a photograph of that name."""
    return folder / f"{name}_labels.png", folder / f"{name}_overlay.jpg"


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
        A :class:`Segmentation`, or a list of them for a list; those of one name are numbered.

    Raises:
        ValueError: If an image is broken or smaller than 32 pixels, or the model has more
            classes than a uint8 can tell apart.
        OSError: If a file cannot be read.
    """
    if isinstance(image, Sequence) and not isinstance(image, str):
        results = [segment(model, item) for item in image]
        names = [result.name for result in results]
        return [
            result if names.count(result.name) == 1 else replace(result, name=f"{result.name}_{i}")
            for i, result in enumerate(results)
        ]
    if model.num_classes > 256:
        raise ValueError(f"label maps are 8-bit; the model has {model.num_classes} classes.")
    pixels = read_image(image)
    weight = next(model.parameters())
    if weight.is_meta:
        raise ValueError("the model is on the meta device and has no weights; load some first.")
    training = [module for module in model.modules() if module.training]
    if training:
        model.eval()
    try:
        with torch.inference_mode():
            batch = torch.from_numpy(pixels).to(weight.device).permute(2, 0, 1)[None]
            logits = model(model.preprocessing(batch).to(weight.dtype))
            labels = logits[0].argmax(0).to(torch.uint8).cpu().numpy()
    finally:
        for module in training:
            module.training = True
    path = image if isinstance(image, (str, os.PathLike)) else getattr(image, "filename", "")
    name = Path(path).stem or "image"
    return Segmentation(pixels, labels, model.labels, name)
