"""CamVid: street scenes of Cambridge, 11 classes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from citysegzoo.data.labels import CAMVID_11


class CamVid(Dataset[tuple[Tensor, Tensor]]):
    """The 11-class split of CamVid in the folder layout of the SegNet tutorial.

    Brostow, Fauqueur, Cipolla, "Semantic object classes in video", Pattern Recognition Letters
    30(2), 2009. ``root`` holds ``train/``, ``trainannot/``, ``val/`` and ``valannot/`` with PNGs
    of equal names.

    Args:
        root: Folder of the dataset.
        split: Name of an image folder below it, such as ``"train"`` or ``"val"``.
        transform: Called with image and labels, returns both.

    Raises:
        FileNotFoundError: If a folder or a label image is missing.
    """

    labels = CAMVID_11

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        transform: Callable[[Any, Any], tuple[Any, Any]] | None = None,
    ) -> None:
        images, annotations = Path(root) / split, Path(root) / f"{split}annot"
        for folder in (images, annotations):
            if not folder.is_dir():
                raise FileNotFoundError(f"CamVid needs the folder {folder}, which does not exist.")
        self.files = [(path, annotations / path.name) for path in sorted(images.glob("*.png"))]
        if not self.files:
            raise FileNotFoundError(f"CamVid found no PNG image in {images}.")
        for _, annotation in self.files:
            if not annotation.is_file():
                raise FileNotFoundError(
                    f"CamVid needs the label image {annotation}, which does not exist."
                )
        self.transform = transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Image ``(3, H, W)`` uint8 RGB and labels ``(H, W)`` uint8, as tv_tensors."""
        from torchvision import tv_tensors

        image_path, label_path = self.files[index]
        with Image.open(image_path) as image, Image.open(label_path) as labels:
            pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
            target = torch.from_numpy(np.array(labels))
        sample = tv_tensors.Image(pixels), tv_tensors.Mask(target)
        return self.transform(*sample) if self.transform else sample
