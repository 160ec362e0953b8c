"""Learning curves as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import PIL.Image
from PIL import ImageDraw, ImageFont

from citysegzoo.visualize.pictures import FAINT, INK, PAPER


def draw_curves(
    curves: Mapping[str, Sequence[tuple[float, float]]], *, size: tuple[int, int] = (960, 320)
) -> PIL.Image.Image:
    """Learning curves, one panel for each.

    Args:
        curves: Points ``(x, y)`` of each curve by its name, x rising; points that are not finite
            are left out.
        size: (width, height) of the picture in pixels.

    Returns:
        RGB picture.

    Raises:
        ValueError: If the picture is too small for so many curves.
    """
    if size[0] < 100 * len(curves) or size[1] < 100:
        raise ValueError(
            f"{len(curves)} curves need a picture of at least {100 * len(curves)}x100, not "
            f"{size[0]}x{size[1]}."
        )
    picture = PIL.Image.new("RGB", size, PAPER)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(12)
    width, height = size[0] / max(1, len(curves)), size[1]
    for number, (name, points) in enumerate(curves.items()):
        left, right = number * width + 52, (number + 1) * width - 14
        top, bottom = 30, height - 26
        draw.rectangle((left, top, right, bottom), outline=(214, 217, 221))
        draw.text((left, 10), name, INK, font)
        points = [point for point in points if all(map(math.isfinite, point))]
        if not points:
            continue
        xs, ys = zip(*points, strict=True)
        spread = [(min(values), max(values) - min(values) or 1) for values in (xs, ys)]
        (x0, x_range), (y0, y_range) = spread
        line = [
            (
                left + (x - x0) / x_range * (right - left),
                bottom - (y - y0) / y_range * (bottom - top),
            )
            for x, y in points
        ]
        draw.line(line, (31, 119, 180), 2)
        x, y = line[-1]
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), (31, 119, 180))
        for value, height_ in ((max(ys), top), (min(ys), bottom)):
            draw.text((left - 4, height_), f"{value:.3g}", FAINT, font, anchor="rm")
        for value, x, anchor in ((xs[0], left, "la"), (xs[-1], right, "ra")):
            draw.text((x, bottom + 6), f"{value:g}", FAINT, font, anchor=anchor)
        draw.text((right, 10), f"{ys[-1]:.4g}", FAINT, font, anchor="ra")
    return picture
