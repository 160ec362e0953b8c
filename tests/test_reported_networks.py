"""Every network of the reports computes what its report describes.

The zoo's model and an independent one (`reference_networks.py`) get the same weights and must
give the same logits. Weights go over in the order in which layers are executed, so that neither
side needs to know the other's names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import reference_networks as ref
import torch
from torch import Tensor, nn

import citysegzoo
from citysegzoo.reports import list_reports

State = dict[str, Tensor]
TOLERANCE = 1e-5  # largest difference, as a share of the largest logit


@dataclass(frozen=True)
class Case:
    """A network: its name, its parameters, its reference and the size of the test image.

    With ASPP the longer side must exceed the largest atrous rate times the stride, or all taps
    but the middle one would fall on the padding at any rate. A 4x4 kernel has no middle tap: both
    sides must exceed half of the largest rate.
    """

    name: str
    parameters: int
    reference: Callable[[], nn.Module]
    size: tuple[int, int] = (64, 96)
    trainable: int | None = None


DL = "deeplabv3_resnet101.mei2019"
U_NET, DEEPLAB = ref.StevensUNet, ref.MeiDeepLabV3
CASES = [
    Case("unet.stevens2020_baseline", 113_058, partial(U_NET, 4, batch_norm=False, upconv=False)),
    Case("unet.stevens2020_improved", 487_586, partial(U_NET, 5, batch_norm=True, upconv=True)),
    Case("unet.stevens2020_run6", 121_826, partial(U_NET, 4, batch_norm=True, upconv=True)),
    Case("fcn.chen2020_baseline", 5_500_674, partial(ref.StarterFCN, 34)),
    Case("fcn.chen2020_adapted", 7_861_512, ref.ChenAdapted),
    Case(
        "fcn_resnet50.chen2020_transfer",
        34_516_034,
        partial(ref.ResNetFCN, 34),
        trainable=11_008_002,
    ),
    Case("unet.chen2020", 14_699_298, ref.ChenUNet),
    Case("fcn.fixman2024_baseline", 543_586, ref.SimpleFCN),
    Case("unet.fixman2024_enhanced", 31_033_890, ref.UNetNoBatchNorm),
    Case("segnet_vgg16.mei2019", 29_454_009, ref.SegNet),
    Case("segnet_basic", 1_416_576, ref.SegNetBasic),
    Case(f"{DL}_dl1", 58_040_147, partial(DEEPLAB, (6, 12, 18)), (32, 16 * 20)),
    Case(f"{DL}_dl2", 58_040_147, partial(DEEPLAB, (3, 6, 9)), (32, 16 * 20)),
    Case(f"{DL}_dl3", 69_050_195, partial(DEEPLAB, (8, 16, 24), k=4), (16 * 13, 16 * 15)),
    Case(f"{DL}_dl4", 62_824_787, partial(DEEPLAB, (6, 12, 18, 24)), (32, 16 * 26)),
    Case("fcn.xiang2020_baseline", 5_500_179, partial(ref.StarterFCN, 19)),
    Case("unet.xiang2020", 34_528_083, ref.XiangUNet),
    Case("fcn_resnet50.xiang2020", 34_515_539, partial(ref.ResNetFCN, 19)),
    Case("aspp_resnet50.xiang2020", 46_369_970, ref.XiangDeeplabYXY, (32, 8 * 20)),
    Case("aspp_resnet101.xiang2020", 57_732_217, ref.XiangDeeplab, (64, 32 * 20)),
    Case("unet_aspp.xiang2020", 35_079_613, partial(ref.XiangUNet, aspp=True)),
    Case("deeplabv3_resnet50.xiang2020", 39_638_355, ref.TorchvisionDeepLabV3, (32, 8 * 38)),
]
JNET = Case("unet_swinv2_base.fixman2024_jnet", 117_955_706, ref.Swin2JNet)
BY_NAME = {case.name: case for case in (*CASES, JNET)}

# As others of the fast core, but deeper, larger or of other rates.
LARGE = (
    "fcn_resnet50.chen2020_transfer",
    "unet.xiang2020",
    "aspp_resnet101.xiang2020",
    *(f"{DL}_dl{run}" for run in (1, 3, 4)),
)

# The same network under another recipe.
SAME = {
    **dict.fromkeys((f"unet.stevens2020_run{i}" for i in (1, 2, 5)), "unet.stevens2020_run6"),
    "fcn.chen2020_augmented": "fcn.chen2020_baseline",
    "fcn.chen2020_augmented_resized": "fcn.chen2020_baseline",
    "fcn.chen2020_dice": "fcn.chen2020_baseline",
    f"{DL}_dl1_long": f"{DL}_dl1",
    "fcn.xiang2020_dice": "fcn.xiang2020_baseline",
    "fcn.xiang2020_weighted": "fcn.xiang2020_baseline",
    "fcn.xiang2020_augmented": "fcn.xiang2020_baseline",
}


# Weights -----------------------------------------------------------------------------------------

KINDS = (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.LayerNorm, nn.Linear, nn.PReLU)


def layers(model: nn.Module) -> Iterator[nn.Module]:
    """The layers with weights (the topmost modules that own a parameter), and what drops out."""
    for child in model.children():
        owns = next(child.parameters(recurse=False), None) is not None
        if owns or drop_rate(child) > 0:
            yield child
        else:
            yield from layers(child)


def drop_rate(module: nn.Module) -> float:
    """Probability of a dropout or drop-path module, 0 for any other."""
    rate = getattr(module, "drop_prob", getattr(module, "p", 0.0))
    return rate if isinstance(rate, float) else 0.0


def executed(model: nn.Module, images: Tensor) -> list[nn.Module]:
    """The layers in the order in which they run; each must run, and run once."""
    order: list[nn.Module] = []
    known = list(layers(model))
    hooks = [layer.register_forward_pre_hook(lambda m, _: order.append(m)) for layer in known]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    assert len(order) == len(known)
    assert set(order) == set(known)
    assert count(model) == sum(count(layer) for layer in order)
    return order


def count(model: nn.Module, *, trainable: bool = False) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable)


def state_of(layer: nn.Module) -> State:
    """What the layer learned: parameters and running statistics, no constants."""
    statistics = {k: v for k, v in layer.named_buffers() if k in ("running_mean", "running_var")}
    return {**{k: p.data for k, p in layer.named_parameters()}, **statistics}


def describe(layer: nn.Module) -> tuple[object, ...]:
    """Kind, shapes and what only training shows: epsilon, momentum, dropout."""
    kind = next((kind for kind in KINDS if isinstance(layer, kind)), type(layer)).__name__
    shapes = {k: tuple(v.shape) for k, v in state_of(layer).items()}
    constants = [getattr(layer, name, None) for name in ("eps", "momentum")]
    return (kind, shapes, *constants, drop_rate(layer))


def transfer(source: list[nn.Module], target: list[nn.Module]) -> None:
    """Copy the weights of executed layers to those of the other network, one by one."""
    assert [describe(layer) for layer in source] == [describe(layer) for layer in target]
    for a, b in zip(source, target, strict=True):
        for have, want in zip(state_of(a).values(), state_of(b).values(), strict=True):
            want.copy_(have)


def fan_in(layer: nn.Conv2d | nn.ConvTranspose2d | nn.Linear) -> float:
    """How many inputs an output sums up; a transposed convolution spreads its kernel's taps."""
    if isinstance(layer, nn.ConvTranspose2d):
        return layer.in_channels * (layer.kernel_size[0] / layer.stride[0]) ** 2
    return layer.weight[0].numel()


