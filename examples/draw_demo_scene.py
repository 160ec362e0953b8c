"""Draw the demo street of citysegzoo and, on request, its exact label map.

Everything is drawn here with Pillow and numpy, in metres before a pinhole camera and at twice
the final size. The same seed gives the same picture.

    python examples/draw_demo_scene.py --output street.jpg --labels street_labels.png
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PERSON, CYCLIST, VOID = range(12)

SIZE = (960, 720)
WIDTH, HEIGHT = 2 * SIZE[0], 2 * SIZE[1]
FOCAL, CENTRE, HORIZON, EYE = 0.95 * WIDTH, 0.46 * WIDTH, 0.47 * HEIGHT, 1.5
LEFT, RIGHT = -3.3, 6.6  # the kerbs; x in metres to the right of the camera
WALL_LEFT, WALL_RIGHT = -6.6, 10.0  # the house fronts
HAZE, REACH = np.array((232, 238, 241)), 420.0
TURN = np.linspace(0, 2 * np.pi, 40)

Point = tuple[float, float]
Color = Sequence[float] | np.ndarray
Part = tuple[int, float, Color, Sequence[Point]]
rng = np.random.default_rng(0)


def pixel(x: float, y: float, z: float) -> Point:
    """Where a point x to the right, y above the road and z ahead is seen."""
    return CENTRE + FOCAL * x / z, HORIZON + FOCAL * (EYE - y) / z


def hazy(color: Color, z: float) -> np.ndarray:
    """A colour, or an array of them, as seen from z metres away."""
    near = np.exp(-z / REACH)
    return np.clip(np.asarray(color) * near + HAZE * (1 - near), 0, 255).astype(np.uint8)


def ink(color: Color, z: float = 0) -> tuple[int, ...]:
    """The same as Pillow wants it."""
    return tuple(hazy(color, z).tolist())


def blobs(height: int, width: int, cell: float) -> np.ndarray:
    """Smooth noise of about unit variance, its blobs about ``cell`` pixels wide."""
    small = rng.normal(size=(int(height / cell) + 3, int(width / cell) + 3)).astype(np.float32)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


class Canvas:
    """The picture and its label map, drawn together."""

    def __init__(self) -> None:
        self.picture = Image.new("RGB", (WIDTH, HEIGHT))
        self.labels = Image.new("L", (WIDTH, HEIGHT), VOID)

    def fill(
        self, points: Sequence[Point], z: float, color: Color, label: int, low: Color | None = None
    ) -> None:
        """A polygon, shaded down to the colour ``low``."""
        ramp = hazy(np.linspace(color, color if low is None else low, 64)[:, None], z)
        self._paste(points, lambda size, _: Image.fromarray(ramp).resize(size), label)

    def limb(
        self, places: Iterable[Point], width: float, z: float, color: Color, label: int
    ) -> None:
        """A thick line with round ends."""
        points = list(places)
        for image, value in ((self.picture, ink(color, z)), (self.labels, label)):
            draw, r = ImageDraw.Draw(image), width / 2
            draw.line(points, value, max(1, round(width)), joint="curve")
            for x, y in (points[0], points[-1]) if width > 3 else ():
                draw.ellipse((x - r, y - r, x + r, y + r), value)

    def figure(self, x: float, z: float, parts: Iterable[Part]) -> None:
        """Something upright made of limbs and, of width 0, shaded polygons, in metres."""
        for label, width, color, points in parts:
            places = [pixel(x + dx, y, z) for dx, y in points]
            if width:
                self.limb(places, width * FOCAL / z, z, color, label)
            else:
                self.fill(places, z, color, label, np.asarray(color) * 0.65)

    def shadow(self, x: float, z: float, half: float, length: float, strength: float) -> None:
        """A soft shadow on the ground below something."""
        feet = ((-half, -0.25), (half, -0.25), (half, length), (-half, length))
        mask = Image.new("L", (WIDTH // 4, HEIGHT // 4))
        corners = (pixel(x + dx, 0, z + dz) for dx, dz in feet)
        ImageDraw.Draw(mask).polygon([(u / 4, v / 4) for u, v in corners], int(255 * strength))
        mask = mask.filter(ImageFilter.GaussianBlur(0.03 * FOCAL / z)).resize((WIDTH, HEIGHT))
        self.picture.paste((12, 13, 15), mask=mask)

    def texture(self, image: Image.Image, corners: Sequence[Point], label: int) -> None:
        """An image in perspective; corners: top left, top right, bottom right, bottom left."""
        (ax, ay), (bx, by), (_, cy), (_, dy) = corners
        w, h = max(2, round(abs(bx - ax))), max(2, round(max(dy - ay, cy - by)))
        image = image.resize((w, h), Image.Resampling.BOX)

        def warped(shape: tuple[int, int], origin: Point) -> Image.Image:
            rows, wanted = [], []
            for (u, v), corner in zip(((0, 0), (w, 0), (w, h), (0, h)), corners, strict=True):
                x, y = corner[0] - origin[0], corner[1] - origin[1]
                rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
                wanted += [u, v]
            data = np.linalg.solve(np.array(rows), np.array(wanted)).tolist()
            return image.transform(
                shape, Image.Transform.PERSPECTIVE, data, Image.Resampling.BICUBIC
            )

        self._paste(corners, warped, label)

    def _paste(
        self,
        points: Sequence[Point],
        make: Callable[[tuple[int, int], Point], Image.Image],
        label: int,
    ) -> None:
        xs, ys = np.array(points).T
        x0, y0 = max(0, int(xs.min())), max(0, int(ys.min()))
        x1, y1 = min(WIDTH, int(xs.max()) + 1), min(HEIGHT, int(ys.max()) + 1)
        if x1 <= x0 or y1 <= y0:
            return
        mask = Image.new("L", (x1 - x0, y1 - y0))
        ImageDraw.Draw(mask).polygon([(x - x0, y - y0) for x, y in points], 255)
        self.picture.paste(make(mask.size, (x0, y0)), (x0, y0), mask)
        self.labels.paste(label, (x0, y0), mask)


def draw_sky(canvas: Canvas) -> None:
    """Bright overcast, almost white towards the horizon."""
    height = int(HORIZON) + 20
    ramp = np.linspace((196, 216, 236), (240, 244, 246), height)[:, None]
    clouds = blobs(height, WIDTH, 420) + 0.6 * blobs(height, WIDTH, 150)
    clouds = 0.85 / (1 + np.exp(-1.6 * clouds - 0.9))[..., None]
    sky = ramp * (1 - clouds) + np.array((247, 249, 250)) * clouds
    canvas.picture.paste(Image.fromarray(sky.astype(np.uint8)))
    canvas.labels.paste(SKY, (0, 0, WIDTH, height))


def sampled(tile: np.ndarray, x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Values of a repeating tile at real-valued places, bilinear."""
    i, j, n = np.floor(z).astype(int), np.floor(x).astype(int), len(tile)
    a, b = z - i, x - j
    i, j, below, right = i % n, j % n, (i + 1) % n, (j + 1) % n
    upper = tile[i, j] * (1 - b) + tile[i, right] * b
    return upper * (1 - a) + (tile[below, j] * (1 - b) + tile[below, right] * b) * a


