"""Label maps without upsampled logits against those with them, equal in every pixel."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from versions import not_on_torch_2_6

from citysegzoo.inference import label_map as module
from citysegzoo.inference.label_map import upsampled_labels
from citysegzoo.lead import lead, leading_classes

INF = float("inf")
# From (h, w) to (H, W): PyTorch has other kernels up to H + W = 128.
SIZES = [
    ((1, 1), (7, 150)),
    ((1, 9), (130, 33)),
    ((35, 40), (70, 80)),
    ((13, 17), (104, 136)),
    ((3, 5), (96, 160)),
    ((23, 37), (85, 137)),
    ((13, 17), (8, 130)),
    ((70, 90), (33, 100)),
    ((70, 60), (70, 60)),
    ((70, 60), (70, 29)),
]
KINDS = ["noise", "scene", "ties", "equal", "near", "huge", "tiny", "inf", "-inf", "nan", "board"]
LAYOUTS = ["contiguous", "channels last", "cropped", "transposed", "strided"]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads that wait for each other on a busy machine take longer than the work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def draw(kind: str, shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if kind == "scene":
        coarse = torch.randn(*shape[:2], 3, 4, generator=generator)
        return (6 * F.interpolate(coarse, shape[2:], mode="bicubic")).to(dtype)
    x = torch.randn(shape, generator=generator).to(dtype)
    limits = torch.finfo(dtype)
    if kind == "ties":
        x = x.round()
    elif kind == "equal":
        x = x[:, :1].expand(shape).clone()
    elif kind == "near":  # some of the last bits apart
        steps = torch.randint(-2, 3, shape, generator=generator)
        x = x[:, :1] * (1 + limits.eps * steps.to(dtype))
    elif kind == "huge":
        x = x.sign() * limits.max
    elif kind == "tiny":
        x = x * limits.tiny
    elif kind == "inf":
        x.view(-1)[::97] = INF
    elif kind == "-inf":
        x[:, x.shape[1] // 2] = -INF
    elif kind == "nan":
        x.view(-1)[::101] = float("nan")
    elif kind == "board":
        x = x.abs() + 1
        x[..., ::2, 1::2] *= -1
        x[..., 1::2, ::2] *= -1
    return x


def lay_out(x: Tensor, layout: str) -> Tensor:
    if layout == "channels last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "cropped":  # from a wider map with the classes innermost
        return F.pad(x, (0, 3)).contiguous(memory_format=torch.channels_last)[..., :-3]
    if layout == "transposed":
        return x.transpose(2, 3).contiguous().transpose(2, 3)
    return x.repeat_interleave(2, 3)[..., ::2] if layout == "strided" else x


def by_the_way(x: Tensor, size: Any, align_corners: bool) -> Tensor:
    x = x if x.dtype == torch.float64 else x.float()
    return F.interpolate(x, size, mode="bilinear", align_corners=align_corners).argmax(1)


def assert_equal(x: Tensor, size: Any, align_corners: bool) -> None:
    labels = upsampled_labels(x, size, align_corners=align_corners)
    assert labels.dtype == torch.uint8
    wrong = int((labels != by_the_way(x, size, align_corners)).sum())
    assert wrong == 0, f"{wrong} of {labels.numel()} pixels"


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_argmax_of_upsampled_logits(kind: str, layout: str, align_corners: bool) -> None:
    for old, new in SIZES:
        for classes, dtype in ((19, torch.float32), (3, torch.float32), (5, torch.float64)):
            x = lay_out(draw(kind, (1 + (classes == 3), classes, *old), dtype), layout)
            assert_equal(x, new, align_corners)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_upsampled_in_single(
    dtype: torch.dtype, layout: str, align_corners: bool
) -> None:
    for kind in ("scene", "ties", "near", "huge"):
        x = lay_out(draw(kind, (1, 19, 13, 17), dtype), layout)
        assert_equal(x, (104, 136), align_corners)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("classes", [1, 2, 4, 7, 16, 32, 150, 256])
def test_any_number_of_classes(classes: int, layout: str) -> None:
    for kind in ("noise", "ties"):
        assert_equal(
            lay_out(draw(kind, (2, classes, 9, 11), torch.float32), layout), (90, 77), False
        )


@not_on_torch_2_6("rounds the last few classes of some layouts unlike the others")
@settings(max_examples=40, deadline=None)
@given(
    classes=st.integers(1, 24),
    old=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    new=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    kind=st.sampled_from(KINDS),
    layout=st.sampled_from(LAYOUTS),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    align_corners=st.booleans(),
    seed=st.integers(0, 99),
)
def test_equals_for_any_input(
    classes: int,
    old: Any,
    new: Any,
    kind: str,
    layout: str,
    dtype: Any,
    align_corners: bool,
    seed: int,
) -> None:
    assert_equal(lay_out(draw(kind, (1, classes, *old), dtype, seed), layout), new, align_corners)


def test_an_unknown_arithmetic_is_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_arithmetic", lambda *_: None)
    for layout in LAYOUTS:
        assert_equal(lay_out(draw("near", (2, 19, 13, 17), torch.float32), layout), (99, 77), False)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [2, 3, 4, 5, 7, 11, 16, 19, 32, 150, 256])
@not_on_torch_2_6("rounds the last few classes of some layouts unlike the others")
def test_this_machine_rounds_in_a_known_way(classes: int, dtype: torch.dtype, layout: str) -> None:
    """Or all tests above compare PyTorch with itself."""
    found = module._layout(lay_out(torch.empty(2, classes, 3, 4, dtype=dtype), layout), dtype)
    for align_corners in (False, True):
        assert module._arithmetic(classes, dtype, found, align_corners)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["noise", "scene", "ties"])
def test_several_threads_and_images(kind: str, layout: str) -> None:
    torch.set_num_threads(2)  # ended by the fixture
    assert_equal(lay_out(draw(kind, (3, 19, 64, 96), torch.float32), layout), (256, 384), False)
    batch = lay_out(draw(kind, (4, 19, 64, 96), torch.float32), layout)[::2]
    assert_equal(batch, (256, 384), True)


def test_logits_with_gradients() -> None:
    x = draw("noise", (1, 19, 40, 50), torch.float32).requires_grad_()
    assert torch.equal(upsampled_labels(x, (99, 131)), upsampled_labels(x.detach(), (99, 131)))


class _Largest(TorchDispatchMode):
    """The bytes of the largest floating-point tensor that any operation makes, views aside."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {x.untyped_storage().data_ptr() for x in tree_leaves(args) if isinstance(x, Tensor)}
        made = func(*args, **(kwargs or {}))
        for x in made if isinstance(made, (tuple, list)) else [made]:
            if (
                isinstance(x, Tensor)
                and x.is_floating_point()
                and x.untyped_storage().data_ptr() not in given
            ):
                self.bytes = max(self.bytes, x.numel() * x.element_size())
        return made


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["scene", "noise", "equal", "nan"])
def test_no_floating_point_tensor_of_full_size(kind: str, layout: str) -> None:
    x = lay_out(draw(kind, (1, 19, 64, 128), torch.float32), layout)
    with _Largest() as largest:
        upsampled_labels(x, (1024, 2048))
    assert largest.bytes <= 4 << 20  # the upsampled logits: 152 MB, one class of them: 8 MB
    with _Largest() as largest:
        by_the_way(x, (1024, 2048), False)
    assert largest.bytes >= 152 << 20


