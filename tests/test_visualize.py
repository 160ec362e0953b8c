"""Palette images, class shares and overlays."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from citysegzoo.cli import main
from citysegzoo.data import DEMO_IMAGE
from citysegzoo.data.labels import (
    CAMVID_11,
    CITYSCAPES_19,
    CITYSCAPES_34,
    CITYSCAPES_CATEGORIES,
    SAFE_PALETTES,
    LabelSet,
    numbered_labels,
)
from citysegzoo.visualize import class_shares, draw_curves, label_image, overlay
from citysegzoo.visualize.color_vision import (
    VISIONS,
    ciede2000,
    lab,
    least_difference,
    safe_palette,
)

LABEL_SETS = [CAMVID_11, CITYSCAPES_19, CITYSCAPES_34, CITYSCAPES_CATEGORIES]


def quarters(height: int = 60, width: int = 80) -> np.ndarray:
    """Half class 0, a quarter class 1, and of the last quarter a half each of 2 and ignored."""
    labels: np.ndarray = np.zeros((height, width), np.uint8)
    labels[height // 2 :] = 1
    labels[height // 2 :, width // 2 :] = 2
    labels[height // 2 :, 3 * width // 4 :] = 255
    return labels


def grey(height: int = 60, width: int = 80) -> np.ndarray:
    return np.full((height, width, 3), 100, np.uint8)


@pytest.mark.parametrize("label_set", LABEL_SETS, ids=lambda labels: labels.name)
@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_label_image(tmp_path: Path, label_set: LabelSet, dtype: type) -> None:
    values = list(range(len(label_set)))
    colors = list(label_set.palette)
    if label_set.ignore_index is not None:
        values.append(label_set.ignore_index)
        colors.append((0, 0, 0))
    labels: np.ndarray = np.array([values, values[::-1]], dtype)
    image = label_image(labels, label_set)
    assert image.mode == "P"
    assert (np.asarray(image) == labels).all()
    image.save(tmp_path / "labels.png")
    with PIL.Image.open(tmp_path / "labels.png") as read:
        assert read.mode == "P"
        assert (np.asarray(read) == labels).all()
        assert [tuple(color) for color in np.asarray(read.convert("RGB"))[0].tolist()] == colors


def test_ignored_classes_are_black() -> None:
    names = LabelSet("x", ("void", "road"), ((255, 0, 0), (0, 255, 0)), ignore_index=0)
    image = label_image(np.array([[0, 1]], np.uint8), names)
    assert np.asarray(image.convert("RGB")).tolist() == [[[0, 0, 0], [0, 255, 0]]]
    assert np.asarray(image).tolist() == [[0, 1]]


def test_label_image_is_independent_of_the_array() -> None:
    labels = quarters()
    image = label_image(labels, CITYSCAPES_19)
    labels[:] = 7
    assert (np.asarray(image) == quarters()).all()


@pytest.mark.parametrize(
    ("labels", "label_set", "error", "message"),
    [
        ([[11]], CITYSCAPES_34, None, ""),
        ([[11]], CAMVID_11, None, ""),
        ([[12, 255]], CAMVID_11, ValueError, "12, 255"),
        ([[255]], CITYSCAPES_34, ValueError, "255"),
        ([[-1]], CITYSCAPES_19, ValueError, "-1"),
        ([[256]], numbered_labels(200), ValueError, "256"),
        ([[0.5]], CITYSCAPES_19, TypeError, "float64"),
        ([[True]], CITYSCAPES_19, TypeError, "bool"),
        ([1, 2], CITYSCAPES_19, ValueError, "(2,)"),
        ([[[1]]], CITYSCAPES_19, ValueError, "(1, 1, 1)"),
        (np.zeros((0, 4), int), CITYSCAPES_19, ValueError, "(0, 4)"),
    ],
)
def test_unfit_labels(
    labels: object, label_set: LabelSet, error: type[Exception] | None, message: str
) -> None:
    array = np.array(labels)
    if error is None:
        label_image(array, label_set)
        return
    for function in (label_image, class_shares):
        with pytest.raises(error) as caught:
            function(array, label_set)
        assert message in str(caught.value)
        assert str(caught.value).endswith(".")


def test_class_shares() -> None:
    shares = class_shares(quarters(), CITYSCAPES_19)
    assert list(shares.items()) == [("road", 0.5), ("sidewalk", 0.25), ("building", 0.125)]
    assert all(type(share) is float for share in shares.values())
    assert class_shares(np.full((4, 4), 255), CITYSCAPES_19) == {}


@pytest.mark.parametrize("alpha", [0, 0.25, 0.5, 1])
def test_overlay_blends(alpha: float) -> None:
    result = np.asarray(overlay(grey(), quarters(), CITYSCAPES_19, alpha=alpha, legend=False))
    assert result.shape == (60, 80, 3)
    for (row, column), label in {(10, 40): 0, (45, 10): 1, (45, 50): 2}.items():
        expected = (1 - alpha) * 100 + alpha * np.array(CITYSCAPES_19.palette[label])
        assert np.abs(result[row, column] - expected).max() <= 1
    assert (result[45, 75] == 100).all()  # ignored: the image alone


def test_overlay_draws_thin_darker_boundaries() -> None:
    result = np.asarray(overlay(grey(), quarters(), CITYSCAPES_19, alpha=0, legend=False))
    dark = (result < 60).all(axis=2)
    assert (result[~dark] == 100).all()
    assert set(dark.sum(axis=0).tolist()) == {1, 30}  # below the middle, the columns 40 and 60
    assert set(dark.sum(axis=1).tolist()) == {0, 2, 80}


@pytest.mark.parametrize("width", [400, 1000, 4000])
def test_boundaries_grow_with_the_picture(width: int) -> None:
    labels = np.zeros((64, width), np.uint8)
    labels[:, width // 2 :] = 1
    result = overlay(grey(64, width), labels, CITYSCAPES_19, alpha=0, legend=False)
    dark = np.flatnonzero(np.asarray(result)[5, :, 0] < 60)
    assert len(dark) == max(1, width // 1000)
    assert abs(dark.mean() - (width - 1) / 2) <= 0.5


SIZES = [(32, 32), (64, 600), (200, 100), (480, 360), (1500, 100), (2048, 1024)]


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("label_set", LABEL_SETS, ids=lambda labels: labels.name)
def test_legend_fits_under_the_picture(width: int, height: int, label_set: LabelSet) -> None:
    labels = np.arange(height * width).reshape(height, width) % len(label_set)
    image = grey(height, width)
    with_legend = overlay(image, labels, label_set)
    assert with_legend.mode == "RGB"
    assert with_legend.width == width
    assert with_legend.height > height
    plain = overlay(image, labels, label_set, legend=False)
    assert (np.asarray(with_legend)[:height] == np.asarray(plain)).all()
    panel = np.asarray(with_legend)[height:]
    for edge in (panel[0], panel[-1], panel[:, 0], panel[:, -1]):
        assert (edge == panel[0, 0]).all(), "something is cut off at the edge"
    number = np.array((65536, 256, 1))
    assert np.isin(np.array(label_set.palette) @ number, panel @ number).all()
    if width >= 480:  # all of a wide picture's panel is used before it grows in height
        assert panel.shape[0] < 0.5 * width


def test_legend_names_only_what_occurs_largest_first() -> None:
    result = np.asarray(overlay(grey(200, 480), quarters(200, 480), CITYSCAPES_19))[200:]
    places = []
    for color in CITYSCAPES_19.palette[:3]:
        rows, columns = np.nonzero((result == color).all(axis=2))
        places.append((columns.min(), rows.min()))
    assert places == sorted(places)
    absent = CITYSCAPES_19.palette[CITYSCAPES_19.classes.index("rider")]
    assert not (result == absent).all(axis=2).any()


def test_legend_changes_with_names_and_shares() -> None:
    image, labels = grey(200, 480), quarters(200, 480)
    renamed = LabelSet("other", tuple("abcdefghijklmnopqrs"), CITYSCAPES_19.palette)
    fewer = labels.copy()
    fewer[:20] = 255
    pictures = [
        overlay(image, labels, CITYSCAPES_19),
        overlay(image, labels, renamed),
        overlay(image, fewer, CITYSCAPES_19),
    ]
    panels = [np.asarray(picture.crop((0, 200, 480, 230))) for picture in pictures]
    for one, other in itertools.combinations(panels, 2):
        assert (one != other).any()


def test_nothing_but_ignored_pixels_has_no_legend() -> None:
    result = overlay(grey(), np.full((60, 80), 255), CITYSCAPES_19)
    assert (np.asarray(result) == grey()).all()


def test_overlay_reads_files_and_pil_images(tmp_path: Path) -> None:
    image = PIL.Image.fromarray(grey())
    image.save(tmp_path / "a.png")
    results = [
        overlay(source, quarters(), CITYSCAPES_19) for source in (tmp_path / "a.png", image, grey())
    ]
    assert all((np.asarray(result) == np.asarray(results[0])).all() for result in results)


@pytest.mark.parametrize(
    ("shape", "alpha", "message"),
    [
        ((60, 81), 0.5, "80x60 and 81x60"),
        ((60, 80), 1.5, "1.5"),
        ((60, 80), -0.1, "-0.1"),
        ((60, 80), float("nan"), "nan"),
    ],
)
def test_overlay_refuses(shape: tuple[int, int], alpha: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        overlay(grey(), np.zeros(shape, int), CITYSCAPES_19, alpha=alpha)


def test_overlay_is_fast() -> None:
    """About 0.05 s; a loop over the pixels would take minutes."""
    start = time.process_time()
    overlay(grey(1024, 2048), quarters(1024, 2048), CITYSCAPES_19)
    assert time.process_time() - start < 5


def test_curves_are_drawn_where_they_are() -> None:
    picture = draw_curves({"loss": [(1, 3.0), (2, float("nan")), (3, 1.0)]}, size=(300, 200))
    blue = np.argwhere((np.asarray(picture) == (31, 119, 180)).all(-1))
    assert picture.size == (300, 200)
    first, last = blue[blue[:, 1].argmin()], blue[blue[:, 1].argmax()]
    assert first[0] < 40  # begins above, at its largest
    assert last[0] > 160  # and ends below


@pytest.mark.parametrize(
    "curves", [{}, {"loss": []}, {"loss": [(1, float("inf"))]}, {"a": [(1, 2)]}]
)
def test_curves_without_a_line(curves: dict[str, list[tuple[float, float]]]) -> None:
    assert draw_curves(curves).size == (960, 320)


# Colours that the colour-blind tell apart


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, -1.3802, -84.2814), (50, 0, -82.7485), 1.0),
        ((50, 0, 0), (50, -1, 2), 2.3669),
        ((50, 2.49, -0.001), (50, -2.49, 0.0011), 7.2195),
        ((50, -0.001, 2.49), (50, 0.0011, -2.49), 4.7461),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((50, 2.5, 0), (61, -5, 29), 22.8977),
        ((50, 2.5, 0), (56, -27, -3), 31.9030),
        ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
        ((90.9257, -0.5406, -0.9208), (88.6381, -0.8985, -0.7239), 1.5381),
    ],
)
def test_ciede2000_is_the_published_one(
    one: tuple[float, ...], other: tuple[float, ...], expected: float
) -> None:
    """Pairs of the test data of Sharma, Wu and Dalal."""
    assert ciede2000(one, other) == pytest.approx(expected, abs=6e-5)
    assert ciede2000(other, one) == pytest.approx(expected, abs=6e-5)


def test_visions() -> None:
    """White stays white, and of each pair that a vision confuses little is left."""
    for vision in VISIONS:
        assert lab([(255, 255, 255)], vision)[0] == pytest.approx([100, 0, 0], abs=0.1)
    assert lab([(255, 0, 0)])[0] == pytest.approx([53.24, 80.09, 67.20], abs=0.1)
    for vision, pair in (
        ("protanopia", [(130, 90, 0), (90, 110, 0)]),
        ("deuteranopia", [(200, 120, 60), (150, 140, 60)]),
        ("tritanopia", [(60, 140, 140), (60, 150, 110)]),
    ):
        usual, seen = (ciede2000(*lab(pair, v)) for v in ("usual", vision))
        assert seen < 0.5 * usual


@pytest.mark.parametrize(
    ("label_set", "least", "factor"),
    [
        (CAMVID_11, 18, 5),
        (CITYSCAPES_19, 12, 4),
        (CITYSCAPES_CATEGORIES, 24, 9),
        (CITYSCAPES_34, 8, 100),  # of the standard ones some are equal
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_safe_palettes_are_told_apart(label_set: LabelSet, least: float, factor: float) -> None:
    safe = label_set.with_palette("safe")
    assert (safe.name, safe.classes) == (label_set.name, label_set.classes)
    found = least_difference(safe.palette)
    assert found > least
    assert found > factor * least_difference(label_set.palette)
    assert least_difference([(0, 0, 0), *safe.palette]) > least  # black are ignored pixels
    assert safe.with_palette("standard") == label_set


@pytest.mark.parametrize("label_set", [CAMVID_11, CITYSCAPES_19], ids=lambda labels: labels.name)
def test_safe_palettes_are_those_searched_for(label_set: LabelSet) -> None:
    found = safe_palette(label_set.palette)
    assert least_difference(found) == pytest.approx(
        least_difference(SAFE_PALETTES[label_set.name]), abs=0.5
    )


def test_palettes_by_name() -> None:
    named = LabelSet("mine", ("a", "b"), ((1, 2, 3), (4, 5, 6)))
    assert named.with_palette("standard") is named
    same_name = LabelSet("camvid11", ("a",), ((1, 2, 3),))
    for labels in (named, same_name):
        with pytest.raises(ValueError, match="no safe palette for the classes of"):
            labels.with_palette("safe")
    with pytest.raises(ValueError, match="'standard' or 'safe', not 'loud'"):
        CAMVID_11.with_palette("loud")


def test_pixel_values_do_not_depend_on_the_palette(tmp_path: Path) -> None:
    labels = quarters()
    safe = label_image(labels, CITYSCAPES_19, palette="safe")
    safe.save(tmp_path / "safe.png")
    with PIL.Image.open(tmp_path / "safe.png") as read:
        assert (np.asarray(read) == labels).all()
        assert read.convert("RGB").getpixel((0, 0)) == SAFE_PALETTES["cityscapes19"][0]
        assert read.convert("RGB").getpixel((79, 59)) == (0, 0, 0)
    one = overlay(grey(), labels, CITYSCAPES_19, palette="safe")
    other = overlay(grey(), labels, CITYSCAPES_19.with_palette("safe"))
    assert (np.asarray(one) == np.asarray(other)).all()
    assert (np.asarray(one) != np.asarray(overlay(grey(), labels, CITYSCAPES_19))).any()


def test_segment_command_in_safe_colors(tmp_path: Path) -> None:
    with PIL.Image.open(DEMO_IMAGE) as image:
        image.resize((96, 64)).save(tmp_path / "street.png")
    ids, colors = [], []
    for name, options in (("plain", []), ("safe", ["--palette", "safe"])):
        arguments = ["segment", str(tmp_path / "street.png"), "--output", str(tmp_path / name)]
        assert main([*arguments, *options]) == 0
        with PIL.Image.open(tmp_path / name / "street_labels.png") as labels:
            ids.append(np.asarray(labels))
            colors.append(np.asarray(labels.convert("RGB")))
    assert (ids[0] == ids[1]).all()
    for color, palette in zip(colors, (CAMVID_11.palette, SAFE_PALETTES["camvid11"]), strict=True):
        assert (color == np.array(palette, np.uint8)[ids[0]]).all()


def test_curves_that_do_not_fit() -> None:
    curves = {f"curve {i}": [(0, 1), (1, 2)] for i in range(9)}
    with pytest.raises(ValueError, match="9 curves need a picture of at least 900x100, not 899x"):
        draw_curves(curves, size=(899, 320))
    assert draw_curves(curves, size=(900, 100)).size == (900, 100)
