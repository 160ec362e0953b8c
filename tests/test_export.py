"""Exported models give what the model gives, at sizes they were not recorded at."""

import io
import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from versions import not_on_torch_2_6

import citysegzoo
from citysegzoo import SegmentationModel, compose, create_model
from citysegzoo.cli import main
from citysegzoo.data import DEMO_IMAGE
from citysegzoo.export import METADATA, export_onnx, export_torch
from citysegzoo.images import read_image
from citysegzoo.layers import resize_by_matrices

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

EXAMPLE = Path(__file__).parent.parent / "examples" / "segment_onnx.py"
WIDTHS = (8, 8, 16, 16, 16)
# Recorded at 96x160. These leave other remainders at every stride; 32x32 comes down to one pixel.
SIZES = [(1, 97, 131), (3, 160, 64), (1, 32, 32), (1, 50, 103), (2, 233, 118)]

Builder = Callable[[], SegmentationModel]


def named(name: str, **options: Any) -> Builder:
    return lambda: create_model(name, **options)


FAMILIES: dict[str, Builder] = {
    "fcn": named("fcn", widths=WIDTHS),
    "fcn_pooling": named("fcn", widths=WIDTHS, pooling=True, up_kernel_size=2),
    "unet": named("unet", widths=WIDTHS),
    "unet_bilinear": named("unet", widths=WIDTHS, up="bilinear", align_corners=True),
    "unet_nearest": named("unet", widths=WIDTHS, up="nearest"),
    "unet_aspp": named("unet_aspp", widths=WIDTHS),
    "segnet": named("segnet_basic", width=8),
    "aspp": lambda: compose(
        "strided_conv",
        "aspp",
        encoder_options={"widths": (8, 8, 16)},
        decoder_options={"aspp_width": 8, "levels": 2, "aspp_kernel_size": 4},
    ),
    "deeplabv3plus": lambda: compose(
        "strided_conv",
        "deeplabv3plus",
        encoder_options={"widths": (8, 8, 16)},
        decoder_options={"aspp_width": 8, "separable": True},
    ),
    "fpn": lambda: compose(
        "strided_conv",
        "fpn",
        encoder_options={"widths": (8, 8, 8, 16)},
        decoder_options={"pyramid_width": 8, "width": 8, "finest_stride": 2},
    ),
    "lraspp": lambda: compose(
        "mobilenet_v3_small",
        "lraspp",
        encoder_options={"output_stride": 16},
        decoder_options={"width": 8},
    ),
    "psp": lambda: compose(
        "strided_conv", "psp", encoder_options={"widths": (8, 16)}, decoder_options={"width": 8}
    ),
    "upernet": lambda: compose(
        "strided_conv",
        "upernet",
        encoder_options={"widths": (8, 8, 8, 16)},
        decoder_options={"width": 8, "norm_features": True},
    ),
    "fcn_head": lambda: compose("strided_conv", "fcn_head", encoder_options={"widths": (8, 16)}),
    "segformer": named("segformer_b0", decoder_width=16),
    "timm": lambda: compose("timm/test_resnet", "unet"),
    "working_size": named("unet_resnet18", decoder_widths=(8, 8, 8, 8), working_size=(96, 80)),
}
LARGE: dict[str, Builder] = {
    "unet_resnet18": named("unet_resnet18"),
    "unet_resnet50": named("unet_resnet50"),
    "unet_vgg16_bn": named("unet_vgg16_bn"),
    "segnet_vgg16": named("segnet_vgg16"),
    "aspp_resnet50": named("aspp_resnet50"),
    "deeplabv3_resnet18": named("deeplabv3_resnet18"),
    "deeplabv3plus_resnet18": named("deeplabv3plus_resnet18"),
    "fcn_dilated_resnet18": named("fcn_dilated_resnet18"),
    "mei2019_dl3": named("deeplabv3_resnet101.mei2019_dl3"),
    "convnext": lambda: compose("timm/convnext_atto", "deeplabv3plus"),
    "unet_swin_tiny": named("unet_swin_tiny"),
    "unet_swinv2_tiny": named("unet_swinv2_tiny"),
}
# With those of the labels of pixels one of each kind of decoder and of encoder.
FAST = ("unet_bilinear", "aspp", "segformer")
ALL = [
    pytest.param(name, marks=[pytest.mark.slow] * (name not in FAST))
    for name in (*FAMILIES, *LARGE)
]


