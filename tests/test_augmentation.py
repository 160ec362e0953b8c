"""The training transform: image and labels stay together, and void is void."""

import dataclasses
import json
import pickle
import random
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2

from citysegzoo.data.augmentation import MEAN_COLOR, Augmentation, _view
from citysegzoo.data.preprocessing import IMAGENET

EVERYTHING = Augmentation(
    resize=(50, 70),
    flip=0.5,
    scale=(0.5, 2.0),
    rotate=10,
    rotate_probability=0.5,
    crop=(60, 61),
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.05,
    photometric_probability=0.8,
)
VOID = 255


def sample(height: int, width: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noise and labels 0..18, laid out as the datasets lay them out."""
    numbers = np.random.default_rng(seed)
    pixels = torch.from_numpy(numbers.integers(0, 256, (height, width, 3), np.uint8))
    labels = torch.from_numpy(numbers.integers(0, 19, (height, width), np.uint8))
    return tv_tensors.Image(pixels.permute(2, 0, 1)), tv_tensors.Mask(labels)


def coordinates(height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """An image whose red is twice x and whose green twice y, and x and y as labels."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    x, y = x.byte(), y.byte()
    return tv_tensors.Image(torch.stack([2 * x, 2 * y, x])), tv_tensors.Mask(x), tv_tensors.Mask(y)


def run(augmentation: Augmentation, image: Tensor, labels: Tensor, seed: int = 0) -> tuple:
    transform = augmentation.build(ignore_index=VOID)
    torch.manual_seed(seed)
    return transform(image, labels)


@pytest.mark.parametrize(
    ("augmentation", "tolerance"),
    [
        # A label is the pixel the sample falls in, at most half a pixel from it; the image adds
        # up to half a grey level of rounding, a quarter of a pixel.
        (Augmentation(resize=(61, 97)), 0.75),
        (Augmentation(scale=(0.5, 2.0), crop=(60, 71)), 0.75),
        (Augmentation(scale=(0.5, 2.0)), 0.75),
        (Augmentation(flip=1.0, crop=(150, 150)), 0.0),
        # Pillow's affine rounds down: a whole grey level.
        (Augmentation(rotate=30, crop=(60, 71)), 1.0),
        (Augmentation(rotate=180), 1.0),
        # Scaled and then turned, labels are the nearest of the nearest.
        (Augmentation(scale=(1.0, 2.0), rotate=10, crop=(91, 80), flip=0.5), 1.75),
        (Augmentation(resize=(100, 150), scale=(0.7, 1.5), rotate=180, crop=(60, 90)), 1.75),
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", range(4))
def test_labels_lie_where_the_image_lies(
    augmentation: Augmentation, tolerance: float, seed: int
) -> None:
    height, width = 100, 120
    image, *labels = coordinates(height, width)
    for channel, target in enumerate(labels):
        seen, found = run(augmentation, image, target, seed)
        # Where the image ends, the filter sees one side alone: only this far inside both ends.
        shown = [run(augmentation, image, other, seed)[1] for other in labels]
        inside = torch.stack(
            [(x > 3) & (x < side - 4) for x, side in zip(shown, (width, height), strict=True)]
        ).all(0)
        assert inside.sum() > 100
        off = (seen[channel] / 2 - found)[inside]
        assert off.abs().max() <= tolerance
        assert off.mean().abs() < 0.35, "half a pixel to one side"


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    scaled=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    size=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    where=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_a_window_is_a_crop_of_the_whole(
    height: int, width: int, scaled: tuple, size: tuple, where: tuple
) -> None:
    """What is resampled is the window alone, to the same result.

    That is within a grey level of the exact one: width and height are resampled one after the
    other, and each rounds by half a level.
    """
    image, labels = sample(height, width)
    corner = [round(share * (s - c)) for share, s, c in zip(where, scaled, size, strict=True)]
    whole = np.stack(
        [
            Image.fromarray(channel).resize(scaled[::-1], Image.Resampling.BILINEAR)
            for channel in image.numpy().astype(np.float32)
        ]
    )
    expected = torch.full((3, *size), 7.0)
    rows, columns = (
        (slice(max(0, start), min(s, start + c)), slice(max(0, -start), max(0, -start) + min(s, c)))
        for start, s, c in zip(corner, scaled, size, strict=True)
    )
    expected[:, rows[1], columns[1]] = torch.from_numpy(whole[:, rows[0], columns[0]])
    window = _view(image, scaled, corner, size, 0.0, (7, 7, 7))
    assert (window - expected).abs().max() <= 1 + 1e-2  # weights are rounded too

    shown = _view(labels, scaled, corner, size, 0.0, VOID)
    void = torch.ones(size, dtype=torch.bool)
    void[rows[1], columns[1]] = False
    assert torch.equal(shown == VOID, void)
    y, x = (
        ((torch.arange(span.start, span.stop) + 0.5) * side / s).double()
        for span, side, s in ((rows[0], height, scaled[0]), (columns[0], width, scaled[1]))
    )
    # Halfway between two pixels either is the nearest.
    sure_y, sure_x = ((p - p.round()).abs() > 1e-3 for p in (y, x))
    nearest = labels[y.clamp(max=height - 1).long()][:, x.clamp(max=width - 1).long()]
    sure = sure_y[:, None] & sure_x
    assert torch.equal(shown[rows[1], columns[1]][sure], nearest[sure])


@pytest.mark.parametrize("size", [(37, 90), (128, 160), (200, 333)])
def test_resize_is_torchvisions(size: tuple[int, int]) -> None:
    image, labels = sample(128, 160)
    resized, _ = run(Augmentation(resize=size), image, labels)
    expected = v2.functional.resize(image, size, antialias=True)
    assert (resized.int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize("angle", [7.0, -33.0, 90.0, 180.0])
def test_rotation_is_torchvisions(angle: float) -> None:
    image, labels = sample(61, 61)
    turned = _view(image, (61, 61), (0, 0), (61, 61), angle, (9, 9, 9))
    expected = v2.functional.rotate(image, angle, v2.InterpolationMode.BILINEAR, fill=[9, 9, 9])
    inside = _view(torch.ones_like(labels), (61, 61), (0, 0), (61, 61), angle, 0) == 1
    inside = torch.nn.functional.avg_pool2d(inside[None].float(), 3, 1, 1)[0] == 1
    assert inside.sum() > 1500
    assert (turned.int() - expected.int()).abs()[:, inside].max() <= 1
    found = _view(labels, (61, 61), (0, 0), (61, 61), angle, VOID)
    agree = found == v2.functional.rotate(labels, angle, fill=VOID)
    assert agree.float().mean() > 0.99


def test_scale_and_crop_before_the_rotation_show_all_there_is() -> None:
    """A turned crop has no void corners as long as the image goes on."""
    augmentation = Augmentation(rotate=45, crop=(20, 40))
    for seed in range(20):
        _, labels = run(augmentation, *coordinates(200, 240)[:2], seed)
        if 40 < labels.int().median() < 200:
            assert (labels == VOID).float().mean() < 0.5
    middle = _view(coordinates(200, 200)[1], (200, 200), (90, 80), (20, 40), 45.0, VOID)
    assert (middle != VOID).all()


@pytest.mark.parametrize("rotate", [0.0, 20.0])
@pytest.mark.parametrize("seed", range(3))
def test_void_is_where_the_image_is_not(rotate: float, seed: int) -> None:
    image = tv_tensors.Image(torch.full((3, 40, 50), 255, dtype=torch.uint8))
    labels = tv_tensors.Mask(torch.full((40, 50), 4, dtype=torch.uint8))
    augmentation = Augmentation(scale=(0.5, 1.5), rotate=rotate, crop=(80, 90))
    image, labels = run(augmentation, image, labels, seed)
    void = labels == VOID
    assert 0 < void.sum() < void.numel()
    assert torch.equal(image, torch.where(void, torch.tensor(MEAN_COLOR).view(3, 1, 1), 255))
    if not rotate:
        rows, columns = (~void).any(1).sum(), (~void).any(0).sum()
        assert (~void).sum() == rows * columns, "a rectangle"
        assert 20 <= rows <= 60
        assert 25 <= columns <= 75


def test_rotation_without_crop_keeps_the_size_and_voids_the_corners() -> None:
    image, labels = sample(60, 90)
    image, turned = run(Augmentation(rotate=10), image, labels, 1)
    assert turned.shape == (60, 90)
    corners = turned[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners == VOID).sum() >= 2
    assert turned[30, 45] != VOID


def test_scale_range() -> None:
    image, labels = sample(100, 200)
    sizes = [
        run(Augmentation(scale=(0.8, 1.2)), image, labels, seed)[1].shape for seed in range(100)
    ]
    heights = [height for height, _ in sizes]
    assert 80 <= min(heights) <= 84
    assert 116 <= max(heights) <= 120
    assert all(abs(width - 2 * height) <= 2 for height, width in sizes)
    doubled = Augmentation(resize=(50, 60), scale=(2.0, 2.0))
    assert run(doubled, image, labels)[1].shape == (100, 120), "of what the resize left"


@pytest.mark.parametrize("whole", [3, 8])
def test_windows_are_uniform(whole: int) -> None:
    """All six places of a window of 3 in 8 pixels, and of 3 pixels in a window of 8."""
    labels = tv_tensors.Mask(torch.arange(whole, dtype=torch.uint8)[None])
    image = tv_tensors.Image(torch.zeros(3, 1, whole, dtype=torch.uint8))
    transform = Augmentation(crop=(1, 11 - whole)).build(ignore_index=VOID)
    torch.manual_seed(0)
    places = Counter(tuple(transform(image, labels)[1][0].tolist()) for _ in range(600))
    assert len(places) == 6
    assert all(60 <= times <= 140 for times in places.values())


def test_flips_of_image_and_labels_together() -> None:
    image, labels = sample(9, 14)
    flipped, mirrored = run(Augmentation(flip=1.0), image, labels)
    assert torch.equal(flipped, image.flip(-1))
    assert torch.equal(mirrored, labels.flip(-1))
    transform = Augmentation(flip=0.3).build(ignore_index=VOID)
    torch.manual_seed(0)
    times = 0
    for _ in range(300):
        seen, found = transform(image, labels)
        assert torch.equal(seen, image) == torch.equal(found, labels)
        times += not torch.equal(found, labels)
    assert 60 <= times <= 120


@pytest.mark.parametrize("name", ["rotate", "photometric"])
def test_probabilities(name: str) -> None:
    image, labels = sample(20, 21)
    what = {"rotate": 10} if name == "rotate" else {"brightness": 0.4, "hue": 0.1}
    transform = Augmentation(**what, **{f"{name}_probability": 0.3}).build(ignore_index=VOID)
    torch.manual_seed(0)
    changed = sum(not torch.equal(transform(image, labels)[0], image) for _ in range(300))
    assert 60 <= changed <= 120
    never = Augmentation(**what, **{f"{name}_probability": 0.0})
    assert torch.equal(run(never, image, labels)[0], image)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_photometric_changes_leave_labels(name: str) -> None:
    image, labels = sample(20, 21)
    seen, found = run(Augmentation(**{name: 0.4}), image, labels)
    assert not torch.equal(seen, image)
    assert torch.equal(found, labels)
    jitter = v2.RandomApply([v2.ColorJitter(**{name: 0.4})], 1.0)
    torch.manual_seed(0)
    assert torch.equal(seen, jitter(image.contiguous()))


ranges = st.tuples(st.floats(0.1, 3), st.floats(0.1, 3)).map(sorted).map(tuple)
sizes = st.tuples(st.integers(1, 50), st.integers(1, 50))
probabilities = st.floats(0, 1)
augmentations = st.builds(
    Augmentation,
    resize=st.none() | sizes,
    flip=probabilities,
    scale=st.none() | ranges,
    rotate=st.just(0.0) | st.floats(0, 180),
    rotate_probability=probabilities,
    crop=st.none() | sizes,
    brightness=st.just(0.0) | st.floats(0, 3),
    contrast=st.just(0.0) | st.floats(0, 3),
    saturation=st.just(0.0) | st.floats(0, 3),
    hue=st.just(0.0) | st.floats(0, 0.5),
    photometric_probability=probabilities,
)


@settings(deadline=None, max_examples=150)
@given(augmentations, sizes, st.integers(0, 2**31))
def test_any_setting_on_any_size(augmentation: Augmentation, size: tuple, seed: int) -> None:
    image, labels = sample(*size)
    before = image.clone(), labels.clone()
    seen, found = run(augmentation, image, labels, seed)
    assert (type(seen), type(found)) == (tv_tensors.Image, tv_tensors.Mask)
    assert (seen.dtype, found.dtype) == (torch.uint8, torch.uint8)
    assert seen.shape == (3, *found.shape)
    assert seen.is_contiguous()
    resized = augmentation.resize or size
    if augmentation.crop:
        assert found.shape == augmentation.crop
    elif augmentation.scale is None:
        assert found.shape == resized
    else:
        for side, whole in zip(found.shape, resized, strict=True):
            least, greatest = (factor * whole for factor in augmentation.scale)
            assert max(1, least - 0.501) <= side <= max(1, greatest + 0.501)
    assert set(found.unique().tolist()) <= {*labels.unique().tolist(), VOID}
    if not augmentation.crop and not augmentation.rotate:
        assert (found != VOID).all()
    again = run(augmentation, image, labels, seed)
    assert torch.equal(again[0], seen)
    assert torch.equal(again[1], found)
    assert torch.equal(before[0], image), "the source is left alone"
    assert torch.equal(before[1], labels)
    assert Augmentation(**json.loads(json.dumps(dataclasses.asdict(augmentation)))) == augmentation


def test_all_chance_is_torchs() -> None:
    image, labels = sample(40, 50)
    first = run(EVERYTHING, image, labels)
    random.seed(1)
    np.random.seed(1)
    states = random.getstate(), np.random.get_state()[1].tolist()
    again = run(EVERYTHING, image, labels)
    assert states == (random.getstate(), np.random.get_state()[1].tolist())
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], run(EVERYTHING, image, labels, 1)[0])


class Seeded(torch.utils.data.Dataset):
    """Sample i is augmented from seed i."""

    transform = EVERYTHING.build(ignore_index=VOID)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        torch.manual_seed(index)
        return self.transform(*sample(40, 50, seed=index))


def test_workers_give_the_same() -> None:
    with torch.random.fork_rng():
        expected = [Seeded()[i] for i in range(4)]
        for i, (images, labels) in enumerate(DataLoader(Seeded(), num_workers=2)):
            assert torch.equal(images[0], expected[i][0])
            assert torch.equal(labels[0], expected[i][1])


def test_the_transform_can_be_sent_to_workers() -> None:
    transform = pickle.loads(pickle.dumps(EVERYTHING.build(ignore_index=VOID)))
    torch.manual_seed(0)
    image, labels = sample(40, 50)
    assert torch.equal(transform(image, labels)[0], run(EVERYTHING, image, labels)[0])


def test_without_an_ignored_label() -> None:
    image, labels = sample(10, 10)
    for augmentation in (Augmentation(crop=(20, 20)), Augmentation(rotate=3)):
        with pytest.raises(ValueError, match="give label_fill"):
            augmentation.build(ignore_index=None)
    flip = Augmentation(resize=(8, 8), flip=1.0).build(ignore_index=None)
    assert flip(image, labels)[1].shape == (8, 8)
    crop = Augmentation(crop=(20, 20)).build(ignore_index=None, label_fill=0, fill=(1, 2, 3))
    seen, found = crop(image, labels.clamp(min=1))
    assert (found == 0).sum() == 300
    assert (seen == torch.tensor([1, 2, 3]).view(3, 1, 1)).all(0)[found == 0].all()
    other = Augmentation(crop=(20, 20)).build(ignore_index=VOID, label_fill=19)
    assert (other(image, labels)[1] == 19).sum() == 300


@pytest.mark.parametrize("arguments", [{"ignore_index": -100}, {"ignore_index": 256}])
def test_void_must_fit_a_byte(arguments: dict) -> None:
    with pytest.raises(ValueError, match=f"from 0 to 255, not {arguments['ignore_index']}"):
        Augmentation(crop=(3, 3)).build(**arguments)
    with pytest.raises(ValueError, match="from 0 to 255, not 0.5"):
        Augmentation().build(ignore_index=VOID, fill=(0.5, 0.5, 0.5))


def test_inputs_that_are_no_sample() -> None:
    transform = Augmentation(flip=0.5).build(ignore_index=VOID)
    image, labels = sample(10, 12)
    with pytest.raises(TypeError, match="takes uint8 images and labels, not torch.float32"):
        transform(image.float(), labels)
    with pytest.raises(TypeError, match="not torch.uint8, torch.int64"):
        transform(image, labels.long())
    for wrong in ((image, labels[:5]), (image[:1], labels), (image, labels[None])):
        with pytest.raises(ValueError, match=r"an image \(3, H, W\) and labels \(H, W\), not"):
            transform(*wrong)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"flip": -0.1}, "flip is a probability from 0 to 1, not -0.1"),
        ({"flip": float("nan")}, "flip is a probability"),
        ({"rotate_probability": 1.5}, "rotate_probability is a probability"),
        ({"photometric_probability": "0.5"}, "photometric_probability is .*, not '0.5'"),
        ({"resize": 512}, r"resize is \(height, width\), two positive integers, not 512"),
        ({"crop": (0, 513)}, "crop is .* two positive integers"),
        ({"crop": (513.0, 513)}, "crop is"),
        ({"crop": (1, 2, 3)}, "crop is"),
        ({"scale": (2.0, 0.5)}, r"scale is \(least, greatest\), .* not \(2.0, 0.5\)"),
        ({"scale": (0.0, 1.0)}, "scale is"),
        ({"scale": 0.5}, "scale is"),
        ({"scale": (1.0, float("inf"))}, "scale is"),
        ({"rotate": -3}, "rotate is an angle in degrees from 0 to 180, not -3"),
        ({"rotate": 181}, "rotate is"),
        ({"brightness": -0.1}, "brightness is half the range of a factor of at least 0, not -0.1"),
        ({"contrast": float("inf")}, "contrast is"),
        ({"saturation": None}, "saturation is"),
        ({"hue": 0.6}, "hue is a share of the colour circle from 0 to 0.5, not 0.6"),
    ],
)
def test_settings_that_are_none(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Augmentation(**arguments)


def test_in_words() -> None:
    assert str(Augmentation()) == "none"
    assert str(Augmentation(resize=(512, 1024), flip=0.5, scale=(0.8, 1.2), crop=(513, 513))) == (
        "resize to 512x1024, flip p 0.5, scale 0.8 to 1.2, crop 513x513"
    )
    assert str(EVERYTHING) == (
        "resize to 50x70, flip p 0.5, scale 0.5 to 2, rotate by up to 10° p 0.5, crop 60x61, "
        "brightness 0.4 p 0.8, contrast 0.4 p 0.8, saturation 0.4 p 0.8, hue 0.05 p 0.8"
    )


def test_the_mean_colour_is_imagenets() -> None:
    assert tuple(round(255 * mean) for mean in IMAGENET.mean) == MEAN_COLOR


@pytest.mark.slow
def test_settings_import_nothing_heavy() -> None:
    program = (
        "import sys; from citysegzoo.data.augmentation import Augmentation; "
        "Augmentation(crop=(3, 3)); sys.exit('torchvision' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
