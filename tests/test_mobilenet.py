"""MobileNetV3 and LR-ASPP beside torchvision's and timm's."""

import re
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import nn
from torchvision.models.segmentation.lraspp import _lraspp_mobilenetv3

import citysegzoo
from citysegzoo.cli import main
from citysegzoo.decoders import create_decoder
from citysegzoo.encoders import MobileNetV3Encoder, ResNetEncoder, create_encoder
from citysegzoo.weights import load_weights
from citysegzoo.weights.readers import detect_layout, from_torchvision_lraspp

SIZES = ("large", "small")
SETTINGS = ("eps", "momentum", "kernel_size", "stride", "padding", "dilation", "groups")
TIMM = {"large": "mobilenetv3_large_100", "small": "mobilenetv3_small_100"}


def randomised(model: nn.Module) -> nn.Module:
    """With norms that matter, some of a variance near the epsilon that is added to it."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0, 1.5).mul_(torch.rand_like(module.running_var))
            nn.init.uniform_(module.weight, 0.2, 0.8)
            nn.init.normal_(module.bias, 0, 0.2)
    return model.eval()


def torchvisions(size: str, **options: bool) -> nn.Module:
    return getattr(torchvision.models, f"mobilenet_v3_{size}")(weights=None, **options)


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("reduced_tail", [False, True])
@pytest.mark.parametrize("dilated", [False, True])
def test_layers_are_torchvisions(size: str, reduced_tail: bool, dilated: bool) -> None:
    torch.manual_seed(0)
    theirs = randomised(torchvisions(size, reduced_tail=reduced_tail, dilated=dilated)).features
    stride = 16 if dilated else 32
    ours = create_encoder(
        f"mobilenet_v3_{size}", output_stride=stride, reduced_tail=reduced_tail
    ).eval()
    ours.layers.load_state_dict(theirs.state_dict())
    for name, layer in ours.layers.named_modules():
        other = theirs.get_submodule(name)
        for setting in SETTINGS:
            assert getattr(layer, setting, None) == getattr(other, setting, None), name
    for shape in ((64, 96), (97, 130)):
        x = torch.randn(1, 3, *shape)
        features = dict(zip(ours.taken, ours(x), strict=True))
        for i, layer in enumerate(theirs):
            x = layer(x)
            if i in features:
                assert x.std() > 1e-3
                assert torch.equal(features[i], x)


def test_weights_are_drawn_as_torchvision_draws_them() -> None:
    torch.manual_seed(0)
    ours = create_encoder("mobilenet_v3_large").layers.state_dict()
    theirs = torchvisions("large").features.state_dict()
    for name, expected in theirs.items():
        if expected.ndim == 4 and expected.numel() > 2000:
            assert ours[name].std() == pytest.approx(float(expected.std()), rel=0.1), name
        elif expected.ndim == 1 and expected.is_floating_point():
            assert torch.equal(ours[name], expected), name


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES)
def test_published_weights_give_timms_features(size: str) -> None:
    """Though its batch norms add another epsilon to the variance."""
    torch.manual_seed(0)
    theirs = randomised(timm.create_model(TIMM[size]))
    ours = create_encoder(f"mobilenet_v3_{size}").eval()
    assert ours.pretrained_tag is not None
    assert ours.pretrained_tag.startswith(TIMM[size])
    ours.load_published_weights(theirs.state_dict())
    pyramid = timm.create_model(TIMM[size], features_only=True).eval()
    kept = pyramid.state_dict().keys()
    pyramid.load_state_dict({k: v for k, v in theirs.state_dict().items() if k in kept})
    image = torch.randn(1, 3, 97, 130)
    for feature, expected in zip(ours(image), pyramid(image), strict=True):
        assert expected.std() > 1e-3
        assert (feature - expected).abs().max() < 1e-5 * expected.abs().max()
    as_they_are = dict(zip(ours.state_dict(), pyramid.state_dict().values(), strict=True))
    ours.load_state_dict(as_they_are)
    assert (ours(image)[-1] - expected).abs().max() > 1e-2 * expected.abs().max()


def test_published_weights_of_another_size_are_refused() -> None:
    encoder = create_encoder("mobilenet_v3_small")
    with pytest.raises(ValueError, match="zip"):
        encoder.load_published_weights(timm.create_model(TIMM["large"]).state_dict())
    assert create_encoder("mobilenet_v3_small", reduced_tail=True).pretrained_tag is None


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES)
def test_lraspp_is_torchvisions(size: str) -> None:
    """On the small network too, which it has no name for."""
    torch.manual_seed(0)
    theirs = randomised(_lraspp_mobilenetv3(torchvisions(size, dilated=True), 7))
    ours = citysegzoo.create_model(f"lraspp_mobilenet_v3_{size}", num_classes=7).eval()
    ours.load_state_dict(from_torchvision_lraspp(theirs.state_dict()))
    for shape in ((64, 96), (97, 130)):
        image = torch.randn(1, 3, *shape)
        expected = theirs(image)["out"]
        assert expected.std() > 1e-2
        torch.testing.assert_close(ours(image), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stride", [8, 16, 32])
@pytest.mark.parametrize("early_features", [False, True])
def test_features_have_the_strides_they_say(size: str, stride: int, early_features: bool) -> None:
    with torch.device("meta"):
        encoder = MobileNetV3Encoder(
            size, 4, output_stride=stride, early_features=early_features
        ).eval()
        features = encoder(torch.empty(1, 4, 64, 96))
    assert encoder.strides == tuple(min(s, stride) for s in (2, 4, 8, 16, 32))
    expected = [
        (width, 64 // s, 96 // s)
        for width, s in zip(encoder.channels, encoder.strides, strict=True)
    ]
    assert [tuple(feature.shape[1:]) for feature in features] == expected


def test_dilation_keeps_the_reach_of_the_blocks() -> None:
    """At stride 8 two stages dilate, the second twice as far: what no peer has to compare with."""
    with torch.device("meta"):
        encoder = MobileNetV3Encoder("large", output_stride=8)
    depthwise = [
        part for part in encoder.modules() if isinstance(part, nn.Conv2d) and part.groups > 1
    ]
    assert [conv.dilation[0] for conv in depthwise] == 6 * [1] + 6 * [2] + 3 * [4]
    assert [conv.stride[0] for conv in depthwise] == [1, 2, 1, 2] + 11 * [1]


def test_rates_reach_as_far_in_pixels_at_any_stride() -> None:
    for stride in (8, 16, 32):
        with torch.device("meta"):
            model = citysegzoo.create_model("deeplabv3_mobilenet_v3_large", output_stride=stride)
        branches = model.decoder.pyramids[0].branches[1:4]
        assert [branch.conv.dilation[0] * stride for branch in branches] == [192, 384, 576]


def test_the_finer_map_is_never_the_deepest() -> None:
    for decoder in ("lraspp", "deeplabv3plus"):
        for strides, asked, taken in (((2, 4), 8, 0), ((2, 4, 8, 16), 64, 2), ((4, 8, 8), 8, 1)):
            with torch.device("meta"):
                options = {"low_level_stride": asked}
                made = create_decoder(decoder, [8] * len(strides), strides, **options)
            assert made.low_level == taken
        with pytest.raises(ValueError, match="but the encoder gives one feature alone"):
            create_decoder(decoder, (8,), (8,))


def lraspp() -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return dict(_lraspp_mobilenetv3(torchvisions("large", dilated=True), 19).state_dict())


def read(state: dict[str, torch.Tensor]) -> None:
    """Onto the network that the layout suggests."""
    layout = detect_layout(state)
    name, options, classes = layout.model(state)
    converted = layout.convert(state)
    with torch.device("meta"):
        model = citysegzoo.create_model(name, num_classes=classes, **options)
    load_weights(model, converted, source="theirs")


LAST = "backbone.16.0.weight"
HIGH, LOW = "classifier.high_classifier", "classifier.low_classifier"


@pytest.mark.parametrize(
    ("key", "shape", "message"),
    [
        (LAST, None, f"these weights lack {LAST}, or have them in another shape"),
        (LAST, (640, 160, 1, 1), "a large MobileNetV3 that ends in 640 channels"),
        (f"{LOW}.bias", None, f"lack {LOW}.bias"),
        (f"{LOW}.bias", (1,), rf"{LOW}.bias is of shape \(1,\), where both classifiers"),
        (f"{HIGH}.bias", (1,), rf"{HIGH}.bias is of shape \(1,\), where both classifiers"),
        (f"{LOW}.weight", (7, 40, 1, 1), rf"{LOW}.weight is of shape .* classes \(19\)"),
        (f"{LOW}.weight", (19, 40, 3, 3), rf"{LOW}.weight is of shape .*, where both"),
        ("backbone.17.0.weight", (1,), "do not fit this model"),
        ("classifier.more.weight", (1,), "'classifier.more.weight' is no weight of torchvision's"),
        ("classifier.cbr.1.bias", None, "do not fit this model"),
    ],
)
def test_the_reader_is_strict(key: str, shape: tuple[int, ...] | None, message: str) -> None:
    """A weight too many, too few (None) or of another shape."""
    state = lraspp()
    state.pop(key, None)
    if shape is not None:
        state[key] = torch.empty(shape, device="meta")
    with pytest.raises(ValueError, match=message) as caught:
        read(state)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("size", "reduced_tail", "message"),
    [
        (
            "small",
            False,
            "a small .* ends in 576 channels.* lraspp_mobilenet_v3_small, name it and",
        ),
        ("small", True, "a small .* ends in 288 channels.* name it with reduced_tail=True and"),
        ("large", True, "a large .* ends in 480 channels.* name it with reduced_tail=True and"),
    ],
)
def test_networks_whose_stride_is_unknown_are_named_by_the_user(
    size: str, reduced_tail: bool, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    theirs = _lraspp_mobilenetv3(torchvisions(size, reduced_tail=reduced_tail, dilated=True), 5)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    words = ["convert", str(tmp_path / "theirs.pth"), "--output", str(tmp_path / "ours")]
    assert main(words) == 2
    assert re.search(message, capsys.readouterr().err)
    words += ["--model", f"lraspp_mobilenet_v3_{size}", "--option", f"reduced_tail={reduced_tail}"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "layout: torchvision_lraspp, torchvision's LR-ASPP on a MobileNetV3" in said
    assert "left out" not in said  # two classifiers become one
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        expected = theirs.eval()(image)["out"]
        torch.testing.assert_close(citysegzoo.load(tmp_path / "ours")(image), expected)


def test_values_out_of_range() -> None:
    with pytest.raises(ValueError, match="of a MobileNetV3 is 'large' or 'small', not 'medium'"):
        MobileNetV3Encoder("medium")
    with pytest.raises(TypeError, match="reduced_tail is True or False, not 'no'"):
        MobileNetV3Encoder("small", reduced_tail="no")
    with pytest.raises(ValueError, match="the depth of a ResNet is 18, 34, 50, 101 or 152, not 20"):
        ResNetEncoder(20)
    with pytest.raises(ValueError, match="output_stride of a MobileNetV3 is 8, 16 or 32, not 4"):
        citysegzoo.create_model("lraspp_mobilenet_v3_small", output_stride=4)
    with pytest.raises(ValueError, match="the decoder's width must be at least 1, not 0"):
        citysegzoo.create_model("lraspp_mobilenet_v3_small", decoder_width=0)
    with pytest.raises(ValueError, match="low_level_stride must be at least 1, not 0"):
        citysegzoo.compose("resnet18", "lraspp", decoder_options={"low_level_stride": 0})