def draw_ground(canvas: Canvas) -> None:
    """Asphalt with wear, repairs and markings, kerbs, pavements of slabs: pixel by pixel."""
    top = int(HORIZON) + 3
    row, column = np.mgrid[top:HEIGHT, 0:WIDTH].astype(np.float32)
    z = FOCAL * EYE / (row - HORIZON)
    x = (column - CENTRE) * z / FOCAL
    footprint = z * z / (FOCAL * EYE)  # metres of road behind one pixel
    fine = (1 - 14 * footprint).clip(0.15, 1)
    tile = rng.normal(size=(512, 512)).astype(np.float32)
    grain = 3.5 * rng.normal(size=x.shape)
    for waves, depth in ((0.35, 3), (1.6, 2.5), (7, 4), (28, 6), (90, 8)):
        visible = (1 - waves * footprint).clip(0, 1)
        grain += depth * visible * sampled(tile, x * waves, z * waves * 0.5)

    def inside(x0: float, x1: float, z0: float = 0, z1: float = 1e9) -> np.ndarray:
        return (x >= x0) & (x < x1) & (z >= z0) & (z < z1)

    road = inside(LEFT, RIGHT)
    grey = np.where(road, 84 + 0.9 * grain, 104 + 0.7 * grain)
    for track in (-1.0, 0.7, 2.6, 4.3):  # worn by tyres
        grey += np.where(road, 6 * np.exp(-(((x - track) / 0.35) ** 2)), 0)
    for trench in (
        (2.15, 2.75, 3, 70),
        (-1.9, -0.3, 9.5, 14),
        (0.2, 1.4, 17, 30),
        (3.5, 5.8, 9, 13),
    ):
        grey -= 9 * inside(*trench)
    grey -= 18 * np.exp(-np.minimum(abs(x - LEFT), abs(x - RIGHT)) / 0.22) * road
    slab_row, slab_column = (x - LEFT) / 0.75, z / 0.9 + 0.5 * np.floor((x - LEFT) / 0.75)
    grey -= 24 * fine * ((slab_row % 1 < 0.035) | (slab_column % 1 < 0.035)) * ~road
    grey += 4 * tile[slab_row.astype(int) % 512, slab_column.astype(int) % 512] * ~road
    wall = np.minimum(abs(x - WALL_LEFT), abs(x - WALL_RIGHT))
    grey *= 1 - 0.45 * np.exp(-wall / 0.35) * ~road
    picture = grey[..., None] * np.where(road[..., None], (0.97, 1.0, 1.05), (1.03, 1.0, 0.96))

    worn = sampled(tile, x * 23, z * 11) + 0.6 * sampled(tile, x * 61, z * 31) < 1.35
    yellow = inside(RIGHT - 0.33, RIGHT - 0.25, 0, 27) | inside(RIGHT - 0.51, RIGHT - 0.43, 0, 27)
    white = inside(1.62, 1.75) & ((z - 1.2) % 6 < 3.2)
    white |= inside(LEFT + 2.05, LEFT + 2.15, 8, 60) & (z % 1.6 < 0.8)
    white |= (abs(x + 0.9) < 0.08) & inside(-2, 0, 5.2, 7.2)  # an arrow
    white |= (abs(x + 0.9) < 0.4 * (8.4 - z)) & inside(-2, 0, 7.2, 8.4)
    for line, paint in ((yellow, (172, 146, 66)), (white, (204, 206, 203))):
        picture[line & worn] = picture[line & worn] * 0.3 + np.array(paint) * 0.7
    for edge, beyond in ((LEFT, LEFT - x), (RIGHT, x - RIGHT)):
        kerb, face = (beyond > 0) & (beyond < 0.16), (beyond > -0.08) & (beyond <= 0)
        picture[kerb] = (136 + 0.5 * grain - 34 * (z % 0.92 < 0.03) * fine + edge)[kerb, None]
        picture[face] = (62 + 0.4 * grain)[face, None]
    picture *= (0.86 + 0.14 * np.clip(z / 14, 0, 1))[..., None]
    canvas.picture.paste(Image.fromarray(hazy(picture, z[..., None])), (0, top))
    canvas.labels.paste(Image.fromarray(np.where(road, ROAD, PAVEMENT).astype(np.uint8)), (0, top))
    for at, away in ((0.75, 8.6), (-0.7, 21)):  # manholes
        for radius, tone in ((0.36, 52), (0.32, 80), (0.25, 66)):
            ring = [pixel(at + radius * np.cos(t), 0, away + radius * np.sin(t)) for t in TURN]
            canvas.fill(ring, away, (tone, tone, tone + 2), ROAD)


