"""Every model by name: counts, options, sizes, gradients, freezing, compilation."""

import numpy as np
import pytest
import torch
import torchvision
from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder
from torch import nn
from torchvision.models.segmentation.deeplabv3 import ASPP, DeepLabHead
from torchvision.models.segmentation.fcn import FCNHead
from versions import not_on_torch_2_6

import citysegzoo
from citysegzoo.data import BGR_MEAN, CITYSCAPES_19, CITYSCAPES_34, IMAGENET, UNIT_RANGE
from citysegzoo.encoders import create_encoder
from citysegzoo.structure import difference

# Name -> parameters, classes: counted on the reports' own code or computed from its description.
REPORTED = {
    "unet.stevens2020_baseline": (113_058, 34),
    "unet.stevens2020_improved": (487_586, 34),
    "unet.stevens2020_run1": (121_826, 34),
    "unet.stevens2020_run2": (121_826, 34),
    "unet.stevens2020_run5": (121_826, 34),
    "unet.stevens2020_run6": (121_826, 34),
    "fcn.chen2020_baseline": (5_500_674, 34),
    "fcn.chen2020_augmented": (5_500_674, 34),
    "fcn.chen2020_augmented_resized": (5_500_674, 34),
    "fcn.chen2020_dice": (5_500_674, 34),
    "fcn.chen2020_adapted": (7_861_512, 34),
    "fcn_resnet50.chen2020_transfer": (34_516_034, 34),
    "unet.chen2020": (14_699_298, 34),
    "fcn.fixman2024_baseline": (543_586, 34),
    "unet.fixman2024_enhanced": (31_033_890, 34),
    "unet_swinv2_base.fixman2024_jnet": (117_955_706, 34),
    "segnet_vgg16.mei2019": (29_454_009, 19),
    "segnet_basic": (1_416_576, 19),
    "deeplabv3_resnet101.mei2019_dl1": (58_040_147, 19),
    "deeplabv3_resnet101.mei2019_dl1_long": (58_040_147, 19),
    "deeplabv3_resnet101.mei2019_dl2": (58_040_147, 19),
    "deeplabv3_resnet101.mei2019_dl3": (69_050_195, 19),
    "deeplabv3_resnet101.mei2019_dl4": (62_824_787, 19),
    "fcn.xiang2020_baseline": (5_500_179, 19),
    "fcn.xiang2020_dice": (5_500_179, 19),
    "fcn.xiang2020_weighted": (5_500_179, 19),
    "fcn.xiang2020_augmented": (5_500_179, 19),
    "unet.xiang2020": (34_528_083, 19),
    "fcn_resnet50.xiang2020": (34_515_539, 19),
    "aspp_resnet50.xiang2020": (46_369_970, 19),
    "aspp_resnet101.xiang2020": (57_732_217, 19),
    "unet_aspp.xiang2020": (35_079_613, 19),
    "deeplabv3_resnet50.xiang2020": (39_638_355, 19),
}
DEPTHS = (18, 34, 50, 101, 152)
RESNET_FAMILIES = (
    "aspp",
    "deeplabv3",
    "deeplabv3plus",
    "fcn",
    "fcn_dilated",
    "fpn",
    "pspnet",
    "unet",
    "upernet",
)
ARCHITECTURES = [
    *(f"{family}_resnet{depth}" for family in RESNET_FAMILIES for depth in DEPTHS),
    "deeplabv3_mobilenet_v3_large",
    "fcn",
    *(f"lraspp_mobilenet_v3_{size}" for size in ("large", "small")),
    *(f"segformer_b{size}" for size in range(6)),
    "segnet_basic",
    "segnet_vgg16",
    "unet",
    "unet_aspp",
    *(f"unet_{swin}_{size}" for swin in ("swin", "swinv2") for size in ("base", "small", "tiny")),
    "unet_vgg16_bn",
    *(f"upernet_swin_{size}" for size in ("base", "small", "tiny")),
]
# One small model for each decoder.
SMALL_MODELS = {
    "transposed": ("fcn", {"widths": (4, 8, 8)}),
    "transposed, pooled": (
        "fcn.fixman2024_baseline",
        {"widths": (4, 8, 8), "decoder_widths": (4, 4)},
    ),
    "unet": ("unet.small", {"widths": (4, 8, 8)}),
    "unet, bilinear": ("unet.stevens2020_baseline", {}),
    "unet on a ResNet": ("unet_resnet18", {"decoder_widths": (8, 8, 8, 8)}),
    "unet_aspp": ("unet_aspp.xiang2020", {"widths": (4, 8, 8), "aspp_width": 4}),
    "segnet": ("segnet_basic", {"width": 8}),
    "aspp": ("aspp_resnet18", {"aspp_width": 8}),
    "aspp, two levels": ("aspp_resnet50.xiang2020", {"aspp_width": 8}),
    "deeplabv3": ("deeplabv3_resnet50", {"aspp_width": 8}),
    "deeplabv3, basic blocks": ("deeplabv3_resnet18", {"aspp_width": 8}),
    "deeplabv3plus": ("deeplabv3plus_resnet18", {"aspp_width": 8}),
    "all_mlp": ("segformer_b0", {"decoder_width": 8}),
    "fcn_head": ("fcn_dilated_resnet18", {"width": 8}),
    "fpn": ("fpn_resnet18", {"decoder_width": 8, "pyramid_width": 8}),
    "lraspp": ("lraspp_mobilenet_v3_small", {"decoder_width": 8}),
    "psp": ("pspnet_resnet18", {"decoder_width": 8}),
    "upernet": ("upernet_resnet18", {"decoder_width": 8}),
}