@pytest.mark.parametrize(
    ("x", "size", "error", "message"),
    [
        (torch.zeros(1, 2, 3, 4, dtype=torch.int64), (8, 8), TypeError, "floating point"),
        (torch.zeros(2, 3, 4), (8, 8), ValueError, r"\(N, C, h, w\)"),
        (torch.zeros(1, 257, 3, 4), (8, 8), ValueError, "at most 256 classes"),
        (torch.zeros(0, 2, 3, 4), (8, 8), ValueError, "not empty"),
        (torch.zeros(1, 2, 3, 4), (8, 0), ValueError, "at least 1"),
        (torch.zeros(1, 2, 3, 4), (8,), ValueError, "at least 1"),
    ],
)
def test_says_what_is_wrong(x: Tensor, size: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        upsampled_labels(x, size)


@pytest.mark.parametrize("kind", ["noise", "scene", "nan"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_labels_are_the_same_within_autocast(kind: str, dtype: torch.dtype) -> None:
    """Which refuses to stack tensors of other halves than its own."""
    logits = draw(kind, (1, 19, 64, 64), dtype)
    with torch.autocast("cpu", torch.bfloat16):
        assert_equal(logits, (256, 256), False)


@pytest.mark.parametrize("few", [-1, 2])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_cells_one_by_one_and_in_rows(
    few: int, layout: str, align_corners: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever is taken, however many the cells, and in several blocks of either."""
    monkeypatch.setattr(module, "FEW", few)
    monkeypatch.setattr(module, "BLOCK", 5000)
    taken = []
    for name in ("_fill_rows", "_fill_cells"):
        fill = getattr(module._Upsampling, name)

        def spy(*arguments: Any, fill: Any = fill, name: str = name) -> None:
            taken.append(name)
            fill(*arguments)

        monkeypatch.setattr(module._Upsampling, name, spy)
    for kind in ("noise", "scene", "ties", "near"):
        for old, new in SIZES:
            assert_equal(
                lay_out(draw(kind, (1, 19, *old), torch.float32), layout), new, align_corners
            )
    assert ("_fill_rows" in taken) == (few < 0)
    assert "_fill_cells" in taken  # maps that shrink: not all of their cells have pixels


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_leading_classes(kind: str, layout: str, dtype: torch.dtype) -> None:
    for shape in ((2, 19, 13, 17), (1, 300, 5, 4), (3, 1, 2, 2), (1, 3, 1, 1), (0, 3, 4, 4)):
        logits = lay_out(draw(kind, shape, torch.float32).to(dtype), layout)
        labels = leading_classes(logits)
        assert labels.dtype == (torch.uint8 if shape[1] <= 256 else torch.int64)
        assert torch.equal(labels, logits.argmax(1).to(labels.dtype))
        if shape[0] and kind != "nan":
            top, leaders = lead(logits)
            assert torch.equal(leaders, logits.argmax(1))
            assert torch.equal(top, logits.amax(1))


def test_leading_classes_of_a_large_map_come_in_blocks() -> None:
    logits = draw("noise", (1, 19, 300, 400), torch.float32)
    for layout in LAYOUTS:
        x = lay_out(logits, layout)
        with _Largest() as largest:
            labels = leading_classes(x)
        assert largest.bytes <= 4 << 20
        assert torch.equal(labels.long(), x.argmax(1))