def built(name: str) -> SegmentationModel:
    """A network in evaluation mode whose batch norms do something, with logits of order one."""
    torch.manual_seed(0)
    model = {**FAMILIES, **LARGE}[name]().eval()
    if "swin" in name:  # a third less to record: six blocks differ in nothing from two
        stage = model.encoder.backbone.model.layers[2]
        stage.blocks = stage.blocks[:2]
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
            if hasattr(module, "bn3"):  # else the logits of a hundred layers are in the thousands
                module.bn3.weight.mul_(0.2)
    return model


def images(*shape: int) -> Tensor:
    return torch.randn(shape[0], 3, *shape[1:], generator=torch.Generator().manual_seed(shape[1]))


def session(path: Path) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def unet() -> SegmentationModel:
    return built("unet")


@pytest.mark.parametrize("name", ALL)
def test_onnx_logits(name: str, tmp_path: Path) -> None:
    model = built(name)
    path = export_onnx(model, tmp_path / "m.onnx", input="images", output="logits", check=False)
    onnx.checker.check_model(str(path), full_check=True)
    run = session(path)
    for shape in SIZES:
        x = images(*shape)
        with torch.inference_mode():
            expected = model(x)
        assert expected.abs().max() < 30
        (given,) = run.run(["logits"], {"images": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(given), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["fcn", "segnet", "working_size"])
def test_onnx_labels_of_pixels(name: str, tmp_path: Path) -> None:
    """The whole way from 8-bit pixels to classes, as `segment` goes it."""
    model = built(name)
    run = session(export_onnx(model, tmp_path / "m.onnx"))
    photo = np.asarray(Image.open(DEMO_IMAGE).convert("RGB"))[:201, :333]
    if name == "segnet":
        # In the flat areas of a drawing maxima are equal but for rounding, which then says where
        # values are unpooled to: PyTorch's own CPU kernels disagree by 1e-2 there.
        photo = np.random.default_rng(0).integers(0, 256, photo.shape, np.uint8)
    (given,) = run.run(["labels"], {"pixels": photo.transpose(2, 0, 1)[None]})
    assert given.dtype == np.uint8
    same_where_certain(model, photo, given[0])


def same_where_certain(model: SegmentationModel, photo: np.ndarray, given: np.ndarray) -> None:
    with torch.inference_mode():
        pixels = torch.from_numpy(photo.transpose(2, 0, 1).copy())[None]
        logits = model(model.preprocessing(pixels))[0]
    best = logits.topk(2, dim=0).values
    certain = (best[0] - best[1] > 1e-4).numpy()
    assert certain.mean() > 0.99
    np.testing.assert_array_equal(given[certain], logits.argmax(0).numpy()[certain])


TORCH_FAST = ["segnet"]


@pytest.mark.parametrize(
    "name",
    [
        *TORCH_FAST,
        *(
            pytest.param(name, marks=pytest.mark.slow)
            # Every decoder is among the small ones, and recording takes a while. timm's Swin v2
            # pads where it must only, which torch.export cannot keep open.
            for name in (*FAMILIES, "unet_resnet18", "segnet_vgg16", "convnext", "unet_swin_tiny")
            if name not in TORCH_FAST
        ),
    ],
)
@not_on_torch_2_6("cannot keep height and width open for these")
def test_torch_logits(name: str, tmp_path: Path) -> None:
    model = built(name)
    path = export_torch(model, tmp_path / "m.pt2", input="images", output="logits", check=False)
    extra = {METADATA: ""}
    loaded = torch.export.load(path, extra_files=extra).module()
    smallest = json.loads(extra[METADATA])["min_size"]
    assert smallest <= (257 if "swin" in name else 33)
    for shape in (*SIZES, (1, smallest, smallest + 29)):
        if min(shape[1:]) >= smallest:
            x = images(*shape)
            with torch.inference_mode():
                torch.testing.assert_close(loaded(x), model(x), rtol=0, atol=1e-4)


@pytest.mark.slow
def test_torch_exports_swin_v2_for_one_size(tmp_path: Path) -> None:
    """With its check; for every size it is refused, which takes minutes to find out."""
    model = built("unet_swinv2_tiny")
    how = {"input": "images", "output": "logits", "size": (64, 96)}
    loaded = torch.export.load(export_torch(model, tmp_path / "m.pt2", **how)).module()
    x = images(2, 64, 96)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(x), model(x), rtol=0, atol=1e-4)


