"""Label maps as palette images and as overlays with a legend."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import PIL.Image
from PIL import ImageDraw, ImageFont

from citysegzoo.data.labels import Color, LabelSet, Palette
from citysegzoo.images import Image, read_image

Labels = npt.ArrayLike
"""A label map: integers ``(H, W)``, each the index of a class or the ignore index."""

PAPER, INK, FAINT = (250, 250, 250), (32, 34, 38), (110, 114, 120)


def label_image(
    labels: Labels, label_set: LabelSet, *, palette: Palette | None = None
) -> PIL.Image.Image:
    """A palette image of a label map: pixel values stay the labels, ignored ones are black.

    Args:
        labels: Label map ``(H, W)``.
        label_set: Its classes and their colours.
        palette: Other colours, as :meth:`LabelSet.with_palette` has them.

    Raises:
        ValueError: If the map is not two-dimensional or holds values that are no label.
        TypeError: If the map does not hold integers.
    """
    ids, _ = _counted(labels, label_set)
    label_set = label_set if palette is None else label_set.with_palette(palette)
    image = PIL.Image.fromarray(ids).copy()
    # All 256 colours: with fewer, Pillow would write a PNG of fewer bits and lose label 255.
    colors = np.zeros((256, 3), np.uint8)
    colors[: len(label_set)] = label_set.palette
    if label_set.ignore_index is not None and 0 <= label_set.ignore_index < 256:
        colors[label_set.ignore_index] = 0  # it may be the index of a class
    image.putpalette(colors.tobytes())
    return image


def class_shares(labels: Labels, label_set: LabelSet) -> dict[str, float]:
    """Share of each class that occurs among all pixels, ignored ones included, largest first."""
    ids, counts = _counted(labels, label_set)
    order = np.argsort(-counts[: len(label_set)], kind="stable")
    return {label_set.classes[i]: int(counts[i]) / ids.size for i in order.tolist() if counts[i]}


def overlay(
    image: Image,
    labels: Labels,
    label_set: LabelSet,
    *,
    alpha: float = 0.5,
    legend: bool = True,
    palette: Palette | None = None,
) -> PIL.Image.Image:
    """Lay the colours of a label map over its image, with darker lines between the classes.

    Ignored pixels show the image alone.

    Args:
        image: Path, PIL image or uint8 array, as :func:`citysegzoo.images.read_image`
            reads it.
        labels: Label map of the same size.
        label_set: Its classes and their colours.
        alpha: Weight of the colours, from 0 (image alone) to 1 (colours alone).
        legend: Whether to add a panel below that names the classes and their shares, largest
            first.
        palette: Other colours, as :meth:`LabelSet.with_palette` has them.

    Returns:
        RGB image of the width of ``image``.

    Raises:
        ValueError: If the sizes differ, or ``alpha`` is out of range.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be from 0 to 1, not {alpha}.")
    label_set = label_set if palette is None else label_set.with_palette(palette)
    picture = PIL.Image.fromarray(read_image(image))
    colors = label_image(labels, label_set)
    if picture.size != colors.size:
        raise ValueError(
            f"image and labels must be equally large, not {picture.width}x{picture.height} and "
            f"{colors.width}x{colors.height}; resize the labels (nearest neighbour)."
        )
    ids = np.asarray(colors)
    result = PIL.Image.blend(picture, colors.convert("RGB"), alpha)
    if label_set.ignore_index is not None:
        ignored = PIL.Image.fromarray(ids == label_set.ignore_index)
        result.paste(picture, mask=ignored)
    line = _boundaries(ids, width=max(1, round(max(picture.size) / 1000)))
    result.paste(result.point(lambda value: value * 0.4), mask=line)
    if not legend:
        return result
    colors_of = dict(zip(label_set.classes, label_set.palette, strict=True))
    shares = class_shares(ids, label_set).items()
    return with_legend(result, [(name, colors_of[name], percent(share)) for name, share in shares])


