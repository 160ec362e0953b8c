"""The segmenter: equal to the model where it says so, on any number of images of any size."""

import copy
import gc
import itertools
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageSequence
from torch import Tensor, nn

import citysegzoo
from citysegzoo.base import Decoder, Encoder
from citysegzoo.data import DEMO_IMAGE
from citysegzoo.inference import Failure, Segmenter
from citysegzoo.inference.network import Network
from citysegzoo.inference.stream import computed
from citysegzoo.inference.tiles import one_core, tiling
from citysegzoo.layers import resize_smoothly
from citysegzoo.model import SegmentationModel

EXACT = {"device": "cpu", "precision": "fp32", "fold": False, "channels_last": False}
PLAIN = {"device": "cpu", "precision": "fp32"}


class Pooled(Encoder):
    """The image itself, made smaller by averages."""

    channels = (3,)

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.strides = (stride,)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [F.avg_pool2d(x, self.strides[0])]


class Last(Decoder):
    """The last feature."""

    channels, stride = 3, 1

    def forward(self, features: list[Tensor]) -> Tensor:
        return features[-1]


def pointwise(*, stride: int = 1, classes: int = 5, **options: object) -> SegmentationModel:
    """A network whose classes depend on the colour of one pixel (of the smaller image) alone."""
    torch.manual_seed(0)
    classifier = nn.Conv2d(3, classes, 1)
    return SegmentationModel(Pooled(stride), Last(), classifier, num_classes=classes, **options)


def drawn(name: str, **options: object) -> SegmentationModel:
    torch.manual_seed(0)
    return citysegzoo.create_model(name, **options).eval()


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth random picture."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, height // 8 + 1, width // 8 + 1, generator=generator)
    image = F.interpolate(coarse, (height, width), mode="bilinear")[0]
    return (255 * image).byte().permute(1, 2, 0).numpy().copy()


def preprocessed(model: SegmentationModel, pixels: np.ndarray) -> Tensor:
    return model.preprocessing(torch.from_numpy(pixels).permute(2, 0, 1)[None]).contiguous()


@torch.no_grad()
def expected_labels(model: SegmentationModel, pixels: np.ndarray) -> np.ndarray:
    return model(preprocessed(model, pixels))[0].argmax(0).numpy()


@pytest.fixture(scope="module")
def small() -> SegmentationModel:
    return citysegzoo.create_model("unet.small", pretrained=True)


@pytest.fixture(scope="module")
def demo_labels(small) -> np.ndarray:
    return small.segment(DEMO_IMAGE).labels


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("unet.small", {"pretrained": True}),
        ("segformer_b0", {}),
        ("segnet_vgg16", {}),
        ("deeplabv3_resnet18", {}),
    ],
)
def test_labels_are_the_models_with_everything_off(name: str, options: dict) -> None:
    model = drawn(name, **options)
    pixels = picture(101, 163)
    labels = Segmenter(model, **EXACT)(pixels).labels
    assert labels.dtype == np.uint8
    assert np.array_equal(labels, expected_labels(model, pixels))
    assert len(np.unique(labels)) > 1


@pytest.mark.parametrize("change", [{"fold": True}, {"channels_last": True}, {"precision": "bf16"}])
def test_every_part_agrees(small, demo_labels: np.ndarray, change: dict) -> None:
    result = Segmenter(small, **{**EXACT, **change})(DEMO_IMAGE)
    agreement = (result.labels == demo_labels).mean()
    assert agreement > (0.995 if "precision" in change else 0.9999)


def test_defaults_agree(small, demo_labels: np.ndarray) -> None:
    assert (Segmenter(small)(DEMO_IMAGE).labels == demo_labels).mean() > 0.995


@pytest.mark.parametrize("name", ["segformer_b0", "unet_swin_tiny"])
def test_transformers_in_bf16(name: str) -> None:
    model = drawn(name)
    pixels = picture(96, 128)
    found = Segmenter(model, device="cpu", precision="bf16").probabilities(pixels)
    expected = Segmenter(model, **EXACT).probabilities(pixels)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 0.02