@pytest.mark.parametrize("write", [export_onnx, export_torch])
def test_fixed_size(write: Any, unet: SegmentationModel, tmp_path: Path) -> None:
    """One size, and still any number of images."""
    path = write(unet, tmp_path / "m.any", output="logits", input="images", size=(50, 70))
    x = images(5, 50, 70)
    with torch.inference_mode():
        expected = unet(x)
    if write is export_onnx:
        run = session(path)
        assert run.get_inputs()[0].shape == ["batch", 3, 50, 70]
        given = torch.from_numpy(run.run(None, {"images": x.numpy()})[0])
    else:
        given = torch.export.load(path).module()(x)
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-4)


def test_metadata(tmp_path: Path) -> None:
    model = create_model("unet.small", pretrained=True)
    run = session(export_onnx(model, tmp_path / "m.onnx"))
    about = {k: json.loads(v) for k, v in run.get_modelmeta().custom_metadata_map.items()}
    assert_metadata(about, model)
    assert [o.name for o in run.get_outputs()] == ["labels"]
    assert run.get_inputs()[0].shape == ["batch", 3, "height", "width"]
    assert run.get_outputs()[0].shape == ["batch", "height", "width"]


@pytest.mark.slow
@not_on_torch_2_6("cannot keep height and width open for these")
def test_metadata_of_torch_export(tmp_path: Path) -> None:
    model = create_model("unet.small", pretrained=True)
    extra = {"citysegzoo.json": ""}
    torch.export.load(export_torch(model, tmp_path / "m.pt2"), extra_files=extra)
    assert_metadata(json.loads(extra["citysegzoo.json"]), model)


def assert_metadata(about: dict, model: citysegzoo.SegmentationModel) -> None:
    assert about["model"] == "unet.small"
    assert about["citysegzoo_version"] == citysegzoo.__version__
    assert tuple(about["classes"]) == model.labels.classes
    assert tuple(map(tuple, about["palette"])) == model.labels.palette
    assert about["ignore_index"] == model.labels.ignore_index
    assert about["card"] == model.card
    assert about["preprocessing"]["mean"] == list(model.preprocessing.mean)
    assert (about["input"], about["output"]) == ("pixels", "labels")


def test_the_model_stays_as_it_is(tmp_path: Path) -> None:
    model = create_model("fcn", widths=WIDTHS).half().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    export_onnx(model, tmp_path / "m.onnx")
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


