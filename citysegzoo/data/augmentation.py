"""The random changes of training images and their labels, as data and as a transform."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from citysegzoo.data.labels import Color

if TYPE_CHECKING:
    from torchvision import tv_tensors
    from torchvision.transforms.v2 import Transform

MEAN_COLOR: Color = (124, 116, 104)
"""The mean colour of ImageNet in 0..255, which :data:`IMAGENET` makes 0, to half a grey level."""

Size = tuple[int, int]


@dataclass(frozen=True)
class Augmentation:
    """What is done to a training image and its labels: plain data until :meth:`build`.

    The defaults change nothing. Two are equal when all that they are made of is, and
    ``Augmentation(**json.loads(json.dumps(dataclasses.asdict(a))))`` is ``a`` again.

    Attributes:
        resize: (H, W) that every image is resized to first.
        flip: Probability of a horizontal flip.
        scale: Least and greatest factor, drawn uniformly, of the size that ``resize`` left.
        rotate: Greatest angle in degrees; the angle is uniform from minus to plus it.
        rotate_probability: Probability of a rotation.
        crop: (H, W) of a window at random; where the scaled image is smaller it lies somewhere in
            the window, void around it. The window turns about its own centre, so that void shows
            only where the image has ended. Without a crop the whole scaled image is the window.
        brightness: Half the range of the factor around 1, as in torchvision's ``ColorJitter``.
        contrast: As ``brightness``.
        saturation: As ``brightness``.
        hue: Greatest shift of the hue as a share of the colour circle, at most 0.5.
        photometric_probability: Probability of brightness, contrast, saturation and hue, together.

    Raises:
        ValueError: If a probability is not in 0..1, a size not two positive integers, a range
            reversed or not positive, or a number outside what its step takes.
    """

    resize: Size | None = None
    flip: float = 0.0
    scale: tuple[float, float] | None = None
    rotate: float = 0.0
    rotate_probability: float = 1.0
    crop: Size | None = None
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    photometric_probability: float = 1.0

    def __post_init__(self) -> None:
        for name in ("resize", "scale", "crop"):
            if isinstance(pair := getattr(self, name), list):  # JSON has no tuples
                object.__setattr__(self, name, tuple(pair))
        for name, size in (("resize", self.resize), ("crop", self.crop)):
            if size is not None and not _is_pair(size, lambda n: isinstance(n, int) and n > 0):
                raise ValueError(f"{name} is (height, width), two positive integers, not {size!r}.")
        for name in ("flip", "rotate_probability", "photometric_probability"):
            self._check_range(name, 1, "a probability")
        self._check_range("rotate", 180, "an angle in degrees")
        for name in ("brightness", "contrast", "saturation"):
            self._check_range(name, math.inf, "half the range of a factor")
        self._check_range("hue", 0.5, "a share of the colour circle")
        if self.scale is not None:
            positive = _is_pair(self.scale, lambda factor: _within(factor, 0, math.inf) and factor)
            if not positive or self.scale[0] > self.scale[1]:
                raise ValueError(
                    "scale is (least, greatest), two positive factors in this order, "
                    f"not {self.scale!r}."
                )

    def _check_range(self, name: str, most: float, what: str) -> None:
        value = getattr(self, name)
        if not _within(value, 0, most):
            limits = "of at least 0" if most == math.inf else f"from 0 to {most:g}"
            raise ValueError(f"{name} is {what} {limits}, not {value!r}.")

    def __str__(self) -> str:
        """In words, for a model card."""

        def chance(probability: float) -> str:
            return f" p {probability:g}" if probability < 1 else ""

        photometric = [
            f"{name} {value:g}{chance(self.photometric_probability)}"
            for name in ("brightness", "contrast", "saturation", "hue")
            if (value := getattr(self, name))
        ]
        words = (
            self.resize and f"resize to {self.resize[0]}x{self.resize[1]}",
            self.flip and f"flip p {self.flip:g}",
            self.scale and f"scale {self.scale[0]:g} to {self.scale[1]:g}",
            self.rotate and f"rotate by up to {self.rotate:g}°{chance(self.rotate_probability)}",
            self.crop and f"crop {self.crop[0]}x{self.crop[1]}",
            *photometric,
        )
        return ", ".join(word for word in words if isinstance(word, str)) or "none"

    def build(
        self,
        *,
        ignore_index: int | None,
        label_fill: int | None = None,
        fill: Color = MEAN_COLOR,
    ) -> Transform:
        """The transform of an image and its labels.

        It takes and returns a ``tv_tensors.Image`` ``(3, H, W)`` and a ``tv_tensors.Mask``
        ``(H, W)``, both uint8 on the CPU. Images are resampled bilinearly with antialiasing, labels
        by the nearest pixel. All chance is torch's global generator's.

        Args:
            ignore_index: The label that does not count, which void gets; None if every label does.
            label_fill: What void is labelled instead.
            fill: The colour of void.

        Raises:
            ValueError: If a rotation or crop may show void and there is no label for it, or a
                label or colour does not fit into a byte.
        """
        from torchvision.transforms import v2

        void = ignore_index if label_fill is None else label_fill
        if void is None and (self.crop or self.rotate):
            raise ValueError(
                "rotation and crop may show void, which needs a label where ignore_index is None: "
                "give label_fill (0 is 'unlabeled' among the Cityscapes label ids)."
            )
        if not isinstance(fill, (tuple, list)) or len(fill) != 3:
            raise ValueError(f"fill is a colour, (R, G, B) in 0..255, not {fill!r}.")
        for value in (*fill, void or 0):
            if value not in range(256):
                raise ValueError(f"colours and labels of void are from 0 to 255, not {value!r}.")

        steps: list[Callable[..., Any]] = [RandomWindow(self, fill, void or 0)]
        # After the crop, where there is least to do: neither cares for what comes before it.
        if self.flip:
            steps.append(v2.RandomHorizontalFlip(self.flip))
        if self.brightness or self.contrast or self.saturation or self.hue:
            jitter = v2.ColorJitter(self.brightness, self.contrast, self.saturation, self.hue)
            steps.append(v2.RandomApply([jitter], self.photometric_probability))
        return v2.Compose(steps)


@dataclass(frozen=True)
class RandomWindow:
    """Resize, scale, rotate and crop, all in one look at the source.

    An image is enlarged only where the window shows it, rather than as a whole of which most is
    then thrown away. The result is that of scaling the whole and cropping it: pixels just outside
    the window take part in the antialiasing as they would there. Both are within a grey level of
    what exact arithmetic gives.

    Attributes:
        settings: What to do.
        fill: The colour of void.
        label_fill: The label of void.
    """

    settings: Augmentation
    fill: Color
    label_fill: int

    def __call__(self, image: Tensor, labels: Tensor) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        """The same random window of both.

        Args:
            image: ``(3, H, W)``, uint8.
            labels: ``(H, W)``, uint8.

        Raises:
            TypeError: If one of them is not uint8.
            ValueError: If their shapes are others, or do not match.
        """
        from torchvision import tv_tensors

        if image.dtype != torch.uint8 or labels.dtype != torch.uint8:
            raise TypeError(
                f"augmentation takes uint8 images and labels, not {image.dtype}, {labels.dtype}."
            )
        if image.ndim != 3 or image.shape[0] != 3 or image.shape[1:] != labels.shape:
            raise ValueError(
                "augmentation takes an image (3, H, W) and labels (H, W), "
                f"not {tuple(image.shape)} and {tuple(labels.shape)}."
            )
        height, width = self.settings.resize or labels.shape
        factor = _uniform(*self.settings.scale) if self.settings.scale else 1.0
        scaled = max(1, round(factor * height)), max(1, round(factor * width))
        size = self.settings.crop or scaled
        corner = [_random_start(*lengths) for lengths in zip(scaled, size, strict=True)]
        turned = self.settings.rotate and _uniform(0, 1) < self.settings.rotate_probability
        angle = _uniform(-self.settings.rotate, self.settings.rotate) if turned else 0.0
        return (
            tv_tensors.Image(_view(image, scaled, corner, size, angle, self.fill)),
            tv_tensors.Mask(_view(labels, scaled, corner, size, angle, self.label_fill)),
        )


def _view(
    pixels: Tensor,
    scaled: Size,
    corner: Sequence[int],
    size: Size,
    angle: float,
    fill: Color | int,
) -> Tensor:
    """What a window shows of an image scaled to ``scaled``.

    Args:
        pixels: ``(3, H, W)``, resampled bilinearly with antialiasing, or ``(H, W)``, by the
            nearest pixel; uint8.
        scaled: (H, W) of the scaled image.
        corner: (top, left) of the window in the scaled image, negative where it begins before it.
        size: (H, W) of the window.
        angle: Degrees by which the content turns about the window's centre, counterclockwise.
        fill: What is shown outside the image.

    Returns:
        Pixels of that size, contiguous.
    """
    if pixels.shape[-2:] == scaled == size and not angle:
        return pixels.contiguous()
    sine, cosine = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    turned = [abs(cosine) * size[i] + abs(sine) * size[1 - i] for i in (0, 1)]
    margins = [math.ceil(max(0.0, turned[i] - size[i]) / 2) + 1 if angle else 0 for i in (0, 1)]
    (top, bottom), (left, right) = (
        (max(0, corner[i] - margins[i]), min(scaled[i], corner[i] + size[i] + margins[i]))
        for i in (0, 1)
    )
    picture = _part(pixels, scaled, (top, bottom), (left, right))
    height, width = size
    if angle:
        y, x = corner[0] + height / 2 - top, corner[1] + width / 2 - left  # centre, in the picture
        picture = picture.transform(
            (width, height),
            Image.Transform.AFFINE,
            (
                *(cosine, -sine, x - cosine * width / 2 + sine * height / 2),
                *(sine, cosine, y - sine * width / 2 - cosine * height / 2),
            ),
            _filter(pixels),
            fillcolor=fill,
        )
    elif picture.size != (width, height):
        padded = Image.new(picture.mode, (width, height), fill)
        padded.paste(picture, (left - corner[1], top - corner[0]))
        picture = padded
    window = torch.from_numpy(np.array(picture))
    # Half a millisecond that saturation, hue and the batching give back several times.
    return window.permute(2, 0, 1).contiguous() if window.ndim == 3 else window


def _part(
    pixels: Tensor, scaled: Size, rows: tuple[int, int], columns: tuple[int, int]
) -> Image.Image:
    """Those rows and columns, first and last but one, of an image scaled to ``scaled``."""
    height, width = pixels.shape[-2:]
    if pixels.ndim == 3 and math.prod(scaled) < height * width:
        # Torch shrinks the whole faster than Pillow what is needed of it: 1024x2048 pixels by half
        # in 2 ms, where 513x513 of the result take Pillow 7.
        shrunk = F.interpolate(pixels[None], scaled, mode="bilinear", antialias=True)[0]
        return _picture(shrunk[:, slice(*rows), slice(*columns)])
    # What the part is of the source, and what of it the filter reaches.
    top, bottom = (row * height / scaled[0] for row in rows)
    left, right = (column * width / scaled[1] for column in columns)
    reach_y, reach_x = max(1, height / scaled[0]) + 1, max(1, width / scaled[1]) + 1
    y, x = max(0, math.floor(top - reach_y)), max(0, math.floor(left - reach_x))
    reached = pixels[..., y : math.ceil(bottom + reach_y), x : math.ceil(right + reach_x)]
    return _picture(reached).resize(
        (columns[1] - columns[0], rows[1] - rows[0]),
        _filter(pixels),
        box=(left - x, top - y, right - x, bottom - y),
    )


def _picture(pixels: Tensor) -> Image.Image:
    return Image.fromarray((pixels.permute(1, 2, 0) if pixels.ndim == 3 else pixels).numpy())


def _filter(pixels: Tensor) -> Image.Resampling:
    return Image.Resampling.BILINEAR if pixels.ndim == 3 else Image.Resampling.NEAREST


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))


def _random_start(whole: int, size: int) -> int:
    """Where a window begins: anywhere in an image that is larger, anywhere around a smaller one."""
    room = whole - size
    return int(torch.randint(min(0, room), max(0, room) + 1, ())) if room else 0


def _within(value: Any, least: float, most: float) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and least <= value <= most


def _is_pair(value: Any, good: Callable[[Any], Any]) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(map(good, value))