def randomise(model: nn.Module, images: Tensor) -> None:
    """Weights, biases and statistics of which none is trivial, with activations near one."""
    for module in model.modules():
        for name, p in module.named_parameters(recurse=False):
            if isinstance(module, nn.PReLU):
                p.data.uniform_(0.1, 0.4)
            elif name == "bias" or name.endswith("_bias"):
                p.data.uniform_(-0.4, 0.4)
            elif isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)):
                p.data.uniform_(0.5, 1.5)
            elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
                p.data.uniform_(-1, 1).mul_((6 / fan_in(module)) ** 0.5)
            else:  # Swin's logit scale
                p.data.add_(torch.rand_like(p))

    # Statistics of these images, then moved off them.
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        model(images)
    model.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None
        assert variance is not None
        variance.clamp_(min=0.1)  # the means of two images hardly differ
        mean.add_(0.2 * variance.sqrt() * torch.randn_like(mean))
        variance.mul_(torch.empty_like(variance).uniform_(0.7, 1.4))


# Layers that run in another order ----------------------------------------------------------------


def in_zoo_order(reference: nn.Module, order: list[nn.Module]) -> list[nn.Module]:
    """The reference's layers as the zoo runs them.

    They differ for xiang2020's two-level network only: there the zoo looks at the finer level
    first, and fuses both in one grouped convolution.
    """
    if not isinstance(reference, ref.XiangDeeplabYXY):
        return order
    *branches3, fuse3, norm3 = [m for m in order if m in set(reference.aspp3.modules())]
    *branches4, fuse4, norm4 = [m for m in order if m in set(reference.aspp4.modules())]
    backbone = order[: order.index(branches4[0])]
    fused = [side_by_side(fuse3, fuse4), side_by_side(norm3, norm4)]
    return [*backbone, *branches3, *branches4, *fused]


