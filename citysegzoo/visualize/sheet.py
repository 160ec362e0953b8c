"""Contact sheets: what several models make of one image, side by side."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import PIL.Image
from PIL import ImageDraw, ImageFont
from PIL.Image import Resampling

from citysegzoo.data.labels import Color, LabelSet, Palette
from citysegzoo.images import Image, read_image
from citysegzoo.visualize.pictures import (
    INK,
    PAPER,
    Labels,
    class_shares,
    elided,
    overlay,
    percent,
    with_legend,
)

_OTHER: Color = (190, 190, 190)
# From few to many models that differ: one ramp from light to dark, which all visions see.
_FEW, _MANY = np.array((255, 190, 90)), np.array((110, 0, 60))
_LETTERS, _GAP = 15, 10  # pixels


def disagreement(predictions: Sequence[Labels]) -> npt.NDArray[np.uint8]:
    """How many label maps differ, in each pixel, from the class that most of them have.

    Args:
        predictions: Label maps ``(H, W)`` of one size, at most 255.

    Returns:
        uint8 ``(H, W)``: 0 where all agree.

    Raises:
        ValueError: If there are none, or too many, or their sizes differ.
    """
    maps = [np.asarray(labels) for labels in predictions]
    if not 1 <= len(maps) <= 255:
        raise ValueError(f"1 to 255 label maps can be compared, not {len(maps)}.")
    if len({labels.shape for labels in maps}) > 1:
        sizes = ", ".join(str(labels.shape) for labels in maps)
        raise ValueError(f"label maps of different sizes cannot be compared: {sizes}; resize them.")
    most = np.zeros(maps[0].shape, np.uint8)
    for labels in maps:
        votes = np.zeros_like(most)
        for other in maps:
            votes += labels == other
        np.maximum(most, votes, out=most)
    return len(maps) - most


def common_labels(
    label_sets: Sequence[LabelSet],
) -> tuple[LabelSet, list[npt.NDArray[np.uint8]]]:
    """What predictions in different label sets can be compared in.

    Where all have the same classes, those. Else the classes whose names all of them have, and
    ``other`` for the rest. Numbered classes, whose names say nothing, are part of the rest, and so
    is what they call other themselves.

    Args:
        label_sets: One for each prediction, at least one.

    Returns:
        The label set, in the colours of the first, and for each given one a table ``(256,)`` that
        its label maps are to be looked up in.

    Raises:
        ValueError: If they share fewer than two classes.
    """
    first = label_sets[0]
    if all(labels.classes == first.classes for labels in label_sets):
        return first, [np.arange(256, dtype=np.uint8)] * len(label_sets)
    shared = [
        name
        for name in first.classes
        if all(name in labels.classes for labels in label_sets)
        and not re.fullmatch(r"class_\d+|other", name)
    ]
    if len(shared) < 2:
        names = ", ".join(dict.fromkeys(labels.name for labels in label_sets))
        raise ValueError(
            f"the models share {len(shared)} of their classes by name ({names}); compare models "
            f"trained on the same classes."
        )
    tables = []
    for labels in label_sets:
        table = np.full(256, len(shared), np.uint8)
        for i, name in enumerate(shared):
            table[labels.classes.index(name)] = i
        tables.append(table)
    colors = [first.palette[first.classes.index(name)] for name in shared]
    return LabelSet("common", (*shared, "other"), (*colors, _OTHER)), tables


def contact_sheet(
    image: Image,
    predictions: Mapping[str, Labels],
    label_set: LabelSet,
    *,
    alpha: float = 0.5,
    palette: Palette | None = None,
    panel: int = 640,
) -> PIL.Image.Image:
    """The image, every prediction laid over it, and where predictions disagree, in one picture.

    Of two predictions or more, the last panel shows in every pixel how many differ from the class
    that most of them have, the darker the more, and names the share of pixels where all agree. The
    legend below has the classes, with the mean of their shares, largest first.

    Args:
        image: Path, PIL image or uint8 array, as :func:`read_image` reads it.
        predictions: Label map of the image's size by the name that is shown.
        label_set: The classes of all of them.
        alpha: Weight of the colours, 0..1.
        palette: Other colours, as :meth:`LabelSet.with_palette` has them.
        panel: Side in pixels of the square that every panel is made to fit into, at least 64.

    Returns:
        RGB picture.

    Raises:
        ValueError: If there is no prediction, sizes differ, or a label is no class.
    """
    if panel < 64:
        raise ValueError(f"panels have at least 64 pixels, not {panel}.")
    label_set = label_set if palette is None else label_set.with_palette(palette)
    pixels = read_image(image)
    differ = disagreement(list(predictions.values()))  # refuses none at all
    panels = [("image", PIL.Image.fromarray(pixels))]
    panels += [
        (name, overlay(pixels, labels, label_set, alpha=alpha, legend=False))
        for name, labels in predictions.items()
    ]
    colors_of = dict(zip(label_set.classes, label_set.palette, strict=True))
    entries = [
        (name, colors_of[name], percent(share))
        for name, share in _mean_shares(predictions, label_set).items()
    ]
    count = len(predictions)
    if count > 1:
        ramp = _ramp(count)
        agreed = float((differ == 0).mean())
        caption = f"disagreement: all agree on {percent(agreed)}"
        panels.append((caption, _disagreement_picture(pixels, differ, ramp)))
        entries += [
            (f"{i} of {count} differ{'s' * (i == 1)}", ramp[i], percent((differ == i).mean()))
            for i in range(1, count)
            if (differ == i).any()
        ]
    return with_legend(_grid(panels, panel), entries, size=_LETTERS)


def _mean_shares(predictions: Mapping[str, Labels], label_set: LabelSet) -> dict[str, float]:
    means = dict.fromkeys(label_set.classes, 0.0)
    for labels in predictions.values():
        for name, share in class_shares(labels, label_set).items():
            means[name] += share / len(predictions)
    found = [(name, share) for name, share in means.items() if share]
    return dict(sorted(found, key=lambda item: -item[1]))


def _ramp(count: int) -> list[Color]:
    """The colour of each number of predictions that differ, of so many; that of 0 is unused."""
    places = [max(0, i - 1) / max(1, count - 2) for i in range(count)]
    red_green_blue = [(_FEW + place * (_MANY - _FEW)).round().astype(int) for place in places]
    return [(int(red), int(green), int(blue)) for red, green, blue in red_green_blue]


def _disagreement_picture(
    pixels: npt.NDArray[np.uint8], differ: npt.NDArray[np.uint8], ramp: list[Color]
) -> PIL.Image.Image:
    """The colours of the ramp over a faint grey image."""
    grey = PIL.Image.fromarray(pixels).convert("L").point(lambda value: 170 + value / 3)
    picture = np.array(grey.convert("RGB"))
    found = differ > 0
    picture[found] = np.array(ramp, np.uint8)[differ[found]]
    return PIL.Image.fromarray(picture)


def _grid(panels: Sequence[tuple[str, PIL.Image.Image]], side: int) -> PIL.Image.Image:
    """Pictures of one size in rows, each below its caption."""
    width, height = panels[0][1].size
    scale = side / max(width, height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    columns = math.ceil(math.sqrt(len(panels)))
    rows = -(-len(panels) // columns)
    line = 2 * _LETTERS
    # A caption has the room of the square, also above a portrait.
    pitch = side + _GAP, size[1] + line + _GAP
    sheet = PIL.Image.new("RGB", (columns * pitch[0] + _GAP, rows * pitch[1]), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_LETTERS)
    for i, (caption, picture) in enumerate(panels):
        x, y = _GAP + i % columns * pitch[0], i // columns * pitch[1]
        draw.text((x, y + line // 2), elided(caption, font, side), INK, font, anchor="lm")
        # BOX averages where it shrinks and repeats pixels where it enlarges.
        sheet.paste(picture.resize(size, Resampling.BOX), (x, y + line))
    return sheet
