"""The losses against independent references, peers where they are right, and their contract."""

import copy
from collections.abc import Callable
from typing import Any

import hypothesis
import numpy as np
import pytest
import reference_losses as reference
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from versions import TORCH_2_6

from citysegzoo import losses
from citysegzoo.losses import statistics as module
from citysegzoo.losses.statistics import softmax_statistics

WEIGHTS = [1.0, 0.25, 3.0, 0.0, 2.0]
# Loss, its options, and the reference that computes the same.
CASES: list[tuple[str, dict[str, Any], Callable[..., Tensor]]] = [
    ("cross_entropy", {}, reference.cross_entropy),
    (
        "cross_entropy",
        {"label_smoothing": 0.1},
        lambda x, t, **k: reference.cross_entropy(x, t, label_smoothing=0.1, **k),
    ),
    (
        "ohem_cross_entropy",
        {"fraction": 0.3},
        lambda x, t, **k: reference.ohem_fraction(x, t, fraction=0.3, **k),
    ),
    (
        "ohem_cross_entropy",
        {"threshold": 0.2, "min_kept": 9},
        lambda x, t, **k: reference.ohem_threshold(x, t, threshold=0.2, min_kept=9, **k),
    ),
    (
        "ohem_cross_entropy",
        {"threshold": 0.6, "min_kept": 3},
        lambda x, t, **k: reference.ohem_threshold(x, t, threshold=0.6, min_kept=3, **k),
    ),
    ("focal", {}, reference.focal),
    ("focal", {"gamma": 0.5}, lambda x, t, **k: reference.focal(x, t, gamma=0.5, **k)),
    ("lovasz_softmax", {}, reference.lovasz_softmax),
    (
        "lovasz_softmax",
        {"per_image": True},
        lambda x, t, **k: reference.lovasz_softmax(x, t, per_image=True, **k),
    ),
]
for _name, _naive in {
    "dice": reference.dice,
    "iou": reference.iou,
    "tversky": reference.tversky,
    "generalized_dice": reference.generalised_dice,
}.items():
    _options: list[dict[str, Any]] = [{}, {"smooth": 1.0}, {"per_image": True}]
    if _name == "dice":
        _options.append({"squared": True, "smooth": 0.5})
    if _name == "tversky":
        _options = [{"alpha": 0.2, "beta": 0.9, **options} for options in _options]
    for _given in _options:
        CASES.append(
            (_name, _given, lambda x, t, f=_naive, o=_given, **k: f(x, t, **o, **k))  # type: ignore[misc]
        )
for _given in ({}, {"smooth": 1.0, "squared": True}, {"per_image": True}):
    CASES.append(
        (
            "dice",
            {"average": "micro", **_given},
            lambda x, t, o=_given, **k: reference.dice_all(x, t, **o, **k),  # type: ignore[misc]
        )
    )
IDS = [f"{name}-{'-'.join(f'{k}={v}' for k, v in options.items())}" for name, options, _ in CASES]
OWN = sorted({name for name, _, _ in CASES})


def scene(
    classes: int = 5, shape: tuple[int, int, int] = (2, 6, 7), seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Random logits and labels: a third ignored, class 3 nowhere in the first image."""
    generator = torch.Generator().manual_seed(seed)
    n, h, w = shape
    logits = 2 * torch.randn(n, classes, h, w, generator=generator, dtype=torch.float64)
    target = torch.randint(0, classes, shape, generator=generator)
    target[torch.rand(shape, generator=generator) < 0.3] = 255
    target[0][target[0] == 3] = 255
    return logits, target


def value_and_gradient(loss: Callable[..., Tensor], logits: Tensor, target: Tensor) -> list[Tensor]:
    logits = logits.detach().clone().requires_grad_()
    value = loss(logits, target)
    return [value.detach(), torch.autograd.grad(value.sum(), logits)[0]]


@pytest.mark.parametrize(("name", "options", "naive"), CASES, ids=IDS)
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["", "weighted"])
def test_equals_the_reference(
    name: str, options: dict[str, Any], naive: Callable[..., Tensor], weights: list[float] | None
) -> None:
    """Value and gradient, in float64 and float32, ignoring and not, with an absent class."""
    loss = losses.create_loss(name, class_weights=weights, **options)
    everything = losses.create_loss(name, class_weights=weights, ignore_index=None, **options)
    for seed in range(3):
        logits, target = scene(seed=seed)
        if seed == 1:
            target[target == 4] = 255  # absent from the batch
        if seed == 2:
            target, loss, ignored = target.where(target != 255, 2), everything, None
        else:
            ignored = 255
        expected = value_and_gradient(
            lambda x, t, i=ignored: naive(x, t, ignore_index=i, class_weights=weights),
            logits,
            target,
        )
        found = value_and_gradient(loss, logits, target)
        assert found[0].dtype == torch.float64
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
        found = value_and_gradient(loss, logits.float(), target)
        assert found[0].dtype == torch.float32
        expected = [part.float() for part in expected]
        torch.testing.assert_close(found, expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("count_ignored", [False, True])
@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("chunk", [5, 1 << 15])
def test_pieces_equal_the_definition(
    regions: bool, squared: bool, count_ignored: bool, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pass in pieces against the three lines that define it, whatever the pieces' size."""
    monkeypatch.setattr(module, "CHUNK_PIXELS", chunk)
    logits, target = scene()
    labels, valid = module.check_target(target, 5, 255)
    results = []
    for compute in (module._plain, module._Statistics.apply):
        x = logits.clone().requires_grad_()
        outputs = [
            o for o in compute(x, labels, valid, regions, squared, count_ignored) if o is not None
        ]
        total = sum((o * torch.arange(1, o.numel() + 1).view(o.shape)).sum() for o in outputs[:4])
        results.append([*outputs, torch.autograd.grad(total, x)[0]])
    torch.testing.assert_close(results[1], results[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.2}])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy_is_torchs(
    options: dict[str, float], weights: list[float] | None, reduction: str
) -> None:
    logits, target = scene()
    loss = losses.CrossEntropyLoss(class_weights=weights, reduction=reduction, **options)
    tensor = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    torch.testing.assert_close(
        value_and_gradient(loss, logits, target),
        value_and_gradient(
            lambda x, t: F.cross_entropy(
                x, t, tensor, ignore_index=255, reduction=reduction, **options
            ),
            logits,
            target,
        ),
        rtol=1e-10,
        atol=1e-12,
    )


