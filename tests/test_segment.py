"""Segmenting photographs: the library, the command, and everything that may go wrong."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import run_on_a_terminal
from PIL import Image

import citysegzoo
from citysegzoo.cli import main
from citysegzoo.cli.common import make_folder
from citysegzoo.data import CAMVID_11, DEMO_IMAGE
from citysegzoo.inference import Segmentation, Segmenter
from citysegzoo.inference.segmentation import label_maps


@pytest.fixture(scope="module")
def model() -> citysegzoo.SegmentationModel:
    return citysegzoo.create_model(citysegzoo.DEFAULT_MODEL, pretrained=True)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A small piece of the drawn street, of odd size."""
    path = tmp_path / "street.png"
    opened(DEMO_IMAGE).resize((161, 121)).save(path)
    return path


def opened(path: Path) -> Image.Image:
    """A picture read whole, its file closed again."""
    with Image.open(path) as image:
        return image.copy()


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "citysegzoo", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
    )


def assert_one_sentence(error: str, *parts: str) -> None:
    lines = error.strip().splitlines()
    assert len(lines) == 1, error
    assert lines[0].startswith("citysegzoo: error: ")
    for part in parts:
        assert part in lines[0]


def test_segments_at_full_resolution(model, photo: Path) -> None:
    result = model.segment(photo)
    assert result.labels.shape == (121, 161)
    assert result.labels.dtype == np.uint8
    assert result.name == "street"
    images = model.preprocessing(torch.from_numpy(result.image).permute(2, 0, 1)[None])
    with torch.no_grad():
        expected = model(images)[0].argmax(0).numpy()
    assert np.array_equal(result.labels, expected)
    assert sum(result.shares.values()) == pytest.approx(1)
    assert set(result.shares) <= set(CAMVID_11.classes)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("values", [2, 1000])
def test_label_maps_are_the_argmax(model, values: int, layout: torch.memory_format) -> None:
    """Ties and NaN included."""
    logits = torch.randint(values, (2, 11, 64, 96)).float().contiguous(memory_format=layout)
    logits[1, 7, :9] = torch.nan
    for size in ((64, 96), (127, 191)):
        expected = model.enlarge(logits, size).argmax(1)
        assert torch.equal(label_maps(model, logits, size).long(), expected)


def test_takes_paths_pictures_arrays_and_lists(model, photo: Path) -> None:
    picture = opened(photo)
    results = model.segment([photo, str(photo), picture, np.asarray(picture)])
    assert all(np.array_equal(r.labels, results[0].labels) for r in results)
    assert [r.name for r in results] == ["street", "street_1", "image_2", "image_3"]


def test_leaves_the_model_as_it_was(photo: Path) -> None:
    fresh = citysegzoo.create_model("unet.small", widths=(4, 8))
    fresh.train()
    before = {k: v.clone() for k, v in fresh.state_dict().items()}
    assert np.array_equal(fresh.segment(photo).labels, fresh.segment(photo).labels)
    assert fresh.training
    assert all(torch.equal(v, before[k]) for k, v in fresh.state_dict().items())


def test_leaves_every_part_in_its_mode(photo: Path) -> None:
    fresh = citysegzoo.create_model("unet.small", widths=(4, 8)).train()
    fresh.encoder.eval()
    before = [module.training for module in fresh.modules()]
    fresh.segment(photo)
    assert [module.training for module in fresh.modules()] == before