def masonry(width: int, height: int, scale: float, color: Color, brick: bool) -> Image.Image:
    """A wall of bricks or of plaster, weathered."""
    row, column = np.mgrid[0:height, 0:width]
    tone = 5 * blobs(height, width, 0.9 * scale) + 2.5 * blobs(height, width, 2)
    tone += 5 * blobs(1, width, 0.25 * scale) * (1 - row / height)  # streaks of rain
    if brick and scale > 25:
        course = (row / (0.085 * scale)).astype(int)
        along = column / (0.24 * scale) + 0.5 * (course % 2)
        tone += 7 * rng.normal(size=(512, 512))[course % 512, along.astype(int) % 512]
        tone += 15 * ((row % (0.085 * scale) < 0.014 * scale) | (along % 1 < 0.06))
    return Image.fromarray(hazy(np.asarray(color) * (1 + tone[..., None] / 110), 0))


def box(wall: Image.Image, scale: float, corners: Sequence[float], color: Color) -> list[int]:
    """A rectangle on a wall; metres from its top left. Returns the pixels."""
    pixels = [round(scale * value) for value in corners]
    ImageDraw.Draw(wall).rectangle(pixels, ink(color))
    return pixels


def pane(wall: Image.Image, scale: float, corners: Sequence[float], light: float) -> None:
    """Glass: dark, with a curtain, and the sky and the houses opposite in it."""
    x0, y0, x1, y1 = box(wall, scale, corners, (30, 32, 35))
    width, height = max(2, x1 - x0), max(2, y1 - y0)
    glass = np.linspace((124, 137, 150), (34, 38, 44), height)[:, None].repeat(width, 1) * light
    glass[:, : int(rng.uniform(0, 0.4) * width)] *= 1.5
    glass += 8 * blobs(height, width, max(2, width / 3))[..., None]
    wall.paste(Image.fromarray(hazy(glass, 0)), (x0, y0))


def add_window(wall: Image.Image, scale: float, x: float, y: float, w: float, h: float) -> None:
    """A sash window with its lintel and sill."""
    stone, light = np.array((190, 184, 172)) * rng.uniform(0.85, 1.0), rng.uniform(0.6, 1.1)
    box(wall, scale, (x - 0.1, y - 0.24, x + w + 0.1, y - 0.02), stone)
    box(wall, scale, (x - 0.05, y - 0.03, x + w + 0.05, y + h), (52, 49, 46))
    box(wall, scale, (x, y, x + w, y + h), (220, 219, 214))
    for top, low in ((0.08, h / 2 - 0.03), (h / 2 + 0.05, h - 0.07)):
        for left, right in ((0.07, w / 2 - 0.02), (w / 2 + 0.02, w - 0.07)):
            pane(wall, scale, (x + left, y + top, x + right, y + low), light)
    box(wall, scale, (x, y, x + w, y + 0.08), (112, 110, 106))
    box(wall, scale, (x - 0.12, y + h, x + w + 0.12, y + h + 0.1), stone * 1.1)
    box(wall, scale, (x - 0.12, y + h + 0.1, x + w + 0.12, y + h + 0.18), (60, 57, 53))


def add_shop(wall: Image.Image, scale: float, top: float, name: str) -> None:
    """A shop front over the whole width: fascia with its name, panes, a door."""
    width, bottom = wall.width / scale, wall.height / scale
    color = rng.permutation(((66, 70, 78), (92, 48, 46), (58, 58, 62), (84, 74, 62)))[0] * 1.05
    box(wall, scale, (0, top, width, bottom), color * 0.9)
    box(wall, scale, (0, top - 0.14, width, top), color * 1.6 + 20)
    box(wall, scale, (0.15, top + 0.1, width - 0.15, top + 0.8), color * 1.2)
    ImageDraw.Draw(wall).text(
        (wall.width / 2, scale * (top + 0.46)), name, (226, 218, 192),
        ImageFont.load_default(max(6, 0.55 * scale)), anchor="mm",
    )  # fmt: skip
    count = max(2, round(width / 2.2))
    for i in range(count):
        left, right = (i + 0.06) * width / count, (i + 0.94) * width / count
        door = i == count // 2
        sill = bottom - (0.12 if door else 0.6)
        pane(wall, scale, (left, top + 1.0, right, sill), rng.uniform(0.55, 0.9))
        for lamp in np.arange(left + 0.3, right - 0.2, 0.6):
            box(wall, scale, (lamp, top + 1.15, lamp + 0.16, top + 1.2), (236, 206, 150))
        if door:
            box(wall, scale, (left + 0.2, bottom - 1.0, right - 0.2, bottom - 0.2), color)
            continue
        for place in np.arange(left + 0.1, right - 0.4, 0.35):  # goods on display
            tint, high = rng.uniform(60, 130) * rng.uniform(0.75, 1.1, 3), rng.uniform(0.15, 0.6)
            box(wall, scale, (place, sill - high, place + 0.25, sill), tint)
        box(wall, scale, (left, sill, right, sill + 0.07), color * 1.7 + 20)