def test_peers_where_they_are_right() -> None:
    """smp and monai agree where every class is there and no pixel is ignored.

    Elsewhere they do not: smp averages absent classes in with a loss of 0 (they look perfect),
    monai counts them as wrong and knows no ignored label, smp's multiclass focal loss is a sigmoid
    for each class, and its Lovasz sorts what is ignored by indexing and fails on an all-void batch.
    """
    smp = pytest.importorskip("segmentation_models_pytorch")
    monai = pytest.importorskip("monai.losses")
    logits, target = scene(shape=(2, 16, 16))
    target = torch.randint(0, 5, target.shape, generator=torch.Generator().manual_seed(1))
    assert len(target.unique()) == 5
    logits = logits.float()
    shared = {"softmax": True, "to_onehot_y": True, "batch": True, "smooth_nr": 0, "smooth_dr": 0}
    pairs: list[tuple[Callable[..., Tensor], Callable[..., Tensor]]] = [
        (losses.DiceLoss(), smp.losses.DiceLoss("multiclass", eps=0)),
        (losses.IoULoss(), smp.losses.JaccardLoss("multiclass", eps=0)),
        (
            losses.TverskyLoss(alpha=0.3, beta=0.7),
            smp.losses.TverskyLoss("multiclass", alpha=0.3, beta=0.7, eps=0),
        ),
        (losses.LovaszSoftmaxLoss(), smp.losses.LovaszLoss("multiclass", per_image=False)),
        (losses.DiceLoss(), lambda x, t: monai.DiceLoss(**shared)(x, t[:, None])),
        (losses.IoULoss(), lambda x, t: monai.DiceLoss(jaccard=True, **shared)(x, t[:, None])),
        (
            losses.GeneralizedDiceLoss(),
            lambda x, t: monai.GeneralizedDiceLoss(**shared)(x, t[:, None]),
        ),
        (
            losses.FocalLoss(gamma=2),
            lambda x, t: (
                5 * monai.FocalLoss(gamma=2, use_softmax=True, to_onehot_y=True)(x, t[:, None])
            ),
        ),
    ]
    for ours, theirs in pairs:
        torch.testing.assert_close(
            value_and_gradient(ours, logits, target),
            value_and_gradient(theirs, logits, target),
            rtol=1e-3,  # smp's Lovasz takes differences of a running Jaccard in float32
            atol=1e-5,
        )


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize(
    "reduction", ["mean", *(pytest.param(r, marks=pytest.mark.slow) for r in ("sum", "none"))]
)
def test_gradcheck(name: str, reduction: str) -> None:
    logits, target = scene(shape=(2, 4, 5))
    extra: list[dict[str, Any]] = [{}]
    if name in ("dice", "iou", "tversky", "generalized_dice", "lovasz_softmax"):
        extra.append({"per_image": True})
    if name == "dice":
        extra += [{"squared": True}, {"average": "micro"}]
    if name == "focal":
        extra.append({"gamma": 0.5})
    for options in extra:
        loss = losses.create_loss(name, reduction=reduction, class_weights=WEIGHTS, **options)
        assert torch.autograd.gradcheck(lambda x, f=loss: f(x, target), logits.requires_grad_())