def small_model(key: str, **options) -> citysegzoo.SegmentationModel:
    name, preset = SMALL_MODELS[key]
    torch.manual_seed(0)
    return citysegzoo.create_model(name, **{**preset, **options})


def test_the_zoo_lists_every_reported_model_and_architecture() -> None:
    assert set(citysegzoo.list_models()) == {
        *REPORTED, *ARCHITECTURES, "unet.small", "unet_resnet18.street",
    }  # fmt: skip


@pytest.mark.parametrize("name", REPORTED)
def test_parameter_count_and_classes(name: str) -> None:
    info = citysegzoo.model_info(name)
    assert (info.num_parameters, info.num_classes) == REPORTED[name]
    assert info.labels == {19: CITYSCAPES_19, 34: CITYSCAPES_34}[info.num_classes]


def conv(inputs: int, width: int, kernel: int, *, bias: bool) -> list[nn.Module]:
    return [nn.Conv2d(inputs, width, kernel, bias=bias), nn.BatchNorm2d(width)]


def resnet_head(family: str, channels: list[int]) -> list[nn.Module]:
    """What follows a ResNet of these channels, in torch's and torchvision's own modules."""
    deepest = channels[-1]
    if family == "deeplabv3":
        return [DeepLabHead(deepest, 19)]
    if family == "fcn_dilated":
        return [FCNHead(deepest, 19)]
    if family == "aspp":
        pyramid = ASPP(deepest, [6, 12, 18])
        del pyramid.project
        return [pyramid, nn.Conv2d(5 * 256, 19, 1)]
    if family == "deeplabv3plus":
        reduce = conv(channels[1], 48, 1, bias=False)
        refine = [*conv(256 + 48, 256, 3, bias=False), *conv(256, 256, 3, bias=False)]
        return [ASPP(deepest, [6, 12, 18]), *reduce, *refine, nn.Conv2d(256, 19, 1)]
    layers: list[nn.Module] = []
    if family == "fpn":
        smooth = [nn.Conv2d(256, 256, 3) for _ in range(4)]  # which smp leaves out
        return [FPNDecoder([3, *channels]), *smooth, nn.Conv2d(128, 19, 1)]
    if family == "pspnet":
        for _ in range(4):
            layers += conv(deepest, deepest // 4, 1, bias=False)
        return [*layers, *conv(2 * deepest, 512, 3, bias=False), nn.Conv2d(512, 19, 1)]
    if family == "upernet":  # no layer norm of the features
        decoder = UPerNetDecoder([3, *channels], decoder_channels=512)
        del decoder.feature_norms
        return [decoder, nn.Conv2d(512, 19, 1)]
    if family == "fcn":
        for inputs, width in zip(
            (deepest, 512, 256, 128, 64), (512, 256, 128, 64, 32), strict=True
        ):
            layers += [nn.ConvTranspose2d(inputs, width, 3), nn.BatchNorm2d(width)]
    else:
        widths = (256, 128, 64, 32)
        below = (deepest, *widths[:-1])
        for inputs, width, skip in zip(below, widths, channels[-2::-1], strict=True):
            layers += [nn.ConvTranspose2d(inputs, width, 2)]
            layers += conv(width + skip, width, 3, bias=True) + conv(width, width, 3, bias=True)
    return [*layers, nn.Conv2d(32, 19, 1)]


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("family", RESNET_FAMILIES)
def test_parameter_counts_on_resnets(family: str, depth: int) -> None:
    with torch.device("meta"):
        resnet = getattr(torchvision.models, f"resnet{depth}")(weights=None)
        del resnet.fc
        expansion = 1 if depth < 50 else 4
        channels = [64, *(width * expansion for width in (64, 128, 256, 512))]
        theirs = nn.ModuleList([resnet, *resnet_head(family, channels)])
        ours = citysegzoo.create_model(f"{family}_resnet{depth}")
    assert list(ours.encoder.channels) == channels
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


def test_listing() -> None:
    assert citysegzoo.list_models("unet.stevens*")[0] == "unet.stevens2020_baseline"
    assert citysegzoo.list_models(report="fixman2024") == [
        "fcn.fixman2024_baseline",
        "unet.fixman2024_enhanced",
        "unet_swinv2_base.fixman2024_jnet",
    ]
    trained = [*(f"segformer_b{i}" for i in range(6)), "unet.small", "unet_resnet18.street"]
    assert citysegzoo.list_models(pretrained=True) == trained
    names = citysegzoo.list_models("deeplabv3_resnet*")
    assert names.index("deeplabv3_resnet50") < names.index("deeplabv3_resnet101")
    assert citysegzoo.list_models("nothing*") == []
    with pytest.raises(ValueError, match="no report 'mei2018'; did you mean 'mei2019'"):
        citysegzoo.list_models(report="mei2018")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("deeplab_v3_resnet101", "did you mean 'deeplabv3_resnet101'"),
        ("unet.stevens2020_improve", "did you mean 'unet.stevens2020_improved'"),
        ("unet.", "there is no model 'unet.'"),
        ("UNET", "did you mean 'unet'"),
        ("xyz", "there is no model 'xyz'; list_models.. names them all"),
        ("", "there is no model ''"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    for use in (citysegzoo.create_model, citysegzoo.model_info):
        with pytest.raises(ValueError, match=message):
            use(name)


@pytest.mark.parametrize("name", [None, 5, ["unet"]])
def test_names_are_strings(name: object) -> None:
    for use in (citysegzoo.create_model, citysegzoo.model_info, citysegzoo.create_encoder):
        with pytest.raises(TypeError, match="is asked for by its name, a string, not"):
            use(name)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_no_option_is_swallowed(name: str) -> None:
    with pytest.raises(TypeError, match="has no option 'aspp_rate'"):
        citysegzoo.create_model(name, aspp_rate=(1, 2))


@pytest.mark.parametrize(("depth", "width"), [(18, 32), (50, 24), (34, 64)])
def test_resnet_width_scales_every_layer(depth: int, width: int) -> None:
    """Every weight lies between layers as wide as `width`, but for the image's three channels."""
    full, scaled = create_encoder(f"resnet{depth}"), create_encoder(f"resnet{depth}", width=width)
    assert scaled.channels == tuple(c * width // 64 for c in full.channels)
    for (name, theirs), (_, ours) in zip(
        full.named_parameters(), scaled.named_parameters(), strict=True
    ):
        inputs = [3] if name == "conv1.weight" else [n * width // 64 for n in theirs.shape[1:2]]
        expected = (theirs.shape[0] * width // 64, *inputs, *theirs.shape[2:])
        assert tuple(ours.shape) == expected, name
    sizes = [tuple(f.shape[1:]) for f in scaled.eval()(torch.randn(1, 3, 64, 96))]
    assert sizes == [
        (c, 64 // s, 96 // s) for c, s in zip(scaled.channels, scaled.strides, strict=True)
    ]


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("in_chans", "in_channels"),
        ("num_clases", "num_classes"),
        ("classes", "num_classes"),
        ("pretraind", "pretrained"),
        ("encoder_weight", "encoder_weights"),
    ],
)
def test_arguments_are_among_what_may_have_been_meant(option: str, meant: str) -> None:
    with pytest.raises(TypeError, match=f"did you mean '{meant}'"):
        citysegzoo.create_model("unet", **{option: 1})
    if option == "in_chans":
        for encoder in ("resnet18", "timm/resnet18"):
            with pytest.raises(TypeError, match="did you mean 'in_channels'"):
                create_encoder(encoder, in_chans=4)


def test_channels_are_no_option_of_the_encoder() -> None:
    for build in (
        lambda options: citysegzoo.compose("resnet18", "fcn_head", encoder_options=options),
        lambda options: citysegzoo.create_model("unet_resnet18", encoder_options=options),
    ):
        with pytest.raises(TypeError, match="in_channels is none of encoder_options; give it bes"):
            build({"in_channels": 4})


def test_trained_weights_take_what_matters_in_training_alone() -> None:
    model = citysegzoo.create_model("unet_resnet18.street", pretrained=True, dropout=0.25)
    plain = citysegzoo.create_model("unet_resnet18.street", pretrained=True)
    assert model.blueprint.options["dropout"] == 0.25
    assert any(isinstance(module, torch.nn.Dropout2d) for module in model.modules())
    x = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        assert torch.equal(model(x), plain(x))
    for option, value in (
        ("up", "bilinear"), ("skip_first", False), ("working_size", (64, 64)), ("norm", False),
        ("decoder_widths", (8, 8, 8, 8)), ("encoder_options", {"dilate_first": True, "width": 64}),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"were trained with {option}=.*leave {option} out"):
            citysegzoo.create_model("unet_resnet18.street", pretrained=True, **{option: value})


def test_a_saved_model_is_no_name() -> None:
    with pytest.raises(ValueError, match="no model 'you/street'; citysegzoo.load loads folders"):
        citysegzoo.create_model("you/street")


def test_encoders_are_trained_again() -> None:
    model = citysegzoo.create_model("unet", widths=(4, 8)).train().freeze_encoder()
    assert not model.encoder.training
    model.unfreeze_encoder()
    assert model.encoder.training
    assert all(p.requires_grad for p in model.parameters())
    assert not model.eval().unfreeze_encoder().encoder.training


def test_lists_take_patterns() -> None:
    assert citysegzoo.list_encoders("resnet1*") == ["resnet18", "resnet101", "resnet152"]
    assert citysegzoo.list_decoders("unet*") == ["unet", "unet_aspp"]


def test_a_deeplab_of_a_report_can_be_composed() -> None:
    name = "deeplabv3_resnet101.mei2019_dl1"
    names = ("aspp_rates", "aspp_kernel_size", "image_pooling", "refine", "dropout")
    options = citysegzoo.model_info(name).options
    with torch.device("meta"):
        theirs = citysegzoo.create_model(name)
        model = citysegzoo.compose(
            "resnet101",
            "aspp",
            num_classes=theirs.num_classes,
            encoder_options={
                "output_stride": options["output_stride"],
                "bn_momentum": options["encoder_bn_momentum"],
            },
            decoder_options={
                **{key: options[key] for key in names},
                "align_corners": True,
                "bn_momentum": options["aspp_bn_momentum"],
            },
            align_corners=True,
        )
    assert not difference(model, theirs)


def test_narrow_resnets_have_no_imagenet_weights() -> None:
    with pytest.raises(ValueError, match="weights for ResNetEncoder as built here"):
        citysegzoo.create_model(
            "unet_resnet18", encoder_options={"width": 32}, encoder_weights=True
        )


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_classes": 0}, ValueError, "num_classes must be at least 1"),
        ({"num_classes": 2.5}, TypeError, "num_classes must be a whole number"),
        ({"in_channels": 0}, ValueError, "in_channels must be at least 1"),
        ({"aspp_rates": (0, 6)}, ValueError, "aspp_rates must be at least 1, not 0"),
        ({"aspp_rates": "6, 12"}, TypeError, r"such as \(6, 12, 18\), not '6, 12'"),
        ({"output_stride": 4}, ValueError, "8, 16 or 32, not 4"),
        ({"aspp_width": 1.5}, TypeError, "aspp_width must be a whole number of at least 1"),
        (
            {"image_pooling": "false"},
            TypeError,
            "image_pooling of .* is True or False, not 'false'",
        ),
        ({"encoder_bn_momentum": -1}, ValueError, "bn_momentum must be from 0 to 1"),
        ({"dropout": 2}, ValueError, "dropout must be from 0 to 1, not 2"),
        ({"dropout": "x"}, TypeError, "dropout must be a number from 0 to 1, not 'x'"),
        ({"init": "he"}, ValueError, "init is 'kaiming_normal'"),
        ({"pretrained": True}, ValueError, "models with weights: unet_resnet18.street"),
    ],
)
def test_unusable_values(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message), torch.device("meta"):
        citysegzoo.create_model("deeplabv3_resnet50", **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"working_size": 64}, TypeError, "working_size must be a sequence of whole numbers"),
        ({"working_size": (64,)}, ValueError, "working_size is .H, W., both at least 32"),
        ({"working_size": (0, 64)}, ValueError, "working_size must be at least 1"),
        ({"bottom_convs": 1.5}, TypeError, "bottom_convs must be a whole number of at least 0"),
        ({"extra_widths": (8, 8)}, ValueError, "2 doublings, but the encoder's finest feature is"),
        ({"extra_widths": "x"}, TypeError, "extra_widths must be a sequence"),
        ({"encoder_options": 32}, TypeError, "encoder_options is a dict of options, not 32"),
        ({"encoder_options": {"width": 0}}, ValueError, "width must be at least 1, not 0"),
        ({"encoder_options": {"widht": 8}}, TypeError, "did you mean 'width'"),
        ({"decoder_widths": (8, 8)}, ValueError, "2 widths, but this encoder gives 4 skips"),
    ],
)
def test_unusable_values_of_unets(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message), torch.device("meta"):
        citysegzoo.create_model("unet_resnet50", **options)


