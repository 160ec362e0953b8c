"""From pixels to what a network was trained on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from citysegzoo.arguments import check_choice


@dataclass(frozen=True)
class Preprocessing:
    """How 8-bit RGB pixels become the input of a network: scale to 0..1, subtract, divide.

    Attributes:
        mean: Subtracted from each channel after scaling to 0..1, in ``channel_order``.
        std: Each channel is divided by it afterwards, in ``channel_order``.
        channel_order: ``"RGB"`` or ``"BGR"``, the order the network sees.
    """

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    channel_order: Literal["RGB", "BGR"] = "RGB"

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            if isinstance(getattr(self, name), (int, float, str)):
                raise TypeError(
                    f"{name} of a Preprocessing is three numbers, not {getattr(self, name)!r}."
                )
            object.__setattr__(self, name, tuple(map(float, getattr(self, name))))
        if not all(map(math.isfinite, (*self.mean, *self.std))):
            raise ValueError("mean and std of a Preprocessing are finite numbers.")
        if len(self.mean) != 3 or len(self.std) != 3:
            raise ValueError(
                "mean and std of a Preprocessing have three numbers each, one a channel."
            )
        if any(s <= 0 for s in self.std):
            raise ValueError(f"std of a Preprocessing must be positive, not {self.std}.")
        check_choice("channel_order", self.channel_order, ("RGB", "BGR"))

    def __call__(self, images: Tensor) -> Tensor:
        """Preprocess images.

        Args:
            images: ``(..., 3, H, W)`` uint8, RGB.

        Returns:
            float32 of the same shape.

        Raises:
            TypeError: If the images are not uint8 (already preprocessed ones, for instance).
            ValueError: If there are not three channels.
        """
        if images.dtype != torch.uint8:
            raise TypeError(f"Preprocessing takes uint8 images (0..255), not {images.dtype}.")
        if images.ndim < 3 or images.shape[-3] != 3:
            raise ValueError(
                f"Preprocessing takes images of shape (..., 3, H, W), not {tuple(images.shape)}."
            )
        if self.channel_order == "BGR":
            images = images.flip(-3)
        # float32 whatever torch's default is
        mean, std = (
            torch.tensor(numbers, dtype=torch.float32, device=images.device).view(3, 1, 1)
            for numbers in (self.mean, self.std)
        )
        return (images.float() / 255 - mean) / std


IMAGENET = Preprocessing()
"""0..1, then the mean and standard deviation of ImageNet, RGB."""

UNIT_RANGE = Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
"""0..1 and nothing else, RGB (stevens2020, fixman2024)."""

BGR_MEAN = Preprocessing(
    mean=(103.939 / 255, 116.779 / 255, 123.68 / 255), std=(1.0, 1.0, 1.0), channel_order="BGR"
)
"""0..1, blue first, minus the ImageNet mean, no division (chen2020)."""