@pytest.mark.parametrize("name", sorted({*losses.list_losses()} - {*OWN}))
def test_gradcheck_of_the_reports_forms(name: str) -> None:
    logits, target = scene(19 if "19" in name or "xiang" in name else 34, (1, 2, 3))
    loss = losses.create_loss(name)
    if loss.ignore_index is None:
        target = target.clamp(max=18)
    assert torch.autograd.gradcheck(lambda x: loss(x, target), logits.requires_grad_())


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("per_image", [False, True])
def test_reductions_agree(name: str, per_image: bool) -> None:
    """none sums to sum; the mean lies between the least and the largest term that counts."""
    logits, target = scene()
    options = {"per_image": True} if per_image else {}
    if per_image and name in ("cross_entropy", "focal", "ohem_cross_entropy"):
        pytest.skip("pixels know no image")
    terms = losses.create_loss(name, reduction="none", **options)(logits, target)
    total = losses.create_loss(name, reduction="sum", **options)(logits, target)
    mean = losses.create_loss(name, reduction="mean", **options)(logits, target)
    torch.testing.assert_close(terms.sum(), total)
    assert terms[terms > 0].min() <= mean <= terms.max()
    if name in ("cross_entropy", "focal"):
        assert terms.shape == target.shape
        assert (terms[target == 255] == 0).all()
        torch.testing.assert_close(mean, total / (target != 255).sum())


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_all_void_is_zero(name: str, dtype: torch.dtype) -> None:
    logits, target = scene()
    for weights in (None, WEIGHTS):
        loss = losses.create_loss(name, class_weights=weights)
        value, gradient = value_and_gradient(loss, logits.to(dtype), torch.full_like(target, 255))
        assert value == 0
        assert (gradient == 0).all()