def house_front(
    width: float, height: float, scale: float, color: Color, brick: bool, shop: str
) -> Image.Image:
    """A flat picture of a house front, ``scale`` pixels to the metre."""
    wall = masonry(round(width * scale), round(height * scale), scale, color, brick)
    count = max(1, round(width / 2.5))
    for floor in range(0 if not shop else 1, 1 + int((height - 4) / 2.9)):
        y = height - 2.7 if floor == 0 else height - 2.75 - 2.9 * floor
        for i in range(count):
            add_window(wall, scale, (i + 0.5) * width / count - 0.55, y, 1.1, 1.75)
    if shop:
        add_shop(wall, scale, height - 3.5, shop)
    for y, shade in ((0, 1.15), (0.22, 1.0), (0.36, 0.5)):  # cornice and its shadow
        box(wall, scale, (0, y, width, y + 0.2), np.asarray(color) * shade)
    return wall


def draw_house(
    canvas: Canvas, side: float, z0: float, z1: float, height: float, color: Color, shop: str
) -> None:
    """A house in the row at x = side: chimneys, the gable towards us, the front."""
    far, scale, brick = (
        side + (9 if side > 0 else -9),
        min(110, FOCAL / max(z0, 12)),
        color[0] < 190,
    )
    light = 1.12 if side > 0 else 0.86  # what sun there is comes from the left
    for at in (0.25, 0.8):
        x, z = (side + far) / 2, z0 + at * (z1 - z0)
        for half, low, high, tone in (
            (0.5, 0, 3.6, 0.62),
            (0.58, 3.3, 3.5, 0.75),
            (0.3, 3.6, 4.1, 0.5),
        ):
            stack = ((-half, low), (-half, high), (half, high), (half, low))
            brick_red = np.array((150, 104, 84)) * tone
            canvas.fill([pixel(x + a, height + b, z) for a, b in stack], z, brick_red, BUILDING)

    def wall(front: Image.Image, corners: Sequence[Point], light: float) -> None:
        shade = np.linspace(1.05, 0.78, front.height)[:, None, None] * light
        canvas.texture(Image.fromarray(hazy(np.asarray(front) * shade, z0)), corners, BUILDING)

    left, right = min(side, far), max(side, far)
    roof = (
        (left, height, 0),
        (left + 2.5, height + 2.4, 3),
        (right - 2.5, height + 2.4, 3),
        (right, height, 0),
    )
    canvas.fill(
        [pixel(x, y, z0 + dz) for x, y, dz in roof], z0, (74, 74, 80), BUILDING, (96, 94, 96)
    )
    gable = [pixel(x, y, z0) for x, y in ((left, height), (right, height), (right, 0), (left, 0))]
    wall(house_front(9, height, scale, color, brick, ""), gable, 0.8)
    z_left, z_right = (z0, z1) if side < 0 else (z1, z0)
    corners = [
        pixel(side, y, z)
        for y, z in ((height, z_left), (height, z_right), (0, z_right), (0, z_left))
    ]
    wall(house_front(z1 - z0, height, scale, color, brick, shop), corners, light)


def draw_leaves(canvas: Canvas, x: float, y: float, z: float, half: Point, color: Color) -> None:
    """Foliage that fills an ellipse: ragged balls of leaves, lit from above."""
    unit, (px, py) = FOCAL / z, pixel(x, y, z)
    reach = [value * unit for value in half]
    x0, y0 = max(0, int(px - 1.3 * reach[0])), max(0, int(py - 1.3 * reach[1]))
    x1, y1 = min(WIDTH, int(px + 1.3 * reach[0])), min(HEIGHT, int(py + 1.3 * reach[1]))
    if x1 - x0 < 2 or y1 - y0 < 2:
        return
    area = (x0, y0, x1, y1)
    picture = np.array(canvas.picture.crop(area))
    leaf = blobs(y1 - y0, x1 - x0, max(1.5, 0.07 * unit))
    twig = blobs(y1 - y0, x1 - x0, max(2.5, 0.3 * unit))
    covered = np.zeros(leaf.shape, bool)
    size = 0.25 * min(reach[0], 1.6 * reach[1])
    for depth in np.linspace(0, 1, int(2.9 * reach[0] * reach[1] / size**2)):
        angle, radius = rng.uniform(0, 2 * np.pi), 0.9 * rng.uniform() ** 0.5
        u = px - x0 + radius * reach[0] * np.cos(angle)
        v = py - y0 + radius * reach[1] * np.sin(angle)
        top, bottom = np.clip((v - 2 * size, v + 2 * size), 0, leaf.shape[0]).astype(int)
        left, right = np.clip((u - 2 * size, u + 2 * size), 0, leaf.shape[1]).astype(int)
        near = np.s_[top:bottom, left:right]
        rows, columns = np.ogrid[near]
        dy, dx = (rows - v) / size, (columns - u) / size
        ball = np.hypot(dx, dy) + 0.28 * twig[near] + 0.3 * leaf[near] < 0.95
        lit = 0.62 - 0.3 * dy - 0.1 * dx + 0.3 * depth - 0.25 * radius * np.sin(angle)
        lit = (lit + 0.2 * leaf[near]).clip(0.12, 1.7)
        tint = np.asarray(color) * rng.normal(1, 0.1) * rng.normal(1, 0.025, 3)
        picture[near][ball] = hazy(lit[ball][:, None] * tint, z)
        covered[near] |= ball
    canvas.picture.paste(Image.fromarray(picture), area)
    canvas.labels.paste(
        TREE, area, Image.fromarray(covered).convert("L").filter(ImageFilter.MaxFilter(7))
    )


