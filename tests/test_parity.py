"""Parity with code nobody here wrote: torchvision and timm."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import timm
import torch
import torchvision

import citysegzoo
from citysegzoo.data import IMAGENET
from citysegzoo.encoders import Encoder, create_encoder
from citysegzoo.encoders.pretrained import EncoderWeights
from citysegzoo.weights import from_torchvision_deeplabv3, load_weights

RESNETS = [(depth, stride) for depth in (18, 34, 50, 101) for stride in (8, 16, 32)]
FAST = [(18, 8), (18, 32), (50, 16)]  # both kinds of blocks


def randomise_norms(model: torch.nn.Module) -> None:
    """Give batch norms statistics and weights that matter."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.2)
    for module in model.modules():
        if isinstance(module, torchvision.models.resnet.Bottleneck):
            module.bn3.weight.mul_(0.1)  # or a hundred residuals grow the map beyond measure


def assert_same(mine: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal up to the rounding of float32, on the scale of the map."""
    assert mine.shape == expected.shape
    assert (mine - expected).abs().max() <= 1e-6 * expected.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 128), (65, 97)])
@pytest.mark.parametrize("depth", [50, pytest.param(101, marks=pytest.mark.slow)])
def test_deeplabv3_is_torchvisions(depth: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    theirs = getattr(torchvision.models.segmentation, f"deeplabv3_resnet{depth}")(
        weights=None, weights_backbone=None, num_classes=19, aux_loss=True
    )
    randomise_norms(theirs)
    theirs.eval()
    ours = citysegzoo.create_model(f"deeplabv3_resnet{depth}").eval()
    load_weights(ours, from_torchvision_deeplabv3(theirs.state_dict()), source="torchvision")
    images = torch.randn(2, 3, *size)
    expected = theirs(images)["out"]
    assert 0.01 < expected.std() < 1
    assert (ours(images) - expected).abs().max() < 1e-5


def test_reader_refuses_other_keys() -> None:
    with pytest.raises(ValueError, match="'classifier.9.weight' is no weight of torchvision's"):
        from_torchvision_deeplabv3({"classifier.9.weight": torch.zeros(1)})


def test_weights_load_strictly() -> None:
    model = citysegzoo.create_model("unet.small", widths=(4, 8))
    state = model.state_dict()
    missing, *_ = state
    broken = {k: v for k, v in state.items() if k != missing} | {"more": torch.zeros(1)}
    broken["classifier.conv.bias"] = torch.zeros(3)
    with pytest.raises(ValueError, match=rf"1 missing \({missing}\); 1 unknown \(more\); 1 of"):
        load_weights(model, broken, source="here")


@torch.no_grad()
@pytest.mark.parametrize(
    ("depth", "stride"),
    [pytest.param(*its, marks=[pytest.mark.slow] * (its not in FAST)) for its in RESNETS],
)
def test_resnet_features_are_timms(depth: int, stride: int) -> None:
    theirs = timm.create_model(f"resnet{depth}", features_only=True, output_stride=stride).eval()
    ours = create_encoder(f"resnet{depth}", output_stride=stride).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(1, 3, 65, 97)
    assert ours.channels == tuple(theirs.feature_info.channels())
    for mine, expected in zip(ours(images), theirs(images), strict=True):
        assert_same(mine, expected)


@torch.no_grad()
@pytest.mark.parametrize("stride", [8, 16, 32])
def test_resnet_features_are_torchvisions(stride: int) -> None:
    theirs = torchvision.models.resnet50(
        weights=None, replace_stride_with_dilation=[False, stride < 32, stride < 16]
    ).eval()
    ours = create_encoder("resnet50", output_stride=stride).eval()
    ours.load_published_weights(theirs.state_dict())
    trunk = torch.nn.Sequential(*list(theirs.children())[:-2])
    images = torch.randn(1, 3, 64, 96)
    assert_same(ours(images)[-1], trunk(images))


@torch.no_grad()
@pytest.mark.parametrize(
    "name",
    [
        "vgg13_bn",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("vgg11", "vgg16", "vgg19_bn")),
    ],
)
def test_vgg_features_are_timms_and_torchvisions(name: str) -> None:
    theirs = getattr(torchvision.models, name)(weights=None).eval()
    ours = create_encoder(name).eval()
    ours.load_published_weights(theirs.state_dict())
    pyramid = timm.create_model(name, features_only=True).eval()
    renamed = {k.replace("features.", "features_"): v for k, v in ours.state_dict().items()}
    pyramid.load_state_dict(renamed)
    images = torch.randn(1, 3, 65, 96)
    features = ours(images)
    assert_same(features[-1], theirs.features(images))
    for mine, expected in zip(features, pyramid(images), strict=True):
        assert_same(mine, expected)
    pooled = ours.forward_pooled(images)
    assert all(torch.equal(a, b) for a, b in zip(pooled.features, features, strict=True))


@torch.no_grad()
def test_vgg_without_batch_norm_starts_one_with() -> None:
    """mei2019's SegNet: convolutions of plain VGG-16 in a network with batch norm."""
    plain = torchvision.models.vgg16(weights=None)
    ours = create_encoder("vgg16_bn")
    ours.load_published_weights(plain.state_dict())
    convs = [m for m in plain.features if isinstance(m, torch.nn.Conv2d)]
    mine = [m for m in ours.features if isinstance(m, torch.nn.Conv2d)]
    for a, b in zip(mine, convs, strict=True):
        assert torch.equal(a.weight, b.weight)
        assert torch.equal(a.bias, b.bias)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "timm_name", "size"),
    [
        pytest.param(
            *("swin_tiny", "swin_tiny_patch4_window7_224", (448, 896)), marks=pytest.mark.slow
        ),
        pytest.param(
            *("swinv2_tiny", "swinv2_tiny_window8_256", (512, 768)), marks=pytest.mark.slow
        ),
    ],
)
def test_swin_features_are_timms_at_its_size(name: str, timm_name: str, size: tuple) -> None:
    """At a size whose last stage holds whole windows, ours equals a Swin built for that size."""
    theirs = timm.create_model(
        timm_name, features_only=True, feature_cls="getter", img_size=size
    ).eval()
    ours = create_encoder(name).eval()
    ours.load_published_weights(theirs.state_dict())
    images = torch.randn(1, 3, *size)
    features = ours(images)
    assert [f.shape[1] for f in features] == list(ours.channels)
    for mine, expected in zip(features, theirs(images), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", ["swin_tiny", "swinv2_tiny"])
def test_swin_takes_any_size_and_pads_only_what_is_missing(name: str) -> None:
    encoder = create_encoder(name).eval()
    for height, width in ((32, 32), (37, 90), (64, 33)):
        sizes = [tuple(f.shape[-2:]) for f in encoder(torch.randn(1, 3, height, width))]
        assert sizes == [(-(-height // s), -(-width // s)) for s in encoder.strides]


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn", "swin_tiny", "timm/convnext_tiny"])
def test_published_layouts_load_by_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What timm would download under the encoder's tag fits it, key by key."""
    from citysegzoo.encoders import pretrained

    create, asked = timm.create_model, []

    def published(tag: str, **options):
        asked.append((tag, options.pop("pretrained")))
        return create(tag, **options)

    encoder = create_encoder(name)
    monkeypatch.setattr(timm, "create_model", published)
    monkeypatch.setattr(pretrained, "_check_reachable", lambda *_: None)  # nothing is fetched
    pretrained.load_encoder_weights(encoder)
    assert asked == [(encoder.pretrained_tag, True)]
    assert timm.is_model(encoder.pretrained_tag.partition(".")[0])


def recording(asked: list[str | None]) -> Callable[..., EncoderWeights]:
    """What notes which weights are asked for, and fetches none."""

    def load(_: Encoder, tag: str | None) -> EncoderWeights:
        asked.append(tag)
        return EncoderWeights(tag or "", "timm", "", IMAGENET)

    return load


@pytest.mark.parametrize(
    ("tag", "terms"),
    [("resnet18.tv_in1k", None), ("convnextv2_atto.fcmae_ft_in1k", "cc-by-nc-4.0")],
)
def test_encoder_weights_are_on_the_card(
    tag: str, terms: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from citysegzoo.encoders import pretrained

    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda tag, pretrained=False, **o: create(tag, **o))
    monkeypatch.setattr(pretrained, "_check_reachable", lambda *_: None)  # nothing is fetched
    name = tag.partition(".")[0]
    said = (
        pytest.warns(UserWarning, match="terms of their own .cc-by-nc-4.0.")
        if terms
        else nullcontext()
    )
    with said:
        model = citysegzoo.compose(
            "resnet18" if terms is None else f"timm/{name}", "fcn_head", encoder_weights=tag
        )
    assert tag in model.card["source"]
    assert model.card.get("licence", "none").startswith(terms or "none")
    assert citysegzoo.load(model.save_pretrained(tmp_path / "saved")).card == model.card


def test_reported_models_name_the_weights_they_used(monkeypatch: pytest.MonkeyPatch) -> None:
    from citysegzoo import factory

    asked = []
    monkeypatch.setattr(factory, "load_encoder_weights", recording(asked))
    with torch.device("meta"):
        citysegzoo.create_model("deeplabv3_resnet101.mei2019_dl1", encoder_weights=True)
        citysegzoo.create_model("segnet_vgg16.mei2019", encoder_weights=True)
        citysegzoo.create_model("unet_resnet50", encoder_weights="resnet50.a1_in1k")
        citysegzoo.create_model("unet_resnet50", encoder_weights=True)
        citysegzoo.create_model("unet_resnet50")
    assert asked == ["resnet101.tv_in1k", "vgg16.tv_in1k", "resnet50.a1_in1k", None]


def test_encoders_without_published_weights_say_so() -> None:
    with pytest.raises(
        ValueError,
        match="ImageNet weights for PooledConvEncoder as built here; leave encoder_weights out",
    ):
        citysegzoo.create_model("unet.small", encoder_weights=True)


def test_weights_of_another_network_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from citysegzoo.encoders import pretrained

    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda tag, pretrained, **o: create(tag, **o))
    monkeypatch.setattr(pretrained, "_check_reachable", lambda *_: None)  # nothing is fetched
    for name, tag in (
        ("resnet18", "resnet50.tv_in1k"),
        ("vgg16_bn", "vgg13_bn.tv_in1k"),
        ("vgg16", "vgg16_bn.tv_in1k"),
    ):
        with pytest.raises(ValueError, match=f"the weights '{tag}' are of another network"):
            pretrained.load_encoder_weights(create_encoder(name), tag)
