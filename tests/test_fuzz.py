"""Inputs that nobody wrote: a result or one sentence of the expected kind, and nothing else.

Each test has some cases in the fast core and five times as many among the slow ones, always the
same, so that nobody's change fails for another's bug. FUZZ=20 tries twenty times as many, always
others.
"""

import argparse
import contextlib
import io
import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import citysegzoo
from citysegzoo import cli
from citysegzoo.data.labels import LABEL_SETS
from citysegzoo.images import read_ids, read_image
from citysegzoo.weights import LAYOUTS, convert_state_dict, detect_layout, read_state_dict
from citysegzoo.weights.checkpoint import save_checkpoint
from citysegzoo.weights.config import ModelConfig

# Pillow warns of broken metadata before it gives up, NumPy of what no file should hold.
pytestmark = pytest.mark.filterwarnings("ignore")

amounts = pytest.mark.parametrize(
    "times", [1, pytest.param(5, marks=pytest.mark.slow)], ids=["some", "many"]
)


def cases(count: int, times: int) -> Callable[[Any], Any]:
    """Settings for so many cases, the same ones ever unless FUZZ says how many times as many."""
    more = int(os.environ.get("FUZZ", "1"))
    return settings(
        max_examples=count * times * more,
        derandomize=more == 1,
        database=None,
        deadline=None,  # `within` ends what hangs, and says where
        suppress_health_check=list(HealthCheck),
    )


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail, with the place, what takes longer."""

    def late(*_: object) -> None:
        raise AssertionError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def assert_sentence(error: BaseException, *, names: str | Path = "") -> None:
    """That an error says something, in moderate length, of the file that it is about."""
    text = str(error)
    assert str(names) in text
    assert 10 < len(text) < 1500, text
    assert "Traceback" not in text


EDGES = [b"\0", b"\xff", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\xff\xff"]


@st.composite
def damaged(draw: st.DrawFn, contents: Sequence[bytes], head: int = 400) -> bytes:
    """One of some files with bytes changed, cut, doubled or put in, oftener near its beginning."""
    content = bytearray(draw(st.sampled_from(contents)))
    for _ in range(draw(st.integers(1, 5))):
        if not content:
            break
        end = draw(st.sampled_from([min(head, len(content)), len(content)]))
        at = draw(st.integers(0, end - 1))
        length = draw(st.integers(1, 64))
        how = draw(st.sampled_from(["set", "set", "edge", "edge", "flip", "drop", "double", "cut"]))
        if how == "set":
            new = draw(st.binary(min_size=1, max_size=4))
            content[at : at + len(new)] = new
        elif how == "edge":
            new = draw(st.sampled_from(EDGES))
            content[at : at + len(new)] = new
        elif how == "flip":
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif how == "drop":
            del content[at : at + length]
        elif how == "double":
            content[at:at] = content[at : at + length]
        else:
            del content[at:]
    return bytes(content)


# --- images


def encoded(image: PIL.Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photographs() -> dict[str, list[bytes]]:
    noise = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
    noise[8:24] = 90
    rgb = PIL.Image.fromarray(noise)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    deep = PIL.Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
    real = PIL.Image.fromarray(noise[..., 0].astype(np.float32) / 255)
    clear = rgb.convert("RGBA")
    clear.putalpha(128)
    return {
        "jpg": [
            encoded(rgb, "JPEG", exif=exif),
            encoded(rgb, "JPEG", progressive=True),
            encoded(rgb.convert("L"), "JPEG"),
            encoded(rgb.convert("CMYK"), "JPEG"),
        ],
        "png": [
            encoded(rgb, "PNG", exif=exif),
            encoded(clear, "PNG"),
            encoded(deep, "PNG"),
            encoded(rgb.convert("P"), "PNG", transparency=3),
            encoded(rgb.convert("1"), "PNG"),
        ],
        "webp": [encoded(rgb, "WEBP", exif=exif), encoded(clear, "WEBP", lossless=True)],
        "bmp": [encoded(rgb, "BMP"), encoded(rgb.convert("P"), "BMP"), encoded(clear, "BMP")],
        "tif": [
            encoded(rgb, "TIFF"),
            encoded(rgb, "TIFF", compression="tiff_lzw"),
            encoded(rgb, "TIFF", compression="jpeg"),
            encoded(deep, "TIFF"),
            encoded(real, "TIFF", compression="tiff_adobe_deflate"),
        ],
    }


@amounts
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tif"])
def test_damaged_photographs(suffix: str, times: int, tmp_path: Path) -> None:
    path = tmp_path / f"street.{suffix}"

    @cases(120, times)
    @given(damaged(photographs()[suffix]))
    def holds(content: bytes) -> None:
        path.write_bytes(content)
        with within(20):
            try:
                pixels = read_image(path)
            except ValueError as error:
                assert_sentence(error, names=path)
            else:
                assert pixels.dtype == np.uint8
                assert pixels.ndim == 3
                assert pixels.flags.writeable

    holds()


# --- label images


@amounts
def test_damaged_label_images(times: int, tmp_path: Path) -> None:
    """`evaluate` scores and exits with 0, or says one sentence, exits with 2 and writes nothing."""
    ids = np.random.default_rng(0).integers(0, 34, (12, 16), np.uint8)
    image = PIL.Image.fromarray(ids)
    palette = image.copy()
    palette.putpalette(list(range(256)) * 3)
    contents = [
        encoded(image, "PNG"),
        encoded(palette, "PNG"),
        encoded(PIL.Image.fromarray(ids.astype(np.uint16)), "PNG"),
        encoded(image.convert("RGB"), "PNG"),
        encoded(image, "TIFF"),
        encoded(image, "BMP"),
    ]
    truth = tmp_path / "a_0_0_gtFine_labelIds.png"
    truth.write_bytes(contents[0])
    prediction, result = tmp_path / "prediction.png", tmp_path / "result.json"
    words = ["evaluate", str(prediction), str(truth), "--json", str(result), "--workers", "1"]

    @cases(120, times)
    @given(damaged(contents, head=120), st.sampled_from([*LABEL_SETS, None]))
    def holds(content: bytes, labels: str | None) -> None:
        result.unlink(missing_ok=True)
        prediction.write_bytes(content)
        with within(20):
            status, out, err = commanded(*words, *(["--labels", labels] if labels else []))
        assert status in (0, 2)
        assert result.exists() == (status == 0)
        assert {file.name for file in tmp_path.iterdir()} <= {truth.name, "prediction.png",
                                                               "result.json"}  # fmt: skip
        if status == 0:
            assert "frame" in out
            json.loads(result.read_text())
        try:
            assert read_ids(prediction).ndim == 2
        except ValueError as error:
            assert_sentence(error)
            assert status == 2
            assert err.count("error: ") == 1

    holds()


def commanded(*words: str) -> tuple[int, str, str]:
    """Exit status, output and errors of a command; anything that it raises is a bug."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = cli.main(words)
        except SystemExit as stopped:
            status = int(stopped.code or 0)
    assert "Traceback" not in err.getvalue()
    return status, out.getvalue(), err.getvalue()