def draw_tree(canvas: Canvas, x: float, z: float, height: float, color: Color) -> None:
    """A trunk that forks, and its crown."""
    unit = height * FOCAL / z

    def grow(start: Point, angle: float, length: float, width: float) -> None:
        end = start[0] + length * np.sin(angle), start[1] - length * np.cos(angle)
        canvas.limb([start, end], width, z, np.array((72, 65, 56)) * rng.uniform(0.7, 1.15), TREE)
        for _ in range(3 if length > 0.06 * unit else 0):
            grow(end, angle + rng.normal(0, 0.5), length * rng.uniform(0.55, 0.75), width * 0.6)

    grow(pixel(x, 0, z), rng.normal(0, 0.04), 0.3 * unit, 0.04 * unit)
    draw_leaves(canvas, x, 0.7 * height, z, (0.38 * height, 0.3 * height), color)


def draw_railing(canvas: Canvas, x: float, z0: float, z1: float) -> None:
    """Iron railings on a low wall along the pavement; what is seen through them counts as fence."""
    outline = [pixel(x, y, z) for y, z in ((0, z0), (1.55, z0), (1.55, z1), (0, z1))]
    ImageDraw.Draw(canvas.labels).polygon(outline, FENCE)
    for y in (0.62, 1.43):
        canvas.limb([pixel(x, y, z0), pixel(x, y, z1)], 3, z0, (30, 32, 34), FENCE)
    for z in np.arange(z1, z0, -0.14):
        post = [pixel(x, 0.4, z), pixel(x, 1.55, z)]
        canvas.limb(post, max(1.0, 0.045 * FOCAL / z), z, (30, 32, 34), FENCE)
    for low, high, color in ((0.0, 0.45, (112, 106, 96)), (0.42, 0.52, (150, 144, 132))):
        wall = [pixel(x, y, z) for y, z in ((high, z0), (high, z1), (low, z1), (low, z0))]
        canvas.fill(wall, z0, color, FENCE, np.array(color) * 0.75)


def draw_lamp(canvas: Canvas, x: float, z: float, reach: float) -> None:
    """A street lamp whose arm reaches over the road."""
    arm = [(reach * t, 7.5 + 0.5 * np.sin(1.6 * t)) for t in np.linspace(0, 1, 9)]
    steel, head = (78, 82, 84), [arm[-1], (1.2 * reach, 7.98)]
    canvas.figure(x, z, [
        (POLE, 0.2, steel, [(0, 0), (0, 1.2)]), (POLE, 0.13, steel, [(0, 1.2), (0, 7.5)]),
        (POLE, 0.09, steel, arm), (POLE, 0.2, (150, 153, 152), head),
    ])  # fmt: skip


def draw_sign(canvas: Canvas, x: float, z: float) -> None:
    """A round speed limit over a parking sign on a pole."""
    plate = [(-0.25, 2.28), (0.25, 2.28), (0.25, 1.8), (-0.25, 1.8)]
    parts: list[Part] = [(POLE, 0.09, (96, 99, 100), [(0, 0), (0, 3)])]
    for radius, tint in ((0.36, (150, 150, 146)), (0.35, (168, 32, 36)), (0.26, (222, 222, 218))):
        parts.append((SIGN, 2 * radius, tint, [(0, 2.75), (0, 2.751)]))
    canvas.figure(x, z, [*parts, (SIGN, 0, (46, 88, 152), plate)])
    for y, size, text, color in (
        (2.75, 0.3, "30", (30, 30, 32)),
        (2.03, 0.36, "P", (228, 232, 236)),
    ):
        font = ImageFont.load_default(size * FOCAL / z)
        draw = ImageDraw.Draw(canvas.picture)
        draw.text(pixel(x, y, z), text, color, font, anchor="mm", stroke_width=1)


def draw_signal(canvas: Canvas, x: float, z: float) -> None:
    """Traffic lights on a pole, green."""
    back = [(-0.22, 3.35), (0.22, 3.35), (0.22, 2.2), (-0.22, 2.2)]
    lights = ((3.12, (70, 24, 24)), (2.78, (66, 50, 22)), (2.44, (70, 230, 150)))
    canvas.figure(x, z, [
        (POLE, 0.12, (60, 62, 64), [(0, 0), (0, 3.2)]), (SIGN, 0, (24, 25, 27), back),
        *((SIGN, 0.22, color, [(0, y), (0, y + 0.01)]) for y, color in lights),
    ])  # fmt: skip