def test_numbers_of_numpy_are_numbers() -> None:
    with torch.device("meta"):
        model = citysegzoo.create_model("unet", widths=np.array([4, 8]), num_classes=np.int64(3))
    assert model.encoder.channels == (4, 8)
    assert model.num_classes == 3


def test_deep_poolings_need_larger_images() -> None:
    model = citysegzoo.create_model("unet", widths=(2,) * 7)
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 19, 64, 64)
    with pytest.raises(ValueError, match="H and W at least 64, not"):
        model(torch.zeros(1, 3, 63, 64))


def test_options_override_the_preset() -> None:
    with torch.device("meta"):
        preset = citysegzoo.create_model("deeplabv3_resnet101.mei2019_dl2")
        changed = citysegzoo.create_model(
            "deeplabv3_resnet101.mei2019_dl2", aspp_rates=(1, 2, 3, 4)
        )

    def rates(model: citysegzoo.SegmentationModel) -> list[int]:
        return [b.conv.dilation[0] for b in model.decoder.pyramids[0].branches[1:-1]]

    assert rates(preset) == [3, 6, 9]
    assert rates(changed) == [1, 2, 3, 4]
    assert changed.encoder.strides == preset.encoder.strides == (2, 4, 8, 16, 16)


@pytest.mark.parametrize(
    ("stride", "rates"), [(8, [12, 24, 36]), (16, [6, 12, 18]), (32, [3, 6, 9])]
)
def test_default_rates_follow_the_output_stride(stride: int, rates: list[int]) -> None:
    with torch.device("meta"):
        model = citysegzoo.create_model("deeplabv3_resnet50", output_stride=stride)
    branches = model.decoder.pyramids[0].branches
    assert [branch.conv.dilation[0] for branch in branches[1:-1]] == rates