def test_a_working_size_is_kept() -> None:
    model = pointwise(stride=4, working_size=(64, 96))
    pixels = picture(131, 150)
    assert np.array_equal(Segmenter(model, **EXACT)(pixels).labels, expected_labels(model, pixels))
    model.eval()
    with torch.no_grad():
        expected = model(preprocessed(model, pixels)).softmax(1)[0].numpy()
    found = Segmenter(model, **EXACT).probabilities(pixels)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_model_stays_as_it_is() -> None:
    model = drawn("unet.small", widths=(4, 8)).train()
    model.encoder.eval()
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    weights = list(model.parameters())
    Segmenter(model, device="cpu", precision="bf16")(picture(40, 40))
    assert [module.training for module in model.modules()] == modes
    assert all(new is old for new, old in zip(model.parameters(), weights, strict=True))
    assert all(p.requires_grad and p.dtype == torch.float32 for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    own = Segmenter(model, **EXACT)._network.model
    assert own is not model
    assert all(new is old for new, old in zip(own.parameters(), weights, strict=True))


def test_a_loaded_model_that_was_trained_on_keeps_it(tmp_path: Path) -> None:
    """Memory of weights mapped from a file is given back, but not what was written to them."""
    drawn("deeplabv3_resnet18").save_pretrained(tmp_path)
    model = citysegzoo.load(tmp_path)
    with torch.no_grad():
        for weight in list(model.parameters())[::2]:
            weight.mul_(1.5)
    before = [weight.clone() for weight in model.state_dict().values()]
    Segmenter(model, device="cpu", precision="bf16")
    for found, expected in zip(model.state_dict().values(), before, strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("settings", [PLAIN, {"device": "cpu", "precision": "bf16"}])
def test_a_model_that_changed_needs_another_segmenter(settings: dict[str, Any]) -> None:
    """Some of its weights are shared and some are not: half old and half new is neither."""
    for change in (
        lambda model: [p.add_(1) for p in model.parameters()],
        lambda model: model.load_state_dict(drawn("unet.small", widths=(4, 8)).state_dict()),
        lambda model: model.half(),
        lambda model: model.load_state_dict(
            drawn("unet.small", widths=(4, 8)).state_dict(), assign=True
        ),
        lambda model: setattr(model, "classifier", copy.deepcopy(model.classifier)),
    ):
        model = drawn("unet.small", widths=(4, 8))
        segmenter = Segmenter(model, **settings)
        labels = segmenter(picture(40, 40)).labels
        copied = copy.deepcopy(segmenter)
        with torch.no_grad():
            change(model)
        with pytest.raises(ValueError, match="trained, converted or loaded other weights after"):
            segmenter(picture(40, 40))
        assert np.array_equal(copied(picture(40, 40)).labels, labels)
    model = drawn("unet.small", widths=(4, 8))
    segmenter = Segmenter(model, **settings)
    labels = segmenter(picture(40, 40)).labels
    del model  # nobody changes what is not there
    gc.collect()
    assert np.array_equal(segmenter(picture(40, 40)).labels, labels)


@pytest.mark.parametrize("settings", [PLAIN, {"device": "cpu", "precision": "bf16"}])
def test_a_fused_optimizer_is_seen(settings: dict[str, Any]) -> None:
    """It changes no version of a weight, and in evaluation mode no buffer says that it ran."""
    model = drawn("unet.small", widths=(4, 8)).eval()
    segmenter = Segmenter(model, **settings)
    segmenter(picture(40, 40))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, fused=True)
    model(torch.rand(1, 3, 40, 40)).square().mean().backward()
    optimizer.step()
    with pytest.raises(ValueError, match="trained, converted or loaded other weights after"):
        segmenter(picture(40, 40))


def test_a_wrapped_model_is_refused() -> None:
    with pytest.raises(TypeError, match="takes a SegmentationModel, not DataParallel; .* .module"):
        Segmenter(torch.nn.DataParallel(pointwise()))  # type: ignore[arg-type]


def test_images_of_one_name_are_numbered(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.fromarray(picture(40, 40)).save(tmp_path / folder / "1.png")
    pages = [Image.fromarray(picture(40, 40, seed)) for seed in range(3)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    segmenter = Segmenter(pointwise(), **EXACT)
    files = [tmp_path / folder / "1.png" for folder in ("a", "b")]
    assert [result.name for result in segmenter.stream(files)] == ["1", "1_1"]
    with Image.open(tmp_path / "pages.tif") as tif:
        names = [result.name for result in segmenter.stream(ImageSequence.Iterator(tif))]
    assert names == ["pages", "pages_1", "pages_2"]


def test_no_two_results_of_a_stream_have_one_name(tmp_path: Path) -> None:
    files = [tmp_path / folder / name for folder, name in
             (("x", "a.png"), ("y", "a.png"), ("y", "a_1.png"), ("y", "image_0.png"))]  # fmt: skip
    for file in files:
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(picture(40, 40)).save(file)
    segmenter = Segmenter(pointwise(), **EXACT)

    def names(*images: Any) -> list[str]:
        return [result.name for result in segmenter.stream(images)]

    assert names(*files) == ["a", "a_1", "a_1_2", "image_0"]
    assert names(picture(40, 40), files[3]) == ["image_0", "image_0_1"]
    assert names(files[3], picture(40, 40)) == ["image_0", "image_1"]
    assert names(picture(40, 40), picture(40, 40)) == ["image_0", "image_1"]


def test_failures_hold_nothing(tmp_path: Path) -> None:
    """Their tracebacks would hold images and activations until the end of a long run."""
    for name in ("a.png", "b.png"):
        Image.fromarray(picture(40, 40)).save(tmp_path / name)
    seen = []

    class Full(Pooled):
        def forward(self, x: Tensor) -> list[Tensor]:
            seen.append(weakref.ref(x))
            try:
                raise ValueError("first")
            except ValueError as error:
                raise torch.OutOfMemoryError("out of memory") from error

    model = pointwise()
    model.encoder = Full(1)
    segmenter = Segmenter(model, **EXACT)
    seen.clear()
    with pytest.warns(UserWarning, match="not enough memory"):
        failures = segmenter.folder(tmp_path, tmp_path / "out", batch_size=2)
    gc.collect()
    assert len(failures) == 2
    assert len(seen) == 3  # both at once, then one by one
    assert not any(x() is not None for x in seen)
    seen.clear()
    kept: list[Failure] = []
    assert not list(segmenter.stream([picture(40, 40)] * 3, on_error=kept.append))
    gc.collect()
    assert len(kept) == len(seen) == 3
    assert not any(x() is not None for x in seen)


def test_a_batch_that_failed_is_gone_before_its_images_are_tried_again() -> None:
    held: list[weakref.ref[np.ndarray]] = []

    def compute(images: Sequence[np.ndarray]) -> np.ndarray:
        assert not any(array() is not None for array in held)
        activations = np.zeros(len(images))
        held.append(weakref.ref(activations))
        if len(images) > 1:
            raise MemoryError
        return np.zeros((1, 2, 2))

    run = computed([picture(40, 40)] * 3, np.asarray, compute, batch_size=3, on_error=pytest.fail)
    assert len(list(run)) == 3


def test_tiles_leave_other_threads_their_cores() -> None:
    """A thread takes the number of cores when it first computes, and keeps it."""
    cores = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with one_core() as run:
            assert run(torch.get_num_threads) == 1
            with ThreadPoolExecutor(1) as other:
                assert other.submit(torch.get_num_threads).result() == 3
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(cores)


def test_threads_that_use_tiles_at_once_leave_the_cores_too() -> None:
    cores = torch.get_num_threads()

    def use() -> None:
        with one_core():
            pass

    torch.set_num_threads(2)
    try:
        for _ in range(50):
            threads = [threading.Thread(target=use) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            with ThreadPoolExecutor(1) as fresh:
                assert fresh.submit(torch.get_num_threads).result() == 2
    finally:
        torch.set_num_threads(cores)


@pytest.mark.parametrize("default", [torch.bfloat16, torch.float64])
def test_torchs_default_type_changes_nothing(default: torch.dtype) -> None:
    model, pixels = drawn("unet.small", widths=(4, 8)), picture(40, 40)
    images = torch.from_numpy(pixels).permute(2, 0, 1)
    expected, labels = model.preprocessing(images), Segmenter(model, **PLAIN)(pixels).labels
    torch.set_default_dtype(default)
    try:
        assert torch.equal(model.preprocessing(images), expected)
        assert np.array_equal(Segmenter(model, **PLAIN)(pixels).labels, labels)
    finally:
        torch.set_default_dtype(torch.float32)


def test_half_precision_models_are_computed_in_the_asked_one() -> None:
    model = drawn("unet.small", widths=(4, 8)).bfloat16()
    segmenter = Segmenter(model, **EXACT)
    assert segmenter.dtype == torch.float32
    pixels = picture(40, 40)
    found = segmenter(pixels).labels
    assert next(model.parameters()).dtype == torch.bfloat16
    assert np.array_equal(found, expected_labels(model.float(), pixels))


@pytest.mark.parametrize(
    ("size", "tile", "overlap", "stride"),
    [(100, 32, 8, 4), (33, 32, 8, 32), (32, 32, 31, 1), (20, 32, 8, 4), (997, 64, 0, 7)],
)
def test_weights_of_tiles_sum_to_one(size: int, tile: int, overlap: int, stride: int) -> None:
    found = tiling(size, tile, overlap, stride)
    total = torch.zeros(size)
    for start, weights in zip(found.starts, found.weights, strict=True):
        assert weights.min() > 0
        total[start : start + found.length] += weights
    torch.testing.assert_close(total, torch.ones(size))
    steps = [b - a for a, b in itertools.pairwise(found.starts)]
    assert all(0 < step <= found.length - overlap for step in steps)
    assert found.starts[0] == 0
    assert found.starts[-1] + found.length == size


@pytest.mark.parametrize("views", [{}, {"flip": True}])
@pytest.mark.parametrize("tile", [32, (32, 64), 500])
def test_tiles_change_nothing_where_the_network_sees_one_pixel(tile, views: dict) -> None:
    model = pointwise()
    pixels = picture(131, 150)
    whole = Segmenter(model, **EXACT, **views)
    tiled = Segmenter(model, **EXACT, **views, tile=tile, overlap=9)
    np.testing.assert_allclose(tiled.probabilities(pixels), whole.probabilities(pixels), atol=1e-6)
    assert (tiled(pixels).labels == whole(pixels).labels).mean() > 0.9999


def test_tiles_blend_without_seams() -> None:
    """What tiles say of themselves is passed on gradually: no step is larger than the ramp's."""

    class Own(Pooled):
        tiles = 0

        def forward(self, x: Tensor) -> list[Tensor]:
            self.tiles += 1
            return [torch.full_like(x, float(self.tiles % 2))]

    model = pointwise(classes=3)
    model.encoder = Own(1)
    model.classifier = nn.Identity()
    found = Segmenter(model, **EXACT, tile=64, overlap=16).probabilities(picture(64, 300))
    assert np.allclose(found, 1 / 3)  # all classes alike
    model.classifier = nn.Conv2d(3, 3, 1, bias=False)
    nn.init.zeros_(model.classifier.weight)
    model.classifier.weight.data[0] = 1 / 3
    found = Segmenter(model, **EXACT, tile=64, overlap=16).probabilities(picture(64, 300))
    logits = np.log(found[0] / found[1])[0]
    assert logits.min() < 0.02 < 0.98 < logits.max()
    assert np.abs(np.diff(logits)).max() < 1.01 / 16


def naive(model: SegmentationModel, pixels: np.ndarray, scales, flip: bool) -> Tensor:
    """The mean of the views' probabilities, by its definition."""
    image, views = preprocessed(model, pixels), []
    size = image.shape[-2:]
    with torch.no_grad():
        for scale in scales:
            factor = max(scale, 32 / min(size))
            scaled = resize_smoothly(image, [round(factor * side) for side in size])
            for mirrored in (False, True)[: 1 + flip]:
                logits = model.coarse_logits(scaled.flip(-1) if mirrored else scaled)
                logits = F.interpolate(
                    logits, size, mode="bilinear", align_corners=model.align_corners
                )
                views.append((logits.flip(-1) if mirrored else logits).softmax(1)[0])
    return torch.stack(views).mean(0)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    ("scales", "flip"), [((0.75, 1.0, 1.25), True), ((1.0,), True), ((0.5, 1.5), False)]
)
def test_scales_and_flip(monkeypatch, scales, flip: bool, align_corners: bool) -> None:
    monkeypatch.setattr("citysegzoo.inference.tiles.BLOCK", 5000)  # many blocks of rows
    model = drawn("segformer_b0")
    model.align_corners = align_corners
    pixels = picture(101, 163)
    expected = naive(model, pixels, scales, flip)
    segmenter = Segmenter(model, **EXACT, scales=scales, flip=flip)
    np.testing.assert_allclose(segmenter.probabilities(pixels), expected.numpy(), atol=1e-5)
    top = expected.topk(2, dim=0).values
    clear = (top[0] - top[1] > 1e-4).numpy()
    labels = segmenter(pixels).labels
    assert np.array_equal(labels[clear], expected.argmax(0).numpy()[clear])
    assert clear.mean() > 0.9


def test_one_scale_that_is_not_1() -> None:
    model = drawn("segformer_b0")
    pixels = picture(101, 163)
    expected = naive(model, pixels, (0.5,), False)
    found = Segmenter(model, **EXACT, scales=(0.5,)).probabilities(pixels)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


LARGE = """
import resource, sys
import numpy as np
from test_segmenter import PLAIN, Segmenter, pointwise
height, width, limit = map(int, sys.argv[2:])
image = np.memmap(sys.argv[1], np.uint8, "w+", shape=(height, width, 3))  # zeros, and not read
segmenter = Segmenter(pointwise(stride=2, classes=19), **PLAIN, tile=512)
segmenter(image[:600, :600])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert segmenter(image).labels.shape == (height, width)
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
print(f"{grown:.0f} MB more")
assert grown < limit
"""


@pytest.mark.slow
def test_memory_is_bounded(tmp_path: Path) -> None:
    """Labels and pixels that were read are 48 MB, two rows of tiles' logits 100 MB.

    All tiles' logits would be 400 MB, full-size logits 0.9 GB.
    """
    height, width, limit = 3000, 4000, 260
    arguments = [tmp_path / "image", height, width, limit]
    done = subprocess.run(
        [sys.executable, "-c", LARGE, *map(str, arguments)],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_nan_is_one_sentence(value: str) -> None:
    """Infinity, too: averaged with another view it is NaN, and its pixels were of class 0."""
    model = pointwise()
    with torch.no_grad():
        model.classifier.bias[2] = float(value)
    for options in ({}, {"tile": 32}, {"flip": True}):
        with pytest.raises(ValueError, match="gives NaN or infinite logits; check its weights."):
            Segmenter(model, **EXACT, **options)(picture(40, 40))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda:99"}, "device 'cuda:99' cannot be used; there is cpu"),
        ({"device": "gpu7"}, "device 'gpu7' cannot be used; there is cpu"),
        ({"device": "meta"}, "device 'meta' cannot be used; there is cpu"),
        ({"precision": "int8"}, "precision is one of 'auto', 'fp32', 'bf16', 'fp16', not 'int8'"),
        ({"precision": "fp16"}, "'fp16' is for GPUs"),
        ({"tile": 31}, "at least 32x32"),
        ({"tile": (64, 16)}, "at least 32x32"),
        ({"tile": (64, 64, 64)}, "not \\(64, 64, 64\\)"),
        ({"tile": 64, "overlap": 64}, "cannot overlap by 64"),
        ({"tile": 64, "overlap": -1}, "at least 0"),
        ({"overlap": 8}, "give tile too"),
        ({"scales": ()}, "one or more numbers above 0"),
        ({"scales": (1, 0)}, "a finite number above 0"),
        ({"scales": (float("nan"),)}, "finite number"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Segmenter(pointwise(), **{"device": "cpu", **options})


def test_bad_types_and_models() -> None:
    with pytest.raises(TypeError, match="flip is True or False"):
        Segmenter(pointwise(), flip="no")
    for option in ("compile", "fused", "fold", "channels_last"):
        with pytest.raises(TypeError, match=f"{option} is True or False, not 'no'"):
            Segmenter(pointwise(), **{option: "no"})
    with pytest.raises(TypeError, match="scales are one or more numbers, such as"):
        Segmenter(pointwise(), scales=1.0)
    with pytest.raises(ValueError, match="the device 'None' cannot be used; there is cpu"):
        Segmenter(pointwise(), device=None)
    with pytest.raises(TypeError, match="each of scales must be a number"):
        Segmenter(pointwise(), scales=("1",))
    with pytest.raises(ValueError, match="at least 128x128 for this model, whose deepest stride"):
        Segmenter(pointwise(stride=128), tile=64)
    with pytest.raises(ValueError, match="the model has 300 classes"):
        Segmenter(pointwise(classes=300))
    with torch.device("meta"):
        empty = pointwise()
    with pytest.raises(ValueError, match="meta device and has no weights"):
        Segmenter(empty)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        Segmenter(pointwise()).stream([], batch_size=0)
    with pytest.raises(ValueError, match="the array is 20x20"):
        Segmenter(pointwise(), tile=64)(np.zeros((20, 20, 3), np.uint8))


def threads() -> int:
    """Of the segmenter; tqdm has one of its own."""
    return sum(t.name.startswith("ThreadPoolExecutor") for t in threading.enumerate())


@pytest.mark.parametrize("batch_size", [1, 3])
def test_streams_anything_in_order(batch_size: int, tmp_path: Path) -> None:
    model = pointwise()
    segmenter = Segmenter(model, **EXACT)
    frames = [picture(40, 50, seed) for seed in range(5)]
    frames += [picture(50, 40, seed) for seed in range(2)]
    file = tmp_path / "street.png"
    Image.fromarray(frames[0]).convert("L").save(file)
    images = [*frames[:4], file, Image.fromarray(frames[4]), *frames[5:]]
    before = threads()
    results = list(segmenter.stream(iter(images), batch_size=batch_size))
    names = [f"image_{i}" for i in range(8)]
    names[4] = "street"
    assert [result.name for result in results] == names
    for image, result in zip(images, results, strict=True):
        assert np.array_equal(result.labels, segmenter(image).labels)
        assert np.array_equal(result.image, segmenter(image).image)
    assert threads() == before
    assert list(segmenter.stream([])) == []


@pytest.mark.parametrize("suffix", ["webp", "gif", "tiff", "png"])
def test_streams_the_pages_of_one_image(suffix: str, tmp_path: Path) -> None:
    """One object of Pillow that its iterator moves on, and that two threads cannot read."""
    shades = [20 * i for i in range(10)]
    first, *others = (Image.new("RGB", (64, 64), (shade,) * 3) for shade in shades)
    file = tmp_path / f"pages.{suffix}"
    lossless = {"lossless": True} if suffix == "webp" else {}
    first.save(file, save_all=True, append_images=others, **lossless)
    segmenter = Segmenter(pointwise(), **EXACT)
    with Image.open(file) as pages:
        results = segmenter.stream(ImageSequence.Iterator(pages), on_error=pytest.fail)
        assert [int(result.image[0, 0, 0]) for result in results] == shades
    with Image.open(DEMO_IMAGE) as same:
        results = list(segmenter.stream([same] * 4, on_error=pytest.fail))
    assert len(results) == 4
    assert all(np.array_equal(result.image, results[0].image) for result in results)


def test_frames_of_a_mapped_file_are_told_apart(tmp_path: Path) -> None:
    np.save(tmp_path / "video.npy", np.stack([picture(40, 40, seed) for seed in range(3)]))
    frames = np.load(tmp_path / "video.npy", mmap_mode="r")
    results = Segmenter(pointwise(), **EXACT).stream(frames)
    assert [result.name for result in results] == ["image_0", "image_1", "image_2"]


def test_images_of_one_size_go_through_the_network_together(monkeypatch) -> None:
    segmenter = Segmenter(pointwise(), **EXACT)
    sizes, called = [], Network.__call__

    def spy(network: Network, images: Tensor) -> Tensor:
        sizes.append(len(images))
        return called(network, images)

    monkeypatch.setattr(Network, "__call__", spy)
    images = [picture(40, 40)] * 5 + [picture(40, 50)] * 2 + [picture(40, 40)]
    assert len(list(segmenter.stream(images, batch_size=3))) == 8
    assert sizes == [3, 2, 2, 1]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_what_fails_is_named_and_the_rest_is_done(batch_size: int, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_text("no picture")
    images = [picture(40, 40), broken, picture(40, 50), np.zeros((40, 40)), picture(40, 40), 7]
    segmenter = Segmenter(pointwise(), **EXACT)
    failures: list[Failure] = []
    results = segmenter.stream(images, batch_size=batch_size, on_error=failures.append)
    assert [result.name for result in results] == ["image_0", "image_2", "image_4"]
    texts = list(map(str, failures))
    assert str(broken) in texts[0]
    assert texts[1].startswith("image 3: an image array must be uint8")
    assert texts[2].startswith("image 5: an image must be a path")
    with pytest.warns(UserWarning, match="broken.jpg is no"):
        assert len(list(segmenter.stream([broken, picture(40, 40)]))) == 1


def test_one_image_that_the_network_cannot_do_spoils_no_batch() -> None:
    class Fragile(Pooled):
        def forward(self, x: Tensor) -> list[Tensor]:
            if len(x) > 2:
                raise torch.OutOfMemoryError("out of memory")
            black = x.amax((1, 2, 3), keepdim=True) < 0
            return [torch.where(black, torch.nan, x)]

    model = pointwise()
    model.encoder = Fragile(1)
    images = [picture(40, 40, seed) for seed in range(4)]
    images[2] = np.zeros_like(images[2])
    failures: list[Failure] = []
    results = Segmenter(model, **EXACT).stream(images, batch_size=4, on_error=failures.append)
    assert [result.name for result in results] == ["image_0", "image_1", "image_3"]
    said = "image 2: the network gives NaN or infinite logits; check its weights."
    assert [str(f) for f in failures] == [said]


def test_on_error_may_stop_the_run(tmp_path: Path) -> None:
    def stop(failure: Failure) -> None:
        raise failure.error

    before = threads()
    results = Segmenter(pointwise(), **EXACT).stream([tmp_path / "none.png"] * 9, on_error=stop)
    with pytest.raises(FileNotFoundError, match="none.png"):
        list(results)
    assert threads() == before


def test_streams_are_read_a_few_images_ahead_and_close() -> None:
    asked = 0

    def frames():
        nonlocal asked
        for asked in itertools.count():  # noqa: B007
            yield picture(40, 40)

    before = threads()
    segmenter = Segmenter(pointwise(), **EXACT)
    for i, _ in enumerate(segmenter.stream(frames(), batch_size=2)):
        assert asked <= i + 8
        if i == 20:
            break
    assert threads() == before


def test_what_the_iterable_raises_is_raised() -> None:
    def frames():
        yield picture(40, 40)
        yield picture(40, 40)
        raise KeyError("camera")

    before = threads()
    results = Segmenter(pointwise(), **EXACT).stream(frames())
    assert next(results).name == "image_0"
    assert next(results).name == "image_1"
    with pytest.raises(KeyError, match="camera"):
        next(results)
    assert threads() == before


def test_folder(tmp_path: Path) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out" / "here"
    photos.mkdir()
    for name in "abcd":
        Image.fromarray(picture(40, 50)).save(photos / f"{name}.png")
    (photos / "b.png").write_bytes(b"no picture")
    (output / "c_labels.png").mkdir(parents=True)
    segmenter = Segmenter(pointwise(), **EXACT)
    saved, failed = [], []
    before = threads()
    failures = segmenter.folder(
        photos, output, on_saved=lambda result, files: saved.append(files), on_error=failed.append
    )
    assert failures == failed
    assert sorted(Path(failure.image).name for failure in failures) == ["b.png", "c.png"]
    assert "is a folder; name a file" in " ".join(map(str, failures))
    assert [labels.name for labels, _ in saved] == ["a_labels.png", "d_labels.png"]
    with Image.open(saved[0][0]) as image:
        assert np.array_equal(np.asarray(image), segmenter(photos / "a.png").labels)
    assert threads() == before
    with pytest.raises(FileNotFoundError, match="holds no image"):
        segmenter.folder(tmp_path, output)
    (tmp_path / "a.png").touch()
    with pytest.raises(ValueError, match="would both be written as a_labels.png"):
        segmenter.folder([photos / "a.png", tmp_path / "a.png"], output)


def test_ctrl_c_leaves_whole_files(tmp_path: Path) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for i in range(300):
        os.symlink(DEMO_IMAGE, photos / f"{i}.png")
    command = [sys.executable, "-m", "citysegzoo", "segment", photos, "--output", output]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while not list(output.glob("*_overlay.jpg")) and time.monotonic() < deadline:
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        error = running.communicate(timeout=60)[1]
    finally:
        running.kill()
    assert running.returncode == 130, error
    assert error == "citysegzoo: interrupted.\n"
    files = list(output.iterdir())
    assert 2 <= len(files) < 600
    for file in files:
        assert file.name.endswith(("_labels.png", "_overlay.jpg"))
        with Image.open(file) as image:
            image.load()


@pytest.mark.slow
def test_compiled() -> None:
    model = drawn("unet.small", widths=(4, 8))
    pixels = picture(64, 64)
    found = Segmenter(model, **PLAIN, compile=True).probabilities(pixels)
    expected = Segmenter(model, **PLAIN).probabilities(pixels)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_compiled_with_cuda_graphs() -> None:
    """A graph writes each result where the one before was: tiles must not see each other's."""
    model, pixels = drawn("unet.small", widths=(4, 8)), picture(96, 160)
    options = {**PLAIN, "tile": 64, "device": "cuda"}
    found = Segmenter(model, **options, compile=True).probabilities(pixels)
    np.testing.assert_allclose(found, Segmenter(model, **options).probabilities(pixels), atol=1e-3)


@pytest.mark.parametrize("one", ["street.jpg", Path("photos"), np.zeros((40, 48, 3), np.uint8), 3])
def test_a_stream_is_of_several_images(one: object) -> None:
    with pytest.raises(TypeError, match="stream takes several images, not one"):
        Segmenter(pointwise(), **EXACT).stream(one)
    several = Segmenter(pointwise(), **EXACT).stream(np.zeros((2, 40, 48, 3), np.uint8))
    assert len(list(several)) == 2


@pytest.mark.slow
def test_a_backbone_of_one_image_size() -> None:
    """Its batch norms cannot be tried out at another size: they stay, and the labels are right."""
    model = citysegzoo.compose("timm/maxvit_pico_rw_256", "unet", num_classes=5).eval()
    image = picture(256, 256)
    expected = model.segment(image).labels
    assert (
        Segmenter(model, device="cpu", precision="fp32")(image).labels == expected
    ).mean() > 0.999


def test_labels_by_way_of_logits_at_full_size(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = citysegzoo.create_model("deeplabv3_resnet18", num_classes=5).eval()
    image = picture(97, 130)
    exact = {"device": "cpu", "precision": "fp32", "fold": False, "channels_last": False}
    fused = Segmenter(model, **exact)(image).labels
    enlarged: list[Tensor] = []
    enlarge = type(model).enlarge
    monkeypatch.setattr(
        type(model), "enlarge", lambda *args: enlarged.append(enlarge(*args)) or enlarged[-1]
    )
    assert (Segmenter(model, **exact)(image).labels == fused).all()
    assert not enlarged
    assert (Segmenter(model, **exact, fused=False)(image).labels == fused).all()
    assert enlarged[0].shape == (1, 5, 97, 130)


def test_a_failure_is_said_every_time(small) -> None:
    """Python shows a warning of one text and line only once, unless told otherwise."""
    segmenter = Segmenter(small, **PLAIN)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        for _ in range(3):
            assert len(list(segmenter.stream(["nope.jpg", picture(40, 40)]))) == 1
    assert [str(w.message) for w in told] == ["nope.jpg does not exist; check the path."] * 3


def test_results_of_a_buffer_that_is_filled_again(small) -> None:
    """What a reader of video frames does: every result is of its own frame, and shows it."""
    frames = [picture(40, 48, seed) for seed in range(6)]
    buffer = np.empty_like(frames[0])

    def reader() -> Iterator[np.ndarray]:
        for frame in frames:
            buffer[:] = frame
            yield buffer
            buffer[:] = 0

    segmenter = Segmenter(small, **PLAIN)
    for run in (segmenter.stream(reader(), batch_size=2), (small.segment(f) for f in reader())):
        for frame, result in zip(frames, run, strict=True):
            assert np.array_equal(result.image, frame)
            assert np.array_equal(result.labels, segmenter(frame).labels)


def test_a_compiled_segmenter_can_be_pickled(small) -> None:
    segmenter = pickle.loads(pickle.dumps(Segmenter(small, **PLAIN, compile=True)))
    assert "OptimizedModule" in repr(segmenter._network._logits) or hasattr(
        segmenter._network._logits, "_torchdynamo_orig_callable"
    )


def test_tiles_and_views_whatever_the_default_device(small) -> None:
    pixels = picture(70, 90)
    for options in ({"tile": 48}, {"flip": True, "scales": (0.75, 1.0)}):
        segmenter = Segmenter(small, **PLAIN, **options)
        expected = segmenter(pixels).labels
        with torch.device("meta"):
            assert np.array_equal(segmenter(pixels).labels, expected)


def test_scales_keep_the_aspect_and_fit_the_tiles(small) -> None:
    seen = []
    hook = small.encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape))
    try:
        segmenter = Segmenter(small, **EXACT, scales=(0.5, 1.0))
        seen.clear()  # of the network's own preparations
        segmenter(picture(40, 96))
    finally:
        hook.remove()
    assert [tuple(shape[-2:]) for shape in seen] == [(32, 77), (40, 96)]
    with pytest.raises(ValueError, match="at scale 0.25 are smaller than the 32 pixels"):
        Segmenter(small, tile=64, scales=(0.25, 1.0))