# A car's side view from the end that faces us (metres along it, above the road), and the lower
# and upper ends of its side windows.
REAR = ((0, 0.3), (0, 0.6), (0.06, 0.95), (0.42, 1.4), (0.85, 1.47), (2.2, 1.43), (3, 0.97),
        (3.9, 0.78), (4, 0.3))  # fmt: skip
FRONT = ((0, 0.3), (0.03, 0.6), (0.2, 0.78), (1.1, 0.95), (1.85, 1.42), (2.5, 1.47), (3.4, 1.4),
         (3.92, 0.9), (4, 0.3))  # fmt: skip
REAR_WINDOWS = ((0.6, 1.6, 0.8, 1.6), (1.72, 2.8, 1.72, 2.25))
FRONT_WINDOWS = ((1.3, 2.25, 1.85, 2.25), (2.37, 3.4, 2.37, 3.1))


def draw_car(canvas: Canvas, x: float, z: float, color: Color, front: bool = False) -> None:
    """A small car along the road whose near end, front or rear, is z ahead."""
    profile, paint = FRONT if front else REAR, np.asarray(color, float)
    side = -1 if x > 0 else 1  # the side we see
    dark = (24, 25, 27)

    def at(across: float, along: float, y: float) -> Point:
        half = 0.87 - 0.34 * max(0.0, y - 0.92) - 0.1 * max(0.0, 0.6 - y)
        bow = 0.12 * across**4 * max(0.0, 1 - along / 2)  # the ends are rounded
        return pixel(x + across * half, y, z + along + bow)

    def strip(low: Point, high: Point, a: float, b: float, top: Color, bottom: Color) -> None:
        """A band across the near end, between two heights."""
        steps = np.linspace(a, b, 9)
        outline = [at(s, *high) for s in steps] + [at(s, *low) for s in steps[::-1]]
        canvas.fill(outline, z, top, CAR, bottom)

    canvas.shadow(x, z, 1.0, 4.2, 0.9)
    strip((0.1, 0.04), (0.1, 0.4), -0.85, 0.85, dark, (34, 34, 36))
    for tyre in (-0.78, 0.78):
        strip((0.1, 0), (0.1, 0.4), tyre - 0.14, tyre + 0.14, (16, 16, 18), (22, 22, 24))
    canvas.fill([at(side, *p) for p in profile], z, paint * 1.05, CAR, paint * 0.5)
    for a, b, c, d in FRONT_WINDOWS if front else REAR_WINDOWS:
        window = [at(side, a, 0.98), at(side, c, 1.36), at(side, d, 1.37), at(side, b, 0.98)]
        canvas.fill(window, z, (98, 107, 116), CAR, (30, 33, 37))
    canvas.limb([at(side, 0.4, 0.66), at(side, 3.7, 0.66)], 0.02 * FOCAL / z, z, paint * 0.5, CAR)
    for along in (0.72, 3.28):
        for radius, tone in ((0.37, 16), (0.31, 28), (0.2, 120), (0.07, 60)):
            wheel = [
                at(side, along + radius * np.cos(t), max(0, 0.31 + radius * np.sin(t)))
                for t in TURN
            ]
            canvas.fill(wheel, z, (tone, tone, tone + 2), CAR)
    for low, high in pairwise(profile[:6]):  # bumper, boot or bonnet, glass, roof
        rise = high[1] - low[1]
        tone = 0.7 + 0.6 * (high[0] - low[0]) / np.hypot(high[0] - low[0], rise)
        strip(low, high, -1, 1, paint * tone, paint * tone * (0.6 if low[1] < 0.4 else 0.85))
        if high[1] > 1.38 and rise > 0.3:
            ends = [(low[0] + t * (high[0] - low[0]), low[1] + t * rise) for t in (0.1, 0.9)]
            strip(ends[0], ends[1], -0.88, 0.88, (132, 143, 153), (26, 29, 33))
            for seat in (-0.45, 0.45):
                middle = (ends[0][0] + ends[1][0]) / 2, (ends[0][1] + ends[1][1]) / 2
                strip(ends[0], middle, seat - 0.16, seat + 0.16, (40, 43, 47), (22, 24, 27))
    strip((0, 0.3), (0, 0.42), -0.97, 0.97, dark, dark)
    strip((-0.01, 0.44), (-0.01, 0.58), -0.33, 0.33, dark, dark)
    plate = (222, 221, 212) if front else (200, 172, 62)
    strip((-0.02, 0.46), (-0.02, 0.56), -0.3, 0.3, plate, plate)
    for a in (-0.97, 0.62):
        if front:
            strip((0.03, 0.62), (0.15, 0.76), a, a + 0.35, (228, 232, 234), (130, 135, 140))
        else:
            strip((0, 0.64), (0.05, 0.92), a, a + 0.35, (164, 30, 32), (104, 16, 18))
    if front:
        strip((0.03, 0.63), (0.1, 0.72), -0.5, 0.5, dark, dark)
    else:
        strip((0, 0.6), (0.01, 0.62), -0.6, 0.6, paint * 0.4, paint * 0.4)