def test_preprocessing_is_the_reports_own() -> None:
    expected = {
        "unet.stevens2020_improved": UNIT_RANGE,
        "fcn.chen2020_baseline": BGR_MEAN,
        "unet_swinv2_base.fixman2024_jnet": UNIT_RANGE,
        "deeplabv3_resnet101.mei2019_dl1": IMAGENET,
        "unet.xiang2020": IMAGENET,
    }
    for name, preprocessing in expected.items():
        assert citysegzoo.model_info(name).preprocessing == preprocessing
        with torch.device("meta"):
            assert citysegzoo.create_model(name).preprocessing == preprocessing


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 40), (101, 32)])
@pytest.mark.parametrize("key", SMALL_MODELS)
def test_any_size(key: str, size: tuple[int, int]) -> None:
    model = small_model(key)
    for images in (torch.randn(1, 3, *size), torch.randn(2, 3, *size)):
        for mode in (True, False):
            with torch.no_grad():
                logits = model.train(mode)(images)
            assert logits.shape == (len(images), model.num_classes, *size)
            assert logits.isfinite().all()


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 3, 31, 64), (1, 3, 64, 1), (0, 3, 64, 64)])
def test_unusable_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="H and W at least 32, not"):
        small_model("unet")(torch.zeros(shape))