# --- config.json

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 300)
    | st.sampled_from([1 << 40, -(1 << 70), 10**400, 1e308, float("nan"), float("inf")])
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = citysegzoo.create_model("unet", widths=(4, 4), num_classes=3).eval()
    return model.save_pretrained(tmp_path_factory.mktemp("saved") / "model")


@st.composite
def configurations(draw: st.DrawFn, text: str) -> str:
    """A real config.json with values anywhere in it taken out, renamed or replaced."""
    content = json.loads(text)
    for _ in range(draw(st.integers(1, 4))):
        part = content
        while True:
            keys = list(part) if isinstance(part, dict) else list(range(len(part)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(part[key], (dict, list)) and draw(st.booleans()):
                part = part[key]
                continue
            how = draw(st.sampled_from(["replace", "replace", "remove", "double"]))
            if how == "replace":
                part[key] = draw(json_values)
            elif how == "remove":
                del part[key]
            elif isinstance(part, dict):
                part[draw(st.text(max_size=6))] = part[key]
            else:
                part.append(part[key])
            break
    return json.dumps(content)


@amounts
def test_configurations(times: int, saved: Path) -> None:
    text = (saved / "config.json").read_text()

    @cases(400, times)
    @given(
        configurations(text)
        | damaged([text.encode()], head=len(text))
        | json_values.map(json.dumps)
        | st.text()
    )
    def holds(content: str | bytes) -> None:
        with within(10):
            try:
                config = ModelConfig.from_json(content, source="config.json")
            except ValueError as error:
                assert_sentence(error, names="config.json ")
            else:  # what is taken can be written and is taken again as the same
                again = ModelConfig.from_json(config.to_json(), source="config.json")
                assert again.to_json() == config.to_json()

    holds()


@amounts
def test_models_of_configurations(times: int, saved: Path, tmp_path: Path) -> None:
    """What `load` makes of them: a model or one sentence, in moderate time."""
    text = (saved / "config.json").read_text()
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes((saved / "model.safetensors").read_bytes())

    @cases(60, times)
    @given(configurations(text))
    def holds(content: str) -> None:
        (folder / "config.json").write_text(content)
        with within(30):
            try:
                model = citysegzoo.load(folder)
            except (ValueError, TypeError) as error:
                assert_sentence(error)
            else:
                model.save_pretrained(tmp_path / "again")

    holds()


# --- checkpoints


def checkpoints(folder: Path) -> dict[str, list[bytes]]:
    torch.manual_seed(0)
    state = citysegzoo.create_model("unet", widths=(4, 4), num_classes=3).state_dict()
    save_checkpoint(folder / "a.safetensors", state, {"data": "none"}, config="{}")
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()},
                "epoch": 3}, folder / "a.pt")  # fmt: skip
    torch.save(state, folder / "old.pt", _use_new_zipfile_serialization=False)
    return {
        ".safetensors": [(folder / "a.safetensors").read_bytes()],
        ".pt": [(folder / "a.pt").read_bytes(), (folder / "old.pt").read_bytes()],
    }