def draw_person(
    canvas: Canvas, x: float, z: float, coat: Color, legs: Color, step: float = 0.17
) -> None:
    """Somebody walking."""
    coat, legs, skin, shoe = np.asarray(coat), np.asarray(legs), (152, 116, 98), (26, 25, 25)
    canvas.shadow(x, z, 0.3, 0.4, 0.5)
    torso = [(-0.15, 1.47), (0.15, 1.47), (0.2, 1.38), (0.18, 0.8), (-0.18, 0.8), (-0.2, 1.38)]
    canvas.figure(x, z, [
        (PERSON, 0.14, legs * 0.7, [(0.05, 0.85), (0.6 * step, 0.47), (step, 0.07)]),
        (PERSON, 0.08, shoe, [(step - 0.02, 0.04), (step + 0.1, 0.04)]),
        (PERSON, 0.15, legs, [(-0.05, 0.85), (-0.2 * step, 0.47), (-step, 0.07)]),
        (PERSON, 0.08, shoe, [(-step - 0.02, 0.04), (-step + 0.1, 0.04)]),
        (PERSON, 0.1, coat * 0.6, [(0.16, 1.38), (0.22, 1.12), (0.22, 0.88)]),
        (PERSON, 0.1, skin, [(0, 1.44), (0, 1.55)]), (PERSON, 0, coat, torso),
        (PERSON, 0.1, coat * 0.85, [(-0.18, 1.38), (-0.22, 1.12), (-0.15, 0.9)]),
        (PERSON, 0.18, skin, [(0.01, 1.58), (0.01, 1.63)]),
        (PERSON, 0.19, (42, 34, 30), [(-0.02, 1.64), (0, 1.67)]),
    ])  # fmt: skip


def draw_cyclist(canvas: Canvas, x: float, z: float, jacket: Color) -> None:
    """A cyclist ahead of us, seen from behind."""
    jacket, legs = np.asarray(jacket), np.array((40, 43, 54))
    black, skin = (20, 20, 22), (150, 114, 96)
    canvas.shadow(x, z, 0.35, 1.8, 0.7)
    back = [(-0.15, 1.54), (0.15, 1.54), (0.22, 1.44), (0.17, 0.98), (-0.17, 0.98), (-0.22, 1.44)]
    bag = [(0.68 * dx, y) for dx, y in back[:4]] + [(-0.1, 1.1)]
    parts: list[tuple[float, Color, list[Point]]] = [
        (0.06, black, [(0, 0.04), (0, 0.68)]), (0.04, (60, 60, 62), [(-0.3, 1.04), (0.3, 1.04)]),
        (0.13, legs * 0.8, [(0.07, 0.95), (0.14, 0.62), (0.12, 0.24)]),
        (0.14, legs, [(-0.07, 0.95), (-0.16, 0.78), (-0.12, 0.46)]),
        (0.1, black, [(0.12, 0.22), (0.12, 0.16)]), (0.1, black, [(-0.12, 0.42), (-0.12, 0.38)]),
        (0.26, legs, [(-0.05, 0.95), (0.05, 0.95)]),
        (0.1, jacket * 0.75, [(-0.19, 1.44), (-0.3, 1.24), (-0.27, 1.06)]),
        (0.1, jacket * 0.75, [(0.19, 1.44), (0.3, 1.24), (0.27, 1.06)]),
        (0, jacket, back), (0, (104, 46, 42), bag),
        (0.1, skin, [(0, 1.52), (0, 1.6)]), (0.17, skin, [(0, 1.63), (0, 1.67)]),
        (0.2, (60, 62, 66), [(-0.01, 1.7), (0.01, 1.72)]),
        (0.05, (180, 30, 30), [(0, 0.76), (0, 0.78)]),
    ]  # fmt: skip
    canvas.figure(x, z, [(CYCLIST, *part) for part in parts])


def developed(picture: Image.Image) -> Image.Image:
    """What a lens and a sensor add: glare, softness, a vignette, contrast and noise."""
    glare = picture.filter(ImageFilter.GaussianBlur(24))
    small = Image.blend(picture, glare, 0.07).resize(SIZE, Image.Resampling.BOX)
    values = np.asarray(small.filter(ImageFilter.GaussianBlur(0.5)), dtype=np.float32) / 255
    row, column = np.mgrid[-1 : 1 : SIZE[1] * 1j, -1 : 1 : SIZE[0] * 1j]
    values = values * (1 - 0.07 * (row**2 + column**2))[..., None]
    values = np.interp(values, (0, 0.1, 0.3, 0.55, 0.9, 1), (0, 0.07, 0.3, 0.65, 0.98, 1))
    noise = rng.normal(0, 0.009, (*values.shape[:2], 1)) + rng.normal(0, 0.005, values.shape)
    values = values + noise * (0.5 + 0.5 * np.sqrt(values.clip(0, 1)))
    return Image.fromarray((255 * values.clip(0, 1) + 0.5).astype(np.uint8))