@pytest.mark.parametrize("name", OWN)
def test_ignored_pixels_do_not_matter(name: str) -> None:
    """Whatever the logits of ignored pixels are, the loss and the other gradients stay."""
    logits, target = scene()
    loss = losses.create_loss(name)
    other = logits.where(target[:, None] != 255, 50 * torch.rand(logits.shape).double())
    value, gradient = value_and_gradient(loss, logits, target)
    again, same = value_and_gradient(loss, other, target)
    torch.testing.assert_close(again, value, rtol=0, atol=0)
    torch.testing.assert_close(same, gradient, rtol=0, atol=0)
    assert (gradient.movedim(1, -1)[target == 255] == 0).all()
    # And they are as good as not there, for a loss of the whole batch.
    keep = target != 255
    rest = logits.movedim(1, -1)[keep].T[None, :, None]
    torch.testing.assert_close(loss(rest, target[keep][None, None]), value)


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("ignore_index", [-100, -1, 0, 3, 255])
@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16]
)
def test_any_integer_target(name: str, ignore_index: int, dtype: torch.dtype) -> None:
    limits = torch.iinfo(dtype)
    if not limits.min <= ignore_index <= limits.max:
        pytest.skip("no such label in this dtype")
    logits, target = scene()
    target = target.where(target != ignore_index, 1).where(target != 255, ignore_index)
    expected = losses.create_loss(name, ignore_index=ignore_index)(logits, target)
    found = losses.create_loss(name, ignore_index=ignore_index)(logits, target.to(dtype))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    """Half logits give what the same values give in float32; the gradient is rounded once."""
    logits, target = scene(shape=(2, 64, 64))
    half = logits.to(dtype)
    loss = losses.create_loss(name)
    value, gradient = value_and_gradient(loss, half, target)
    expected, full = value_and_gradient(loss, half.float(), target)
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(gradient, full.to(dtype), rtol=1e-2, atol=1e-7)
    with torch.autocast("cpu", dtype):
        torch.testing.assert_close(loss(half, target), value, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(loss(half.float(), target), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", OWN)
def test_memory_layouts(name: str) -> None:
    """Channels-last, a crop and a transposed view: the same loss and gradient."""
    logits, target = scene(shape=(2, 12, 12))
    loss = losses.create_loss(name)
    expected = value_and_gradient(loss, logits, target)
    large = torch.zeros(2, 5, 20, 30, dtype=torch.float64)
    large[:, :, 3:15, 4:16] = logits
    turned = logits.transpose(2, 3).contiguous().transpose(2, 3)
    for view in (
        logits.contiguous(memory_format=torch.channels_last),
        large[:, :, 3:15, 4:16],
        turned,
        logits.contiguous(memory_format=torch.channels_last)[:, :, ::1],
    ):
        x = view.detach().requires_grad_()
        value = loss(x, target)
        torch.testing.assert_close(value.detach(), expected[0])
        torch.testing.assert_close(torch.autograd.grad(value, x)[0], expected[1])


@pytest.mark.parametrize("name", OWN)
def test_extreme_logits(name: str) -> None:
    """Certain and right costs nothing, certain and wrong a finite amount; no nan anywhere."""
    _, target = scene()
    right = 1e4 * F.one_hot(target.where(target != 255, 0), 5).movedim(-1, 1).float()
    loss = losses.create_loss(name)
    value, gradient = value_and_gradient(loss, right, target)
    assert value == pytest.approx(0, abs=1e-6)
    assert gradient.isfinite().all()
    value, gradient = value_and_gradient(loss, -right, target)
    assert value.isfinite()
    assert value > 0.9 if "entropy" not in name else value > 100
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", OWN)
def test_one_class_and_one_pixel(name: str) -> None:
    loss = losses.create_loss(name)
    target = torch.tensor([[[255, 0], [255, 255]]])
    value, gradient = value_and_gradient(loss, torch.randn(1, 1, 2, 2), target)
    assert value == pytest.approx(0, abs=1e-7)
    assert gradient == pytest.approx(0, abs=1e-7)
    logits = torch.zeros(1, 4, 2, 2)
    value, gradient = value_and_gradient(loss, logits, target)
    expected = {  # one pixel, probability 1/4
        "cross_entropy": 1.3862944,
        "ohem_cross_entropy": 1.3862944,
        "focal": 0.5625 * 1.3862944,
        "dice": 1 - 0.5 / 1.25,
        "generalized_dice": 1 - 0.5 / 1.25,
        "iou": 0.75,
        "lovasz_softmax": 0.75,
        "tversky": 1 - 0.25 / (0.25 + 0.7 * 0.75),
    }[name]
    assert value == pytest.approx(expected, rel=1e-6)
    assert (gradient[0, :, 0, 1] != 0).all()
    assert gradient.count_nonzero() == 4


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("strange", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_strange_logits_where_ignored(name: str, strange: float, dtype: torch.dtype) -> None:
    """What is ignored may be no number: neither the loss nor any gradient knows of it."""
    logits, target = scene()
    logits = logits.to(dtype)
    loss = losses.create_loss(name)
    expected = value_and_gradient(loss, logits, target)
    for channels in (slice(None), 0, 1):
        changed = logits.clone().movedim(1, -1)
        part = changed[target == 255]
        part[:, channels] = strange
        changed[target == 255] = part
        found = value_and_gradient(loss, changed.movedim(-1, 1), target)
        torch.testing.assert_close(found, expected)
    compiled = {"cross_entropy", "dice", "lovasz_softmax"}
    if name in compiled and dtype == torch.float32:
        plain = torch.compile(loss, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(plain(changed.movedim(-1, 1), target), expected[0])


@pytest.mark.parametrize("name", OWN)
def test_a_diverged_network_is_not_hidden(name: str) -> None:
    """One logit that is no number, where a pixel counts, makes the loss no number."""
    logits, target = scene()
    target[0, 2, 3] = 1
    logits[0, 2, 2, 3] = torch.nan
    options = [{}]
    if name == "ohem_cross_entropy":
        options += [{"fraction": 0.2}, {"threshold": 0.1, "min_kept": 2}]
    for option in options:
        assert losses.create_loss(name, **option)(logits, target).isnan()


def test_impossible_truth_costs_without_end() -> None:
    """A true class at minus infinity: as torch has it, and the others as they were."""
    logits, target = scene()
    target[0, 2, 3] = 1
    logits[0, 1, 2, 3] = -torch.inf
    assert losses.CrossEntropyLoss()(logits, target) == torch.inf
    assert losses.DiceLoss()(logits, target).isfinite()
    none = losses.CrossEntropyLoss(reduction="none")(200 * logits, target)
    torch.testing.assert_close(
        none, F.cross_entropy(200 * logits, target, ignore_index=255, reduction="none")
    )


def test_denominators_without_weight() -> None:
    """Tversky that forgives all that is missed, of a class that is nowhere predicted."""
    target = torch.ones(1, 2, 2).long()
    logits = torch.zeros(1, 3, 2, 2)
    logits[:, 0] = 1e4
    loss = losses.TverskyLoss(alpha=1, beta=0)
    value, gradient = value_and_gradient(loss, logits, target)
    assert value == 1
    assert gradient.isfinite().all()
    everywhere = losses.IoULoss(include_absent=True)
    assert everywhere(logits, torch.full_like(target, 255)) == 0


small_scenes = st.builds(
    scene,
    classes=st.integers(5, 7),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6)),
    seed=st.integers(0, 10_000),
)


@pytest.mark.parametrize("name", OWN)
@hypothesis.settings(max_examples=20, deadline=None)
@given(inputs=small_scenes, seed=st.integers(0, 1000))
def test_permuted_pixels_change_nothing(
    name: str, inputs: tuple[Tensor, Tensor], seed: int
) -> None:
    logits, target = inputs
    loss = losses.create_loss(name)
    order = torch.randperm(target[0].numel(), generator=torch.Generator().manual_seed(seed))
    value, gradient = value_and_gradient(loss, logits, target)
    again, permuted = value_and_gradient(
        loss,
        logits.flatten(2)[:, :, order].view(logits.shape),
        target.flatten(1)[:, order].view(target.shape),
    )
    torch.testing.assert_close(again, value)
    torch.testing.assert_close(permuted, gradient.flatten(2)[:, :, order].view(logits.shape))


@pytest.mark.parametrize("name", OWN)
@hypothesis.settings(max_examples=20, deadline=None)
@given(inputs=small_scenes)
def test_a_batch_in_two(name: str, inputs: tuple[Tensor, Tensor]) -> None:
    """Sums over pixels, and over images, add up; macro losses do not see how pixels are split."""
    logits, target = inputs
    if name in ("cross_entropy", "focal"):
        loss = losses.create_loss(name, reduction="sum")
    elif name == "ohem_cross_entropy":
        loss = losses.create_loss(name, reduction="sum", threshold=0.4, min_kept=0)
    else:
        loss = losses.create_loss(name, reduction="sum", per_image=True)
    parts = sum(loss(x[None], t[None]) for x, t in zip(logits, target, strict=True))
    torch.testing.assert_close(loss(logits, target), parts)
    if name not in ("cross_entropy", "focal", "ohem_cross_entropy"):
        whole = losses.create_loss(name)
        joined = logits.transpose(0, 1).flatten(1)[None, :, None]
        torch.testing.assert_close(
            whole(joined, target.flatten()[None, None]), whole(logits, target)
        )


@pytest.mark.parametrize("name", OWN)
def test_keeps_one_logits_sized_tensor(name: str) -> None:
    """Beyond the logits: one tensor of their size, a few maps of a class each, and the labels."""
    logits, target = scene(19, (2, 64, 64))
    logits = logits.float().requires_grad_()
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() != logits.untyped_storage().data_ptr():
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = losses.create_loss(name)(logits, target)
    nodes = [loss.grad_fn]
    while nodes:
        node = nodes.pop()
        nodes += [parent for parent, _ in node.next_functions if parent is not None]
        if getattr(node, "softmax", None) is not None:
            note(node.softmax)
    size = logits.numel() * logits.element_size()
    assert size <= sum(kept.values()) <= (1.15 if name == "lovasz_softmax" else 1.6) * size


@pytest.mark.parametrize("name", OWN)
def test_backward_twice(name: str) -> None:
    """The kept softmax is used up by the first backward; a second one computes it again."""
    logits, target = scene()
    x = logits.requires_grad_()
    loss = losses.create_loss(name)(x, target)
    first = torch.autograd.grad(loss, x, retain_graph=True)[0].clone()
    torch.testing.assert_close(torch.autograd.grad(loss, x, retain_graph=True)[0], first)
    torch.testing.assert_close(torch.autograd.grad(loss, x)[0], first)
    with torch.no_grad():
        torch.testing.assert_close(losses.create_loss(name)(logits, target), loss.detach())


@pytest.mark.parametrize("name", OWN)
def test_upsampling_inside(name: str) -> None:
    logits, target = scene(shape=(2, 8, 12))
    coarse = logits[:, :, ::3, ::4].contiguous()
    loss = losses.create_loss(name, upsample=True)
    enlarged = F.interpolate(coarse, (8, 12), mode="bilinear", align_corners=False)
    torch.testing.assert_close(loss(coarse, target), losses.create_loss(name)(enlarged, target))
    torch.testing.assert_close(loss(logits, target), losses.create_loss(name)(logits, target))


def test_combined_is_the_sum_and_shares_the_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, target = scene()
    parts = [
        losses.DiceLoss(),
        losses.CrossEntropyLoss(class_weights=WEIGHTS),
        losses.DiceLoss(squared=True),
        losses.CrossEntropyLoss(label_smoothing=0.1),
        losses.LovaszSoftmaxLoss(),
        losses.create_loss("xiang2020_dice"),
    ]
    weights = (1.0, 0.5, 0.0, 2.0, 1.0, 3.0)
    combined = losses.CombinedLoss(*parts, weights=weights)
    expected = value_and_gradient(
        lambda x, t: sum(w * f(x, t) for w, f in zip(weights, parts, strict=True)),
        logits,
        target,
    )
    calls = []

    def counting(*args: Any, **kwargs: Any) -> Any:
        calls.append(kwargs)
        return softmax_statistics(*args, **kwargs)

    monkeypatch.setattr(losses.combined, "softmax_statistics", counting)
    torch.testing.assert_close(value_and_gradient(combined, logits, target), expected)
    assert len(calls) == 2  # xiang2020's counts ignored pixels, the other three share one
    assert {call["squared"] for call in calls} == {True}
    assert combined.state_dict() == {}
    assert combined.double().losses[1].class_weights.dtype == torch.float64


def test_combined_takes_any_module_and_refuses_nonsense() -> None:
    logits, target = scene(classes=4, shape=(1, 4, 4))
    target = target.clamp(max=3)
    combined = losses.CombinedLoss(losses.DiceLoss(), torch.nn.CrossEntropyLoss())
    expected = losses.DiceLoss()(logits, target) + F.cross_entropy(logits, target)
    torch.testing.assert_close(combined(logits, target), expected)
    with pytest.raises(ValueError, match="at least one loss"):
        losses.CombinedLoss()
    with pytest.raises(TypeError, match="such as DiceLoss"):
        losses.CombinedLoss(losses.DiceLoss)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="2 losses need as many weights, not 1"):
        losses.CombinedLoss(losses.DiceLoss(), losses.IoULoss(), weights=[1.0])
    mixed = losses.CombinedLoss(
        losses.DiceLoss(reduction="none"), losses.CrossEntropyLoss(reduction="none")
    )
    with pytest.raises(ValueError, match="cannot be added; use reduction"):
        mixed(logits, target)


def test_combined_keeps_what_a_loss_does_itself() -> None:
    """A loss with a forward of its own is called, and not shared around."""

    class Louder(losses.DiceLoss):
        def forward(self, logits: Tensor, target: Tensor) -> Tensor:
            return 100 * super().forward(logits, target)

    class Own(losses.SegmentationLoss):
        def forward(self, logits: Tensor, target: Tensor) -> Tensor:
            return logits.square().mean()

    logits, target = scene()
    combined = losses.CombinedLoss(Louder(), Own(), losses.DiceLoss())
    expected = 101 * losses.DiceLoss()(logits, target) + logits.square().mean()
    torch.testing.assert_close(combined(logits, target), expected)
    statistics = softmax_statistics(logits, target)
    for loss in (losses.CrossEntropyLoss(label_smoothing=0.1), losses.LovaszSoftmaxLoss(), Own()):
        with pytest.raises(ValueError, match="call it with logits and target"):
            loss.from_statistics(statistics)


def test_formulas_share_statistics() -> None:
    logits, target = scene()
    statistics = softmax_statistics(logits, target)
    for name in ("cross_entropy", "dice", "focal", "generalized_dice", "iou", "tversky"):
        formula = getattr(losses, f"{name}_loss")
        torch.testing.assert_close(formula(statistics), losses.create_loss(name)(logits, target))
    with pytest.raises(ValueError, match="squared=True"):
        losses.dice_loss(statistics, squared=True)
    with pytest.raises(ValueError, match="regions=True"):
        losses.dice_loss(softmax_statistics(logits, target, regions=False))


REPORTED: dict[str, Callable[..., Tensor]] = {
    "chen2020_dice": lambda x, t: reference.chen2020_dice(x, t, ignore_index=None),
    "fixman2024_dice": reference.fixman2024_dice,
    "fixman2024_iou": reference.fixman2024_iou,
    "stevens2020_dice": reference.stevens2020_dice,
    "xiang2020_dice": reference.xiang2020_dice,
    "chen2020_cross_entropy": F.cross_entropy,
    "fixman2024_cross_entropy": lambda x, t: F.cross_entropy(x, t, reduction="sum"),
    "mei2019_cross_entropy": lambda x, t: F.cross_entropy(x, t, ignore_index=255),
    "stevens2020_cross_entropy": F.cross_entropy,
    "xiang2020_cross_entropy": lambda x, t: F.cross_entropy(x, t, ignore_index=255),
}


@pytest.mark.parametrize("name", REPORTED)
def test_report_forms(name: str) -> None:
    """A report's own form computes what its code or formula did, errors included."""
    logits, target = scene(classes=9, shape=(2, 8, 8))
    loss = losses.create_loss(name)
    if loss.ignore_index is None:
        target = target.where(target != 255, 0)
    torch.testing.assert_close(
        value_and_gradient(loss, logits, target),
        value_and_gradient(REPORTED[name], logits, target),
        rtol=1e-9,
        atol=1e-12,
    )


def test_reported_class_weights_are_in_their_losses() -> None:
    stevens = losses.create_loss("stevens2020_weighted_cross_entropy")
    assert stevens.class_weights[18].item() == pytest.approx(7.534863, abs=1e-5)
    xiang = losses.create_loss("xiang2020_weighted_cross_entropy")
    assert xiang.class_weights[17].item() == pytest.approx(5.0)
    logits = torch.randn(1, 34, 4, 4)
    target = torch.randint(0, 34, (1, 4, 4))
    torch.testing.assert_close(
        stevens(logits, target), F.cross_entropy(logits, target, stevens.class_weights)
    )


def test_what_the_reports_losses_cannot_do() -> None:
    """A perfect prediction costs 1 - 3/34 with fixman2024's IoU, 0.97 with its Dice."""
    target = torch.randint(0, 3, (1, 16, 16), generator=torch.Generator().manual_seed(0))
    perfect = 100.0 * F.one_hot(target, 34).movedim(-1, 1)
    iou = losses.create_loss("fixman2024_iou")(perfect, target)
    assert iou.item() == pytest.approx(1 - 3 / 34, abs=1e-4)
    dice = losses.create_loss("fixman2024_dice")(perfect, target)
    assert dice.item() > 0.9
    assert losses.create_loss("stevens2020_dice")(perfect, target).isnan()


@pytest.mark.parametrize("name", OWN)
def test_compiles_whole(name: str) -> None:
    """No graph break; traced, not translated to machine code, which the next test does."""
    if TORCH_2_6 and name == "ohem_cross_entropy":
        pytest.skip("PyTorch 2.6 cannot compile it whole")
    logits, target = scene()
    torch._dynamo.reset()
    loss = losses.create_loss(name, class_weights=WEIGHTS)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(
        value_and_gradient(compiled, logits, target),
        value_and_gradient(loss, logits, target),
        rtol=1e-9,
        atol=1e-10,
    )


@pytest.mark.slow
def test_compiles_to_machine_code() -> None:
    logits, target = scene(shape=(2, 32, 32))
    torch._dynamo.reset()
    loss = losses.CombinedLoss(losses.DiceLoss(), losses.CrossEntropyLoss(), losses.FocalLoss())
    torch.testing.assert_close(
        value_and_gradient(torch.compile(loss, fullgraph=True), logits, target),
        value_and_gradient(loss, logits, target),
        rtol=1e-9,
        atol=1e-10,
    )


@pytest.mark.parametrize("name", losses.list_losses())
def test_modules_behave(name: str) -> None:
    loss = losses.create_loss(name)
    assert not list(loss.parameters())
    assert loss.state_dict() == {}  # weights belong to the recipe, not to a checkpoint
    assert "ignore_index" in repr(loss)
    again = copy.deepcopy(loss)
    logits, target = scene(classes=34 if "stevens" in name else 19, shape=(1, 4, 4))
    target = target.clamp(max=18)
    assert torch.equal(again(logits, target).nan_to_num(7), loss(logits, target).nan_to_num(7))


BAD_INPUTS: list[tuple[Tensor, Tensor, type[Exception], str]] = [
    (torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 5).long(), ValueError, "same height and width"),
    (torch.zeros(1, 3, 4, 4), torch.zeros(2, 4, 4).long(), ValueError, "as many images"),
    (torch.zeros(1, 3, 4, 4), torch.zeros(4, 4).long(), ValueError, r"target \(N, H, W\)"),
    (torch.zeros(3, 4, 4), torch.zeros(1, 4, 4).long(), ValueError, r"must be \(N, C, H, W\)"),
    (torch.zeros(0, 3, 4, 4), torch.zeros(0, 4, 4).long(), ValueError, "no pixel"),
    (torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4), TypeError, "integer labels.*float32"),
    (torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4).bool(), TypeError, "integer labels.*bool"),
    (torch.zeros(1, 3, 4, 4).long(), torch.zeros(1, 4, 4).long(), TypeError, "floating-point"),
    (
        torch.zeros(1, 3, 4, 4),
        torch.tensor([3, 3, -1, 0]).view(1, 2, 2).repeat(1, 2, 2),
        ValueError,
        "4 pixels labelled -1, 8 pixels labelled 3, but .* 3 classes, 0 to 2",
    ),
    (
        torch.zeros(1, 3, 1, 1),
        torch.full((1, 1, 1), 200),
        ValueError,
        "1 pixel labelled 200, .*255 is ignored",
    ),
]


