"""The drawn demo street and its label map."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from citysegzoo.data.labels import CAMVID_11

REPOSITORY = Path(__file__).parent.parent
SIZE = (960, 720)
PACKAGED = REPOSITORY / "citysegzoo" / "data" / "demo_street.jpg"
Drawn = tuple[PIL.Image.Image, PIL.Image.Image]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    """The picture and its labels, drawn anew as the command does it."""
    folder = tmp_path_factory.mktemp("drawn")
    script = REPOSITORY / "examples" / "draw_demo_scene.py"
    picture, labels = folder / "street.jpg", folder / "labels.png"
    command = [sys.executable, str(script), "--output", str(picture), "--labels", str(labels)]
    subprocess.run(command, check=True)
    with PIL.Image.open(picture) as first, PIL.Image.open(labels) as second:
        first.load()
        second.load()
        return first, second


def test_sizes_and_modes(drawn: Drawn) -> None:
    assert [(image.format, image.mode, image.size) for image in drawn] == [
        ("JPEG", "RGB", SIZE),
        ("PNG", "L", SIZE),
    ]


def test_drawing_is_the_packaged_picture_again(drawn: Drawn) -> None:
    """Equal, but for a few pixels where Pillow or numpy round otherwise than when it was drawn."""
    assert PACKAGED.stat().st_size < 300_000
    with PIL.Image.open(PACKAGED) as packaged:
        assert (packaged.format, packaged.size) == ("JPEG", SIZE)
        difference = np.asarray(packaged, dtype=int) - np.asarray(drawn[0], dtype=int)
    assert np.abs(difference).mean() < 0.5  # another seed for the sensor's noise alone: 2.3


def test_labels_cover_the_classes(drawn: Drawn) -> None:
    counts = np.bincount(np.asarray(drawn[1]).ravel(), minlength=12)
    assert len(counts) == 12
    present = [name for name, count in zip(CAMVID_11.classes, counts, strict=False) if count >= 300]
    assert len(present) >= 9
    assert counts[11] < 0.05 * counts.sum()


@pytest.mark.parametrize(
    ("name", "place", "colors"),
    [
        ("sky", (480, 100), lambda r, g, b: b >= r > 180),
        ("road", (480, 650), lambda r, g, b: max(r, g, b) - min(r, g, b) < 40 and r < 140),
        ("building", (60, 60), lambda r, g, b: r > b),
        ("tree", (900, 150), lambda r, g, b: g > b),
    ],
)
def test_labels_lie_where_things_are(
    drawn: Drawn, name: str, place: tuple[int, int], colors: Callable[..., bool]
) -> None:
    picture, labels = drawn
    x, y = place
    assert CAMVID_11.classes[np.asarray(labels)[y, x]] == name
    patch = np.asarray(picture.crop((x - 15, y - 15, x + 15, y + 15)))
    assert colors(*patch.reshape(-1, 3).mean(axis=0))
