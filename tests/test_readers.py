"""Published checkpoints, from the file to the same logits: every layout that is read."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

import citysegzoo
from citysegzoo.data import UNIT_RANGE
from citysegzoo.structure import difference
from citysegzoo.weights import load_weights
from citysegzoo.weights.readers import (
    LAYOUTS,
    Layout,
    convert_state_dict,
    detect_layout,
    from_smp_deeplabv3,
    from_smp_deeplabv3plus,
    from_torchvision_fcn,
    read_state_dict,
)
from citysegzoo.weights.readers._common import rename

# The networks of others -------------------------------------------------------------------------


class TorchvisionNet(nn.Module):
    """One of torchvision's networks, its logits alone; saved without the wrapper."""

    def __init__(self, name: str, classes: int) -> None:
        super().__init__()
        build = getattr(torchvision.models.segmentation, name)
        auxiliary = {} if name.startswith("lraspp") else {"aux_loss": True}
        self.net = build(weights=None, weights_backbone=None, num_classes=classes, **auxiliary)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)["out"]


def stevens_block(inputs: int, width: int, *, norm: bool, norm_last: bool = False) -> nn.Module:
    layers: list[nn.Module] = []
    for i in (inputs, width):
        layers.append(nn.Conv2d(i, width, 3, padding=1))
        rest = [nn.BatchNorm2d(width), nn.ReLU()] if norm else [nn.ReLU()]
        layers += reversed(rest) if norm_last else rest
    part = nn.Module()
    part.block = nn.Sequential(*layers)
    return part