def _counted(
    labels: Labels, label_set: LabelSet
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.intp]]:
    """The label map as uint8 and how often each of the 256 values occurs in it."""
    ids = np.asarray(labels)
    if ids.ndim != 2 or ids.size == 0:
        raise ValueError(
            f"a label map must be (H, W) and not empty, not {ids.shape}; index or squeeze it."
        )
    if ids.dtype.kind not in "iu":
        raise TypeError(
            f"a label map must hold integers, not {ids.dtype}; take the argmax of scores."
        )
    if ids.dtype != np.uint8:
        if ids.min() < 0 or ids.max() > 255:
            raise ValueError(
                f"a label map must hold values from 0 to 255, not {ids.min()} to {ids.max()}; "
                f"give pixels without a class the ignore index."
            )
        ids = ids.astype(np.uint8)
    counts = np.bincount(ids.ravel(), minlength=256)
    strange = [
        i
        for i in np.flatnonzero(counts).tolist()
        if i >= len(label_set) and i != label_set.ignore_index
    ]
    if strange:
        raise ValueError(
            f"the label map holds {', '.join(map(str, strange))}, unknown to the label set "
            f"{label_set.name!r} of {len(label_set)} classes; choose the one it was made with."
        )
    return ids, counts


def _boundaries(ids: npt.NDArray[np.uint8], width: int) -> PIL.Image.Image:
    """Mask of lines of that width where classes meet."""
    mask = np.zeros(ids.shape, bool)
    before, after = width // 2, width - width // 2
    mask[:, after : ids.shape[1] - before] |= ids[:, width:] != ids[:, :-width]
    mask[after : ids.shape[0] - before] |= ids[width:] != ids[:-width]
    return PIL.Image.fromarray(mask)


def with_legend(
    picture: PIL.Image.Image,
    entries: Sequence[tuple[str, Color, str]],
    *,
    size: float | None = None,
) -> PIL.Image.Image:
    """Add a panel below: a swatch, a name and a number of each entry, in columns.

    Args:
        picture: What it is added to.
        entries: Name, colour and number, which may be "", of each.
        size: Of the letters in pixels; by default, what suits the picture.
    """
    if not entries:
        return picture
    texts = [(name, number) for name, _, number in entries]
    colors = [color for _, color, _ in entries]

    size = size or max(9.0, min(picture.width / 48, picture.height / 28))
    margin = round(0.8 * size)
    font = ImageFont.load_default(size)
    swatch, gap, line = round(0.95 * size), round(0.45 * size), round(1.6 * size)
    room = picture.width - 2 * margin
    head = swatch + gap
    tail = 2 * gap + max(font.getlength(number) for _, number in texts)
    if room - head - tail < 4 * size:  # a narrow picture: names alone
        texts, tail = [(name, "") for name, _ in texts], 0
    widest = max(font.getlength(name) for name, _ in texts)
    name_width = max(0, min(widest, room - head - tail))
    item = round(head + name_width + tail)
    between = round(2 * size)
    columns = max(1, min(len(texts), (room + between) // (item + between)))
    rows = -(-len(texts) // columns)
    columns = -(-len(texts) // rows)
    pitch = (room + between) // columns if columns > 1 else 0
    pitch = min(pitch, round(1.35 * item + between))

    panel = PIL.Image.new("RGB", (picture.width, rows * line + 2 * margin), PAPER)
    draw = ImageDraw.Draw(panel)
    for i, (name, number) in enumerate(texts):
        x, y = margin + i // rows * pitch, margin + i % rows * line + line // 2
        top = y - swatch // 2
        draw.rectangle((x, top, x + swatch - 1, top + swatch - 1), colors[i], _darker(colors[i]))
        shown = elided(name, font, name_width)
        draw.text((x + head, y), shown, INK, font, anchor="lm")
        draw.text((x + item, y), number, FAINT, font, anchor="rm")
    result = PIL.Image.new("RGB", (picture.width, picture.height + panel.height))
    result.paste(picture)
    result.paste(panel, (0, picture.height))
    return result


def percent(share: float) -> str:
    """A share from 0 to 1 as text."""
    return "<0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def _darker(color: Color) -> Color:
    red, green, blue = (channel * 3 // 4 for channel in color)
    return red, green, blue


def elided(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """As much of the text as fits, its end replaced by dots."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}..") > width:
        text = text[:-1]
    return f"{text}.." if text else ""
