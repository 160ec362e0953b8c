"""Any decoder with any encoder that fits it; the pairs that cannot work say so."""

import numpy as np
import pytest
import torch

import citysegzoo
from citysegzoo.data import IMAGENET

TIMM = [
    "timm/convnext_tiny",
    "timm/efficientnet_b0",
    "timm/mobilenetv3_large_100",
    "timm/pvt_v2_b0",
    "timm/regnety_016",
    "timm/swin_tiny_patch4_window7_224",  # NHWC features, one image size unless told otherwise
]
ENCODERS = [*citysegzoo.list_encoders(), *TIMM]
OPTIONS = {"pooled_conv": {"pool_last": True, "widths": (8, 16, 16, 32, 32)}}
DECODERS = citysegzoo.list_decoders()


def fits(encoder: str, decoder: str) -> bool:
    return decoder != "segnet" or encoder.startswith("vgg") or encoder == "pooled_conv"


# Of each family one member makes a model with every decoder, and runs with few for real.
FAMILIES = [
    "mit_b0",
    "mobilenet_v3_small",
    "pooled_conv",
    "resnet18",
    "strided_conv",
    "swin_tiny",
    "vgg11",
    "timm/swin_tiny_patch4_window7_224",
]
SMALL = [(e, d) for e in FAMILIES if "swin" not in e for d in DECODERS]
LARGE = [(e, d) for e in ("swin_tiny", "swinv2_tiny", *TIMM) for d in DECODERS]
FAST = [
    *((e, d) for e in ("pooled_conv", "resnet18") for d in DECODERS),
    *((e, "unet") for e in (*FAMILIES, "swinv2_tiny", "timm/mobilenetv3_large_100")),
]


def slow_unless(fast: bool, *values: str) -> object:
    return pytest.param(*values, marks=() if fast else pytest.mark.slow)


def compose(encoder: str, decoder: str, **options) -> citysegzoo.SegmentationModel:
    return citysegzoo.compose(
        encoder, decoder, num_classes=5, encoder_options=OPTIONS.get(encoder), **options
    )


def test_the_zoo_has_the_families_it_promises() -> None:
    assert DECODERS == [
        "all_mlp",
        "aspp",
        "deeplabv3plus",
        "fcn_head",
        "fpn",
        "lraspp",
        "psp",
        "segnet",
        "transposed",
        "unet",
        "unet_aspp",
        "upernet",
    ]
    sizes = ("tiny", "small", "base", "large")
    assert set(citysegzoo.list_encoders()) == {
        "pooled_conv",
        "strided_conv",
        *(f"mit_b{size}" for size in range(6)),
        *(f"mobilenet_v3_{size}" for size in ("large", "small")),
        *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)),
        *(f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")),
        *(f"{swin}_{size}" for swin in ("swin", "swinv2") for size in sizes),
    }