class StevensUNet(nn.Module):
    """stevens2020's U-Net under its published names: down_path, up_path and last."""

    def __init__(
        self, widths: tuple[int, ...], *, norm: bool, transposed: bool, norm_last: bool = False
    ) -> None:
        super().__init__()
        self.down_path, self.up_path = nn.ModuleList(), nn.ModuleList()
        for inputs, width in zip((3, *widths), widths, strict=False):
            self.down_path.append(stevens_block(inputs, width, norm=norm, norm_last=norm_last))
        for i in reversed(range(len(widths) - 1)):
            inputs, width = widths[i + 1], widths[i]
            step = nn.Module()
            if transposed:
                step.up = nn.ConvTranspose2d(inputs, width, 2, stride=2)
            else:
                double = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
                step.up = nn.Sequential(double, nn.Conv2d(inputs, width, 1))
            step.conv_block = stevens_block(2 * width, width, norm=norm, norm_last=norm_last)
            self.up_path.append(step)
        self.last = nn.Conv2d(widths[0], 34, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for down in self.down_path:
            x = down.block(F.max_pool2d(x, 2) if skips else x)
            skips.append(x)
        for step, skip in zip(self.up_path, skips[-2::-1], strict=True):
            x = step.conv_block.block(torch.cat([step.up(x), skip], 1))
        return self.last(x)


class ChenxiASPP(nn.Module):
    """The pyramid under chenxi116's names: aspp1, aspp1_bn, ..., conv2, bn2, conv3."""

    def __init__(self, rates: tuple[int, ...], kernel: int) -> None:
        super().__init__()
        self.count = len(rates) + 2
        for i, rate in enumerate((0, *rates, 0), 1):
            k = kernel if rate else 1
            conv = nn.Conv2d(
                2048, 256, k, padding=(k - 1) * rate // 2, dilation=rate or 1, bias=False
            )
            self.add_module(f"aspp{i}", conv)
            self.add_module(f"aspp{i}_bn", nn.BatchNorm2d(256))
        self.conv2 = nn.Conv2d(256 * self.count, 256, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(256)
        self.conv3 = nn.Conv2d(256, 19, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = []
        for i in range(1, self.count + 1):
            inputs = x if i < self.count else x.mean((2, 3), keepdim=True)
            normed = self.get_submodule(f"aspp{i}_bn")(self.get_submodule(f"aspp{i}")(inputs))
            maps.append(normed.relu().expand(-1, -1, *x.shape[2:]))
        return self.conv3(self.bn2(self.conv2(torch.cat(maps, 1))).relu())


class ChenxiDeepLab(torchvision.models.ResNet):
    """A ResNet at stride 16 under torchvision's names, with ``aspp`` beside its layers."""

    def __init__(self, rates: tuple[int, ...] = (6, 12, 18), kernel: int = 3) -> None:
        dilated = [False, False, True]
        block = torchvision.models.resnet.Bottleneck
        super().__init__(block, [3, 4, 23, 3], replace_stride_with_dilation=dilated)
        del self.fc, self.avgpool
        self.aspp = ChenxiASPP(rates, kernel)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        x = self.maxpool(self.bn1(self.conv1(x)).relu())
        x = self.aspp(self.layer4(self.layer3(self.layer2(self.layer1(x)))))
        return F.interpolate(x, size, mode="bilinear", align_corners=True)


# What is suggested for smp's networks.
SMP_DEEPLABV3 = {
    "output_stride": 8,
    "aspp_rates": (12, 24, 36),
    "aspp_width": 256,
    "dilate_first": True,
    "align_corners": True,
}
SMP_DEEPLABV3PLUS = {
    "output_stride": 16,
    "aspp_rates": (12, 24, 36),
    "aspp_width": 256,
    "dilate_first": True,
    "refine_first": True,
    "separable": True,
    "align_corners": True,
}
SMP_UNET = {
    "up": "nearest",
    "skip_first": False,
    "bias": False,
    "decoder_widths": (256, 128, 64, 32),
    "extra_widths": (16,),
    "classifier_kernel_size": 3,
}
SMP_FPN = {
    "pyramid_width": 256,
    "decoder_width": 128,
    "smooth": False,
    "dropout": 0.2,
    "align_corners": True,
}
SMP_SEGFORMER = {"decoder_width": 256, "dropout": 0.0, "align_corners": True}


# From the file to the same logits ---------------------------------------------------------------

# Layout, network, what is suggested, two sizes. Wide ones, so that every atrous rate meets pixels.
SLOW = pytest.mark.slow
CASES = {
    "torchvision deeplabv3_resnet50": (
        "torchvision_deeplabv3",
        lambda: TorchvisionNet("deeplabv3_resnet50", 21),
        ("deeplabv3_resnet50", {}, 21),
        [(65, 97), (64, 320)],
    ),
    "torchvision deeplabv3_resnet101": (
        "torchvision_deeplabv3",
        lambda: TorchvisionNet("deeplabv3_resnet101", 19),
        ("deeplabv3_resnet101", {}, 19),
        [(65, 97), (64, 320)],
    ),
    "torchvision fcn_resnet50": (
        "torchvision_fcn",
        lambda: TorchvisionNet("fcn_resnet50", 21),
        ("fcn_dilated_resnet50", {}, 21),
        [(65, 97), (64, 128)],
    ),
    "torchvision fcn_resnet101": (
        "torchvision_fcn",
        lambda: TorchvisionNet("fcn_resnet101", 5),
        ("fcn_dilated_resnet101", {}, 5),
        [(65, 97), (64, 128)],
    ),
    "torchvision deeplabv3_mobilenet_v3_large": (
        "torchvision_deeplabv3_mobilenet",
        lambda: TorchvisionNet("deeplabv3_mobilenet_v3_large", 21),
        ("deeplabv3_mobilenet_v3_large", {}, 21),
        [(65, 97), (64, 640)],
    ),
    "torchvision lraspp_mobilenet_v3_large": (
        "torchvision_lraspp",
        lambda: TorchvisionNet("lraspp_mobilenet_v3_large", 21),
        ("lraspp_mobilenet_v3_large", {}, 21),
        [(65, 97), (64, 128)],
    ),
    "smp DeepLabV3": (
        "smp_deeplabv3",
        lambda: smp.DeepLabV3("resnet50", encoder_weights=None, classes=19),
        ("deeplabv3_resnet50", SMP_DEEPLABV3, 19),
        [(64, 96), (72, 320)],
    ),
    "smp DeepLabV3, resnet101, narrow": (
        "smp_deeplabv3",
        lambda: smp.DeepLabV3(
            "resnet101", encoder_weights=None, classes=7, decoder_channels=32, in_channels=4
        ),
        ("deeplabv3_resnet101", {**SMP_DEEPLABV3, "aspp_width": 32, "in_channels": 4}, 7),
        [(64, 96), (72, 320)],
    ),
    "smp DeepLabV3Plus": (
        "smp_deeplabv3plus",
        lambda: smp.DeepLabV3Plus(
            "resnet50", encoder_weights=None, classes=19, aux_params={"classes": 2}
        ),
        ("deeplabv3plus_resnet50", SMP_DEEPLABV3PLUS, 19),
        [(64, 96), (80, 640)],
    ),
    "smp Unet": (
        "smp_unet",
        lambda: smp.Unet("resnet50", encoder_weights=None, classes=11),
        ("unet_resnet50", SMP_UNET, 11),
        [(64, 96), (66, 98)],
    ),
    **{
        f"smp Unet, resnet{depth}": (
            "smp_unet",
            lambda depth=depth: smp.Unet(f"resnet{depth}", encoder_weights=None, classes=11),
            (f"unet_resnet{depth}", SMP_UNET, 11),
            [(64, 96), (66, 98)],
        )
        for depth in (18, 34, 152)
    },
    **{
        f"smp DeepLabV3, resnet{depth}": (
            "smp_deeplabv3",
            lambda depth=depth: smp.DeepLabV3(f"resnet{depth}", encoder_weights=None, classes=19),
            (f"deeplabv3_resnet{depth}", SMP_DEEPLABV3, 19),
            [(64, 96), (72, 320)],
        )
        for depth in (18, 34)
    },
    **{
        f"smp DeepLabV3Plus, resnet{depth}": (
            "smp_deeplabv3plus",
            lambda depth=depth: smp.DeepLabV3Plus(
                f"resnet{depth}", encoder_weights=None, classes=19
            ),
            (f"deeplabv3plus_resnet{depth}", SMP_DEEPLABV3PLUS, 19),
            [(64, 96), (80, 640)],
        )
        for depth in (18, 34)
    },
    "smp FPN": (
        "smp_fpn",
        lambda: smp.FPN("resnet18", encoder_weights=None, classes=19),
        ("fpn_resnet18", SMP_FPN, 19),
        [(64, 96), (128, 160)],
    ),
    "smp FPN, resnet50, narrow": (
        "smp_fpn",
        lambda: smp.FPN(
            "resnet50",
            encoder_weights=None,
            decoder_pyramid_channels=64,
            decoder_segmentation_channels=64,
            in_channels=4,
            classes=7,
        ),
        (
            "fpn_resnet50",
            {**SMP_FPN, "pyramid_width": 64, "decoder_width": 64, "in_channels": 4},
            7,
        ),
        [(64, 96)],
    ),
    "smp Segformer": (
        "smp_segformer",
        lambda: smp.Segformer("mit_b0", encoder_weights=None, classes=19),
        ("segformer_b0", SMP_SEGFORMER, 19),
        [(64, 96), (160, 32)],
    ),
    "smp Segformer, mit_b2, narrow": (
        "smp_segformer",
        lambda: smp.Segformer(
            "mit_b2",
            encoder_weights=None,
            classes=7,
            decoder_segmentation_channels=48,
            in_channels=4,
            aux_params={"classes": 2},
        ),
        ("segformer_b2", {**SMP_SEGFORMER, "decoder_width": 48, "in_channels": 4}, 7),
        [(64, 96), (128, 160)],
    ),
    "stevens2020 baseline": (
        "pytorch_unet",
        lambda: StevensUNet((8, 16, 32, 64), norm=False, transposed=False),
        ("unet.stevens2020_baseline", {}, 34),
        [(64, 96), (48, 72)],
    ),
    "stevens2020 improved": (
        "pytorch_unet",
        lambda: StevensUNet((8, 16, 32, 64, 128), norm=True, transposed=True),
        ("unet.stevens2020_improved", {}, 34),
        [(64, 96), (48, 80)],
    ),
    "stevens2020 run 1": (
        "pytorch_unet",
        lambda: StevensUNet((8, 16, 32, 64), norm=True, transposed=True),
        ("unet.stevens2020_run1", {}, 34),
        [(64, 96), (48, 72)],
    ),
    "the same of other widths": (
        "pytorch_unet",
        lambda: StevensUNet((4, 8, 16), norm=True, transposed=False),
        (
            "unet",
            {
                "widths": (4, 8, 16),
                "norm": True,
                "skip_first": False,
                "up": "bilinear",
                "up_kernel_size": 1,
                "up_norm": False,
                "align_corners": True,
            },
            34,
        ),
        [(64, 96), (48, 72)],
    ),
    "mei2019 DL-1": (
        "chenxi116_deeplabv3",
        ChenxiDeepLab,
        ("deeplabv3_resnet101.mei2019_dl1", {}, 19),
        [(65, 97), (64, 320)],
    ),
    "mei2019 DL-3": (
        "chenxi116_deeplabv3",
        lambda: ChenxiDeepLab((8, 16, 24), 4),
        ("deeplabv3_resnet101.mei2019_dl3", {}, 19),
        [(65, 97), (64, 640)],
    ),
    "mei2019 DL-4": (
        "chenxi116_deeplabv3",
        lambda: ChenxiDeepLab((6, 12, 18, 24)),
        ("deeplabv3_resnet101.mei2019_dl4", {}, 19),
        [(65, 97), (64, 448)],
    ),
}
QUICK = {
    "torchvision deeplabv3_mobilenet_v3_large",
    "torchvision fcn_resnet50",
    "torchvision lraspp_mobilenet_v3_large",
    "smp Unet, resnet34",
    "smp DeepLabV3, resnet18",
    "smp DeepLabV3Plus, resnet34",
    "smp FPN",
    "smp Segformer",
    *(name for name in CASES if "stevens" in name),
}


def randomise(model: nn.Module) -> None:
    """Give norms and biases values that matter, and keep a hundred residuals small."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
        if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)):
            nn.init.uniform_(module.weight, 0.5, 1.5)
        if getattr(module, "bias", None) is not None:
            nn.init.normal_(module.bias, 0, 0.2)
    for module in model.modules():
        if isinstance(module, torchvision.models.resnet.Bottleneck):
            module.bn3.weight.mul_(0.1)
        elif isinstance(module, torchvision.models.resnet.BasicBlock):
            module.bn2.weight.mul_(0.1)


@torch.no_grad()
@pytest.mark.parametrize(
    "case", [name if name in QUICK else pytest.param(name, marks=SLOW) for name in CASES]
)
def test_published_file_gives_the_same_logits(case: str, tmp_path: Path) -> None:
    layout_name, build, suggested, sizes = CASES[case]
    torch.manual_seed(0)
    theirs = build()
    randomise(theirs)
    theirs.eval()
    state = (theirs.net if isinstance(theirs, TorchvisionNet) else theirs).state_dict()
    file = tmp_path / "published.pt"
    if layout_name.startswith("smp"):
        theirs.save_pretrained(tmp_path)
        file = tmp_path / "model.safetensors"
    elif layout_name == "chenxi116_deeplabv3":
        wrapped = {f"module.{k}": v for k, v in state.items()}
        torch.save({"epoch": 40, "state_dict": wrapped, "optimizer": {"lr": 0.007}}, file)
    elif layout_name == "pytorch_unet":
        torch.save({"epoch": 3, "loss": [2.0444], "model_state_dict": state}, file)
    else:
        torch.save(state, file)

    read = read_state_dict(file)
    layout = detect_layout(read)
    assert layout.name == layout_name
    name, options, num_classes = layout.model(read)
    assert (name, options, num_classes) == suggested
    ours = citysegzoo.create_model(name, num_classes=num_classes, **options).eval()
    load_weights(ours, convert_state_dict(read), source=case)
    for size in sizes:
        images = torch.randn(1, options.get("in_channels", 3), *size)
        expected = theirs(images)
        if isinstance(expected, tuple):  # smp's class of the whole image
            expected = expected[0]
        logits = ours(images)
        assert logits.shape == expected.shape
        assert expected.std() > 0.01
        difference = (logits - expected).abs().max()
        print(f"{case} at {size}: {difference:.1e} of {expected.std():.2f}")
        assert difference < 1e-4


@pytest.mark.parametrize(
    ("kind", "encoder", "name", "printed"),
    [
        (
            "Unet",
            "resnet34",
            "unet_resnet34",
            'up="nearest", skip_first=False, bias=False, extra_widths=(16,), '
            "classifier_kernel_size=3",
        ),
        ("DeepLabV3", "resnet50", "deeplabv3_resnet50", "dilate_first=True, align_corners=True"),
        (
            "DeepLabV3Plus",
            "resnet50",
            "deeplabv3plus_resnet50",
            "dilate_first=True, refine_first=True, separable=True, align_corners=True, "
            "aspp_rates=(12, 24, 36)",
        ),
        ("FPN", "resnet34", "fpn_resnet34", "smooth=False, dropout=0.2, align_corners=True"),
    ],
)
def test_smps_networks_are_made_by_the_options_printed(
    kind: str, encoder: str, name: str, printed: str
) -> None:
    page = Path(__file__).parent.parent / "docs" / "coming_from.md"
    row = next(line for line in page.read_text().splitlines() if f"`smp.{kind}(" in line)
    assert f'"{name}"' in row
    assert printed in row
    with torch.device("meta"):
        theirs = getattr(smp, kind)(encoder, encoder_weights=None, classes=11).state_dict()
        suggested, options, classes = detect_layout(theirs).model(theirs)
        expected = citysegzoo.create_model(suggested, num_classes=classes, **options)
        ours = citysegzoo.create_model(name, num_classes=11, **eval(f"dict({printed})"))
    assert not difference(ours, expected)


def test_our_own_layout_converts_to_itself() -> None:
    state = citysegzoo.create_model("unet.small", widths=(4, 8)).state_dict()
    layout = detect_layout(state)
    assert layout.name == "citysegzoo"
    assert convert_state_dict(state) == dict(state)
    with pytest.raises(ValueError, match="do not say which of its networks they are of; name the"):
        layout.model(state)


@pytest.mark.parametrize("name", ["segformer_b0", "deeplabv3plus_resnet50", "segnet_basic", "fcn"])
def test_every_network_of_ours_is_known_as_ours(name: str) -> None:
    with torch.device("meta"):
        state = citysegzoo.create_model(name).state_dict()
    assert detect_layout(state).name == "citysegzoo"


def test_segformers_are_known() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.SegformerConfig(num_labels=19)
    with torch.device("meta"):
        state = transformers.SegformerForSemanticSegmentation(config).state_dict()
    layout = detect_layout(state)
    assert layout.name == "transformers_segformer"
    assert layout.model(state) == ("segformer_b0", {}, 19)


def test_older_smp_files_number_the_parts() -> None:
    with torch.device("meta"):
        state = smp.DeepLabV3("resnet50", encoder_weights=None, classes=2).state_dict()
    older = {
        k.replace("decoder.aspp.", "decoder.0.")
        .replace("decoder.conv.", "decoder.1.")
        .replace("decoder.bn.", "decoder.2."): v
        for k, v in state.items()
    }
    assert older.keys() != state.keys()
    layout = detect_layout(older)
    assert layout.convert(older) == from_smp_deeplabv3(state)
    assert layout.model(older) == layout.model(state)


@pytest.mark.parametrize(
    ("widths", "name"), [((8, 16, 32, 64), "unet.stevens2020_run1"), ((4, 8, 16), "unet")]
)
def test_a_unet_of_stevens2020_keeps_its_preprocessing(
    widths: tuple[int, ...], name: str, tmp_path: Path
) -> None:
    """Which is 0..1 in its code, of networks that the report does not name too."""
    from citysegzoo.cli import main

    theirs = StevensUNet(widths, norm=True, transposed=True).state_dict()
    torch.save(theirs, tmp_path / "x.pt")
    assert main(["convert", str(tmp_path / "x.pt"), "--output", str(tmp_path / "ours")]) == 0
    model = citysegzoo.load(tmp_path / "ours")
    assert (model.name, model.preprocessing) == (name, UNIT_RANGE)


def test_files_from_before_batches_were_counted() -> None:
    theirs = StevensUNet((4, 8), norm=True, transposed=True).state_dict()
    older = {k: v for k, v in theirs.items() if not k.endswith("num_batches_tracked")}
    assert older.keys() != theirs.keys()
    converted = convert_state_dict(older)
    assert converted.keys() == convert_state_dict(theirs).keys()
    assert converted["encoder.stages.0.0.norm.num_batches_tracked"] == 0


# What is refused --------------------------------------------------------------------------------


def unet_state(**options: bool) -> dict[str, Tensor]:
    options = {"norm": True, "transposed": True, **options}
    return dict(StevensUNet((8, 16, 32, 64, 128), **options).state_dict())


def test_keys_and_shapes_are_strict() -> None:
    state = unet_state()
    model = citysegzoo.create_model("unet.stevens2020_improved")
    with pytest.raises(ValueError, match="'more.weight' is no weight of stevens2020's U-Net; load"):
        convert_state_dict({**state, "more.weight": torch.zeros(1)})
    extra = {**state, "down_path.0.block.7.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match="'down_path.0.block.7.weight' is no weight of stevens"):
        convert_state_dict(extra)
    missing = {k: v for k, v in state.items() if k != "up_path.1.up.bias"}
    with pytest.raises(ValueError, match=r"1 missing \(decoder.blocks.1.up.bias\)\."):
        load_weights(model, convert_state_dict(missing), source="theirs")
    shaped = {**state, "up_path.1.up.bias": torch.zeros(3)}
    with pytest.raises(ValueError, match=r"1 of another shape \(decoder.blocks.1.up.bias\)\."):
        load_weights(model, convert_state_dict(shaped), source="theirs")


def test_renaming_refuses_two_keys_of_one_name() -> None:
    both = {"a.weight": torch.zeros(1), "b.weight": torch.zeros(1), "drop.it": torch.zeros(1)}
    assert rename(both, [(r"([ab])\.", r"c.\1.")], source="it", ignored=("drop.",)).keys() == {
        "c.a.weight",
        "c.b.weight",
    }
    with pytest.raises(ValueError, match="'a.weight' and 'b.weight' of it are both the weight 'c."):
        rename(both, [(r"[ab]\.", "c.")], source="it", ignored=("drop.",))


def test_layouts_by_name() -> None:
    state = unet_state()
    layout = detect_layout(state)
    assert convert_state_dict(state, layout="pytorch_unet").keys() == layout.convert(state).keys()
    assert convert_state_dict(state, layout=layout).keys() == layout.convert(state).keys()
    assert len({layout.name for layout in LAYOUTS}) == len(LAYOUTS)
    with pytest.raises(ValueError, match="no layout 'smp_unett'; did you mean 'smp_unet'"):
        convert_state_dict(state, layout="smp_unett")
    with pytest.raises(ValueError, match="no layout 'x'; the layouts known are citysegzoo, torchv"):
        convert_state_dict(state, layout="x")
    with pytest.raises(ValueError, match="'down_path.0.block.0.weight' is no weight of torchvisi"):
        convert_state_dict(state, layout="torchvision_fcn")


def test_keys_of_no_layout_and_of_several() -> None:
    keys = {name: torch.zeros(1) for name in ("fc.weight", "fc.bias", "conv.weight", "bn.weight")}
    with pytest.raises(
        ValueError, match=r"\(fc.weight, fc.bias, conv.weight, ...\) are of no layout; .* citysegzo"
    ):
        detect_layout(keys)
    with pytest.raises(ValueError, match=r"\(there are none\) are of no layout"):
        detect_layout({})
    with torch.device("meta"):
        fcn = TorchvisionNet("fcn_resnet50", 2).net.state_dict()
    with pytest.raises(ValueError, match="are of both torchvision_fcn and pytorch_unet; the"):
        detect_layout({**fcn, **unet_state()})


def meta(build: Callable[[], nn.Module]) -> dict[str, Tensor]:
    with torch.device("meta"):
        return dict(build().state_dict())


def test_networks_the_zoo_does_not_have() -> None:
    """Their keys are known, but nothing of the zoo computes the same."""
    after_relu = unet_state(norm_last=True)
    with pytest.raises(ValueError, match="have batch norm after the ReLU"):
        convert_state_dict(after_relu)

    def build(kind: str, **options: object) -> dict[str, Tensor]:
        return meta(lambda: getattr(smp, kind)(encoder_weights=None, classes=2, **options))

    def layout(state: dict[str, Tensor]) -> Layout:
        return detect_layout(state)

    grouped = build("Unet", encoder_name="resnext50_32x4d")
    with pytest.raises(ValueError, match="no plain ResNet-18, 34, 50, 101 or 152"):
        layout(grouped).model(grouped)
    short = build("Unet", encoder_name="resnet50", encoder_depth=4, decoder_channels=(8, 8, 8, 8))
    with pytest.raises(ValueError, match="encoder_depth=4; citysegzoo has one with 5 alone"):
        layout(short).model(short)
    short = build("FPN", encoder_name="resnet50", encoder_depth=4)
    with pytest.raises(ValueError, match="encoder_depth other than 5; citysegzoo has one"):
        layout(short).model(short)
    joined = build("FPN", encoder_name="resnet50", decoder_merge_policy="cat")
    with pytest.raises(ValueError, match="decoder_merge_policy='cat'; citysegzoo has one with"):
        layout(joined).model(joined)
    narrow = build("FPN", encoder_name="resnet50", decoder_segmentation_channels=32)
    with pytest.raises(ValueError, match="decoder_segmentation_channels=32, whose group norm has"):
        layout(narrow).model(narrow)
    attentive = build("Unet", encoder_name="resnet50", decoder_attention_type="scse")
    with pytest.raises(
        ValueError, match="attention1.attention.cSE.1.weight' is no weight of smp's"
    ):
        convert_state_dict(attentive)
    plain = build("Unet", encoder_name="resnet50", decoder_use_norm=False)
    with pytest.raises(ValueError, match="decoder_use_norm other than batch norm"):
        convert_state_dict(plain)
    separable = build("DeepLabV3", encoder_name="resnet50", decoder_aspp_separable=True)
    with pytest.raises(ValueError, match="DeepLabV3 with decoder_aspp_separable=True"):
        convert_state_dict(separable)
    mixed = build("DeepLabV3Plus", encoder_name="resnet50", decoder_aspp_separable=False)
    with pytest.raises(ValueError, match="DeepLabV3Plus with decoder_aspp_separable=False"):
        from_smp_deeplabv3plus(mixed)
    for other in ("UnetPlusPlus", "Linknet", "PSPNet"):
        with pytest.raises(ValueError, match="are of no layout"):
            detect_layout(build(other, encoder_name="resnet50"))


@pytest.mark.parametrize("depth", [34, 152])
def test_torchvisions_heads_on_other_resnets_are_refused(depth: int) -> None:
    """Built by hand: nothing in the weights tells whether and how the ResNet is dilated."""

    def build(head: nn.Module) -> dict[str, Tensor]:
        backbone = getattr(torchvision.models, f"resnet{depth}")(weights=None)
        del backbone.fc
        return meta(lambda: torchvision.models.segmentation.FCN(backbone, head))

    channels = 512 if depth == 34 else 2048
    for theirs, head in (
        ("deeplabv3", torchvision.models.segmentation.deeplabv3.DeepLabHead(channels, 2)),
        ("fcn", torchvision.models.segmentation.fcn.FCNHead(channels, 2)),
    ):
        state = build(head)
        with pytest.raises(
            ValueError,
            match=f"has {theirs}_resnet50 and {theirs}_resnet101, not the ResNet-{depth} of these",
        ):
            detect_layout(state).model(state)


def smp_segformer(encoder: str = "mit_b0", **options: int) -> dict[str, Tensor]:
    model = smp.Segformer(encoder, encoder_weights=None, classes=2, **options)
    return dict(model.state_dict())


def convert_and_load(state: dict[str, Tensor]) -> None:
    """All that `citysegzoo convert` does with the weights."""
    layout = detect_layout(state)
    name, options, num_classes = layout.model(state)
    with torch.device("meta"):
        model = citysegzoo.create_model(name, num_classes=num_classes, **options)
    load_weights(model, layout.convert(state), source="theirs", assign=True)


@pytest.mark.parametrize(
    "size", ["b0", "b1", "b2", *(pytest.param(size, marks=SLOW) for size in ("b3", "b4", "b5"))]
)
def test_every_segformer_of_smp_is_known(size: str) -> None:
    state = smp_segformer(f"mit_{size}")
    layout = detect_layout(state)
    assert layout.name == "smp_segformer"
    assert layout.model(state) == (f"segformer_{size}", SMP_SEGFORMER, 2)
    convert_and_load(state)


KV = "encoder.block2.1.attn.kv.bias"
HEAD = "segmentation_head.0.weight"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("decoder.more.weight", torch.zeros(1), "'{}' is no weight of smp's Segformer; load it"),
        ("encoder.more.weight", torch.zeros(1), "'{}' is no weight of smp's Segformer; load it"),
        ("encoder.block2.1.attn.q.scale", torch.zeros(1), "'{}' is no weight of smp's Segformer"),
        ("decoder.mlp_stage.4.linear.bias", torch.zeros(256), "'{}' is no weight of smp's Segfo"),
        (KV, None, r"2 missing \(encoder.stages.1.blocks.1.attention.key.bias, encoder.stages.1."),
        ("encoder.block1.0.norm1.weight", None, r"1 missing \(encoder.stages.0.blocks.0.norm1.w"),
        ("decoder.mlp_stage.3.linear.bias", None, r"1 missing \(decoder.linears.0.bias\)"),
        ("segmentation_head.0.bias", None, r"1 missing \(classifier.conv.bias\)"),
        ("encoder.patch_embed3.proj.weight", None, "these weights lack {}, or have them in anoth"),
        ("decoder.fuse_stage.0.weight", None, "these weights lack {}, or have them in another sh"),
        (HEAD, None, "these weights lack {}, or have them in another shape"),
        (HEAD, torch.zeros(2), "these weights lack {}, or have them in another shape"),
        (KV, torch.zeros(127), r"1 of another shape \(encoder.stages.1.blocks.1.attention.value.b"),
        (KV, torch.tensor(0.0), r"2 of another shape \(encoder.stages.1.blocks.1.attention.key.b"),
        (
            "decoder.mlp_stage.0.linear.weight",
            torch.zeros(256, 32),
            r"1 of another shape \(decoder.linears.3.weight\)",
        ),
        (
            "encoder.patch_embed2.proj.weight",
            torch.zeros(65, 32, 3, 3),
            r"no SegFormer B0 to B5 has stages of widths \[32, 65, 160, 256\]",
        ),
    ],
)
def test_smp_segformer_is_strict(key: str, value: Tensor | None, message: str) -> None:
    """One weight too many, too few (None) or of another shape."""
    changed = {**smp_segformer(), key: value}
    if value is None:
        del changed[key]
    with pytest.raises(ValueError, match=message.format(key)) as caught:
        convert_and_load(changed)
    assert "\n" not in str(caught.value)


def test_segformers_the_zoo_does_not_have() -> None:
    for encoder in ("resnet34", "tu-resnet18"):
        other = smp_segformer(encoder)
        assert detect_layout(other).name == "smp_segformer"
        for use in (convert_state_dict, detect_layout(other).model):
            with pytest.raises(ValueError, match="on another encoder than mit_b0 to mit_b5; citys"):
                use(other)
    short = smp_segformer(encoder_depth=4)
    with pytest.raises(ValueError, match="encoder_depth=4; citysegzoo has one with 5 alone"):
        convert_state_dict(short)


@pytest.mark.parametrize("key", ["encoder.conv1.weight", "segmentation_head.0.weight"])
def test_weights_that_tell_the_network_have_to_be_there(key: str) -> None:
    state = meta(lambda: smp.Unet("resnet18", encoder_weights=None, classes=2))
    layout = detect_layout(state)
    for odd in ({k: v for k, v in state.items() if k != key}, {**state, key: torch.zeros(2)}):
        with pytest.raises(ValueError, match=f"lack {key}, or have them in another shape"):
            layout.model(odd)


def test_branches_in_another_order_are_refused() -> None:
    state = meta(lambda: ChenxiDeepLab((6, 12, 18, 24)))
    swapped = {
        k.replace("aspp.aspp6", "aspp.aspp0").replace("aspp.aspp5", "aspp.aspp6"): v
        for k, v in state.items()
    }
    swapped = {k.replace("aspp.aspp0", "aspp.aspp5"): v for k, v in swapped.items()}
    assert swapped.keys() == state.keys()
    with pytest.raises(ValueError, match=r"kernels of \(1, 3, 3, 3, 1, 3\); citysegzoo reads"):
        convert_state_dict(swapped)
    with pytest.raises(ValueError, match="no DeepLabv3 on ResNet-101 with branches of kernels"):
        detect_layout(swapped).model(swapped)


def test_fcn_reader_refuses_other_keys() -> None:
    with pytest.raises(ValueError, match="'classifier.9.weight' is no weight of torchvision's FCN"):
        from_torchvision_fcn({"classifier.9.weight": torch.zeros(1)})


# Files ------------------------------------------------------------------------------------------

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.count": torch.tensor(3)}


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_pickles_are_read(suffix: str, zipped: bool, tmp_path: Path) -> None:
    file = tmp_path / f"weights{suffix}"
    half = {k: v.half() if v.is_floating_point() else v for k, v in WEIGHTS.items()}
    torch.save(half, file, _use_new_zipfile_serialization=zipped)
    read = read_state_dict(file)
    assert [v.dtype for v in read.values()] == [torch.float32, torch.int64]
    assert all(torch.equal(read[k], v) for k, v in WEIGHTS.items())


@pytest.mark.parametrize("envelope", ["state_dict", "model_state_dict", "model"])
def test_envelopes_are_opened(
    envelope: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "weights.pt"
    parallel = {f"module.{k}": v for k, v in WEIGHTS.items()}
    torch.save({"epoch": 3, "optimizer": {"lr": 0.1}, envelope: parallel}, file)
    with caplog.at_level(logging.INFO, "citysegzoo"):
        assert read_state_dict(file).keys() == WEIGHTS.keys()
    assert f"the weights stand under {envelope!r}" in caplog.text
    assert "the names begin with 'module.' of DataParallel" in caplog.text


class Evil:
    """Writes a file when unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple:
        return Path.touch, (self.file,)


class EvilCall(Evil):
    def __reduce__(self) -> tuple:
        return eval, (f"open({str(self.file)!r}, 'w').close()",)


@pytest.mark.parametrize("kind", [Evil, EvilCall])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_nothing_in_a_file_is_run(kind: type[Evil], zipped: bool, tmp_path: Path) -> None:
    file, touched = tmp_path / "weights.pt", tmp_path / "touched"
    torch.save({**WEIGHTS, "x": kind(touched)}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        ValueError, match="asks to run '[a-z_.]+' on opening, which was not done; a"
    ):
        read_state_dict(file)
    assert not touched.exists()
    torch.load(file, weights_only=False)
    assert touched.exists()  # it would have, had it been let


def test_whole_models_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    torch.save(nn.Conv2d(1, 1, 1), file)
    with pytest.raises(ValueError, match="asks to run 'torch.nn.modules.conv.Conv2d' on opening"):
        read_state_dict(file)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", "legacy.pt"])
@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.99])
def test_files_that_are_not_whole(suffix: str, part: float, tmp_path: Path) -> None:
    file = tmp_path / f"weights{suffix}"
    weights = {f"{i}.weight": torch.randn(50) for i in range(20)}
    if suffix == ".safetensors":
        save_file(weights, file)
    else:
        torch.save(weights, file, _use_new_zipfile_serialization="legacy" not in suffix)
    file.write_bytes(file.read_bytes()[: int(part * file.stat().st_size)])
    with pytest.raises(ValueError, match=r"is (no whole .*|empty); fetch it again\.$") as caught:
        read_state_dict(file)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    page = tmp_path / "page.pt"
    page.write_text("<!DOCTYPE html><html>Not found</html>")
    with pytest.raises(ValueError, match=r"page.pt is no whole PyTorch checkpoint .*; fetch it ag"):
        read_state_dict(page)
    for content, message in (
        (torch.zeros(3), "holds a Tensor, not the state dict of a network"),
        ({}, "holds an empty dict, not the state dict"),
        ({"epoch": 3}, "holds a int under 'epoch', where a state dict has tensors alone"),
        ({3: torch.zeros(1)}, "holds a Tensor under 3, where"),
    ):
        torch.save(content, tmp_path / "other.pt")
        with pytest.raises(ValueError, match=message):
            read_state_dict(tmp_path / "other.pt")
    with pytest.raises(FileNotFoundError, match="there is no weights file"):
        read_state_dict(tmp_path / "none.pt")
    with pytest.raises(FileNotFoundError, match="there is no weights file"):
        read_state_dict(tmp_path)
    named = tmp_path / "weights.h5"
    named.write_bytes(b"x")
    with pytest.raises(
        ValueError, match="files that end in .safetensors, .bin, .pt or .pth are re"
    ):
        read_state_dict(named)