class Branching(nn.Module):
    """Does something else with wide images: right at the size recorded and nowhere else."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(x)
        return x if int(x.shape[-1]) % 16 == 0 and int(x.shape[-2]) % 16 == 0 else x + 1e-3


@pytest.mark.parametrize("output", [pytest.param("labels", marks=pytest.mark.slow), "logits"])
def test_a_wrong_graph_is_not_written(output: Any, tmp_path: Path) -> None:
    model = create_model("unet", widths=WIDTHS).eval()
    model.classifier = Branching(model.classifier)
    path = tmp_path / "m.onnx"
    path.write_bytes(b"before")
    with pytest.raises(ValueError, match="at 97x131 the file differs.* logits are off by 0.001"):
        export_onnx(model, path, output=output)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]
    export_onnx(model, path, output=output, size=(97, 131))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input": "photo"}, "input is 'pixels' or 'images', not 'photo'"),
        ({"output": "masks"}, "output is 'labels' or 'logits', not 'masks'"),
        ({"size": (16, 64)}, r"size is \(H, W\), both at least 32, not \(16, 64\)"),
        ({"size": (64,)}, r"size is \(H, W\)"),
    ],
)
@pytest.mark.parametrize("write", [export_onnx, export_torch])
def test_bad_arguments(
    write: Any, arguments: Any, message: str, unet: SegmentationModel, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        write(unet, tmp_path / "m.onnx", **arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("write", [export_onnx, export_torch])
@pytest.mark.parametrize("output", ["labels", "logits"])
def test_damaged_weights(write: Any, output: Any, tmp_path: Path) -> None:
    model = create_model("fcn", widths=WIDTHS).eval()
    with torch.no_grad():
        model.classifier.conv.bias.fill_(torch.nan)
    with pytest.raises(ValueError, match="gives logits that are no finite numbers"):
        write(model, tmp_path / "m.pt2", output=output)
    assert not list(tmp_path.iterdir())


def test_models_that_cannot(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with pytest.raises(ValueError, match="8-bit; the model has 300 classes: export its logits"):
        export_onnx(create_model("fcn", widths=WIDTHS, num_classes=300), path)
    with pytest.raises(ValueError, match="takes images of 4 channels; export it with input='im"):
        export_onnx(create_model("fcn", widths=WIDTHS, in_channels=4), path)
    with torch.device("meta"), pytest.raises(ValueError, match="has no weights; load some"):
        export_onnx(create_model("fcn", widths=WIDTHS), path)
    with pytest.raises(TypeError, match="a SegmentationModel can be exported, not Linear"):
        export_onnx(nn.Linear(1, 1), path)
    with pytest.raises(FileNotFoundError, match="its folder does not exist"):
        export_onnx(built("fcn"), tmp_path / "no" / "m.onnx", check=False)
    assert not list(tmp_path.iterdir())


def test_missing_packages(
    unet: SegmentationModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match="needs onnxruntime: pip install onnx onnxruntime"):
        export_onnx(unet, tmp_path / "m.onnx")
    export_onnx(unet, tmp_path / "m.onnx", check=False)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match="exporting to ONNX needs onnx"):
        export_onnx(unet, tmp_path / "m.onnx", check=False)
    assert main(["export", "unet.small", "--output", str(tmp_path / "n.onnx")]) == 2
    assert not (tmp_path / "n.onnx").exists()


def test_antialiased_resize() -> None:
    from citysegzoo.layers import resize_smoothly

    for size in ((40, 200), (97, 131), (50, 70), (333, 33)):
        x = images(1, 97, 131)
        torch.testing.assert_close(
            resize_by_matrices(x, size), resize_smoothly(x, size), rtol=0, atol=1e-5
        )


@pytest.mark.slow
def test_command_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for form, name in (("onnx", "unet.small.onnx"), ("torch", "unet.small.pt2")):
        assert main(["export", "unet.small", "--format", form]) == 0
        assert [path.name for path in tmp_path.iterdir()] == [name]
        (tmp_path / name).unlink()


def test_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "m.onnx"
    assert main(["export", "unet.small", "--output", str(out)]) == 0
    said, errors = capfd.readouterr()
    assert "input: uint8, RGB, any size from 32 x 32" in said
    assert "output: class of each pixel, 11 classes (camvid11)" in said
    assert f"written: {out}" in said
    assert said.count("\n") == 3
    assert errors == ""


@not_on_torch_2_6("warns of its own export")
def test_command_with_a_saved_model(unet: SegmentationModel, tmp_path: Path) -> None:
    file = unet.save_pretrained(tmp_path / "saved.safetensors")
    out = tmp_path / "m.onnx"
    arguments = ["export", str(file), "--output", str(out), "--logits", "--images"]
    assert main([*arguments, "--size", "64", "96"]) == 0
    assert session(out).get_outputs()[0].shape == ["batch", 19, 64, 96]
    assert (
        main(["export", str(file), "--output", str(tmp_path / "m.pt2"), "--size", "64", "96"]) == 0
    )
    assert torch.export.load(tmp_path / "m.pt2").module()(
        torch.zeros(1, 3, 64, 96, dtype=torch.uint8)
    ).shape == (1, 64, 96)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["unet"], "no trained weights"),
        (["unet.smal"], "did you mean"),
        (["unet.small", "--size", "8", "8"], "size is (H, W), both at least 32"),
        (["unet.small", "--output", "no/m.onnx"], "its folder does not exist"),
        (["unet.small", "--output", "m.pt"], "m.pt is to be written as ONNX, whose files end in"),
        (["unet.small", "--format", "torch"], "m.onnx is to be written as torch.export, whose"),
        (["missing/model"], "missing/model"),
    ],
)
def test_command_says_what_is_wrong(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["export", "--output", "m.onnx", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options",
    [
        {"input": "images", "output": "logits"},
        *(pytest.param(o, marks=pytest.mark.slow) for o in ({}, {"size": (96, 160)})),
    ],
)
def test_example_without_torch(options: Any, tmp_path: Path) -> None:
    """The script gives what `segment` gives, where neither torch nor this package can be had."""
    model = create_model("unet.small", pretrained=True)
    export_onnx(model, tmp_path / "m.onnx", check=False, **options)
    out = tmp_path / "labels.png"
    program = (
        "import runpy, sys\n"
        "for name in ('torch', 'citysegzoo', 'torchvision', 'onnx'): sys.modules[name] = None\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    command = [sys.executable, "-c", program, str(EXAMPLE), str(tmp_path / "m.onnx")]
    done = subprocess.run(
        [*command, str(DEMO_IMAGE), "--output", str(out)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("road: ")
    with Image.open(out) as picture:
        assert picture.mode == "P"
        assert tuple(picture.getpalette()[:3]) == model.labels.palette[0]
        labels = np.asarray(picture)
    photo = np.asarray(Image.open(DEMO_IMAGE).convert("RGB"))
    assert labels.shape == photo.shape[:2]
    if "size" not in options:
        same_where_certain(model, photo, labels)
    Image.new("RGB", (20, 20)).save(tmp_path / "small.png")
    broken = subprocess.run([*command, str(tmp_path / "none.jpg")], capture_output=True, text=True)
    assert broken.returncode == 2
    assert broken.stderr.count("\n") == 1


def test_import_stays_light() -> None:
    program = "import citysegzoo, citysegzoo.cli, citysegzoo.export, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert not {"onnx", "onnxruntime", "onnxscript"} & set(done.stdout.split())


def test_example_reads_photographs_as_segment_does(tmp_path: Path) -> None:
    read = runpy.run_path(str(EXAMPLE))["read"]
    rng = np.random.default_rng(0)
    color = rng.integers(0, 256, (40, 48, 4), np.uint8)
    pictures = {
        "deep.png": Image.fromarray(rng.integers(0, 65536, (40, 48)).astype(np.uint16)),
        "clear.png": Image.fromarray(color),
        "grey.png": Image.fromarray(color[..., 0]),
        "float.tiff": Image.fromarray(rng.random((40, 48)).astype(np.float32)),
        "print.tiff": Image.fromarray(color, "CMYK"),
    }
    for name, made in pictures.items():
        made.save(tmp_path / name)
        assert np.array_equal(np.asarray(read(tmp_path / name)), read_image(tmp_path / name)), name


@pytest.mark.parametrize("values", [np.float32([[0, 255]]), np.int32([[0, 70000]])])
def test_example_refuses_grey_values_of_no_known_range(values: np.ndarray, tmp_path: Path) -> None:
    """As segment does: they would wrap."""
    Image.fromarray(np.tile(values, (40, 20))).save(tmp_path / "x.tiff")
    with pytest.raises(ValueError, match=r"has grey values from 0 to .*; scale them to 0 to"):
        runpy.run_path(str(EXAMPLE))["read"](tmp_path / "x.tiff")


@pytest.mark.parametrize("export", [export_onnx, export_torch])
def test_autocast_of_the_caller_changes_nothing(export: Any, tmp_path: Path) -> None:
    model = create_model("unet", widths=(4, 8), num_classes=3)
    options = {"output": "logits", "size": (32, 32)}
    plain = export(model, tmp_path / "plain", **options).read_bytes()
    with torch.autocast("cpu", torch.bfloat16):
        within = export(model, tmp_path / "within", **options).read_bytes()
    if export is export_onnx:
        assert within == plain
    else:
        program = torch.export.load(io.BytesIO(within))
        kinds = {getattr(n.meta.get("val"), "dtype", None) for n in program.graph.nodes}
        assert torch.bfloat16 not in kinds


def test_preprocessing_of_other_than_color_images_is_not_known(tmp_path: Path) -> None:
    model = create_model("unet", widths=(4, 8), num_classes=3, in_channels=4)
    file = export_onnx(model, tmp_path / "m.onnx", input="images", check=False)
    entries = {p.key: json.loads(p.value) for p in onnx.load(file).metadata_props}
    assert entries["preprocessing"] is None