def test_unusable_channels() -> None:
    with pytest.raises(ValueError, match="images of 3 channels, not 4"):
        small_model("unet")(torch.zeros(1, 4, 64, 64))
    six = small_model("unet", in_channels=6).eval()
    assert six(torch.zeros(1, 6, 64, 64)).shape == (1, 19, 64, 64)
    with pytest.raises(ValueError, match="images of 6 channels, not 3"):
        six.segment(np.zeros((64, 64, 3), np.uint8))


def test_raw_pixels_are_refused() -> None:
    with pytest.raises(TypeError, match="preprocessing first, or use model.segment"):
        small_model("unet")(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))


@pytest.mark.parametrize("key", SMALL_MODELS)
def test_every_parameter_learns(key: str) -> None:
    model = small_model(key)
    model(torch.randn(2, 3, 64, 64)).square().mean().backward()
    still = [name for name, p in model.named_parameters() if p.grad is None]
    assert still == []
    total = sum(p.grad.abs().sum().item() for p in model.parameters())
    assert 0 < total < float("inf")


@pytest.mark.parametrize("key", SMALL_MODELS)
def test_same_image_same_logits(key: str) -> None:
    model = small_model(key).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        first = model(images)
        assert torch.equal(first, model(images))
        # An image's logits do not depend on its company.
        torch.testing.assert_close(model(images[:1]), first[:1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "key", [pytest.param(key, marks=[pytest.mark.slow] * (key != "unet")) for key in SMALL_MODELS]
)
def test_compiles_as_one_graph(key: str) -> None:
    torch.compiler.reset()  # all models share one forward, which dynamo recompiles a few times only
    model = small_model(key).eval()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), model(images), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@not_on_torch_2_6("cannot compile it")