@amounts
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_damaged_checkpoints(suffix: str, times: int, tmp_path: Path) -> None:
    contents = checkpoints(tmp_path)[suffix]
    path = tmp_path / f"damaged{suffix}"

    @cases(150, times)
    @given(damaged(contents, head=2000))
    def holds(content: bytes) -> None:
        path.unlink(missing_ok=True)  # what was read before is mapped
        path.write_bytes(content)
        with within(20):
            try:
                state = read_state_dict(path)
                detect_layout(state)
            except ValueError as error:
                assert_sentence(error)

    holds()


class Writes:
    """Writes a file when a pickle of it is read without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "run")


@amounts
def test_pickles_run_nothing(times: int, tmp_path: Path) -> None:
    """A pickle in any wrapping, whole or damaged, runs nothing."""
    canary, path = tmp_path / "canary", tmp_path / "evil.pt"
    torch.save({"w": torch.zeros(2), "evil": Writes(canary)}, tmp_path / "zip.pt")
    with zipfile.ZipFile(tmp_path / "zip.pt") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    contents = [(tmp_path / "zip.pt").read_bytes()]
    contents += [pickle.dumps(Writes(canary), protocol) for protocol in range(6)]

    @cases(150, times)
    @given(
        damaged(contents, head=2000)
        | st.tuples(damaged(contents[1:]), st.sampled_from(sorted(parts)))
    )
    def holds(content: bytes | tuple[bytes, str]) -> None:
        if isinstance(content, tuple):  # a part of the archive is another pickle
            with zipfile.ZipFile(path, "w") as archive:
                for name, part in parts.items():
                    archive.writestr(name, content[0] if name == content[1] else part)
        else:
            path.write_bytes(content)
        with within(20), contextlib.suppress(ValueError):
            read_state_dict(path)
        assert not canary.exists()

    holds()


@amounts
def test_headers_of_safetensors(times: int, tmp_path: Path) -> None:
    """Headers that are JSON, with any shapes and offsets."""
    path = tmp_path / "a.safetensors"
    numbers = st.integers(-2, 40) | st.sampled_from([1 << 31, 1 << 62, 1 << 64, -(1 << 40)])
    tensor = st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "x"]),
            "shape": st.lists(numbers, max_size=4),
            "data_offsets": st.lists(numbers, min_size=2, max_size=2),
        }
    )
    header = st.dictionaries(st.text(max_size=8), tensor | json_values, max_size=4)

    @cases(200, times)
    @given(header, st.binary(max_size=64))
    def holds(content: dict[str, Any], data: bytes) -> None:
        text = json.dumps(content).encode()
        path.unlink(missing_ok=True)
        path.write_bytes(struct.pack("<Q", len(text)) + text + data)
        with within(10):
            try:
                read_state_dict(path)
            except ValueError as error:
                assert_sentence(error)

    holds()


LAYOUT_KEYS = (
    "encoder.conv1.weight", "encoder.layer1.0.conv1.weight", "encoder.layer1.0.conv2.weight",
    "encoder.layer1.0.bn1.running_var", "encoder.patch_embed1.proj.weight",
    "decoder.aspp.0.convs.0.0.weight", "decoder.fuse_stage.0.weight",
    "decoder.mlp_stage.0.linear.weight", "segmentation_head.0.weight", "segmentation_head.0.bias",
    "backbone.conv1.weight", "backbone.layer1.0.conv1.weight", "backbone.layer1.0.conv2.weight",
    "classifier.0.convs.0.0.weight", "classifier.4.weight", "classifier.4.bias",
    "backbone.0.0.weight", "backbone.13.0.weight", "backbone.16.0.weight", "backbone.12.0.weight",
    "classifier.high_classifier.weight", "classifier.high_classifier.bias",
    "classifier.low_classifier.weight", "classifier.low_classifier.bias",
    "classifier.0.weight", "aux_classifier.4.weight", "conv1.weight", "layer1.0.conv2.weight",
    "layer1.0.conv3.weight", "aspp.aspp1.weight", "aspp.conv3.weight", "aspp.aspp5_bn.weight",
    "segformer.encoder.patch_embeddings.0.proj.weight", "decode_head.classifier.weight",
    "decode_head.linear_c.0.proj.weight", "down_path.0.block.0.weight",
    "down_path.2.block.0.weight", "last.weight", "aspp.aspp1_bn.running_var",
    "decoder.aspp.project.0.weight", "decoder.aspp.0.project.0.weight",
    "decoder.blocks.0.conv1.0.weight", "decoder.blocks.0.conv1.1.running_var",
    "decoder.blocks.0.conv2.0.weight", "encoder.layer1.0.conv2.bias",
    "classifier.conv.weight", "encoder.stages.0.embed.weight", "module.conv1.weight",
)  # fmt: skip


@amounts
def test_keys_of_layouts(times: int) -> None:
    """Any mixture of keys, with tensors of any shape, is told and converted, or refused."""
    shapes = st.lists(st.integers(0, 4), max_size=5).map(lambda shape: torch.empty(shape))
    keys = st.sampled_from(LAYOUT_KEYS) | st.text(max_size=8)

    @cases(250, times)
    @given(
        st.dictionaries(keys, shapes, max_size=12),
        st.sampled_from([None, *(layout.name for layout in LAYOUTS)]),
    )
    def holds(state: dict[str, torch.Tensor], name: str | None) -> None:
        with within(10):
            try:
                layout = (
                    detect_layout(state)
                    if name is None
                    else next(layout for layout in LAYOUTS if layout.name == name)
                )
                convert_state_dict(state, layout=layout)
                layout.model(state)
            except ValueError as error:
                assert_sentence(error)

    holds()


# --- the command line

VALUES = [
    "", "-", "--", "x", "0", "1", "-1", "3.5", "nan", "inf", "1e400", str(10**30), "32", "64",
    "1,2", "1,,2", "0,0", "32x32", "x32", "True", "none", "[", "{1:", "a=b", "=", "widths=4,8",
    "widths=[", "norm=maybe", "in_channels=-1", "unet", "unet.small", "unet.smal", "fcn", "*", "[!",
    "nobody/nothing", "a/b@c", "../..", "/", "/dev/null", "/proc/self/mem", "\0", "\udc80", "😀",
    "a\nb", "~", "street.jpg", "empty.png", "folder", "missing", "model", "model/model.safetensors",
    "auto", "cpu", "cuda:99", "meta", "mps", "fp32", "bf16", "cityscapes19", "cityscapes34",
    "camvid", "camvid11", "standard", "safe", "lock", "check", "draw", "smp", "mei2019", "onnx",
    "labels.png", "out.png", "out.onnx", "bash",
]  # fmt: skip


def parsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Every command that takes arguments itself, by its words."""
    found = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                deeper = parsers(inner)
                found.update({f"{name} {k}": v for k, v in deeper.items()} or {name: inner})
    return found


