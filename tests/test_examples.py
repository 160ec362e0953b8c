"""The examples do what they say: every command they print runs, and its numbers are right."""

import csv
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from cityscapes_frames import largest_difference, official
from loopback_hub import LoopbackHub
from PIL import Image

import citysegzoo
from citysegzoo.cli import main as citysegzoo_command
from citysegzoo.data import CAMVID_11, CITYSCAPES_CATEGORIES, LabelSet, draw_streets
from citysegzoo.data.labels import CITYSCAPES_CLASSES
from citysegzoo.images import read_ids
from citysegzoo.inference import Segmenter
from citysegzoo.metrics import ConfusionMatrix
from citysegzoo.pretrained import save_pretrained
from citysegzoo.registry import DECODERS

EXAMPLES = Path(__file__).parent.parent / "examples"
PAGE = EXAMPLES.parent / "docs" / "examples.md"
SCRIPTS = [
    "evaluate", "segment_photos", "compare_reports", "compare_atrous_rates", "compare_losses",
    "compose_your_own", "finetune_own_data", "publish_to_hub",
]  # fmt: skip
TINY = (4, 8, 8, 8, 8)
CARD = {
    "data": "nothing", "licence": "CC BY-NC 4.0", "source": "a test", "score": {"mean_iou": 0.01},
}  # fmt: skip
# What makes a command small, behind what is printed.
SMALL_TRAINING = [
    *("--epochs", "2", "--", "--limit", "4", "--batch-size", "2", "--crop", "64", "64"),
    *("--scale", "1", "1", "--encoder-weights", "none", "--workers", "0", "--device", "cpu"),
]


def commands(text: str) -> list[list[str]]:
    """The commands of a text that start examples, as words, without ``python``."""
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    printed = [shlex.split(line, comments=True) for line in lines if "python examples/" in line]
    return [words[1:] for words in printed if words[0] == "python"]