def test_compiles_with_inductor() -> None:
    torch.compiler.reset()
    model = small_model("unet").eval()
    images = torch.randn(1, 3, 33, 64)
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True)(images)
        torch.testing.assert_close(compiled, model(images), rtol=1e-4, atol=1e-4)


def test_networks_of_a_fixed_size_compute_in_bf16() -> None:
    model = citysegzoo.create_model("unet_resnet18", working_size=(64, 64)).eval()
    images = torch.rand(1, 3, 80, 100)
    with torch.no_grad():
        expected = model(images)
        with torch.autocast("cpu", torch.bfloat16):
            found = model(images)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("size", [(22, 45), (23, 45), (20, 40)])  # rounded down, up, not at all
def test_repeated_pixels_stay_beside_those_they_were_pooled_from(size: tuple[int, int]) -> None:
    step = citysegzoo.create_model("unet", widths=(4, 4), up="nearest").decoder.blocks[0]
    step.fuse = nn.Identity()
    small, large = size
    rows = torch.arange(float(small))[None, None, :, None].expand(1, 1, -1, small)
    enlarged = step(rows, torch.zeros(1, 4, large, large))[0].amax(0)[:, 0]
    assert torch.equal(enlarged, (torch.arange(large) // 2).clamp(max=small - 1).float())


def test_unet_on_a_backbone_without_norm_has_none() -> None:
    for up in ("bilinear", "transposed", "nearest"):
        model = citysegzoo.create_model("unet_resnet18", norm=False, up=up)
        assert not any(isinstance(m, nn.BatchNorm2d) for m in model.decoder.modules())


def test_what_is_done_to_options_of_one_model_is_not_done_to_the_next() -> None:
    name = "unet_resnet18.street"
    before = citysegzoo.model_info(name).options["encoder_options"]["width"]
    citysegzoo.model_info(name).options["encoder_options"]["width"] = 64
    citysegzoo.model_info(name).preset["encoder_options"]["width"] = 64
    citysegzoo.create_model(name).blueprint.options["encoder_options"]["width"] = 64
    assert citysegzoo.model_info(name).options["encoder_options"]["width"] == before
    citysegzoo.create_model(name, pretrained=True)


def test_arrays_are_no_images() -> None:
    with pytest.raises(TypeError, match="floating-point images, not a ndarray"):
        small_model("unet")(np.zeros((1, 3, 32, 32), np.float32))


def test_frozen_encoder_stays_still() -> None:
    with pytest.warns(UserWarning, match="frozen as it was drawn at random; encoder_weights=True"):
        model = citysegzoo.create_model("fcn_resnet50.chen2020_transfer", decoder_widths=(8,) * 5)
    full = citysegzoo.model_info("fcn_resnet50.chen2020_transfer")
    with torch.device("meta"):
        reported = citysegzoo.create_model(full.name)
    trained = sum(p.numel() for p in reported.parameters() if p.requires_grad)
    assert (full.num_parameters - trained, trained) == (23_508_032, 11_008_002)

    before = {name: b.clone() for name, b in model.encoder.named_buffers()}
    model.train()
    assert not any(module.training for module in model.encoder.modules())
    assert model.decoder.training
    model(torch.randn(2, 3, 64, 64)).mean().backward()
    assert all(torch.equal(b, before[name]) for name, b in model.encoder.named_buffers())
    assert all(p.grad is None for p in model.encoder.parameters())
    assert all(p.grad is not None for p in model.decoder.parameters())
    model.eval()
    assert not any(module.training for module in model.modules())


def test_one_value_per_channel_is_normalised_with_running_statistics() -> None:
    from citysegzoo.layers import BatchNorm2d

    norm = BatchNorm2d(2)
    norm(torch.randn(4, 2, 3, 3) + 5)
    mean, var = norm.running_mean.clone(), norm.running_var.clone()
    x = torch.randn(1, 2, 1, 1)
    expected = (x - mean.view(1, 2, 1, 1)) / (var.view(1, 2, 1, 1) + norm.eps).sqrt()
    torch.testing.assert_close(norm(x), expected)
    assert torch.equal(norm.running_mean, mean)
    reference = torch.nn.BatchNorm2d(2)
    x = torch.randn(1, 2, 1, 2)
    torch.testing.assert_close(BatchNorm2d(2)(x), reference(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "weight", "spread"),
    [
        # kaiming normal, fan-out of the last 3x3 convolution to 8 channels: sqrt(2 / (9 * 8))
        ("unet.stevens2020_improved", "decoder.blocks.3.fuse.1.conv.weight", (2 / 72) ** 0.5),
        # xavier uniform, 256 -> 512 channels of 3x3: a uniform of +-sqrt(6 / (9 * 768))
        ("fcn.chen2020_baseline", "encoder.stages.4.conv.weight", (6 / 6912 / 3) ** 0.5),
    ],
)
def test_reports_own_init(name: str, weight: str, spread: float) -> None:
    torch.manual_seed(0)
    drawn = citysegzoo.create_model(name).state_dict()[weight]
    assert drawn.std().item() == pytest.approx(spread, rel=0.15)


def test_atrous_kernel_of_four_keeps_the_size() -> None:
    """mei2019 section 5.5: P = (K - 1) D / 2 keeps a 33x33 map at K = 4 and D = 8, 16, 24."""
    from citysegzoo.decoders.aspp import ASPP

    for kernel in (1, 2, 3, 4, 5):
        pyramid = ASPP(2, 3, rates=(8, 16, 24, 5), kernel_size=kernel).eval()
        x = torch.randn(1, 2, 33, 33)
        for branch in pyramid.branches:
            assert branch(x).shape == (1, 3, 33, 33)
        assert pyramid(x).shape == (1, pyramid.channels, 33, 33) == (1, 18, 33, 33)
    paddings = [
        branch.conv.padding for branch in ASPP(2, 3, rates=(8, 16, 24), kernel_size=4).branches[1:4]
    ]
    assert paddings == [(12, 12), (24, 24), (36, 36)]


def test_info_of_a_variant() -> None:
    info = citysegzoo.model_info("deeplabv3_resnet101.mei2019_dl2")
    assert (info.architecture, info.variant, info.report) == (
        "deeplabv3_resnet101",
        "mei2019_dl2",
        "mei2019",
    )
    assert info.options["aspp_rates"] == (3, 6, 9)
    assert info.options["output_stride"] == info.preset["output_stride"] == 16
    assert info.options["image_pooling"] is True
    assert "image_pooling" not in info.preset
    assert info.recipe is not None
    assert info.recipe.encoder_weights == "resnet101.tv_in1k"
    assert any(r.metric == "mean_class_iou_pct" and r.value == 67.29 for r in info.results)
    assert info.weights == ()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_info_of_an_architecture(name: str) -> None:
    info = citysegzoo.model_info(name)
    assert info.summary.endswith(".")
    assert info.variant is info.report is info.recipe is None
    assert info.num_parameters > 1_000_000


@pytest.mark.parametrize("name", [*REPORTED, *ARCHITECTURES])
def test_builds_without_memory(name: str) -> None:
    with torch.device("meta"):
        model = citysegzoo.create_model(name)
    assert all(t.is_meta for t in (*model.parameters(), *model.buffers()))
