"""FPN, PSPNet and UPerNet beside the networks of segmentation-models-pytorch and transformers."""

import pytest
import segmentation_models_pytorch as smp
import torch
from segmentation_models_pytorch.decoders.pspnet.decoder import PSPDecoder as SmpPSPDecoder
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder as SmpUPerNetDecoder
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FeaturePyramidNetwork

import citysegzoo
from citysegzoo.decoders import FPNDecoder, PSPDecoder, UPerNetDecoder, create_decoder
from citysegzoo.layers import pool_to

CHANNELS, STRIDES = (24, 32, 48, 64), (4, 8, 16, 32)
SIZES = [(256, 384), (130, 195)]  # stride times each feature's size, and odd ones


def features(size: tuple[int, int]) -> list[Tensor]:
    return [
        torch.randn(2, width, -(-size[0] // stride), -(-size[1] // stride))
        for width, stride in zip(CHANNELS, STRIDES, strict=True)
    ]


def in_order(ours: nn.Module, theirs: list[nn.Module]) -> None:
    """Give our layers with weights those of theirs, which are named in the order of ours."""
    kinds = (nn.Conv2d, nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)
    layers = [part for part in ours.modules() if isinstance(part, kinds)]
    given = [part for module in theirs for part in module.modules() if isinstance(part, kinds)]
    for mine, other in zip(layers, given, strict=True):
        if isinstance(other, (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)):
            nn.init.uniform_(other.weight, 0.5, 1.5)
            nn.init.normal_(other.bias, 0, 0.2)
        if isinstance(other, nn.BatchNorm2d):
            other.running_mean.normal_(0, 0.2)
            other.running_var.uniform_(0.5, 1.5)
        mine.load_state_dict(other.state_dict())


def assert_same(ours: Tensor, expected: Tensor) -> None:
    assert ours.shape == expected.shape
    assert expected.std() > 0.01
    assert (ours - expected).abs().max() <= 2e-6 * expected.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("encoder", ["resnet34", "mit_b0"])
def test_fpn_is_smps(encoder: str) -> None:
    torch.manual_seed(0)
    theirs = smp.FPN(encoder, encoder_weights=None, classes=7).eval()
    decoder = theirs.decoder
    ours = FPNDecoder(
        theirs.encoder.out_channels[-4:], STRIDES, smooth=False, align_corners=True
    ).eval()
    laterals = [decoder.p2.skip_conv, decoder.p3.skip_conv, decoder.p4.skip_conv, decoder.p5]
    in_order(ours, [*laterals, *list(decoder.seg_blocks)[::-1]])
    pyramid = theirs.encoder(torch.randn(1, 3, 128, 192))
    assert_same(ours(pyramid[-4:]), decoder(pyramid))


@torch.no_grad()
def test_the_whole_fpn_is_smps() -> None:
    torch.manual_seed(0)
    theirs = smp.FPN("resnet34", encoder_weights=None, classes=7).eval()
    ours = citysegzoo.create_model(
        "fpn_resnet34", num_classes=7, smooth=False, align_corners=True
    ).eval()
    decoder = theirs.decoder
    laterals = [decoder.p2.skip_conv, decoder.p3.skip_conv, decoder.p4.skip_conv, decoder.p5]
    in_order(ours.decoder, [*laterals, *list(decoder.seg_blocks)[::-1]])
    in_order(ours.classifier, [theirs.segmentation_head])
    ours.encoder.load_state_dict(theirs.encoder.state_dict())
    images = torch.randn(1, 3, 64, 96)
    assert_same(ours(images), theirs(images))


@torch.no_grad()
def test_the_pyramid_is_torchvisions() -> None:
    """That of Lin et al.: 3x3 convolutions after the sums."""
    torch.manual_seed(0)
    theirs = FeaturePyramidNetwork(list(CHANNELS), 40).eval()
    ours = FPNDecoder(CHANNELS, STRIDES, pyramid_width=40).eval()
    in_order(nn.ModuleList([ours.laterals, ours.smooth]), [theirs])
    levels: list[Tensor] = []
    for smooth in ours.smooth:
        smooth.register_forward_hook(lambda _layer, _given, level: levels.append(level))
    x = features(SIZES[0])
    ours(x)
    for level, expected in zip(levels, theirs(dict(enumerate(x))).values(), strict=True):
        assert_same(level, expected)


@pytest.mark.parametrize(("depth", "millions"), [(18, 15.5), (50, 28.5), (101, 47.5)])
def test_fpn_has_the_published_number_of_parameters(depth: int, millions: float) -> None:
    """Of Semantic FPN with 150 classes, as Wang et al. print it (PVT, ICCV 2021)."""
    with torch.device("meta"):
        model = citysegzoo.create_model(f"fpn_resnet{depth}", num_classes=150)
    total = sum(parameter.numel() for parameter in model.parameters())
    assert total / 1e6 == pytest.approx(millions, abs=0.1)


@torch.no_grad()
def test_pyramid_pooling_is_smps() -> None:
    torch.manual_seed(0)
    theirs = SmpPSPDecoder([3, *CHANNELS], out_channels=40).eval()
    ours = PSPDecoder(CHANNELS, STRIDES, width=40, kernel_size=1, align_corners=True).eval()
    branches = [block.pool[1] for block in theirs.psp.blocks]
    width, deepest = CHANNELS[-1] // 4, CHANNELS[-1]
    # Theirs has no batch norm where there is one area, but a bias, and the map comes last.
    first = nn.Sequential(nn.Conv2d(deepest, width, 1, bias=False), nn.BatchNorm2d(width))
    in_order(ours, [first, *branches[1:], theirs.conv])
    conv, norm = ours.pool.branches[0].conv, ours.pool.branches[0].norm
    conv.weight.copy_(branches[0][0].weight)
    norm.load_state_dict({**nn.BatchNorm2d(width).state_dict(), "bias": branches[0][0].bias})
    norm.eps = 0.0
    ours.pool.fuse.conv.weight.copy_(theirs.conv[0].weight.roll(deepest, dims=1))
    for size in SIZES:
        x = features(size)
        assert_same(ours(x), theirs(x))


@torch.no_grad()
def test_upernet_is_smps() -> None:
    torch.manual_seed(0)
    theirs = SmpUPerNetDecoder([3, 8, *CHANNELS], decoder_channels=40).eval()
    ours = UPerNetDecoder(CHANNELS, STRIDES, width=40, norm_features=True).eval()
    in_order(
        ours,
        [
            *theirs.feature_norms,
            theirs.psp,
            *(block.conv_norm_relu for block in list(theirs.fpn_lateral_blocks)[::-1]),
            *list(theirs.fpn_conv_blocks)[::-1],
            theirs.fusion_block,
        ],
    )
    for norm in ours.norms:
        norm.eps = 1e-6
    for size in SIZES:
        x = features(size)
        assert_same(ours(x), theirs([torch.empty(0), torch.empty(0), *x]))


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES)
def test_upernet_is_transformers(size: tuple[int, int]) -> None:
    pytest.importorskip("transformers")
    from transformers import UperNetConfig
    from transformers.models.upernet.modeling_upernet import UperNetHead

    torch.manual_seed(0)
    theirs = UperNetHead(UperNetConfig(hidden_size=40, num_labels=7), CHANNELS).eval()
    ours = UPerNetDecoder(CHANNELS, STRIDES, width=40).eval()
    parts = ("psp_modules", "bottleneck", "lateral_convs", "fpn_convs", "fpn_bottleneck")
    in_order(ours, [getattr(theirs, part) for part in parts])
    x = features(size)
    assert_same(theirs.classifier(ours(x)), theirs(x))


def test_upernet_on_swin_has_the_published_number_of_parameters() -> None:
    transformers = pytest.importorskip("transformers")
    backbone = transformers.SwinConfig(out_features=["stage1", "stage2", "stage3", "stage4"])
    config = transformers.UperNetConfig(
        backbone_config=backbone, num_labels=19, use_auxiliary_head=False
    )
    with torch.device("meta"):
        theirs = transformers.UperNetForSemanticSegmentation(config)
    del theirs.backbone.swin.layernorm  # which only the classifier of whole images uses
    expected = sum(parameter.numel() for parameter in theirs.parameters())
    assert citysegzoo.model_info("upernet_swin_tiny").num_parameters == expected


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (7, 6), (64, 129)])
@pytest.mark.parametrize("side", [1, 2, 3, 6])
def test_pooling_for_onnx_is_adaptive_pooling(
    size: tuple[int, int], side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(2, 3, *size)
    expected = F.adaptive_avg_pool2d(x, side)
    assert torch.equal(pool_to(x, side), expected)
    monkeypatch.setattr("torch.onnx.is_in_onnx_export", lambda: True)
    torch.testing.assert_close(pool_to(x, side), expected)


@pytest.mark.parametrize("name", ["fpn", "upernet"])
def test_levels_below_the_finest_stride_are_not_used(name: str) -> None:
    with torch.device("meta"):
        on_resnet = create_decoder(name, (64, 256, 512, 1024, 2048), (2, 4, 8, 16, 32))
        assert (on_resnet.first, on_resnet.stride) == (1, 4)
        finer = create_decoder(name, (16, 32, 64), (1, 2, 4), finest_stride=2)
        assert (finer.first, finer.stride) == (1, 2)
        all_finer = create_decoder(name, (16, 32), (1, 2))
        assert (all_finer.first, all_finer.stride) == (1, 2)


def test_fpn_of_features_of_one_stride_does_not_climb_between_them() -> None:
    with torch.device("meta"):
        decoder = create_decoder("fpn", (64, 256, 512, 1024), (4, 8, 8, 8))
    assert [len(climb.convs) for climb in decoder.climbs] == [1, 1, 1, 1]
    assert [climb.targets for climb in decoder.climbs] == [[], [0], [0], [0]]


@pytest.mark.parametrize(
    ("width", "groups"), [(128, 32), (96, 32), (64, 32), (48, 24), (32, 16), (7, 1), (2, 1)]
)
def test_groups_of_fpn_have_two_channels_or_more(width: int, groups: int) -> None:
    decoder = FPNDecoder(CHANNELS, STRIDES, width=width)
    norms = [part for part in decoder.modules() if isinstance(part, nn.GroupNorm)]
    assert {norm.num_groups for norm in norms} == {groups}
    assert decoder([torch.randn(1, channels, 1, 1) for channels in CHANNELS]).isfinite().all()


@pytest.mark.parametrize(
    ("decoder", "options", "message"),
    [
        ("fpn", {"width": 1}, "the decoder's width must be at least 2, not 1"),
        ("fpn", {"finest_stride": 0}, "finest_stride must be at least 1, not 0"),
        ("psp", {"bins": ()}, "bins"),
        ("psp", {"bins": (1, 0)}, "bins"),
        ("upernet", {"dropout": 2}, "dropout"),
    ],
)
def test_values_out_of_range(decoder: str, options: dict, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message), torch.device("meta"):
        citysegzoo.compose("resnet18", decoder, decoder_options=options)
