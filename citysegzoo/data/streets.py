"""Drawn streets in the layout of Cityscapes, so that everything runs without a download."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL.Image
from PIL import ImageDraw, ImageFilter

from citysegzoo.arguments import check_positive, check_size
from citysegzoo.data.labels import CITYSCAPES_CLASSES, Color
from citysegzoo.files import write_image

CITIES = {"train": ("inkford", "paintham"), "val": ("chalkton",)}
"""The cities of each split."""

Point = tuple[float, float]

_ID = {label.name: i for i, label in enumerate(CITYSCAPES_CLASSES)}
_EYE = 1.4  # metres of the camera above the road
_FAR = 150.0  # metres to where the street ends

# How strongly a surface is grained, in grey values: of rough ones more than of the others' 4.
_GRAIN = np.full(256, 4, np.float32)
for _name, _strength in (("vegetation", 30), ("terrain", 16), ("sidewalk", 9), ("sky", 2)):
    _GRAIN[_ID[_name]] = _strength

_MOST = 999_999  # the names of Cityscapes number images with six digits
_LONGEST = 1 << 14


def draw_streets(
    root: str | os.PathLike[str],
    *,
    images: int = 8,
    size: tuple[int, int] = (128, 256),
    seed: int = 0,
    progress: bool = False,
) -> Path:
    """Draw a small set of streets in the layout of Cityscapes, fine and coarse.

    Houses, trees, vehicles and people stand before a pinhole camera, in every one of the 19
    evaluated classes and some ignored ones, under changing light and with noise. A network learns
    them within a few epochs; they say nothing about real streets. The same arguments give the
    same files, and more images leave the first ones as they are.

    Args:
        root: Folder to make; it appears once it is complete.
        images: Images of each split, train and val.
        size: Height and width of the images.
        seed: Another one gives other streets.
        progress: Whether to show a progress bar, if standard error is a terminal.

    Returns:
        The folder, for ``Cityscapes(root, "train")`` and ``Cityscapes(root, "val")``.

    Raises:
        FileExistsError: If the folder exists and is not empty.
        ValueError: If there would be no image or a million, a side is below 64 or above 16384, or
            the seed is negative.
        OSError: If the folder cannot be written.
    """
    from tqdm import tqdm

    root = Path(root)
    images, seed = check_positive("images", images), check_positive("seed", seed, least=0)
    size = check_size("size", size, least=64)
    if images > _MOST:
        raise ValueError(f"images must be at most {_MOST}, not {images}.")
    if max(size) > _LONGEST:
        raise ValueError(f"sides must be at most {_LONGEST}, not {size[0]}x{size[1]}.")
    if root.is_dir():
        for left in root.iterdir():
            if re.fullmatch(r"\.[0-9a-f]{16}\.part", left.name):  # by a process that was killed
                shutil.rmtree(left, ignore_errors=True)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise FileExistsError(f"{root} exists and is not empty; name a new folder.")
    # An empty folder stays: it may be the current one, a mount point, or what a link leads to.
    target = root.resolve()
    home = target if target.exists() else target.parent
    home.mkdir(parents=True, exist_ok=True)
    partial = home / f".{secrets.token_hex(8)}.part"
    try:
        with tqdm(
            total=images * len(CITIES), unit="street", disable=None if progress else True
        ) as bar:
            for number, (split, cities) in enumerate(CITIES.items()):
                for i in range(images):
                    city = cities[i % len(cities)]
                    street = _Street(np.random.default_rng((seed, number, i)), size)
                    street.draw()
                    street.save(partial, split, city, f"{city}_000000_{i:06}")
                    bar.update()
        if home == target:
            for folder in list(partial.iterdir()):
                folder.rename(target / folder.name)
        else:
            partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return root


class _Street:
    """A picture, its label ids and its instance ids, drawn together from far to near.

    Places are metres: x to the right of the camera, y above the road, z ahead.
    """

    def __init__(self, random: np.random.Generator, size: tuple[int, int]) -> None:
        self.random = random
        self.height, self.width = size
        self.focal = 1.2 * self.height
        self.centre = self.width * random.uniform(0.42, 0.58)
        self.horizon = self.height * random.uniform(0.4, 0.5)
        self.picture = PIL.Image.new("RGB", (self.width, self.height))
        self.labels = PIL.Image.new("L", (self.width, self.height))
        self.instances = PIL.Image.new("I", (self.width, self.height))
        self.count = dict.fromkeys(_ID.values(), 0)

    def draw(self) -> None:
        """All of it."""
        self.ground()
        things: list[tuple[float, Callable[[float], None]]] = []
        for side in (-1, 1):
            z = self.random.uniform(3, 8)
            while z < _FAR:
                length = self.random.uniform(8, 18)
                things.append((z, self.front(side, length)))
                z += length
        for draw, most, chance, near in (
            (self.tree, 5, 1.0, 7), (self.post, 7, 1.0, 6), (self.person, 7, 1.0, 6),
            (self.car, 6, 1.0, 8), (self.cyclist, 2, 0.8, 6), (self.motorcyclist, 2, 0.7, 6),
            (self.truck, 1, 0.5, 14), (self.bus, 1, 0.5, 14), (self.train, 1, 0.5, 16),
            (self.rubbish, 2, 0.5, 6),
        ):  # fmt: skip
            if self.random.random() < chance:
                number = self.random.integers(1, most + 1)
                things += [(near * 6 ** self.random.random(), draw) for _ in range(number)]
        for z, stand in sorted(things, key=lambda thing: -thing[0]):
            stand(z)
        self.light()
        self.borders()

    # What surfaces are drawn with

    def pixel(self, x: float, y: float, z: float) -> Point:
        scale = self.focal / z
        return self.centre + x * scale, self.horizon + (_EYE - y) * scale

    def paint(
        self, name: str, points: Sequence[Point], color: Color, instance: int | None = None
    ) -> None:
        """A polygon of one class, part of an instance where it has one."""
        label = _ID[name]
        ImageDraw.Draw(self.picture).polygon(points, fill=color)
        ImageDraw.Draw(self.labels).polygon(points, fill=label)
        ImageDraw.Draw(self.instances).polygon(points, fill=label if instance is None else instance)

    def box(
        self, name: str, x: float, z: float, corners: Sequence[float], color: Color,
        instance: int | None = None,
    ) -> None:  # fmt: skip
        """An upright rectangle facing the camera: left, bottom, right, top beside (x, z)."""
        left, bottom, right, top = corners
        places = ((left, bottom), (right, bottom), (right, top), (left, top))
        self.paint(name, [self.pixel(x + dx, y, z) for dx, y in places], color, instance)

    def disc(
        self, name: str, x: float, y: float, z: float, radius: Point, color: Color,
        instance: int | None = None, ragged: float = 0,
    ) -> None:  # fmt: skip
        """An ellipse facing the camera."""
        angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        reach = 1 + ragged * self.random.standard_normal(24)
        xs, ys = x + radius[0] * reach * np.cos(angles), y + radius[1] * reach * np.sin(angles)
        points = [self.pixel(px, py, z) for px, py in zip(xs, ys, strict=True)]
        self.paint(name, points, color, instance)

    def plain(self, name: str, x0: float, x1: float, color: Color) -> None:
        """A strip of ground from the camera to the end of the street."""
        corners = ((x0, 1.0), (x1, 1.0), (x1, _FAR), (x0, _FAR))
        self.paint(name, [self.pixel(x, 0, z) for x, z in corners], color)

    def tint(self, color: Color, spread: float = 12) -> Color:
        """About this colour."""
        lighter, hue = self.random.standard_normal(), 0.4 * self.random.standard_normal(3)
        r, g, b = (color + spread * (lighter + hue)).clip(0, 255).astype(int)
        return int(r), int(g), int(b)

    def new_instance(self, name: str) -> int:
        number = self.count[_ID[name]]
        self.count[_ID[name]] += 1
        return 1000 * _ID[name] + number

    # What stands in a street

    def ground(self) -> None:
        corners = [(0, 0), (self.width, 0), (self.width, self.height), (0, self.height)]
        self.paint("sky", [(float(x), float(y)) for x, y in corners], self.tint((190, 208, 232)))
        self.plain("terrain", -90, 90, self.tint((126, 128, 66)))
        self.plain("sidewalk", -7, 7, self.tint((164, 146, 140)))
        if self.random.random() < 0.3:
            self.plain("parking", 3.5, 5.5, self.tint((122, 120, 128)))
        self.plain("road", -3.8, 3.8, self.tint((86, 86, 92)))
        white, start = self.tint((215, 215, 210)), self.random.uniform(2, 5)
        for z in np.arange(start, 60, 5.0):
            dash = ((-0.08, z), (0.08, z), (0.08, z + 2.5), (-0.08, z + 2.5))
            self.paint("road", [self.pixel(x, 0, far) for x, far in dash], white)

    def front(self, side: int, length: float) -> Callable[[float], None]:
        """What borders the street for some metres: mostly a house."""
        kind = str(self.random.choice(["building"] * 4 + ["wall", "fence", "terrain"]))
        height = {"building": self.random.uniform(6, 16), "wall": 2.4, "fence": 1.5}.get(kind, 0)

        def draw(z: float) -> None:
            color = {
                "building": self.tint((150, 116, 92), 22),
                "wall": self.tint((120, 124, 132)),
                "fence": self.tint((96, 70, 44)),
            }.get(kind, (0, 0, 0))
            x, far = 8.0 * side, z + length

            def quad(z0: float, z1: float, low: float, high: float, fill: Color) -> None:
                places = ((low, z0), (low, z1), (high, z1), (high, z0))
                self.paint(kind, [self.pixel(x, y, at) for y, at in places], fill)

            if kind == "terrain":
                return
            if kind == "building":  # its gable
                self.box(kind, x, z, (min(0, 9 * side), 0, max(0, 9 * side), height), color)
            quad(z, far, 0, height, color)
            if kind == "building":
                glass, columns = self.tint((62, 70, 82)), np.arange(z + 1, far - 1.5, 2.8)
                for floor in np.arange(1, height - 2, 3.0):
                    for place in columns:
                        quad(place, place + 1.3, floor, floor + 1.5, glass)
            if kind == "fence":
                for place in np.arange(z, far, 0.8):
                    quad(place, place + 0.3, 0, height, self.tint((150, 118, 84), 4))

        return draw

    def tree(self, z: float) -> None:
        x, height = self.side() * self.random.uniform(5.6, 7.4), self.random.uniform(4, 9)
        self.box("vegetation", x, z, (-0.15, 0, 0.15, 0.6 * height), self.tint((74, 58, 44)))
        radius = 0.28 * height, 0.32 * height
        leaves = self.tint((58, 98, 46))
        self.disc("vegetation", x, 0.68 * height, z, radius, leaves, ragged=0.12)

    def post(self, z: float) -> None:
        x, height = self.side() * self.random.uniform(4.0, 4.8), self.random.uniform(2.6, 4.2)
        self.box("pole", x, z, (-0.07, 0, 0.07, height), self.tint((58, 62, 66), 5))
        if self.random.random() < 0.5:
            corners = (-0.22, height - 1, 0.22, height)
            self.box("traffic light", x, z, corners, self.tint((30, 34, 30), 4))
            lamp = ((230, 60, 40), (240, 190, 60), (70, 220, 130))[self.random.integers(3)]
            self.disc("traffic light", x, height - 0.5, z, (0.16, 0.3), lamp)
        else:
            color = ((222, 190, 40), (206, 44, 44), (40, 80, 190))[self.random.integers(3)]
            self.disc("traffic sign", x, height, z, (0.42, 0.42), self.tint(color))

    def person(self, z: float, name: str = "person", x: float | None = None, up: float = 0) -> None:
        x = self.side() * self.random.uniform(4.4, 6.8) if x is None else x
        clothes = self.tint((172, 62, 84) if name == "person" else (214, 112, 40), 16)
        legs, one = self.tint((56, 56, 88)), self.new_instance(name)
        for left in (-0.2, 0.04):
            self.box(name, x, z, (left, up, left + 0.17, up + 0.85), legs, one)
        self.box(name, x, z, (-0.27, up + 0.8, 0.27, up + 1.45), clothes, one)
        self.disc(name, x, up + 1.6, z, (0.13, 0.17), self.tint((206, 160, 132)), one)

    def cyclist(self, z: float) -> None:
        x = self.side() * self.random.uniform(2.6, 3.6)
        self.wheels("bicycle", x, z, 0.36, 0.07, self.tint((24, 78, 84), 6))
        self.person(z, "rider", x, up=0.35)

    def motorcyclist(self, z: float) -> None:
        x = self.side() * self.random.uniform(1.0, 2.6)
        one = self.wheels("motorcycle", x, z, 0.34, 0.14, self.tint((40, 32, 38), 4))
        self.box("motorcycle", x, z, (-0.6, 0.4, 0.6, 0.95), self.tint((98, 44, 128)), one)
        self.person(z, "rider", x, up=0.3)

    def wheels(
        self, name: str, x: float, z: float, radius: float, width: float, color: Color
    ) -> int:
        """Two wheels and what is between them; returns the instance."""
        one = self.new_instance(name)
        line = max(1, round(width * self.focal / z))
        label = _ID[name]
        for image, value in ((self.picture, color), (self.labels, label), (self.instances, one)):
            pen = ImageDraw.Draw(image)
            for dx in (-0.5, 0.5):
                places = ((x + dx - radius, 2 * radius), (x + dx + radius, 0))
                (left, top), (right, bottom) = (self.pixel(px, py, z) for px, py in places)
                pen.ellipse((left, top, right, bottom), outline=value, width=line)
            frame = [self.pixel(x + dx, y, z) for dx, y in ((-0.5, radius), (0, 0.75), (0.5, 0.35))]
            pen.line(frame, fill=value, width=line)
        return one

    def car(self, z: float) -> None:
        parked = self.random.random() < 0.4
        x = self.side() * (3.6 if parked else self.random.uniform(1.0, 2.4))
        paint = ((44, 62, 140), (28, 38, 86), (70, 96, 168))[self.random.integers(3)]
        one = self.new_instance("car")
        for left in (-0.8, 0.5):
            self.box("car", x, z, (left, 0, left + 0.3, 0.4), self.tint((24, 24, 26), 4), one)
        color = self.tint(paint, 16)
        self.box("car", x, z, (-0.92, 0.2, 0.92, 0.9), color, one)
        self.box("car", x, z, (-0.75, 0.9, 0.75, 1.45), color, one)
        self.box("car", x, z, (-0.62, 0.95, 0.62, 1.35), self.tint((150, 172, 186)), one)
        for left in (-0.85, 0.6):
            self.box("car", x, z, (left, 0.6, left + 0.25, 0.75), self.tint((226, 70, 60)), one)

    def truck(self, z: float) -> None:
        self.coach("truck", z, 1.25, 3.6, (222, 222, 216), (110, 106, 100), 2.0)

    def bus(self, z: float) -> None:
        self.coach("bus", z, 1.3, 3.0, (218, 168, 36), (44, 52, 60), 1.5)

    def train(self, z: float) -> None:
        self.coach("train", z, 1.4, 3.7, (72, 148, 88), (36, 50, 52), 1.8)

    def coach(
        self, name: str, z: float, half: float, height: float, body: Color, glass: Color,
        sill: float,
    ) -> None:  # fmt: skip
        """A tall vehicle seen from behind, and its side towards the middle of the street."""
        x, one = self.side() * self.random.uniform(1.9, 2.6), self.new_instance(name)
        color, dark = self.tint(body), self.tint(glass, 6)
        inner, far = x - half if x > 0 else x + half, z + 7
        corners = ((0.35, z), (0.35, far), (height, far), (height, z))
        self.paint(name, [self.pixel(inner, y, at) for y, at in corners], self.tint(body, 5), one)
        for left in (-half + 0.1, half - 0.5):
            self.box(name, x, z, (left, 0, left + 0.4, 0.5), (22, 22, 24), one)
        self.box(name, x, z, (-half, 0.35, half, height), color, one)
        self.box(name, x, z, (-half + 0.2, sill, half - 0.2, height - 0.5), dark, one)

    def rubbish(self, z: float) -> None:
        """Something that the evaluation ignores."""
        x, name = self.side() * self.random.uniform(4.2, 6.5), ("static", "dynamic")
        corners = (-0.4, 0, 0.4, self.random.uniform(0.6, 1.2))
        color = self.tint((108, 88, 120), 30)
        self.box(name[self.random.integers(2)], x, z, corners, color)

    def side(self) -> int:
        return int(self.random.choice((-1, 1)))

    # What a camera makes of it

    def light(self) -> None:
        """Grain of surfaces, shade, the light of the hour and the noise of the camera."""
        pixels = np.asarray(self.picture, np.float32)
        grain = self.blobs(self.height / 40) + 0.7 * self.random.standard_normal(pixels.shape[:2])
        pixels = pixels + (_GRAIN[np.asarray(self.labels)] * grain)[..., None]
        across = np.linspace(-1, 1, self.width)[:, None] * self.random.uniform(-0.15, 0.15)
        shade = 1 + across + 0.06 * self.blobs(self.height / 3)[..., None]
        pixels *= shade * self.random.uniform(0.65, 1.1) * self.random.normal(1, 0.04, 3)
        pixels += self.random.uniform(2, 6) * self.random.standard_normal(pixels.shape)
        self.picture = PIL.Image.fromarray(pixels.clip(0, 255).astype(np.uint8))

    def blobs(self, cell: float) -> npt.NDArray[np.float32]:
        """Smooth noise of about unit variance, its blobs about ``cell`` pixels wide."""
        shape = int(self.height / cell) + 3, int(self.width / cell) + 3
        small = PIL.Image.fromarray(self.random.standard_normal(shape).astype(np.float32))
        big = small.resize((self.width, self.height), PIL.Image.Resampling.BICUBIC)
        return np.asarray(big, np.float32)

    def borders(self) -> None:
        """The camera's own car, and what lies outside the image after rectification."""
        bonnet = PIL.Image.new("L", self.labels.size)
        top, bottom = 0.93 * self.height, 1.3 * self.height
        ImageDraw.Draw(bonnet).ellipse((0.1 * self.width, top, 0.9 * self.width, bottom), 255)
        self.picture.paste((34, 36, 40), mask=bonnet)
        for image in (self.labels, self.instances):
            image.paste(_ID["ego vehicle"], mask=bonnet)
            pen = ImageDraw.Draw(image)
            edge = self.height // 100
            pen.rectangle((0, 0, self.width, edge), fill=_ID["out of roi"])
            pen.rectangle((0, 0, edge, self.height), fill=_ID["rectification border"])

    def save(self, root: Path, split: str, city: str, frame: str) -> None:
        """Write the frame; its coarse labels leave out what is near an edge."""
        lowest = self.labels.filter(ImageFilter.MinFilter(3))
        highest = self.labels.filter(ImageFilter.MaxFilter(3))
        edges = PIL.Image.fromarray(np.asarray(lowest) != np.asarray(highest)).convert("L")
        # Spread by a blur, whose time, unlike that of these filters, does not go with its reach.
        near = np.asarray(edges.filter(ImageFilter.BoxBlur(self.height // 64))) > 0
        coarse = self.labels.copy()
        coarse.paste(_ID["unlabeled"], mask=PIL.Image.fromarray(near))
        ids = PIL.Image.fromarray(np.asarray(self.instances).astype(np.uint16))
        for image, kind, ending in (
            (self.picture, "leftImg8bit", "leftImg8bit"),
            (self.labels, "gtFine", "gtFine_labelIds"),
            (ids, "gtFine", "gtFine_instanceIds"),
            (coarse, "gtCoarse", "gtCoarse_labelIds"),
        ):
            folder = root / kind / split / city
            folder.mkdir(parents=True, exist_ok=True)
            write_image(image, folder / f"{frame}_{ending}.png")