COMMANDS = parsers(cli.build_parser())


@st.composite
def arguments(draw: st.DrawFn, command: str) -> list[str]:
    """Mostly the options that a command has, with mostly as many values as they take."""
    words = []
    for action in COMMANDS[command]._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        if not draw(st.booleans() if action.option_strings else st.integers(0, 9).map(bool)):
            continue
        if action.option_strings:
            words.append(draw(st.sampled_from(action.option_strings)))
        count = action.nargs if isinstance(action.nargs, int) else 1
        if draw(st.integers(0, 19)) == 0:
            count += 1
        values = VALUES + [str(choice) for choice in action.choices or ()] * 10
        if action.dest == "images" and action.type is int:  # of `data draw`: not too many
            values = ["-1", "0", "1", "2", str(10**30), "x"]
        words += [draw(st.sampled_from(values)) for _ in range(count)]
    if draw(st.integers(0, 9)) == 0:
        words.append(draw(st.sampled_from(["--help", "--nothing", "-o", "--options"])))
    return words


@amounts
@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_arguments(
    command: str, times: int, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any words after any command: exit status 0 or 2, and one sentence with 2."""
    import huggingface_hub.constants

    import citysegzoo.benchmark

    def measured(*_: object) -> None:
        raise ValueError("the arguments are fine; measuring takes too long for this test.")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(citysegzoo.benchmark, "benchmark_imports", measured)
    grey = PIL.Image.fromarray(np.full((40, 48), 7, np.uint8))
    (tmp_path / "folder").mkdir()
    for name in ("street.jpg", "folder/street.png", "labels.png"):
        grey.save(tmp_path / name)
    (tmp_path / "empty.png").touch()
    (tmp_path / "model").symlink_to(saved)

    @cases(25, times)
    @given(arguments(command))
    def holds(words: list[str]) -> None:
        with within(60):
            status, _, err = commanded(*command.split(), *words)
        assert status in (0, 2), (words, status)
        if status == 2:
            assert err.strip(), words
            assert "error: " in err, (words, err)
        assert not list(tmp_path.rglob("*.part*"))

    holds()


# --- what was found this way


@pytest.mark.parametrize(
    ("state", "missing"),
    [
        (("conv1.weight", "layer1.0.conv1.weight", "aspp.aspp1_bn.running_var",
          "aspp.aspp1.weight"), "aspp.aspp1.weight"),
        (("encoder.layer1.0.conv1.weight", "segmentation_head.0.weight",
          "decoder.aspp.project.0.weight"), "decoder.aspp.project.0.weight"),
        (("encoder.layer1.0.conv1.weight", "segmentation_head.0.weight",
          "decoder.aspp.0.project.0.weight"), "decoder.aspp.0.project.0.weight"),
        (("encoder.layer1.0.conv1.weight", "segmentation_head.0.weight",
          "decoder.blocks.0.conv1.0.weight", "decoder.blocks.0.conv2.0.weight"),
         "decoder.blocks.0.conv2.0.weight"),
        (("down_path.0.block.0.weight", "last.weight", "down_path.2.block.0.weight"),
         "down_path.0.block.0.weight"),
    ],
)  # fmt: skip
def test_weights_without_a_shape_that_tells_the_network(
    state: tuple[str, ...], missing: str
) -> None:
    """They raised IndexError or KeyError, which commands do not expect."""
    numbers = {name: torch.tensor(0.0) for name in state}
    layout = detect_layout(numbers)
    with pytest.raises(ValueError, match=rf"these weights lack {missing}"):
        layout.model(numbers)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--size", "64", str(10**30)), "sides must be at most 16384"),
        (("--images", str(10**30)), "images must be at most 999999"),
    ],
)
def test_more_than_can_be_drawn(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    """The first was an OverflowError, the second would have filled the disk."""
    with within(20):
        status, _, err = commanded("data", "draw", str(tmp_path / "streets"), *words)
    assert status == 2
    assert message in err
    assert not list(tmp_path.iterdir())


# --- guided by coverage


@pytest.mark.slow
@pytest.mark.parametrize("target", ["images", "labels", "headers", "configurations"])
def test_atheris_finds_nothing(target: str, tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris is not installed: pip install atheris")
    script = Path(__file__).with_name("fuzz_with_atheris.py")
    done = subprocess.run(
        [sys.executable, script, target, "-runs=5000", "-seed=1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done 5000 runs" in done.stderr