@pytest.mark.parametrize(("logits", "target", "error", "message"), BAD_INPUTS)
@pytest.mark.parametrize("name", ["cross_entropy", "dice", "lovasz_softmax"])
def test_bad_input_is_named(
    name: str, logits: Tensor, target: Tensor, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        losses.create_loss(name)(logits, target)


def test_bad_options_are_named() -> None:
    for name in OWN:
        with pytest.raises(ValueError, match="at least 0, but class 1 has -2"):
            losses.create_loss(name, class_weights=[1.0, -2.0])
        with pytest.raises(ValueError, match="class 0 has nan"):
            losses.create_loss(name, class_weights=[float("nan"), 1.0])
        with pytest.raises(ValueError, match="2 classes|5 classes"):
            losses.create_loss(name, class_weights=[1.0, 1.0])(*scene())
        with pytest.raises(ValueError, match="reduction is 'mean', 'sum' or 'none', not 'avg'"):
            losses.create_loss(name, reduction="avg")
        with pytest.raises(TypeError, match="did you mean 'ignore_index'"):
            losses.create_loss(name, ignore_label=0)
        with pytest.raises(TypeError, match="ignore_index must be a whole number"):
            losses.create_loss(name, ignore_index=0.5)
    with pytest.raises(ValueError, match="no loss 'dise'; did you mean 'dice'"):
        losses.create_loss("dise")
    with pytest.raises(ValueError, match="average is 'macro' or 'micro'"):
        losses.DiceLoss(average="weighted")
    with pytest.raises(ValueError, match="gamma must be a finite number of at least 0"):
        losses.FocalLoss(gamma=-1)
    with pytest.raises(ValueError, match="fraction is above 0 and at most 1"):
        losses.OhemCrossEntropyLoss(fraction=0)
    with pytest.raises(ValueError, match="by fraction, or by threshold and min_kept; not both"):
        losses.OhemCrossEntropyLoss(fraction=0.5, min_kept=3)
    with pytest.raises(TypeError, match="squared is True or False, not 'no'"):
        losses.DiceLoss(squared="no")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="per_image is True or False, not 'no'"):
        losses.LovaszSoftmaxLoss(per_image="no")
    with pytest.raises(TypeError, match="upsample is True or False"):
        losses.FocalLoss(upsample=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="weights of losses are a list"):
        losses.CombinedLoss(losses.DiceLoss(), weights=1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="255, which is one of 300 classes"):
        losses.DiceLoss()(torch.zeros(1, 300, 2, 2), torch.zeros(1, 2, 2).long())
    with pytest.raises(ValueError, match="larger than the target"):
        losses.DiceLoss(upsample=True)(torch.zeros(1, 3, 4, 4), torch.zeros(1, 2, 2).long())
    with pytest.raises(TypeError, match="torch.from_numpy"):
        losses.DiceLoss()(torch.zeros(1, 3, 4, 4), np.zeros((1, 4, 4), int))
    statistics = softmax_statistics(*scene())
    for formula, wrong in (
        (losses.ohem_cross_entropy_loss, {"fraction": 2.0}),
        (losses.ohem_cross_entropy_loss, {"min_kept": -4}),
        (losses.focal_loss, {"gamma": -1}),
        (losses.dice_loss, {"smooth": -1}),
        (losses.generalized_dice_loss, {"smooth": float("nan")}),
        (losses.tversky_loss, {"alpha": -0.5}),
    ):
        with pytest.raises(ValueError, match="must be|at least|is above"):
            formula(statistics, **wrong)
    assert losses.DiceLoss(ignore_index=np.int64(3), smooth=np.float32(1)).smooth == 1.0
    with pytest.raises(ValueError, match="label_smoothing must be from 0 to 1"):
        losses.CrossEntropyLoss(label_smoothing=1.5)
    with pytest.raises(TypeError, match="class_weights must be one number for each class"):
        losses.DiceLoss(class_weights="all")  # type: ignore[arg-type]