@pytest.mark.parametrize("name", ENCODERS)
def test_features_and_what_decoders_make_of_them_have_the_right_shapes(name: str) -> None:
    with torch.device("meta"):
        encoder = citysegzoo.create_encoder(name, **OPTIONS.get(name, {})).eval()
        image = torch.empty(1, 3, 64, 96)
        features = encoder(image)
    shapes = [(c, 64 // s, 96 // s) for c, s in zip(encoder.channels, encoder.strides, strict=True)]
    assert [tuple(feature.shape[1:]) for feature in features] == shapes
    for decoder in DECODERS:
        if not fits(name, decoder):
            continue
        with torch.device("meta"):
            head = citysegzoo.create_decoder(decoder, encoder.channels, encoder.strides).eval()
            result = head(encoder.forward_pooled(image) if head.unpools else features)
        assert result.shape == (1, head.channels, 64 // head.stride, 96 // head.stride), decoder


@pytest.mark.parametrize(("encoder", "decoder"), [(e, d) for e in FAMILIES for d in DECODERS])
def test_cross_product_has_the_right_shapes(encoder: str, decoder: str) -> None:
    if not fits(encoder, decoder):
        with (
            pytest.raises(ValueError, match="encoders that work: pooled_conv with pool_last=Tr"),
            torch.device("meta"),
        ):
            compose(encoder, decoder)
        return
    with torch.device("meta"):
        logits = compose(encoder, decoder).eval()(torch.empty(2, 3, 64, 96))
    assert logits.shape == (2, 5, 64, 96)


@pytest.mark.parametrize(
    ("encoder", "decoder"),
    [slow_unless(p in FAST, *p) for p in (*SMALL, *LARGE) if fits(*p)],
)
def test_cross_product_runs_and_learns(encoder: str, decoder: str) -> None:
    """Odd size, batch of one, training and evaluation: finite logits at the input's size."""
    torch.manual_seed(0)
    model = compose(encoder, decoder)
    images = torch.randn(1, 3, 33, 47)
    logits = model.train()(images)
    assert logits.shape == (1, 5, 33, 47)
    logits.square().mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    with torch.no_grad():
        assert model.eval()(images).isfinite().all()


@pytest.mark.parametrize("decoder", DECODERS)
def test_same_image_same_logits(decoder: str) -> None:
    model = compose("pooled_conv", decoder).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(images), model(images))


def test_in_channels_reach_every_encoder() -> None:
    for encoder in (
        "pooled_conv",
        "resnet18",
        "strided_conv",
        "vgg11",
        "timm/mobilenetv3_large_100",
    ):
        model = compose(encoder, "aspp", in_channels=4).eval()
        with torch.no_grad():
            assert model(torch.randn(1, 4, 32, 32)).shape == (1, 5, 32, 32)


def test_options_reach_encoder_and_decoder() -> None:
    model = citysegzoo.compose(
        "resnet18",
        "aspp",
        encoder_options={"output_stride": 8},
        decoder_options={"aspp_rates": (2, 4, 6, 8), "image_pooling": False},
    )
    assert model.encoder.strides == (2, 4, 8, 8, 8)
    assert len(model.decoder.pyramids[0].branches) == 5
    assert model.preprocessing == IMAGENET


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("resnet51", "unet"), ValueError, "no encoder 'resnet51'; did you mean 'resnet50'"),
        (("resnet50", "unett"), ValueError, "no decoder 'unett'; did you mean 'unet'"),
        (("timm/convnext_tinny", "unet"), ValueError, "no model 'convnext_tinny'; did you mean"),
    ],
)
def test_unknown_parts(arguments: tuple[str, str], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        citysegzoo.compose(*arguments)


@pytest.mark.parametrize(
    ("encoder", "weights"),
    [
        ("resnet18", "imagenet"),
        ("resnet50", "resnetblur50.bt_in1k"),
        ("timm/efficientnet_b0", "tf_efficientnet_b0.ns_jft_in1k"),
        ("swinv2_tiny", "swinv2_tiny_window16_256.ms_in1k"),
        ("mit_b0", "mit_b1.imagenet"),
        ("mit_b0", "imagenet"),
    ],
)
def test_weights_of_another_encoder(encoder: str, weights: str) -> None:
    """Also where keys and shapes are the same; and nothing is fetched to find out."""
    with (
        torch.device("meta"),
        pytest.raises(ValueError, match=r"are of another network than .*encoder_weights=True"),
    ):
        citysegzoo.compose(encoder, "unet", encoder_weights=weights)


def test_low_level_features_are_the_first_of_their_stride() -> None:
    with torch.device("meta"):
        model = citysegzoo.compose(
            "resnet50", "deeplabv3plus", encoder_options={"output_stride": 8},
            decoder_options={"low_level_stride": 8},
        )  # fmt: skip
    assert model.encoder.strides == (2, 4, 8, 8, 8)
    assert model.decoder.low_level == 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_images_of_another_type_than_the_weights(dtype: torch.dtype) -> None:
    model, images = citysegzoo.create_model("unet.small").eval(), torch.zeros(1, 3, 32, 32)
    with pytest.raises(TypeError, match=f"weights of the model are torch.float32 and .*{dtype}"):
        model(images.to(dtype))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert model(images.bfloat16()).dtype == torch.bfloat16
    if dtype == torch.float64:
        assert model.to(dtype)(images.to(dtype)).dtype == dtype


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"encoder_options": {"outputstride": 8}}, TypeError, "did you mean 'output_stride'"),
        ({"encoder_options": {"output_stride": 12}}, ValueError, "8, 16 or 32, not 12"),
        ({"decoder_options": {"rates": (1,)}}, TypeError, "did you mean 'aspp_rates'"),
        ({"decoder_options": {"aspp_rates": ()}}, ValueError, "aspp_rates is empty"),
        ({"decoder_options": {"aspp_rates": (6, 0)}}, ValueError, "aspp_rates must be at least 1"),
        ({"decoder_options": {"aspp_rates": "6,12"}}, TypeError, "sequence of whole numbers"),
        ({"decoder_options": {"aspp_rates": (6, "12")}}, TypeError, "whole number of at least 1"),
        ({"decoder_options": {"aspp_rates": (6.0,)}}, TypeError, "whole number of at least 1"),
        ({"decoder_options": {"levels": 9}}, ValueError, "the encoder gives 5 features"),
        ({"num_classes": 0}, ValueError, "num_classes must be at least 1"),
    ],
)
def test_unusable_options(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        citysegzoo.compose("resnet18", "aspp", **options)


@pytest.mark.parametrize("name", ["mvitv2_tiny", "twins_svt_small", "vit_tiny_patch16_224"])
def test_timm_backbones_of_one_size_and_without(name: str) -> None:
    """Some take any size, some when told to, some by themselves although timm lists one size."""
    with torch.device("meta"):
        model = citysegzoo.compose(f"timm/{name}", "unet", num_classes=5).eval()
        assert model(torch.empty(1, 3, 224, 224)).shape == (1, 5, 224, 224)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet18.nope", {}, "timm has no weights 'resnet18.nope': Invalid pretrained tag"),
        ("resnet18", {"output_stride": 7}, "8, 16 or 32, not 7"),
        ("swin_tiny_patch4_window7_224", {"output_stride": 16}, "cannot build 'swin_tiny_patch4"),
        ("resnet18", {"timm_options": {"nope": 1}}, "unexpected keyword argument 'nope'"),
    ],
)
def test_timm_backbones_that_cannot_be(name: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        citysegzoo.create_encoder(f"timm/{name}", **options)


@pytest.mark.parametrize("option", ["in_chans", "features_only", "pretrained"])
def test_timm_options_that_are_not_for_timm_alone(option: str) -> None:
    with pytest.raises(ValueError, match=f"timm_options cannot set '{option}'"):
        citysegzoo.create_encoder("timm/resnet18", timm_options={option: 1})


@pytest.mark.parametrize(
    ("decoder", "options", "message"),
    [
        ("transposed", {"widths": (8,) * 6}, "6 widths, .* but an encoder of stride 32 allows at"),
        ("transposed", {"kernel_size": 4}, "2 or 3, not 4"),
        ("unet", {"align_corners": True}, "are of up='bilinear', and up is 'transposed'"),
        ("unet", {"up": "nearest", "up_kernel_size": 1}, "and up is 'nearest'; leave them out"),
        ("aspp", {"project": False, "dropout": 0.5}, "dropout follows the projection"),
        ("unet", {"widths": (8, 8)}, "2 widths, but this encoder gives 4 skips"),
        ("unet", {"up": "cubic"}, "'transposed', 'bilinear' or 'nearest', not 'cubic'"),
        ("unet", {"up_width": "wide"}, "'narrow' or 'keep', not 'wide'"),
    ],
)
def test_decoders_that_do_not_fit(decoder: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        citysegzoo.compose("resnet18", decoder, decoder_options=options)


def test_too_few_features() -> None:
    for decoder in ("unet", "unet_aspp"):
        with pytest.raises(ValueError, match="needs an encoder with at least"):
            citysegzoo.compose("strided_conv", decoder, encoder_options={"widths": (8,)})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("deeplabv3_resnet18", {"aspp_bn_momentum": 2}, "aspp_bn_momentum must be from 0 to 1"),
        ("unet_resnet18", {"classifier_kernel_size": 2}, "classifier_kernel_size is odd"),
        ("unet_resnet18", {"classifier_kernel_size": 0}, "must be at least 1"),
        ("unet_aspp", {"up": "nearest"}, "up of unet_aspp is 'transposed' or 'bilinear'"),
        ("fcn", {"transposed_classifier": True}, "give decoder_widths one number fewer"),
        (
            "unet_swin_tiny",
            {"encoder_options": {"drop_path_rate": 2}},
            "drop_path_rate must be from 0 to 1",
        ),
    ],
)
def test_options_that_would_spoil_a_model(name: str, options: dict, message: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        citysegzoo.create_model(name, **options)


def test_an_output_stride_is_a_whole_number() -> None:
    with pytest.raises(TypeError, match="output_stride must be a whole number"):
        citysegzoo.create_model("fcn_resnet18", output_stride=8.0)


def test_a_rate_may_be_a_number_of_numpy() -> None:
    encoder = citysegzoo.create_encoder("mit_b0", drop_path_rate=np.float32(0.5))
    assert encoder.stages[-1].blocks[-1].drop_path.rate == 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timm_options": {"output_stride": 8}, "output_stride": 16}, "output_stride is given twi"),
        ({"timm_options": {"out_indices": (4, 2, 0)}}, "name out_indices in rising order"),
        ({"timm_options": 3}, "timm_options"),
    ],
)
def test_timm_options_that_do_not_fit(options: dict, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        citysegzoo.create_encoder("timm/resnet18", **options)