BRICK, STONE, PLASTER, RED = (136, 102, 86), (178, 163, 140), (204, 199, 188), (126, 82, 70)
HOUSES = (  # x of the front, where it starts and ends, its height, its wall, its shop
    (WALL_LEFT, 92, 124, 10, STONE, ""), (WALL_LEFT, 74, 92, 12, RED, "HOTEL"),
    (WALL_LEFT, 60, 74, 9.5, PLASTER, "BOOKS"), (WALL_LEFT, 48, 60, 11.5, STONE, "CAFE"),
    (WALL_LEFT, 37, 48, 9, RED, "FLOWERS"), (WALL_LEFT, 28, 37, 11, PLASTER, "TAILOR"),
    (WALL_LEFT, 19, 28, 9.6, STONE, "BAKERY"), (WALL_LEFT, 8, 19, 12.5, BRICK, "BICYCLE REPAIRS"),
    (WALL_RIGHT, 94, 124, 11, BRICK, ""), (WALL_RIGHT, 76, 94, 10, PLASTER, ""),
    (WALL_RIGHT, 62, 76, 12.5, RED, "BANK"), (WALL_RIGHT, 49, 62, 10, PLASTER, "PHARMACY"),
    (WALL_RIGHT, 36, 49, 11.5, STONE, "GROCER"),
)  # fmt: skip
PARKED, ONCOMING, PARKED_RIGHT = LEFT + 0.98, 3.7, 5.6
THINGS: tuple[tuple[Any, ...], ...] = (  # what draws it, its place to the right and ahead, the rest
    (draw_tree, LEFT - 0.9, 42, 6.8, (90, 92, 58)),
    (draw_lamp, LEFT - 0.5, 88, 1.5), (draw_lamp, LEFT - 0.5, 64, 1.5),
    (draw_lamp, LEFT - 0.5, 46, 1.5), (draw_lamp, RIGHT + 0.5, 80, -1.5),
    (draw_lamp, RIGHT + 0.5, 56, -1.5), (draw_lamp, RIGHT + 0.5, 38, -1.5),
    (draw_lamp, RIGHT + 0.45, 20.5, -1.6), (draw_signal, RIGHT + 0.5, 52),
    (draw_sign, LEFT - 0.45, 14),
    (draw_car, 0.1, 66, (150, 40, 40)), (draw_car, ONCOMING, 58, (206, 208, 210), True),
    (draw_car, PARKED_RIGHT, 46, (70, 76, 86), True),
    (draw_car, PARKED_RIGHT, 37, (178, 180, 182), True),
    (draw_car, PARKED_RIGHT, 30.5, (52, 74, 114), True),
    (draw_car, ONCOMING, 33, (124, 122, 116), True), (draw_car, 3.9, 15, (72, 90, 110), True),
    (draw_car, PARKED, 28.5, (150, 152, 152)), (draw_car, PARKED, 22.2, (100, 28, 32)),
    (draw_car, PARKED, 15.2, (172, 176, 180)), (draw_cyclist, -0.1, 17.5, (40, 62, 84)),
    (draw_person, -5.0, 60, (40, 40, 50), (34, 36, 44)),
    (draw_person, -4.6, 47, (96, 44, 42), (34, 36, 44)),
    (draw_person, 8.2, 44, (40, 52, 66), (34, 36, 44)),
    (draw_person, -5.3, 34, (66, 72, 84), (34, 32, 32)),
    (draw_person, -4.7, 25, (88, 40, 38), (30, 32, 40)),
    (draw_person, 8.9, 21, (84, 42, 40), (36, 40, 54)),
    (draw_person, 8.1, 30, (46, 48, 44), (28, 28, 32)),
    (draw_person, -5.2, 13.2, (122, 112, 98), (44, 46, 56), 0.22),
)  # fmt: skip


def draw_scene() -> tuple[Image.Image, Image.Image]:
    """The picture (RGB) and its label map (mode L, CamVid ids), both of ``SIZE``."""
    global rng
    rng = np.random.default_rng(7)
    canvas = Canvas()
    draw_sky(canvas)
    draw_ground(canvas)
    draw_house(canvas, -14, 140, 150, 9, RED, "")
    draw_house(canvas, 14, 138, 150, 8, STONE, "")
    for x in range(-22, 30, 4):  # trees where the street ends
        draw_leaves(canvas, x, 3, 130, (4, rng.uniform(2.5, 5)), (70, 74, 60))
    for house in HOUSES:
        draw_house(canvas, *house)
    for x in range(12, 27, 2):  # the garden on the right: shrubs, a hedge behind the railings
        high = 1.2 + max(0, x - 16) / 3
        draw_leaves(canvas, x, 1.3 * high, 35, (1.8, high), (62, 68, 48))
    for at, z, height in ((19.0, 33, 12), (13, 29, 9), (15.5, 23, 10)):
        draw_tree(canvas, at, z, height, (92, 92, 62))
    for z in range(34, 17, -3):
        draw_leaves(canvas, WALL_RIGHT + 1.3, 1.2, z, (1.0, 0.5), (60, 66, 44))
    draw_railing(canvas, WALL_RIGHT - 0.1, 12, 36)
    for draw, x, z, *rest in sorted(THINGS, key=lambda thing: -thing[2]):
        draw(canvas, x, z, *rest)
    return developed(canvas.picture), canvas.labels.resize(SIZE, Image.Resampling.NEAREST)


def main() -> None:
    """Write the picture and, on request, its labels."""
    parser = argparse.ArgumentParser(description="Draw the demo street of citysegzoo.")
    default = Path(__file__).resolve().parent.parent / "citysegzoo" / "data" / "demo_street.jpg"
    parser.add_argument("--output", type=Path, default=default, help="JPEG file to write")
    parser.add_argument("--labels", type=Path, help="also write the label map, CamVid ids, as PNG")
    args = parser.parse_args()
    picture, labels = draw_scene()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    picture.save(args.output, quality=90)
    if args.labels:
        args.labels.parent.mkdir(parents=True, exist_ok=True)
        labels.save(args.labels)


if __name__ == "__main__":
    main()