PRINTED = {name: commands((EXAMPLES / f"{name}.py").read_text()) for name in SCRIPTS}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the commands name: data sets, photographs and trained models."""
    root = tmp_path_factory.mktemp("place")
    draw_streets(root / "cityscapes", images=5, size=(64, 128))
    camvid, own = np.full(256, 11, np.uint8), np.full(256, 255, np.uint8)
    of = {"road": 3, "sidewalk": 4, "building": 1, "vegetation": 5, "sky": 0, "car": 8, "person": 9}
    categories = ("flat", "construction", "nature", "vehicle")
    for i, label in enumerate(CITYSCAPES_CLASSES):
        camvid[i] = of.get(label.name, 11)
        if label.category in categories:
            own[i] = categories.index(label.category)
    for file in (root / "cityscapes").rglob("*_gtFine_labelIds.png"):
        split, name = file.parts[-3], file.name.replace("_gtFine_labelIds", "")
        photo = root / "cityscapes" / "leftImg8bit" / split / file.parent.name
        photo /= name.replace(".png", "_leftImg8bit.png")
        ids = np.asarray(Image.open(file))
        for folder, values in ((f"{split}annot", camvid), ("labels", own)):
            target = root / ("camvid" if folder != "labels" else "") / folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values[ids]).save(target)
        for target in (root / "camvid" / split / name, root / "photos" / name):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(photo.read_bytes())
    for name, count in (("dl2", 19), ("ids", 34)):
        model = varied(count)
        save_pretrained(model, root / "runs" / name / "best.safetensors")
    model = citysegzoo.create_model("unet", widths=TINY, num_classes=11)
    model.labels = CAMVID_11
    save_pretrained(model, root / "runs" / "unet" / "best.safetensors", card=CARD)
    return root


def varied(num_classes: int) -> citysegzoo.SegmentationModel:
    """An untrained network that nevertheless predicts many classes."""
    torch.manual_seed(0)
    model = citysegzoo.create_model("unet", widths=TINY, num_classes=num_classes)
    with torch.no_grad():
        noise = torch.randn(2, 3, 64, 128)
        for _ in range(20):  # until batch norm knows its statistics
            model.train()(noise)
        logits = model.eval()(noise)
        model.classifier.conv.bias -= logits.mean((0, 2, 3))  # no class is ahead of the others
    return model


@pytest.fixture(autouse=True)
def inside(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the commands are given; what a script registers is gone after the test."""
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    citysegzoo.list_decoders()
    monkeypatch.setattr(DECODERS, "_builders", dict(DECODERS._builders))


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(words: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script as its command does, with this Python and from this repository."""
    path = os.pathsep.join(filter(None, [str(EXAMPLES.parent), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, str(EXAMPLES.parent / words[0]), *words[1:]],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=550,
    )


def succeed(words: list[str], **environment: str) -> str:
    done = run(words, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_printed_command_is_on_the_page() -> None:
    page = commands(PAGE.read_text())
    for name, printed in PRINTED.items():
        assert printed, name
        assert [words for words in page if words[0] == f"examples/{name}.py"] == printed


@pytest.mark.parametrize("name", [*SCRIPTS, "train"])
def test_is_no_surprise(name: str) -> None:
    """No folder of anybody's machine, and a line in the docs."""
    text = (EXAMPLES / f"{name}.py").read_text()
    assert not re.search(r"['\" =]/(home|work|tmp|root|usr|mnt|data)/", text)
    assert f"`{name}.py`" in PAGE.read_text()


# --- evaluate.py ----------------------------------------------------------------------------------


def evaluate(*words: str) -> dict:
    """What evaluate.py writes, by protocol."""
    defaults = ("--output", "scores.json", "--workers", "0", "--device", "cpu")
    example("evaluate").main([*words, *defaults])
    return json.loads(Path("scores.json").read_text())["protocols"]


@pytest.mark.parametrize("model", ["dl2", "ids"])
def test_evaluate_is_the_official_evaluation(
    model: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = f"runs/{model}/best.safetensors"
    where = ("--data", "cityscapes", "--root", "cityscapes", "--save-labels", str(tmp_path))
    scores = evaluate("--model", file, *where)
    assert list(scores) == ["single scale"]
    found = scores["single scale"]
    assert sum(map(sum, found["confMatrix"])) > 0
    assert sum(score > 0 for score in found["classScores"].values()) >= 1
    printed = capsys.readouterr().out

    truth = "cityscapes/gtFine/val"
    command = ["evaluate", str(tmp_path), truth, "--json", "ours.json"]
    assert citysegzoo_command(command) == 0
    ours = json.loads(Path("ours.json").read_text())
    assert json.dumps(found, sort_keys=True) == json.dumps(ours, sort_keys=True)
    table = capsys.readouterr().out.split("\n\n", 1)[1]
    assert table.strip() in printed

    # cityscapesscripts finds the files by their names, and scores them so, too.
    official_script = pytest.importorskip(
        "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling"
    )
    args = official_script.args
    monkeypatch.setattr(args, "predictionPath", str(tmp_path))
    monkeypatch.setattr(args, "predictionWalk", None)
    truths = sorted(map(str, Path(truth).rglob("*_gtFine_labelIds.png")))
    predictions = [official_script.getPrediction(args, file) for file in truths]
    assert largest_difference(found, official(predictions, truths))[0] < 1e-12
    assert {read_ids(file).shape for file in tmp_path.iterdir()} == {(64, 128)}
    # As the model itself segments the photograph.
    stem = "chalkton_000000_000000"
    photo = f"cityscapes/leftImg8bit/val/chalkton/{stem}_leftImg8bit.png"
    classes = citysegzoo.load(file).segment(photo).labels
    ids = np.array([i for train, i in sorted(
        (label.train_id, i) for i, label in enumerate(CITYSCAPES_CLASSES) if label.train_id != 255
    )])  # fmt: skip
    expected = ids[classes] if model == "dl2" else classes
    assert len(np.unique(expected)) > 1
    assert np.array_equal(np.asarray(Image.open(tmp_path / f"{stem}_labels.png")), expected)


def test_evaluate_tells_averages_apart(tmp_path: Path) -> None:
    model = ("--model", "runs/dl2/best.safetensors", "--data", "cityscapes", "--root", "cityscapes")
    single = evaluate(*model)["single scale"]
    both = evaluate(*model, "--scales", "0.5", "1", "--flip", "--save-labels", str(tmp_path))
    assert list(both) == ["single scale", "average of scales 0.5 1 and flip"]
    assert json.dumps(both["single scale"]) == json.dumps(single)
    averaged = both["average of scales 0.5 1 and flip"]
    assert averaged["confMatrix"] != single["confMatrix"]
    # What was written is what was asked for: the average.
    assert citysegzoo_command(["evaluate", str(tmp_path), "cityscapes/gtFine/val",
                               "--json", "ours.json"]) == 0  # fmt: skip
    assert json.loads(Path("ours.json").read_text())["confMatrix"] == averaged["confMatrix"]


@pytest.mark.parametrize(
    ("card", "scales", "said"),
    [
        ({"resized_to": [512, 1024]}, [1.0], "images of 1024x2048; --scales 0.5 scores it at that"),
        ({"resized_to": [768, 768]}, [1.0], "scored on images of 1024x2048.\n"),
        ({"resized_to": [512, 1024]}, [0.5], ""),
        ({"resized_to": [1024, 2048]}, [1.0], ""),
        ({}, [1.0], ""),
    ],
)
def test_evaluate_says_that_training_was_at_another_size(
    card: dict, scales: list, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    example("evaluate").say_size(card, (1024, 2048), scales)
    out = capsys.readouterr().out
    assert said in out if said else out == ""


def test_flipped_average_of_a_mirrored_image_is_mirrored() -> None:
    script = example("evaluate")
    words = ["--model", "x", "--data", "camvid", "--root", "x", "--flip", "--device", "cpu"]
    found = script.segmenters(
        citysegzoo.load("runs/dl2/best.safetensors"), script.parse_args(words)
    )
    assert list(found) == ["single scale", "average of scales 1 and flip"]
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    agreed = [
        (segmenter(pixels).labels == segmenter(pixels[:, ::-1].copy()).labels[:, ::-1]).mean()
        for segmenter in found.values()
    ]
    assert agreed[0] < 0.99
    assert agreed[1] > 0.999  # but for ties


def test_evaluate_camvid_is_the_command(tmp_path: Path) -> None:
    where = ("--data", "camvid", "--root", "camvid", "--save-labels", str(tmp_path))
    found = evaluate("--model", "unet.small", *where)["single scale"]
    command = ["evaluate", str(tmp_path), "camvid/valannot", "--labels", "camvid11"]
    assert citysegzoo_command([*command, "--json", "ours.json"]) == 0
    assert found == json.loads(Path("ours.json").read_text())
    assert 0.05 < found["mean_iou"] < 1  # drawn streets are no photographs


def test_evaluate_test_split_is_written_and_not_scored(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in ("leftImg8bit", "gtFine"):
        shutil.copytree(place / "cityscapes" / kind / "val", tmp_path / kind / "test")
    where = ("--data", "cityscapes", "--root", str(tmp_path), "--split", "test")
    model = ("--model", "runs/dl2/best.safetensors")
    with pytest.raises(ValueError, match="only --save-labels is left"):
        evaluate(*model, *where)
    assert evaluate(*model, *where, "--save-labels", str(tmp_path / "out")) == {}
    assert len(list((tmp_path / "out").iterdir())) == 5
    assert "IoU" not in capsys.readouterr().out


def test_evaluate_refuses(tmp_path: Path) -> None:
    model = citysegzoo.create_model("unet", widths=TINY, num_classes=7)
    model.labels = CITYSCAPES_CATEGORIES
    categories = str(save_pretrained(model, tmp_path / "categories.safetensors"))
    trained = "runs/dl2/best.safetensors"
    for name, data, rest, message in (
        (categories, "cityscapes", (), "cityscapes_categories .*cannot be turned into"),
        (trained, "camvid", (), "cityscapes19 .*cannot be turned into"),
        ("unet.small", "cityscapes", (), "camvid11 .*cannot be turned into"),
        ("unet.small", "camvid", ("--output", "nowhere/scores.json"), "create it first"),
        ("unet.small", "camvid", ("--split", "dusk"), "dusk"),
    ):
        words = ["--model", name, "--data", data, "--root", data, "--workers", "0", *rest]
        with pytest.raises((ValueError, OSError), match=message):
            example("evaluate").main(words)


@pytest.mark.slow
def test_evaluate_as_printed(place: Path) -> None:
    cityscapes, camvid = PRINTED["evaluate"]
    assert "mean" in succeed([*cityscapes, "--device", "cpu"])
    assert len(list((place / "predictions").iterdir())) == 5
    said = succeed([*camvid, "--device", "cpu"])
    assert "single scale\n" in said
    assert "average of scales 0.75 1 1.25 and flip\n" in said
    wrong = run(["examples/evaluate.py", "--model", "unet.smal", "--data", "camvid", "--root", "x"])
    assert wrong.returncode == 2
    assert re.fullmatch(r"evaluate.py: .*unet.small.*\n", wrong.stderr)


# --- segment_photos.py, compose_your_own.py, finetune_own_data.py ---------------------------------


def in_process(words: list[str], *more: str) -> None:
    example(Path(words[0]).stem).main([*words[1:], *more])


def test_segment_photos(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    in_process(*PRINTED["segment_photos"])
    photos = sorted((place / "photos").iterdir())
    said = capsys.readouterr().out
    for photo in photos:
        labels = np.asarray(Image.open(place / "segmented" / f"{photo.stem}_labels.png"))
        assert labels.shape == (64, 128)
        assert (place / "segmented" / f"{photo.stem}_overlay.jpg").is_file()
        assert f"{photo.stem}: " in said
    model = citysegzoo.create_model(citysegzoo.DEFAULT_MODEL, pretrained=True)
    assert np.array_equal(labels, Segmenter(model)(photos[-1]).labels)


def test_segment_photos_names_the_broken_and_goes_on(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, output = place / "one-broken", place / "others"
    folder.mkdir()
    (folder / "a.png").write_text("no picture")
    Image.new("RGB", (64, 48)).save(folder / "b.png")
    script = example("segment_photos")
    assert script.main([str(folder), "--output", str(output)]) == 2
    assert "segment_photos.py: " in (err := capsys.readouterr().err)
    assert "a.png" in err
    assert sorted(file.name for file in output.iterdir()) == ["b_labels.png", "b_overlay.jpg"]


def test_segment_photos_loses_none(place: Path) -> None:
    twins = place / "twins"
    twins.mkdir()
    for suffix in ("png", "jpg"):
        Image.new("RGB", (64, 48)).save(twins / f"street.{suffix}")
    with pytest.raises(ValueError, match="would both be written as street_labels.png"):
        in_process(["segment_photos.py", str(twins), "--output", str(place / "nothing")])
    assert not (place / "nothing").exists()


def test_compose_your_own(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = example("compose_your_own")
    script.main(PRINTED["compose_your_own"][0][1:])
    said = capsys.readouterr().out
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", said)]
    assert len(losses) == 5
    assert losses[-1] < losses[0]
    assert "the same to the last bit" in said
    again = citysegzoo.load(place / "runs/composed")  # the script has registered the decoder
    assert type(again.decoder).__name__ == "PyramidSum"
    script.main(["--list"])
    assert "pyramid_sum" in capsys.readouterr().out


@pytest.mark.parametrize("frozen", [pytest.param(False, marks=pytest.mark.slow), True])
def test_finetune_own_data(
    frozen: bool, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "own"
    small = ("--epochs", "4", "--batch-size", "2", "--crop", "64", "64", "--lr", "3e-3")
    more = ("--output", str(output), "--device", "cpu")
    in_process(*PRINTED["finetune_own_data"], *small, *more, *["--freeze-encoder"] * frozen)
    said = capsys.readouterr().out
    assert f"note: the weights of {citysegzoo.DEFAULT_MODEL!r}" in said
    scores = [float(score) / 100 for score in re.findall(r"mean IoU ([\d.]+)%\n", said)]
    assert len(scores) == 5  # four epochs, and what was kept
    assert scores[-1] == max(scores[:-1]) > 0.1
    model = citysegzoo.load(output)
    assert model.labels.classes == ("road", "building", "vegetation", "vehicle")
    assert model.card["licence"].startswith("CC BY-NC 4.0")  # what it was started from
    # The score on the card is that of the folder, by the command.
    held = [name for i, name in enumerate(sorted(p.name for p in Path("photos").iterdir()))
            if i % 5 == 0]  # fmt: skip
    confusion = ConfusionMatrix(4, 255)
    for name in held:
        truth = np.array(Image.open(place / "labels" / name))
        confusion.update(model.segment(place / "photos" / name).labels[None], truth[None])
    assert confusion.scores().mean_iou == pytest.approx(model.card["score"]["mean_iou"], abs=1e-4)
    assert (output / f"{Path(held[0]).stem}_overlay.jpg").is_file()
    start = citysegzoo.create_model(citysegzoo.DEFAULT_MODEL, pretrained=True).encoder.state_dict()
    moved = any(not torch.equal(v, start[k]) for k, v in model.encoder.state_dict().items())
    assert moved is not frozen


def test_finetune_holds_photographs_back() -> None:
    script = example("finetune_own_data")
    args = script.parse_args(PRINTED["finetune_own_data"][0][1:])
    labels = LabelSet("own", tuple(args.classes), CITYSCAPES_CATEGORIES.palette[:4])
    train, val = script.open_data(args, labels)
    assert (len(train), len(val)) == (8, 2)
    assert not {*train.files} & {*val.files}


def test_finetune_starts_a_classifier_of_as_many_other_classes_afresh(
    capsys: pytest.CaptureFixture[str],
) -> None:
    script = example("finetune_own_data")
    args = script.parse_args(PRINTED["finetune_own_data"][0][1:])
    args.device = "cpu"
    trained = citysegzoo.create_model(args.model, pretrained=True)
    others = LabelSet("own", tuple("abcdefghijk"), trained.labels.palette)
    for labels, fresh in ((others, True), (trained.labels, False)):
        model = script.create(args, labels)
        assert torch.equal(model.classifier.conv.weight, trained.classifier.conv.weight) != fresh
        assert ("starts untrained" in capsys.readouterr().out) == fresh
        assert torch.equal(model.encoder.conv1.weight, trained.encoder.conv1.weight)
        assert model.labels == labels


def test_finetune_keeps_no_weights_that_are_no_numbers(tmp_path: Path) -> None:
    output = tmp_path / "own"
    words = ("--batch-size", "2", "--crop", "64", "64", "--lr", "1e30", "--output", str(output))
    with pytest.raises(ValueError, match="no number any more in epoch 1; lower --lr"):
        in_process(*PRINTED["finetune_own_data"], *words, "--device", "cpu")
    assert not output.exists()


def test_finetune_refuses_too_little() -> None:
    with pytest.raises(ValueError, match="fewer than a batch of 50"):
        in_process(*PRINTED["finetune_own_data"], "--batch-size", "50")


# --- publish_to_hub.py ----------------------------------------------------------------------------


def test_publish_dry_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dry, _ = PRINTED["publish_to_hub"]
    in_process(dry)
    assert "nothing sent" in capsys.readouterr().out
    assert {path.name for path in (place / "checked").iterdir()} == {
        "model.safetensors", "config.json", "README.md"
    }  # fmt: skip
    assert "CC BY-NC 4.0" in (place / "checked" / "README.md").read_text()


def test_publish_needs_a_card(tmp_path: Path) -> None:
    bare = ["publish_to_hub", "runs/dl2/best.safetensors", "you/it", "--dry-run", str(tmp_path)]
    with pytest.raises(ValueError, match="does not say: licence, data, score"):
        in_process(bare)
    with pytest.raises(ValueError, match="does not say: score"):
        in_process(bare, "--licence", "MIT", "--data", "drawn streets")
    assert not list(tmp_path.iterdir())


def test_publish_fills_in_what_the_card_leaves_out_and_no_more() -> None:
    complete = example("publish_to_hub").complete
    model = SimpleNamespace(card={"licence": None, "data": "x", "score": {"mean_iou": 0.5}})
    words = SimpleNamespace(model="m", licence="MIT", data=None)
    complete(model, words)
    assert model.card["licence"] == "MIT"
    with pytest.raises(ValueError, match="another licence, 'MIT'; leave --licence out"):
        complete(model, SimpleNamespace(model="m", licence="Apache-2.0", data=None))


def test_publish_asks_what_own_images_are() -> None:
    """What train.py cannot know; the terms of what the weights started from stay."""
    complete = example("publish_to_hub").complete
    card = {
        "licence": "not stated; started from weights of: CC BY-NC 4.0",
        "data": "own images, 6 training images",
        "score": {"mean_iou": 0.5},
    }
    model = SimpleNamespace(card=card)
    with pytest.raises(ValueError, match="does not say: licence, data"):
        complete(model, SimpleNamespace(model="m", licence=None, data=None))
    complete(model, SimpleNamespace(model="m", licence="MIT", data="our crossings"))
    assert model.card["licence"] == "MIT; started from weights of: CC BY-NC 4.0"
    assert model.card["data"] == "our crossings, 6 training images"


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("HF_HUB_OFFLINE", "0") != "0", reason="told to be offline")
def test_publish_as_printed(place: Path, tmp_path: Path) -> None:
    _, publish = PRINTED["publish_to_hub"]
    with LoopbackHub() as hub:
        environment = {
            "HF_ENDPOINT": hub.endpoint, "HF_TOKEN": "hf_t", "HF_HOME": str(tmp_path),
            "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1",
        }  # fmt: skip
        said = succeed(publish, **environment)
        commit = hub.tags("you/street-unet")["v1"]
        assert f"published: you/street-unet@{commit}" in said
        assert "the same to the last bit" in said
        sent = hub.files("you/street-unet")["model.safetensors"]
        assert any(r.method == "GET" and "model.safetensors" in r.path for r in hub.requests)
        # A Hub that gives other bytes than it got is noticed.
        hub.corrupt.add("model.safetensors")
        spoiled = run(publish[:-2], **environment)
        assert spoiled.returncode == 2
        assert spoiled.stderr.splitlines()[-1].startswith("publish_to_hub.py: ")
    (tmp_path / "sent.safetensors").write_bytes(sent)
    again = citysegzoo.load(tmp_path / "sent.safetensors")
    assert again.card["score"] == CARD["score"]


# --- compare_*.py ---------------------------------------------------------------------------------


def rows_of(markdown: str, after: str) -> dict[str, dict[str, str]]:
    """The rows of the first table behind a line, by their first cell."""
    lines = markdown.split(after, 1)[1].splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("|"))
    table = []
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split("|")])
    return {row[0]: dict(zip(table[0], row, strict=True)) for row in table[2:]}


def logged(folder: Path, epoch: str) -> dict[str, str]:
    with (folder / "log.csv").open(newline="") as file:
        return next(row for row in csv.DictReader(file) if row["epoch"] == epoch)


def check_rows(output: Path, rows: dict[str, dict[str, str]]) -> None:
    """Every mean IoU of the table is the log's, and the best of it."""
    for name, row in rows.items():
        log = logged(output / name, row["epoch"])
        assert row["mean IoU, %"] == f"{100 * float(log['mean_iou']):.2f}"
        with (output / name / "log.csv").open(newline="") as file:
            every = [float(its["mean_iou"]) for its in csv.DictReader(file)]
        assert len(every) == 2
        assert max(every) == float(log["mean_iou"])


@pytest.mark.slow
def test_compare_atrous_rates_as_printed(place: Path) -> None:
    _, small = PRINTED["compare_atrous_rates"]
    said = succeed([*small, *SMALL_TRAINING])
    output = place / "runs/rates18"
    text = (output / "results.md").read_text()
    assert text in said
    rows = rows_of(text, "## Measured here")
    check_rows(output, rows)
    assert [(r["rates"], r["kernel"]) for r in rows.values()] == [
        ("6, 12, 18", "3x3"), ("3, 6, 9", "3x3"), ("8, 16, 24", "4x4"), ("6, 12, 18, 24", "3x3"),
    ]  # fmt: skip
    for name, row in rows.items():
        model = citysegzoo.load(output / name / "best.safetensors")
        assert row["parameters"] == f"{sum(p.numel() for p in model.parameters()):,}"
        assert model.name == "deeplabv3_resnet18"
        assert not model.blueprint.options["refine"]
    assert rows_of(text, "## Printed")["DL-1"] == {
        "network": "DL-1", "printed, %": "65.43", "mean of its classes, %": "65.34",
    }  # fmt: skip
    with Image.open(output / "results.png") as picture:
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 10

    # Given again, nothing is trained; one that was interrupted goes on where it was.
    before = {p: p.stat().st_mtime_ns for p in output.glob("*/*.pt")}
    assert succeed([*small, *SMALL_TRAINING]).count("finished before") == 4
    (output / "DL-2" / "finished.txt").unlink()
    said = succeed([*small, *SMALL_TRAINING])
    assert said.count("finished before") == 3
    assert "resumed after 2 epochs" in said
    assert {p: p.stat().st_mtime_ns for p in output.glob("*/*.pt")} == before
    # Other settings are not mixed in.
    other = run([*small, *SMALL_TRAINING, "--lr", "1"])
    assert other.returncode == 2
    assert "had other settings: lr was" in other.stderr
    assert "DL-1 was not finished" in other.stderr.splitlines()[-1]


def test_atrous_rates_of_the_report_are_its_models() -> None:
    runs = example("compare_atrous_rates").arguments("deeplabv3_resnet101")
    assert runs == {
        f"DL-{i}": ["--model", f"deeplabv3_resnet101.mei2019_dl{i}"] for i in (1, 2, 3, 4)
    }


def test_train_takes_what_the_large_sweep_gives_it() -> None:
    """That command on ResNet-101 is too much for a test; what it starts is looked at."""
    compare = example("compare_atrous_rates")
    parser = compare.sweep.parser("")
    parser.add_argument("--model", default="deeplabv3_resnet101")
    args = parser.parse_args([*PRINTED["compare_atrous_rates"][0][1:], "--", "--crop", "64", "64"])
    for words in compare.arguments(args.model).values():
        given = [*words, *compare.sweep.common(args), "--root", args.root, "--output", "x"]
        taken = example("train").parse_args(given)
        assert taken.model in compare.REPORTED
        assert (taken.data, taken.seed, taken.epochs, taken.crop) == (
            "cityscapes",
            0,
            None,
            (64, 64),
        )


@pytest.mark.slow
def test_compare_losses_as_printed(place: Path) -> None:
    _, small = PRINTED["compare_losses"]
    said = succeed([*small, *SMALL_TRAINING])
    output = place / "runs/losses50"
    text = (output / "results.md").read_text()
    assert text in said
    rows = rows_of(text, "# Losses")
    assert list(rows) == ["weighted_inverse_root", "focal", "lovasz_softmax"]
    check_rows(output, rows)
    counts = np.zeros(256, np.int64)
    for file in sorted(Path("camvid/trainannot").iterdir())[:4]:  # of --limit 4
        counts += np.bincount(np.asarray(Image.open(file)).ravel(), minlength=256)
    there = sorted((n, CAMVID_11.classes[i]) for i, n in enumerate(counts[:11]) if n)
    for name, row in rows.items():
        rare = list(row)[3:-1]
        assert rare == [f"{cls}, %" for _, cls in there[:4]]
        log = logged(output / name, row["epoch"])
        for title in rare:
            assert row[title] == f"{100 * float(log[title.removesuffix(', %')]):.2f}"
        card = citysegzoo.load(output / name / "best.safetensors").card
        assert row["pixel accuracy, %"] == f"{100 * card['score']['pixel_accuracy']:.2f}"
    # A run that is there is not made again.
    again = [*small, "--losses", "weighted_inverse_root", *SMALL_TRAINING]
    assert succeed(again).count("finished before") == 1
    # The losses are not one loss under many names.
    first = {name: logged(output / name, "1")["loss"] for name in rows}
    assert len(set(first.values())) == len(first)


def test_compare_losses_has_those_of_the_reports() -> None:
    assert example("compare_losses").REPORTED == [
        "cross_entropy", "weighted_log_frequency", "weighted_inverse_root", "dice",
        "cross_entropy+dice", "iou",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("command", "loss"),
    [
        ("train.py --loss dice", "dice"),
        ("train.py --loss=dice --loss-option smooth=1", "dice"),
        ("train.py --loss dice && train.py --initial x", "cross_entropy"),
        ("train.py --loss-option gamma=2", "cross_entropy"),
    ],
)
def test_the_loss_of_a_run_is_that_of_its_last_command(command: str, loss: str) -> None:
    model = SimpleNamespace(card={"command": command, "model": "unet"})
    sweep = example("compare_losses").sweep
    assert sweep.loss_of(sweep.Run("a", model, [])) == loss


@pytest.mark.parametrize(
    ("given", "twice"),
    [
        (["--class-weights", "enet"], "--class-weights"),
        (["--loss=focal"], "--loss"),
        (["--loss-option", "gamma=2", "--option", "widths=(4, 8)", "--lr", "1"], None),
    ],
)
def test_what_tells_runs_apart_is_not_given_for_all(
    given: list[str], twice: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = example("compare_losses")
    started = []
    monkeypatch.setattr(compare.sweep, "train", lambda name, words, folder: started.append(words))
    monkeypatch.setattr(compare.sweep, "read_run", lambda name, folder: name)
    args = compare.sweep.parser("").parse_args(
        ["--data", "camvid", "--root", "camvid", "--output", str(tmp_path), "--", *given]
    )
    own = {"a": ["--loss", "dice"], "b": ["--loss", "cross_entropy", "--class-weights", "enet"]}
    if twice is None:
        assert compare.sweep.run_all(own, args) == ["a", "b"]
        assert all(set(given) < set(words) for words in started)
        return
    with pytest.raises(ValueError, match=f"{twice} is what tells . apart; leave it out behind --"):
        compare.sweep.run_all(own, args)
    assert not started


def test_options_that_tell_runs_apart_are_told_by_their_names() -> None:
    flags = example("compare_atrous_rates").sweep.flags
    rates = flags(["--option", "aspp_rates=(3, 6)", "--lr", "-1"])
    assert rates == {"--option aspp_rates", "--lr"}
    assert rates & flags(["--option=aspp_rates=(1, 2)"]) == {"--option aspp_rates"}
    assert not rates & flags(["--option", "output_stride=8"])


def test_reports_are_compared_in_the_same_classes(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever those of their recipes are, and their annotations."""
    compare = example("compare_reports")
    found = []

    def read(name: str, words: list[str], folder: Path) -> None:
        args = train.parse_args([*words, "--output", str(folder)])
        recipe = citysegzoo.model_info(name).recipe
        data, _ = train.open_data(args, recipe)
        found.append((data.labels.name, args.annotations))
        raise RuntimeError("enough")

    train = example("train")
    monkeypatch.setattr(compare.sweep, "train", read)
    for name in ("unet.stevens2020_baseline", "fcn.fixman2024_baseline", "fcn.xiang2020_baseline"):
        with pytest.raises(RuntimeError, match="enough"):
            compare.main(["--data", "cityscapes", "--root", "cityscapes", "--output",
                          str(tmp_path), "--models", name])  # fmt: skip
    assert found == [("cityscapes19", "fine")] * 3


def test_a_failed_run_ends_the_sweep(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = example("compare_losses")
    monkeypatch.setattr(compare.sweep, "TRAIN", tmp_path / "train.py", raising=True)
    (tmp_path / "train.py").write_text("import sys; sys.exit('train.py: the disk is full')")
    words = ["--data", "camvid", "--root", "camvid", "--output", str(tmp_path / "out")]
    with pytest.raises(RuntimeError, match="cross_entropy was not finished .exit status 1."):
        compare.main(words)
    assert "the disk is full" in capfd.readouterr().err
    assert not (tmp_path / "out" / "cross_entropy" / "finished.txt").exists()


def test_sweep_looks_at_the_data_first(tmp_path: Path) -> None:
    words = ["--data", "camvid", "--root", str(tmp_path), "--output", str(tmp_path / "out")]
    with pytest.raises(FileNotFoundError, match="CamVid needs the folder"):
        example("compare_losses").main(words)


@pytest.mark.slow
def test_compare_reports(place: Path) -> None:
    first = PRINTED["compare_reports"][0]
    names = ["unet.stevens2020_baseline", "fcn.xiang2020_weighted"]
    said = succeed([*first[: first.index("--epochs")], "--models", *names, *SMALL_TRAINING])
    output = place / "runs/reports"
    text = (output / "results.md").read_text()
    assert text in said
    rows = rows_of(text, "## Measured here")
    assert set(rows) == {f"`{name}`" for name in names}
    check_rows(output, {name: rows[f"`{name}`"] for name in names})
    assert rows["`unet.stevens2020_baseline`"]["loss"] == "stevens2020_cross_entropy"
    printed = rows_of(text, "## Printed")
    assert printed["`unet.stevens2020_baseline`"]["printed"] == "mean category IoU 16.7035 %"


def test_compare_reports_knows_all_of_them() -> None:
    compare = example("compare_reports")
    assert len(compare.REPORTED) == 32
    assert compare.chosen(["*"]) == compare.REPORTED
    assert compare.chosen(["unet.x*", "fcn.x*_dice"]) == ["fcn.xiang2020_dice", "unet.xiang2020"]
    with pytest.raises(ValueError, match="no model of a report matches unet_"):
        compare.chosen(["unet_"])