@pytest.mark.parametrize("hundredths", range(1, 101))
def test_fraction_of_a_hundred_pixels(hundredths: int) -> None:
    logits = torch.stack([torch.linspace(-1, 1, 100), torch.zeros(100)])[None, :, None]
    target = torch.zeros(1, 1, 100, dtype=torch.long)
    criterion = losses.OhemCrossEntropyLoss(fraction=hundredths / 100, reduction="none")
    assert int((criterion(logits, target) > 0).sum()) == hundredths


def test_weights_changed_afterwards_are_the_callers() -> None:
    weights = torch.tensor([1.0, 2.0])
    criterion = losses.CrossEntropyLoss(class_weights=weights)
    weights.zero_()
    assert criterion.class_weights is not None
    assert criterion.class_weights.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("name", OWN)
def test_ignored_pixels_may_be_no_numbers_where_losses_are_compiled(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits, target = scene()
    target = target.clone()
    target[0, 0] = 255
    loss = losses.create_loss(name)
    expected = value_and_gradient(loss, logits, target)
    logits = logits.clone()
    logits[0, :, 0] = torch.tensor(float("nan"))
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    found = value_and_gradient(loss, logits, target)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


def test_a_void_image_among_others_is_no_loss() -> None:
    logits, target = scene()
    void = torch.full_like(target[:1], 255)
    alone = losses.IoULoss(include_absent=True, per_image=True)(logits[:1], target[:1])
    loss = losses.IoULoss(include_absent=True, per_image=True, reduction="none")
    both = loss(logits[:2], torch.cat([target[:1], void]))
    torch.testing.assert_close(both[0].mean(), alone)
    assert not both[1].nan_to_num(0).any()
    mean = losses.IoULoss(include_absent=True, per_image=True)
    torch.testing.assert_close(mean(logits[:2], torch.cat([target[:1], void])), alone)


@pytest.mark.parametrize("options", [{"min_kept": 40, "threshold": 0.0}, {"fraction": 0.1}])
def test_ohem_keeps_no_more_than_asked_where_pixels_are_certain(options: dict[str, Any]) -> None:
    """A float32 loss is exactly 0 from a margin of 17 on; such pixels are as hard as each other."""
    target = torch.zeros(1, 20, 20, dtype=torch.long)
    logits = torch.zeros(1, 2, 20, 20)
    logits[:, 0] = 40.0
    logits.flatten(2)[0, 0, :39] = 0.0  # one fewer than are kept
    loss = losses.create_loss("ohem_cross_entropy", **options)
    assert float(loss(logits, target)) == pytest.approx(39 / 40 * np.log(2), rel=1e-5)
    each = losses.create_loss("ohem_cross_entropy", reduction="none", **options)(logits, target)
    assert int((each > 0).sum()) == 39
