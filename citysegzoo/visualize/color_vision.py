"""How different the colours of a palette look, also to people who are colour-blind.

Where the safe palettes of :mod:`citysegzoo.data.labels` come from: :func:`safe_palette`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from citysegzoo.data.labels import Color

Floats = npt.NDArray[np.float64]

# What is seen of linear RGB. Machado, Oliveira and Fernandes, "A Physiologically-based Model for
# Simulation of Color Vision Deficiency", IEEE TVCG 15(6), 2009, severity 1.0.
VISIONS: dict[str, Floats] = {
    "usual": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
"""The usual vision and the three kinds of lacking cones: matrices ``(3, 3)`` on linear RGB."""

# Linear sRGB to XYZ over the white of D65, IEC 61966-2-1.
_XYZ = np.array(
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
) / np.array([[0.95047], [1.0], [1.08883]])


def lab(colors: Sequence[Color] | npt.ArrayLike, vision: str = "usual") -> Floats:
    """CIELAB (D65) of sRGB colours as they are seen.

    Args:
        colors: ``(N, 3)`` in 0..255.
        vision: One of :data:`VISIONS`.

    Returns:
        ``(N, 3)``: L*, a*, b*.
    """
    srgb = np.asarray(colors, np.float64) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = (linear @ VISIONS[vision].T).clip(0, 1)
    xyz = seen @ _XYZ.T
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = f.T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


def ciede2000(one: npt.ArrayLike, other: npt.ArrayLike) -> Floats:
    """The colour difference CIEDE2000; one that is just noticed is about 1.

    Sharma, Wu and Dalal, "The CIEDE2000 Color-Difference Formula", Color Research and Application
    30(1), 2005.

    Args:
        one: CIELAB colours ``(..., 3)``.
        other: As many, or of a shape that broadcasts.
    """
    (l1, a1, b1), (l2, a2, b2) = (
        np.moveaxis(np.asarray(colors, np.float64), -1, 0) for colors in (one, other)
    )
    chroma7 = ((np.hypot(a1, b1) + np.hypot(a2, b2)) / 2) ** 7
    stretch = 1.5 - 0.5 * np.sqrt(chroma7 / (chroma7 + 25.0**7))
    a1, a2 = a1 * stretch, a2 * stretch
    c1, c2 = np.hypot(a1, b1), np.hypot(a2, b2)
    h1, h2 = (np.degrees(np.arctan2(b, a)) % 360 for a, b in ((a1, b1), (a2, b2)))
    turn = (h2 - h1 + 180) % 360 - 180
    turn = np.where((turn == -180) & (h2 > h1), 180, turn)
    hue = np.where(c1 * c2 == 0, h1 + h2, (h1 + turn / 2) % 360)
    delta_l, delta_c = l2 - l1, c2 - c1
    delta_h = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn) / 2)
    light, chroma = (l1 + l2) / 2, (c1 + c2) / 2

    def cos(degrees: Any) -> Any:
        return np.cos(np.radians(degrees))

    t = 1 - 0.17 * cos(hue - 30) + 0.24 * cos(2 * hue)
    t += 0.32 * cos(3 * hue + 6) - 0.2 * cos(4 * hue - 63)
    s_l = 1 + 0.015 * (light - 50) ** 2 / np.sqrt(20 + (light - 50) ** 2)
    s_c, s_h = 1 + 0.045 * chroma, 1 + 0.015 * chroma * t
    twist = 60 * np.exp(-(((hue - 275) / 25) ** 2))
    r = -2 * np.sqrt(chroma**7 / (chroma**7 + 25.0**7)) * np.sin(np.radians(twist))
    dl, dc, dh = delta_l / s_l, delta_c / s_c, delta_h / s_h
    return np.sqrt(np.maximum(0, dl**2 + dc**2 + dh**2 + r * dc * dh))


def differences(colors: Sequence[Color] | npt.ArrayLike) -> Floats:
    """CIEDE2000 of every two colours in the vision that tells them apart worst.

    Args:
        colors: ``(N, 3)`` in 0..255.

    Returns:
        ``(N, N)``.
    """
    seen = (lab(colors, vision) for vision in VISIONS)
    return np.min([ciede2000(one[:, None], one[None]) for one in seen], axis=0)


def least_difference(colors: Sequence[Color] | npt.ArrayLike) -> float:
    """CIEDE2000 of the two most alike of the colours, in the vision that tells them apart worst."""
    table = differences(colors)
    return float(table[np.triu_indices(len(table), 1)].min())


def safe_palette(standard: Sequence[Color], *, levels: int = 9) -> tuple[Color, ...]:
    """Colours that all visions tell apart, as near to the standard ones as they can be.

    Among the colours of a grid, those are searched whose least difference from each other, and
    from the black of ignored pixels, is largest: one after the other is chosen farthest from those
    there are, and then moved as long as that helps. They are dealt to the classes so that the sum
    of the squared differences from the standard colours is small. Nothing is random.

    Args:
        standard: The standard colour of each class.
        levels: Colours of the grid along each of R, G and B.
    """
    steps = np.linspace(0, 255, levels).round().astype(int)
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    table = differences(grid)
    chosen = max(
        (_spread(table, len(standard), start) for start in range(1, len(grid))),
        key=lambda places: _least(table, places),
    )
    colors = grid[chosen[1:]]  # without black
    cost = ciede2000(lab(colors)[:, None], lab(standard)[None]) ** 2
    return tuple((int(r), int(g), int(b)) for r, g, b in colors[_dealt(cost)])


def _spread(table: Floats, count: int, start: int) -> list[int]:
    """Black, which is place 0 of the grid, and ``count`` colours far from it and each other."""
    places = [0, start]
    while len(places) <= count:
        places.append(int(table[places].min(axis=0).argmax()))
    moved = True
    while moved:
        moved = False
        among = table[np.ix_(places, places)] + np.diag([np.inf] * len(places))
        nearest = among.min(axis=1)
        for i in np.flatnonzero(nearest == nearest.min()).tolist():
            if i == 0:
                continue
            rest = table[places[:i] + places[i + 1 :]].min(axis=0)
            if rest.max() > nearest[i] + 1e-6:  # by more than rounding, or it never ends
                places[i], moved = int(rest.argmax()), True
                break
    return places


def _least(table: Floats, places: list[int]) -> float:
    among = table[np.ix_(places, places)]
    return float(among[np.triu_indices(len(places), 1)].min())


def _dealt(cost: Floats) -> list[int]:
    """Which row each column gets so that the sum is small: the best of swaps of two."""
    rows = list(range(len(cost)))
    swapped = True
    while swapped:
        swapped = False
        for i in range(len(rows)):
            for j in range(i):
                a, b = rows[i], rows[j]
                if cost[a, j] + cost[b, i] < cost[a, i] + cost[b, j] - 1e-9:
                    rows[i], rows[j], swapped = b, a, True
    return rows
