"""Class weights from pixel counts, and the counting."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset
from torchvision import tv_tensors

from citysegzoo.losses import create_loss
from citysegzoo.losses.class_weights import (
    CLASS_WEIGHTS,
    enet_weights,
    inverse_frequency_weights,
    inverse_root_weights,
    log_frequency_weights,
    median_frequency_weights,
)
from citysegzoo.losses.pixel_counts import PixelCounts, count_pixels
from citysegzoo.reports import stevens2020, xiang2020

EVALUATED = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
WEIGHTS = [
    log_frequency_weights,
    inverse_root_weights,
    median_frequency_weights,
    inverse_frequency_weights,
    enet_weights,
]


# fmt: off
def test_log_frequency_weights_are_stevens2020s() -> None:
    assert log_frequency_weights(stevens2020.PIXEL_COUNTS).tolist() == pytest.approx([
        7.191088, 1.185458, 2.442581, 2.296983, 2.413599, 3.961211, 2.515610, 1, 1.024078,
        3.176229, 4.422051, 1, 3.252414, 2.960841, 7.444397, 3.958886, 5.628678, 2.625052,
        7.534863, 4.401107, 3.425433, 1, 2.683365, 1.438874, 2.631907, 4.831480, 1, 4.148704,
        4.277257, 5.927822, 6.578653, 4.287030, 5.146000, 3.712017,
    ], abs=1.1e-6)


def test_inverse_root_weights_are_xiang2020s() -> None:
    assert inverse_root_weights(xiang2020.PIXEL_COUNTS).tolist() == pytest.approx([
        .2527, .7413, .3690, 2.1215, 1.8250, 1.4504, 3.6053, 2.2050, .4155, 1.5982, .8732, 1.3515,
        3.6764, .6140, 3.0627, 3.1056, 3.1422, 5.0, 2.3458,
    ], abs=5.1e-5)


@pytest.mark.parametrize(("c", "published"), [
    # ENet's for Cityscapes as its PyTorch implementations have them.
    (1.02, [
        3.36366406, 14.04234086, 4.9948856, 39.25997007, 36.5152765, 32.90667927, 46.27742179,
        40.67459427, 6.71150498, 33.5627786, 18.54488148, 32.99978951, 47.68372067, 12.70290829,
        45.20793195, 45.7834263, 45.82760469, 48.40837536, 42.76317799,
    ]),
    # ERFNet's.
    (1.10, [
        2.8149201869965, 6.9850029945374, 3.7890393733978, 9.9428062438965, 9.7702074050903,
        9.5110931396484, 10.311357498169, 10.026463508606, 4.6323022842407, 9.5608062744141,
        7.8698215484619, 9.5168733596802, 10.373730659485, 6.6616044044495, 10.260489463806,
        10.287888526917, 10.289801597595, 10.405355453491, 10.138095855713,
    ]),
])
def test_enet_weights_are_the_published_ones(c: float, published: list[float]) -> None:
    """Up to 0.4 %: they were counted on smaller label maps."""
    weights = enet_weights(stevens2020.PIXEL_COUNTS, c=c)[EVALUATED]
    assert weights.tolist() == pytest.approx(published, rel=4e-3)
# fmt: on


def test_weights_by_hand() -> None:
    """Counts 10, 20, 30, 40, of 50, 100, 100 and 40 pixels of the images they are in."""
    counts = [10, 20, 30, 40]

    def check(weights: Tensor, expected: list[float]) -> None:
        assert (weights.shape, weights.dtype) == ((4,), torch.float32)
        assert weights.tolist() == pytest.approx(expected, rel=1e-6)

    check(inverse_frequency_weights(counts), [2.5, 1.25, 2.5 / 3, 0.625])
    check(median_frequency_weights(counts), [2.5, 1.25, 2.5 / 3, 0.625])  # the median is 0.25
    # Frequencies 0.2, 0.2, 0.3 and 1: the median is 0.25.
    check(
        median_frequency_weights(counts, image_pixels=[50, 100, 100, 40]),
        [1.25, 1.25, 2.5 / 3, 0.25],
    )
    check(inverse_root_weights(counts, largest=1), [1, 0.5**0.5, 3**-0.5, 0.5])
    check(enet_weights(counts, c=1.1), [1 / math.log(1.1 + n / 100) for n in counts])
    check(
        log_frequency_weights(counts, mu=0.8, floor=0.9), [math.log(8), math.log(4), 0.98083, 0.9]
    )


@pytest.mark.parametrize(
    "kind",
    [
        list,
        tuple,
        np.array,
        torch.tensor,
        lambda counts: torch.tensor(counts, dtype=torch.bfloat16),
        lambda counts: [torch.tensor(n) for n in counts],
        lambda counts: np.array(counts, np.uint8),
    ],
)
@pytest.mark.parametrize("weigh", WEIGHTS)
def test_counts_of_every_kind(
    weigh: Callable[..., Tensor], kind: Callable[[list[int]], Any]
) -> None:
    assert weigh(kind([8, 64, 128])).tolist() == weigh([8.0, 64.0, 128.0]).tolist()


@pytest.mark.parametrize("weigh", WEIGHTS)
def test_counts_beyond_float32(weigh: Callable[..., Tensor]) -> None:
    """2^24 + 1 is no float32: the sums are float64."""
    counts = [2**24 + 1, 2**24, 3]
    exact = weigh(counts)
    assert exact.isfinite().all()
    assert weigh(torch.tensor(counts)).equal(exact)


@pytest.mark.parametrize("weigh", WEIGHTS[:4])
def test_absent_classes(weigh: Callable[..., Tensor]) -> None:
    """They get the weight given, and the others the same as without them."""
    with pytest.raises(ValueError, match=r"^no pixel is of class 1 and 3, .* give .* absent="):
        weigh([10, 0, 20, 0, 50])
    with pytest.raises(ValueError, match=r"^no pixel is of class 2, "):
        weigh([10, 1, 0])
    weights = weigh([10, 0, 20, 0, 50], absent=0.5)
    assert weights[[1, 3]].tolist() == [0.5, 0.5]
    assert weights[[0, 2, 4]].equal(weigh([10, 20, 50]))


def test_absent_classes_of_enet() -> None:
    """The formula holds for them; a weight can be given all the same."""
    assert enet_weights([5, 0]).tolist() == pytest.approx([1 / math.log(2.02), 1 / math.log(1.02)])
    assert enet_weights([5, 0], absent=0).tolist() == pytest.approx([1 / math.log(2.02), 0])


def test_absent_classes_with_image_pixels() -> None:
    weights = median_frequency_weights([10, 0, 30], image_pixels=[100, 0, 100], absent=0)
    assert weights.tolist() == pytest.approx([2, 0, 2 / 3])


@pytest.mark.parametrize(
    ("counts", "error", "message"),
    [
        ([1, -2], ValueError, "must hold finite numbers of at least 0, not -2 for class 1"),
        ([1, math.nan], ValueError, "not nan for class 1"),
        ([math.inf, 1], ValueError, "not inf for class 0"),
        ([], ValueError, "counts is empty"),
        ([0, 0], ValueError, "is 0 for every class"),
        ([[1, 2]], ValueError, r"not of shape \(1, 2\)"),
        (7, ValueError, r"not of shape \(\)"),
        ([[1], [2, 3]], ValueError, "not one of sequences"),
        (["a", "b"], TypeError, "not values such as"),
        ("road", TypeError, "not str"),
        (None, TypeError, "not NoneType"),
        ({0: 5}, TypeError, "not dict"),
        ([True, False], TypeError, "not values such as"),
        (torch.zeros(2, dtype=torch.complex64), TypeError, "not values such as"),
    ],
)
@pytest.mark.parametrize("weigh", WEIGHTS)
def test_no_counts(
    weigh: Callable[..., Tensor], counts: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        weigh(counts)
    assert str(caught.value).startswith("counts ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda n: log_frequency_weights(n, mu=0), "mu must be a finite number above 0, not 0"),
        (lambda n: log_frequency_weights(n, mu="a"), "mu must be a number above 0, not 'a'"),
        (lambda n: log_frequency_weights(n, floor=-1), "floor must be .* of at least 0, not -1"),
        (lambda n: inverse_root_weights(n, largest=math.nan), "largest must be .*, not nan"),
        (lambda n: inverse_root_weights(n, largest=True), "largest must be .*, not True"),
        (lambda n: enet_weights(n, c=1), "c must be a finite number above 1, not 1"),
        (lambda n: enet_weights(n, absent=-1), "absent must be .* of at least 0, not -1"),
        (lambda n: inverse_frequency_weights(n, absent=math.inf), "absent must be .*, not inf"),
        (lambda n: median_frequency_weights(n, image_pixels=[9]), "each of the 2 classes, not 1"),
        (lambda n: median_frequency_weights(n, image_pixels=[9, 1]), "class 1 must be at least"),
        (lambda n: median_frequency_weights(n, image_pixels=[9, -1]), "^image_pixels must hold"),
    ],
)
def test_options_out_of_range(call: Callable[[list[int]], Tensor], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        call([2, 4])


MAPS = [
    np.array([[0, 0, 1], [1, 1, 255]], np.uint8),
    np.array([[0, 3], [255, 255]], np.uint8),
]


class Pairs(Dataset[tuple[Tensor, Tensor]]):
    """Images and labels by number alone; it never raises IndexError."""

    def __len__(self) -> int:
        return len(MAPS)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        labels = MAPS[index % len(MAPS)]
        return torch.zeros(3, *labels.shape), tv_tensors.Mask(torch.from_numpy(labels))


class Stream(IterableDataset[Any]):
    """No length."""

    def __iter__(self) -> Iterator[Any]:
        return iter(MAPS)


def check(counts: PixelCounts) -> None:
    for found, expected in (
        (counts.pixels, [3, 3, 0, 1]),
        (counts.image_pixels, [5 + 2, 5, 0, 2]),
    ):
        assert found.dtype == torch.int64
        assert found.tolist() == expected
    assert (counts.ignored, counts.images) == (3, 2)


@pytest.mark.parametrize(
    "dataset",
    [
        MAPS,
        tuple(MAPS),
        [[None, labels] for labels in MAPS],
        [("name", torch.zeros(1), labels) for labels in MAPS],
        [Image.fromarray(labels) for labels in MAPS],
        [labels[:, ::-1] for labels in MAPS],
        [torch.from_numpy(labels).T for labels in MAPS],
        *([labels.astype(dtype) for labels in MAPS] for dtype in "HhilqQ"),
        Pairs(),
        Subset(Pairs(), [1, 0]),
        Stream(),
    ],
)
def test_count_pixels(dataset: Any) -> None:
    check(count_pixels(dataset, 4))


def test_count_generators() -> None:
    check(count_pixels(iter(MAPS), 4))
    check(count_pixels((labels for labels in MAPS), 4, progress=False))


@pytest.mark.parametrize("ignore", [-1, -100, 12, 70_000, 2**40, -(2**40)])
def test_other_ignore_indices(ignore: int) -> None:
    maps = [labels.astype(np.int64) for labels in MAPS]
    for labels in maps:
        labels[labels == 255] = ignore
    check(count_pixels(maps, 4, ignore_index=ignore))
    with pytest.raises(ValueError, match=f"item 0 has label {ignore} in 1 of"):
        count_pixels(maps, 4)


def test_signed_bytes() -> None:
    """Their range does not fit into them."""
    counts = count_pixels([np.array([[-128, 127, 0]], np.int8)], 128, ignore_index=-128)
    assert counts.pixels.nonzero().ravel().tolist() == [0, 127]


def test_ignored_class_and_none() -> None:
    counts = count_pixels([MAPS[0]], 256, ignore_index=None)
    assert (counts.pixels[255], counts.pixels.sum(), counts.ignored) == (1, 6, 0)
    counts = count_pixels([MAPS[0]], 256, ignore_index=1)
    assert counts.pixels[[0, 1, 255]].tolist() == [2, 0, 1]
    assert counts.image_pixels[[0, 1, 255]].tolist() == [3, 0, 3]
    assert counts.ignored == 3


@pytest.mark.parametrize("mode", ["L", "P", "I;16"])
def test_label_files(tmp_path: Path, mode: str) -> None:
    paths: list[Any] = []
    for i, labels in enumerate(MAPS):
        image = Image.fromarray(labels.astype(np.uint16) if mode == "I;16" else labels)
        if mode == "P":
            image.putpalette([7] * 768)
        image.save(tmp_path / f"{i}.png")
        paths.append(tmp_path / f"{i}.png")
    check(count_pixels(paths, 4))
    check(count_pixels(map(str, paths), 4))
    check(count_pixels([("photo", path) for path in paths], 4))
    with Image.open(paths[0]) as first, Image.open(paths[1]) as second:
        check(count_pixels([first, second], 4))
    with pytest.raises(ValueError, match=r"item 1 \(.*1.png\) has label 3 in 1 of"):
        count_pixels(paths, 3)


def test_counts_make_weights() -> None:
    counts = count_pixels(Pairs(), 4)
    weights = median_frequency_weights(counts.pixels, image_pixels=counts.image_pixels, absent=0.0)
    assert weights.tolist() == pytest.approx([0.5 / (3 / 7), 0.5 / (3 / 5), 0, 1])


def test_labels_that_are_no_class() -> None:
    for dtype in (np.uint8, np.int64):
        maps = [MAPS[0], np.array([[9, 9, 0], [9, 7, 255]]).astype(dtype)]
        with pytest.raises(
            ValueError,
            match=r"^item 1 has label 7 in 1 of 6 pixels, which is neither a class 0..3 nor "
            r"ignored \(ignore_index=255\); check num_classes and ignore_index.$",
        ):
            count_pixels(maps, 4)
    with pytest.raises(ValueError, match=r"label 255 in 1 of.* \(ignore_index=None\)"):
        count_pixels(MAPS, 4, ignore_index=None)


@pytest.mark.parametrize(
    ("dataset", "error", "message"),
    [
        ([], ValueError, "holds no label map"),
        (iter([]), ValueError, "holds no label map"),
        (3, TypeError, "must be iterable or have a length and items, which int has not"),
        ("train", TypeError, "not one str; put it into a list"),
        (Path("train"), TypeError, "not one PosixPath|not one WindowsPath"),
        (Image.new("L", (4, 4)), TypeError, "not one Image"),
        ([MAPS[0], None], TypeError, "item 1 must be, or end in, .* not NoneType"),
        ([()], ValueError, "item 0 is empty"),
        ([np.zeros((2, 2))], TypeError, "item 0 must hold integers, not float64"),
        ([torch.zeros(2, 2)], TypeError, "item 0 must hold integers, not torch.float32"),
        ([torch.zeros(2, 2, dtype=torch.bfloat16)], TypeError, "not torch.bfloat16"),
        ([torch.zeros(2, 2, dtype=torch.bool)], TypeError, "not torch.bool"),
        (MAPS[0], ValueError, r"item 0 must be a label map \(H, W\) .* not \(3,\)"),
        ([np.zeros((0, 3), np.uint8)], ValueError, r"not empty, not \(0, 3\)"),
        ([Image.new("RGB", (4, 5))], ValueError, r"item 0 must be .* not \(5, 4, 3\)"),
        ([torch.zeros(1, 4, 4, dtype=torch.uint8)], ValueError, r"not \(1, 4, 4\)"),
    ],
)
def test_no_data_set(dataset: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        count_pixels(dataset, 4)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="a.png does not exist; check the path"):
        count_pixels([tmp_path / "a.png"], 4)
    with pytest.raises(IsADirectoryError, match="is a folder"):
        count_pixels([tmp_path], 4)
    Image.fromarray(MAPS[0]).save(tmp_path / "b.jpg")
    with pytest.raises(ValueError, match="b.jpg is no PNG, BMP or TIFF image"):
        count_pixels([tmp_path / "b.jpg"], 4)
    Image.fromarray(np.random.default_rng(0).integers(0, 4, (64, 64), np.uint8)).save(
        tmp_path / "c.png"
    )
    (tmp_path / "c.png").write_bytes((tmp_path / "c.png").read_bytes()[:-400])
    with pytest.raises(ValueError, match="c.png cannot be decoded because it is truncated"):
        count_pixels([tmp_path / "c.png"], 4)


@pytest.mark.parametrize(
    ("num_classes", "ignore", "message"),
    [
        (0, 255, "num_classes must be at least 1, not 0"),
        (2.0, 255, "num_classes must be a whole number"),
        (4, 2.5, "ignore_index must be a whole number or None, not 2.5"),
        (4, True, "ignore_index must be a whole number or None, not True"),
    ],
)
def test_arguments(num_classes: Any, ignore: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        count_pixels(MAPS, num_classes, ignore_index=ignore)


def test_progress_is_for_terminals(capsys: pytest.CaptureFixture[str]) -> None:
    count_pixels(MAPS, 4)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("stevens2020_weighted_cross_entropy", log_frequency_weights),
        ("xiang2020_weighted_cross_entropy", inverse_root_weights),
    ],
)
def test_reports_losses_take_the_counts_of_other_data(
    name: str, formula: Callable[..., Tensor]
) -> None:
    counts = [900, 90, 10]
    assert torch.equal(create_loss(name, pixel_counts=counts).class_weights, formula(counts))
    assert len(create_loss(name).class_weights) in (19, 34)


@pytest.mark.parametrize("name", CLASS_WEIGHTS)
def test_every_formula_takes_counts_and_absent(name: str) -> None:
    weights = CLASS_WEIGHTS[name]([1000, 0, 1], absent=7.0)
    assert weights[1] == 7
    assert weights[0] < weights[2]