def side_by_side(first: nn.Module, second: nn.Module) -> nn.Module:
    """One layer whose output channels are those of the two, each fed by its own half."""
    merged: nn.Module
    if isinstance(first, nn.Conv2d):
        merged = nn.Conv2d(2 * first.in_channels, 2 * first.out_channels, 1, groups=2)
    else:
        assert isinstance(first, nn.BatchNorm2d)
        merged = nn.BatchNorm2d(2 * first.num_features)
    halves = zip(state_of(first).values(), state_of(second).values(), strict=True)
    for have, pair in zip(state_of(merged).values(), halves, strict=True):
        have.copy_(torch.cat(pair))
    return merged


# Tests -------------------------------------------------------------------------------------------


def without_drawing(build: Callable[[], nn.Module]) -> nn.Module:
    """The model with memory but no weights in it yet: all of them are set by the test."""
    with torch.device("meta"):
        model = build()
    return model.to_empty(device="cpu").eval()


def difference(reference: nn.Module, model: nn.Module, *batches: Tensor) -> float:
    """Largest difference of the logits with the same weights, in parts of the largest logit."""
    small = torch.zeros(1, 3, 32, 32)
    transfer(in_zoo_order(reference, executed(reference, small)), executed(model, small))
    worst = 0.0
    for images in batches:
        with torch.no_grad():
            expected, logits = reference(images), model(images)
        assert logits.shape == expected.shape
        scale = expected.abs().max().item()
        # Neither vanishing nor exploding, and not the same everywhere.
        assert 0.5 < scale < 1e3
        assert expected.std((2, 3)).mean() > 0.02 * scale
        assert (expected != 0).float().mean() > 0.2
        worst = max(worst, (logits - expected).abs().max().item() / scale)
    return worst


def compare(case: Case, **options: Any) -> float:
    """Difference on wide and on tall images: a map of few rows says little of vertical taps."""
    torch.manual_seed(0)
    reference = without_drawing(case.reference)
    model = without_drawing(partial(citysegzoo.create_model, case.name, **options))
    images = torch.randn(2, 3, *case.size)
    randomise(reference, images)
    return difference(reference, model, images[:1], images[1:].transpose(2, 3).contiguous())


def test_every_reported_network_is_here() -> None:
    reported = {name for key in list_reports() for name in citysegzoo.list_models(report=key)}
    assert {*BY_NAME, *SAME} == {*reported, "segnet_basic"}


@pytest.mark.parametrize(("name", "twin"), SAME.items())
def test_another_recipe_is_the_same_network(name: str, twin: str) -> None:
    info, twin_info = citysegzoo.model_info(name), citysegzoo.model_info(twin)
    assert info.architecture == twin_info.architecture
    assert info.options == twin_info.options
    assert info.num_classes == twin_info.num_classes


@pytest.mark.parametrize("case", BY_NAME.values(), ids=BY_NAME)
def test_number_of_parameters(case: Case) -> None:
    with torch.device("meta"):
        model, reference = citysegzoo.create_model(case.name), case.reference()
    assert count(model) == count(reference) == case.parameters
    assert count(model, trainable=True) == (case.trainable or case.parameters)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.name, marks=[pytest.mark.slow] * (case.name in LARGE))
        for case in CASES
    ],
)
def test_logits_are_those_of_the_report(case: Case) -> None:
    assert compare(case) < TOLERANCE


@pytest.mark.slow
def test_logits_of_the_swin_network() -> None:
    # Lower than the working size one way and longer the other: antialiasing counts both ways.
    torch.manual_seed(0)
    model = citysegzoo.create_model(JNET.name).eval()
    reference = JNET.reference()
    images = torch.randn(1, 3, 128, 1024)
    randomise(reference, images)
    assert difference(reference, model, images) < TOLERANCE


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("unet.stevens2020_improved", {"skip_first": True}),
        ("unet.stevens2020_baseline", {"align_corners": False}),
        pytest.param(f"{DL}_dl3", {"aspp_rates": (8, 16, 22)}, marks=pytest.mark.slow),
    ],
    ids=["skip_first", "align_corners", "aspp_rates"],
)
def test_the_comparison_can_fail(name: str, options: dict[str, object]) -> None:
    assert compare(BY_NAME[name], **options) > 1e-3