def test_a_number_is_not_a_name_that_is_there(model, photo: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / photo.name
    third = photo.with_name(f"{photo.stem}_1{photo.suffix}")
    other.parent.mkdir()
    for copied in (other, third):
        copied.write_bytes(photo.read_bytes())
    names = [result.name for result in model.segment([photo, other, third])]
    assert names == ["street", "street_1", "street_1_2"]


def test_a_list_within_a_list_is_no_photograph(model, photo: Path) -> None:
    with pytest.raises(TypeError, match="list"):
        model.segment([[photo]])


def test_results_of_one_name_are_numbered(model, photo: Path, tmp_path: Path) -> None:
    picture = opened(photo)
    with Image.open(photo) as of_a_file:
        results = model.segment([picture, of_a_file, np.asarray(picture)])
    assert [r.name for r in results] == ["image_0", "street", "image_2"]


def test_the_256th_class_is_a_class() -> None:
    many = citysegzoo.create_model("unet.small", widths=(4, 8), num_classes=256)
    torch.nn.init.zeros_(many.classifier.conv.weight)
    with torch.no_grad():
        many.classifier.conv.bias.copy_(torch.arange(256.0))
    grey = np.full((40, 40, 3), 128, np.uint8)
    result = many.segment(grey)
    assert result.shares == {"class_255": 1.0}
    assert not np.array_equal(np.asarray(result.overlay(legend=False)), grey)


def test_no_photograph_is_overwritten(photo: Path, capsys) -> None:
    mine = photo.with_name("street_overlay.jpg")
    opened(photo).save(mine)
    before = mine.read_bytes()
    assert main(["segment", str(photo.parent), "--output", str(photo.parent)]) == 2
    assert_one_sentence(
        capsys.readouterr().err, "street_overlay.jpg is to be segmented and written"
    )
    assert mine.read_bytes() == before


@pytest.mark.slow
def test_names_the_terminal_cannot_show_stop_nothing(photo: Path, tmp_path: Path) -> None:
    for name in ("a", "ü", "z"):
        (photo.parent / f"{name}.png").write_bytes(photo.read_bytes())
    done = subprocess.run(
        [sys.executable, "-m", "citysegzoo", "segment", photo.parent, "--output", tmp_path / "out"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").iterdir())) == 8


def test_half_precision_models_segment(photo: Path) -> None:
    fresh = citysegzoo.create_model("unet.small", widths=(4, 8)).bfloat16()
    assert fresh.segment(photo).labels.shape == (121, 161)


def test_saves_labels_and_overlay(model, photo: Path, tmp_path: Path) -> None:
    result = model.segment(photo)
    labels, overlay = result.save(tmp_path / "new" / "folder")
    written = opened(labels)
    assert written.mode == "P"
    assert np.array_equal(np.asarray(written), result.labels)
    road = CAMVID_11.classes.index("road")
    assert tuple(written.getpalette()[3 * road : 3 * road + 3]) == CAMVID_11.palette[road]
    assert opened(overlay).width == 161
    assert sorted(p.name for p in labels.parent.iterdir()) == [
        "street_labels.png",
        "street_overlay.jpg",
    ]


def test_models_without_weights_in_memory_say_so(photo: Path) -> None:
    with torch.device("meta"):
        empty = citysegzoo.create_model("unet.small")
    with pytest.raises(ValueError, match="meta device and has no weights"):
        empty.segment(photo)
    many = citysegzoo.create_model("unet.small", widths=(4, 8), num_classes=300)
    with pytest.raises(ValueError, match="8-bit; the model has 300 classes"):
        many.segment(photo)


def test_command_segments_the_demo(tmp_path: Path) -> None:
    done = command("segment", "--demo", "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "road" in done.stdout
    assert "%" in done.stdout
    written = opened(tmp_path / "out" / "demo_street_labels.png")
    assert written.size == opened(DEMO_IMAGE).size


def test_command_segments_as_it_is_told(model, photo: Path, tmp_path: Path) -> None:
    def segmented(*options: str) -> np.ndarray:
        assert main(["segment", str(photo), "--output", str(tmp_path), *options]) == 0
        return np.asarray(opened(tmp_path / "street_labels.png"))

    whole = model.segment(photo).labels
    # Folding rounds, so a pixel may change.
    assert (segmented("--precision", "fp32", "--device", "cpu") == whole).mean() > 0.999
    assert (segmented("--batch-size", "4") == whole).mean() > 0.98
    assert (segmented("--precision", "fp32", "--keep-memory") == whole).mean() > 0.999
    for options in (
        {"tile": (64, 96), "overlap": 16},
        {"scales": (0.75, 1.25)},
        {"flip": True},
    ):
        expected = Segmenter(model, **options)(photo).labels
        texts = {
            "tile": ["--tile", "64x96", "--overlap", "16"],
            "scales": ["--scales", "0.75,1.25"],
            "flip": ["--flip"],
        }
        assert np.array_equal(segmented(*texts[next(iter(options))]), expected)
        assert not np.array_equal(expected, whole)


def test_command_says_that_a_model_was_trained_on_resized_images(
    photo: Path, tmp_path: Path, capsys
) -> None:
    model = citysegzoo.create_model("unet.small", widths=(4, 8))
    words = ["segment", str(photo), "--output", str(tmp_path / "out"), "--model"]
    for card, said in (({}, False), ({"resized_to": [512, 1024]}, True)):
        model.save_pretrained(tmp_path / "model", card={"data": "none", "licence": "MIT", **card})
        assert main([*words, str(tmp_path / "model")]) == 0
        assert ("resized to 512x1024; --scales" in capsys.readouterr().err) == said


def test_command_does_the_rest_of_a_folder(photo: Path, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    opened(photo).save(folder / "a.png")
    (folder / "b.jpg").write_text("no picture")
    opened(photo).save(folder / "c.bmp")
    Image.new("RGB", (1, 1)).save(folder / "d.png")
    assert main(["segment", str(folder), "--output", str(tmp_path / "out")]) == 2
    out, err = capsys.readouterr()
    assert "b.jpg" in err
    assert "d.png" in err
    assert "1x1" in err
    assert "2 of 4 photographs failed, 2 are done" in err
    assert "a.png: " in out
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "a_labels.png",
        "a_overlay.jpg",
        "c_labels.png",
        "c_overlay.jpg",
    ]


@pytest.mark.slow
def test_command_shows_progress_on_a_terminal(photo: Path, tmp_path: Path) -> None:
    other = photo.with_name("second.png")
    other.write_bytes(photo.read_bytes())
    out, shown = run_on_a_terminal("segment", photo, other, "--output", tmp_path / "out")
    assert out.count("  -> ") == 2
    assert "2/2" in shown


@pytest.fixture
def bad_inputs(tmp_path: Path, photo: Path) -> dict[str, Path]:
    folder = tmp_path / "bad"
    folder.mkdir()
    files = {name: folder / name for name in ("text.jpg", "empty.png", "cut.jpg", "dot.png")}
    files["text.jpg"].write_text("this is no picture")
    files["empty.png"].touch()
    opened(photo).save(files["cut.jpg"], quality=95)
    files["cut.jpg"].write_bytes(files["cut.jpg"].read_bytes()[:-900])
    Image.new("RGB", (1, 1)).save(files["dot.png"])
    files["strip.png"] = folder / "strip.png"
    Image.new("RGB", (20000, 10)).save(files["strip.png"])
    files["missing.png"] = folder / "missing.png"
    files["folder"] = tmp_path / "nothing_in_here"
    files["folder"].mkdir()
    return files


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("text.jpg", "text.jpg"),
        ("empty.png", "empty"),
        ("cut.jpg", "cut.jpg"),
        ("dot.png", "is 1x1"),
        ("strip.png", "is 20000x10"),
        ("missing.png", "missing.png"),
        ("folder", "nothing_in_here"),
    ],
)
def test_bad_photographs(bad_inputs, name: str, part: str, tmp_path: Path, capsys) -> None:
    output = tmp_path / "out"
    assert main(["segment", str(bad_inputs[name]), "--output", str(output)]) == 2
    assert_one_sentence(capsys.readouterr().err, part)
    assert not output.exists() or not any(output.iterdir())


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["segment"], ["name photographs or folders"]),
        (["segment", "--demo", "--model", "unet.smal"], ["did you mean 'unet.small'"]),
        (["segment", "--demo", "--model", "unet"], ["no trained weights for 'unet'", "unet.small"]),
        (["segment", "--demo", "--weights", "city"], ["no weights named 'city'", "camvid"]),
        (["segment", "--demo", "--device", "gpu7"], ["the device 'gpu7' cannot be used"]),
        (["segment", "--demo", "--tile", "16"], ["a tile is at least 32x32"]),
        (["segment", "--demo", "--tile", "64", "--overlap", "64"], ["cannot overlap by 64"]),
        (["segment", "--demo", "--overlap", "64"], ["give tile too"]),
        (["segment", "--demo", "--scales", "1,0"], ["number above 0"]),
        (["segment", "--demo", "--batch-size", "0"], ["batch_size must be at least 1"]),
        (["segment", "--demo", "--output", "/proc/no/folder"], ["cannot be written to"]),
        (["segment", "--demo", "--output", "/dev/null"], ["cannot be written to"]),
        (["show", "deeplabv3_resnet11"], ["did you mean 'deeplabv3_resnet101'"]),
        (["show", "unet", "-o", "withs=8,8"], ["no option 'withs'; did you mean 'widths'"]),
        (["show", "unet", "-o", "widths"], ["NAME=VALUE"]),
        (["show", "deeplabv3_resnet50", "-o", "aspp_rates=0,6"], ["at least 1, not 0"]),
        (["show", "deeplabv3_resnet50", "-o", "aspp_rates=many"], ["sequence of whole numbers"]),
        (["show", "unet", "--num-classes", "0"], ["num_classes must be at least 1"]),
        (["models", "nothing*"], ["no model matches"]),
        (["models", "resnet"], ["try '*resnet*'"]),
        (["show", "unet", "-o", "num_classes=3"], ["no option 'num_classes'"]),
        (["show", "unet", "-o", "norm=maybe"], ["norm of", "True or False"]),
        (["models", "--report", "mei"], ["no report 'mei'"]),
    ],
)
def test_bad_arguments(
    arguments: list[str], parts: list[str], capsys, monkeypatch, tmp_path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert_one_sentence(capsys.readouterr().err, *parts)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


@pytest.mark.parametrize(
    "arguments", [["frobnicate"], ["segment", "--frobnicate"], ["segment", "--tile", "big"], []]
)
def test_argparse_errors_exit_2(arguments: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: citysegzoo" in capsys.readouterr().err


def test_two_photographs_of_one_name(photo: Path, tmp_path: Path, capsys) -> None:
    other = photo.with_suffix(".bmp")
    opened(photo).save(other)
    assert main(["segment", str(photo), str(other), "--output", str(tmp_path / "out")]) == 2
    assert_one_sentence(capsys.readouterr().err, "would both be written as street_labels.png")


def test_unwritable_folder(photo: Path, tmp_path: Path, capsys) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    assert main(["segment", str(photo), "--output", str(tmp_path / "out")]) == 2
    assert_one_sentence(capsys.readouterr().err, "cannot be written to")


def test_models_command(capsys) -> None:
    assert main(["models", "*resnet101*"]) == 0
    out = capsys.readouterr().out
    assert "deeplabv3_resnet101.mei2019_dl4" in out
    assert "unet.small" not in out
    assert main(["models", "--pretrained"]) == 0
    assert "camvid" in capsys.readouterr().out
    assert main(["models", "--report", "chen2020"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 8


def test_show_command(capsys) -> None:
    assert main(["show", "deeplabv3_resnet101.mei2019_dl3"]) == 0
    out = capsys.readouterr().out
    for part in ("69,050,195", "(8, 16, 24)", "0.007", "60.99", "should be 60.99", "mei2019"):
        assert part in out
    assert main(["show", "unet.small"]) == 0
    out = capsys.readouterr().out
    for part in ("1,944,355", "CC BY-NC 4.0", "examples/train.py", *CAMVID_11.classes):
        assert part in out
    assert main(["show", "deeplabv3_resnet50", "-o", "aspp_rates=1,2,3,4"]) == 0
    assert "(1, 2, 3, 4)  (given)" in capsys.readouterr().out
    assert main(["show", "unet", "-o", "norm=false"]) == 0
    assert "31,032,915" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["unet", "unet.small", "fcn_resnet50.chen2020_transfer"])
def test_every_kind_of_model_shows(name: str, capsys) -> None:
    assert main(["show", name, "--num-classes", "7"]) == 0
    assert "7 classes" in capsys.readouterr().out


def test_closed_pipe_is_no_error() -> None:
    done = subprocess.run(
        f"{sys.executable} -m citysegzoo models | head -1",
        shell=True,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    assert done.stdout.startswith("MODEL")


@pytest.mark.slow
def test_closed_output_is_no_error(photo: Path, tmp_path: Path) -> None:
    arguments = f"segment {photo} --output {tmp_path / 'out'}"
    line = f"{sys.executable} -m citysegzoo {arguments} >&- 2>&-"
    assert subprocess.run(line, shell=True, timeout=300).returncode == 0
    assert (tmp_path / "out" / "street_labels.png").is_file()


def test_version(capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"citysegzoo {citysegzoo.__version__}\n"


def test_an_output_folder_is_tried_by_many_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(make_folder, folder) for _ in range(400)]:
            done.result()
    assert list(folder.iterdir()) == []


def test_larger_images_than_pillow_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    photo = tmp_path / "street.png"
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(photo)
    words = ["segment", str(photo), "--output", str(tmp_path / "out")]
    assert main(words) == 2
    assert "--max-megapixels" in capsys.readouterr().err
    assert main([*words, "--max-megapixels", "0.0025"]) == 2  # of 0.003
    capsys.readouterr()
    assert main([*words, "--max-megapixels", "0.0035"]) == 0
    assert capsys.readouterr().err == ""
    assert Image.MAX_IMAGE_PIXELS == 1000
    assert main([*words, "--max-megapixels", "-1"]) == 2


def test_a_network_of_nan_is_no_label_map() -> None:
    model = citysegzoo.create_model("unet", widths=(4, 8), num_classes=11).eval()
    with torch.no_grad():
        model.classifier.conv.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="gives NaN or infinite logits; check its weights"):
        model.segment(np.zeros((48, 64, 3), np.uint8))


@pytest.mark.parametrize("command", ["segment", "compare"])
def test_work_goes_on_when_nobody_reads_of_it(command: str, photo: Path, tmp_path: Path) -> None:
    for i in range(5):
        photo.with_name(f"more{i}.png").write_bytes(photo.read_bytes())
    words = {"segment": ["--model", "unet.small"], "compare": ["--models", "unet.small"]}[command]
    with subprocess.Popen(
        [sys.executable, "-m", "citysegzoo", command, photo.parent, *words, "--output", "out"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as started:  # fmt: skip
        assert str(photo.parent) in started.stdout.readline()
        started.stdout.close()
        assert started.stderr.read() == ""
    assert started.returncode == 0
    files = {"segment": 2, "compare": 1}[command]
    assert len(list((tmp_path / "out").iterdir())) == 6 * files


def test_a_reader_that_goes_away_hides_no_failure(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    for words, status in (
        (f"segment {DEMO_IMAGE} {bad} --output {tmp_path / 'out'}", 2),
        ("show nothing", 2),
        ("models", 0),
    ):
        line = f"{sys.executable} -m citysegzoo {words} | true; exit ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
        assert done.returncode == status
        assert "Exception ignored" not in done.stderr


def test_show_says_which_images_a_network_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "unet", "-o", "widths=8,8,8,8,8,8,8"]) == 0
    assert "any size from 64x64" in capsys.readouterr().out


def test_overlays_longer_than_jpeg_allows(tmp_path: Path) -> None:
    shape = (32, 70_000)
    result = Segmentation(
        np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.uint8), CAMVID_11, "x"
    )
    labels, overlay = result.save(tmp_path)
    assert opened(labels).size == shape[::-1]
    assert opened(overlay).width == 65_500


def test_a_full_gpu_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr(citysegzoo.SegmentationModel, "to", full)
    monkeypatch.setattr("citysegzoo.inference.network.Network.__init__", full)
    assert main(["segment", "--demo", "--output", str(tmp_path)]) == 2
    assert "error: CUDA out of memory" in capsys.readouterr().err


def test_the_version_on_a_full_disk(capfd: pytest.CaptureFixture[str]) -> None:
    line = f"{sys.executable} -m citysegzoo --version > /dev/full"
    assert subprocess.run(line, shell=True).returncode == 2
    assert capfd.readouterr().err.startswith("citysegzoo: error: [Errno 28]")
