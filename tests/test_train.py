"""examples/train.py from end to end, on drawn streets."""

import csv
import importlib.util
import json
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import citysegzoo
from citysegzoo.data import (
    CAMVID_11,
    UNIT_RANGE,
    Augmentation,
    CamVid,
    Cityscapes,
    draw_streets,
)
from citysegzoo.data.labels import CITYSCAPES_19, numbered_labels
from citysegzoo.data.samples import LabeledImages
from citysegzoo.metrics import ConfusionMatrix
from citysegzoo.recipe import Recipe
from citysegzoo.weights.checkpoint import load_checkpoint

SCRIPT = Path(__file__).parent.parent / "examples" / "train.py"
SPEC = importlib.util.spec_from_file_location("train_script", SCRIPT)
assert SPEC is not None
assert SPEC.loader is not None
train = importlib.util.module_from_spec(SPEC)
sys.modules["train_script"] = train  # dataclasses look there
SPEC.loader.exec_module(train)

TINY = ("--model", "unet", "--option", "widths=(4, 8)", "--crop", "32", "48")
HERE = ("--device", "cpu", "--workers", "0")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The process of the tests keeps its memory and its limits."""
    monkeypatch.setattr(train, "keep_freed_memory", lambda: True)
    monkeypatch.setattr(train, "limit_memory", lambda processes: None)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # such networks are no faster with more
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_streets(tmp_path_factory.mktemp("data") / "streets", images=8, size=(64, 96))


@pytest.fixture(scope="session")
def camvid(streets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same streets in the folders, sizes and labels of CamVid, every class among them."""
    root = tmp_path_factory.mktemp("data") / "camvid"
    for split in ("train", "val"):
        data = Cityscapes(streets, split)
        for folder in (split, f"{split}annot"):
            (root / folder).mkdir(parents=True)
        for i, (image, target) in enumerate(data):
            pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
            labels = np.where(target == 255, 11, target % 11).astype(np.uint8)
            for folder, array in ((split, pixels), (f"{split}annot", labels)):
                picture = Image.fromarray(array).resize((480, 360), Image.Resampling.NEAREST)
                picture.save(root / folder / f"{i:04}.png")
    return root


@pytest.fixture
def own(streets: Path, tmp_path: Path) -> Path:
    """Some of the streets in folders of one's own, of two sizes, with three classes and void."""
    root = tmp_path / "own"
    for split, count in (("train", 6), ("val", 2)):
        for folder in ("images", "labels"):
            (root / folder / split).mkdir(parents=True)
        for i, (image, target) in zip(range(count), Cityscapes(streets, split), strict=False):
            size = (96, 64) if i % 2 else (80, 48)
            pixels = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))
            pixels.resize(size).save(root / "images" / split / f"{i}.jpg")
            labels = Image.fromarray(np.where(target == 255, 255, target % 3).astype(np.uint8))
            nearest = labels.resize(size, Image.Resampling.NEAREST)
            nearest.save(root / "labels" / split / f"{i}.png")
    return root


@pytest.fixture
def broken(streets: Path, tmp_path: Path) -> Path:
    """A copy of the streets, to damage."""
    return shutil.copytree(streets, tmp_path / "broken")


def run(root: Path, output: Path, *words: str, data: str = "cityscapes") -> None:
    given = ("--data", data, "--root", str(root), "--output", str(output), *HERE)
    tiny = () if "--model" in words else TINY
    train.main([*tiny, "--batch-size", "4", "--epochs", "2", *given, *words])


def refused(
    capsys: pytest.CaptureFixture[str],
    root: Path,
    output: Path,
    *words: str,
    data: str = "cityscapes",
) -> str:
    """The sentence that a run ends with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        run(root, output, *words, data=data)
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert error.startswith("train.py: ")
    assert error.count("\n") == 1
    return error.removeprefix("train.py: ").strip()


def start(
    *words: str, prepare: Callable[[], None] | None = None, processes: int = 1
) -> subprocess.Popen[str]:
    """The script in a process of its own, or in several."""
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"]
    root = str(SCRIPT.parent.parent)
    paths = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return subprocess.Popen(
        [*command, str(SCRIPT), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
        preexec_fn=prepare,
    )


def log_of(output: Path) -> list[dict[str, str]]:
    with (output / "log.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def state_of(output: Path) -> dict[str, Any]:
    """What last.pt holds, without the seconds that epochs took and the folders in the card."""
    stored = torch.load(output / "last.pt", weights_only=True)
    stored["state"].pop("card")
    for row in stored["state"]["log"]:
        row.pop("seconds")
    return stored


def assert_same(found: Any, expected: Any, where: str = "") -> None:
    """Bit for bit."""
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype, where
        assert torch.equal(found, expected), where
    elif isinstance(expected, dict):
        assert list(found) == list(expected), where
        for key, value in expected.items():
            assert_same(found[key], value, f"{where}/{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for i, value in enumerate(expected):
            assert_same(found[i], value, f"{where}/{i}")
    elif isinstance(expected, float) and math.isnan(expected):
        assert math.isnan(found), where
    else:
        assert found == expected, where


def assert_same_runs(found: Path, expected: Path, *, command: bool = True) -> None:
    assert_same(state_of(found), state_of(expected))
    assert log_of(found) == log_of(expected)
    weights = [folder / "best.safetensors" for folder in (found, expected)]
    assert_same(load_checkpoint(weights[0]), load_checkpoint(weights[1]))
    cards = [dict(citysegzoo.load(file).card) for file in weights]
    for card, folder in zip(cards, (found, expected), strict=True):
        card["command"] = card["command"].replace(f"--output {folder.name}", "") if command else ""
    assert cards[0] == cards[1]
    assert not [path.name for path in found.glob(".*")]


# --- a run and what it leaves


def test_a_run_leaves_what_it_says(
    streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "deep" / "run"
    run(streets, output)
    names = sorted(path.name for path in output.iterdir())
    assert names == ["best.safetensors", "curves.png", "last.pt", "log.csv", "samples"]
    assert sorted(path.name for path in (output / "samples").iterdir()) == [
        "epoch_0001.jpg",
        "epoch_0002.jpg",
    ]
    with Image.open(output / "samples" / "epoch_0002.jpg") as sheet:
        assert sheet.size == (3 * 96, 3 * 64)
    rows = log_of(output)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert {"lr", "loss", "val_loss", "mean_iou", "road", "bicycle"} <= set(rows[0])
    printed = capsys.readouterr()
    best = max(float(row["mean_iou"]) for row in rows)
    assert printed.err == ""
    assert printed.out.splitlines()[-1] == (
        f"kept: {output / 'best.safetensors'}, val mean IoU {100 * best:.2f}"
    )
    # The rate of an epoch's last step: a warm-up of 2/20 epochs rounds to no step, then a cosine.
    assert float(rows[1]["lr"]) == pytest.approx(1e-3 * (1 + math.cos(math.pi * 3 / 4)) / 2)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_score_of_the_card_is_that_of_the_file(
    precision: str, streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    run(streets, output, "--precision", precision, "--epochs", "3", "--lr", "0.02", "--ema", "0.5")
    model = citysegzoo.load(output / "best.safetensors").eval()
    confusion = ConfusionMatrix(19)
    for image, target in Cityscapes(streets, "val"):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = model(model.preprocessing(image[None]))
        logits = F.interpolate(logits.float(), target.shape, mode="bilinear")
        confusion.update(logits, target[None])
    scores = confusion.scores("cityscapes19")
    card = model.card["score"]
    # Layouts of memory differ, and with them the last bits of logits: few pixels of 49 thousand.
    near = {"abs": 1e-3 if precision == "bf16" else 1.01e-4}
    assert card["mean_iou"] == pytest.approx(scores.mean_iou, **near)
    assert card["pixel_accuracy"] == pytest.approx(scores.pixel_accuracy, **near)
    best = max(log_of(output), key=lambda row: float(row["mean_iou"]))
    assert card["mean_iou"] == round(float(best["mean_iou"]), 4)
    assert str(model.card["epoch"]) == best["epoch"]
    assert model.card["data"] == "streets drawn by citysegzoo, 8 training images"
    assert card["split"].startswith("streets drawn by citysegzoo, validation split, 8 images")
    assert not any(str(path) in json.dumps(model.card) for path in (tmp_path, streets))
    assert "--root cityscapes --output run" in model.card["command"]
    assert model.card["command"].count(f"--precision {precision}") == 1


def test_the_card_says_the_precision_that_the_machine_chose(
    streets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "computes_bf16", lambda device: True)
    run(streets, tmp_path / "run", "--epochs", "1")
    command = citysegzoo.load(tmp_path / "run" / "best.safetensors").card["command"]
    assert command.endswith(" --precision bf16")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--crop", "128", "192"], True),  # of frames of 64x96: a quarter at the most
        (["--crop", "127", "192"], False),
        (["--resize", "32", "48", "--crop", "64", "96"], True),
        (["--model", "unet.stevens2020_baseline"], False),  # without a crop
    ],
)
def test_crops_of_void_are_said(
    words: list[str], said: bool, streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(streets, tmp_path / "run", "--epochs", "1", *words)
    out = capsys.readouterr().out
    assert ("are void for the most part" in out) is said
    if said:
        advised = "16 24" if "--resize" in words else "32 48"
        assert f"--crop {advised} would not be" in out


def test_segment_takes_the_file(streets: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    run(streets, output, "--epochs", "1")
    photo = next((streets / "leftImg8bit" / "val").rglob("*.png"))
    from citysegzoo.cli import main

    weights = str(output / "best.safetensors")
    target = tmp_path / "segmented"
    assert main(["segment", str(photo), "--model", weights, "--output", str(target)]) == 0
    assert list(target.iterdir())


@pytest.mark.parametrize("form", ["{flag} {value}", "{flag}={value}"])
def test_the_command_of_the_card_names_no_folder(form: str, tmp_path: Path) -> None:
    (tmp_path / "start").mkdir()
    words = ["--model", "unet", "--data", "camvid", "--resume", "--option", "widths=(4, 8)"]
    for flag, value in (("--root", "data/"), ("--output", "run"), ("--initial", "start")):
        words += form.format(flag=flag, value=tmp_path / value).split()
    command = train.command_of(train.parse_args(words), words)
    assert str(tmp_path) not in command
    assert "--resume" not in command
    assert "--option 'widths=(4, 8)'" in command
    assert form.format(flag="--root", value="camvid") in command
    assert form.format(flag="--initial", value="start") in command
    together = train.command_of(train.parse_args(words), words, processes=4)
    assert together.startswith("torchrun --nproc-per-node=4 examples/train.py --model unet")


@pytest.mark.parametrize("city", ["aachen", "inkford"])
def test_drawn_streets_are_no_cityscapes(city: str) -> None:
    photo = Path("leftImg8bit/train") / city / "a_leftImg8bit.png"
    images = LabeledImages([(photo, photo)], CITYSCAPES_19)
    assert train.are_drawn(images) is (city == "inkford")


def test_an_overflow_in_the_first_step_leaves_sgd_its_momentum() -> None:
    """fp16 begins with a scale that is too large, and the scaler skips those steps."""
    plain = train.Settings(optimizer="sgd", lr=0.1, precision="fp16")
    runs = []
    for skipped in (True, False):
        weight = nn.Parameter(torch.ones(4096))
        model = nn.ParameterList([weight])
        torch.full((4096,), float("nan"))  # freed memory, which what is not written to may get
        (optimizer,) = train.optimizers_of(plain, model)
        scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
        for factor in ([float("inf")] if skipped else []) + [1.0, 1.0]:
            scaler.scale((weight * factor).sum()).backward()
            scaler.step(optimizer)
            optimizer.zero_grad()
            scaler.update(1.0)
        runs.append(weight.detach().clone())
    assert torch.equal(*runs)
    with pytest.raises(ValueError, match="muon goes with --precision bf16 or fp32"):
        train.optimizers_of(replace(plain, optimizer="muon"), nn.Conv2d(3, 4, 3))


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        ("Caught RuntimeError in DataLoader worker process 0.\nwrong shape", RuntimeError, "shape"),
        ("DataLoader worker (pid 7) is killed by signal: Killed.", MemoryError, "--accumulate"),
        ("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that "
         "dataloader's workers are out of shared memory.", MemoryError, "--shm-size"),
        ("unable to allocate shared memory(shm) for file </torch_1>", MemoryError, "--workers 0"),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling", MemoryError, "out of memory"),
    ],
)  # fmt: skip
def test_what_ends_a_run_is_said(
    error: str, kind: type[Exception], message: str, streets: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def fail(self: train.Run) -> None:
        raise RuntimeError(error)

    monkeypatch.setattr(train.Run, "fit", fail)
    words = [*TINY, *HERE, "--data", "cityscapes", "--root", str(streets)]
    words += ["--output", str(tmp_path / "run"), "--batch-size", "2"]
    with pytest.raises(kind, match=message):
        train.train(train.parse_args(words), train.Processes(torch.device("cpu")), "")


def test_weights_without_an_epoch_are_not_begun_upon(streets: Path, tmp_path: Path) -> None:
    model = citysegzoo.create_model("unet", widths=(4, 8))
    model.save_pretrained(tmp_path / "run" / "best.safetensors", card={"data": "x"})
    with pytest.raises(FileExistsError, match="the weights of a run without its state"):
        train.begun(tmp_path / "run", True, train.Processes(torch.device("cpu")))


def test_weights_keep_the_terms_of_what_they_come_from(streets: Path, tmp_path: Path) -> None:
    start = citysegzoo.create_model("unet", widths=(4, 8))
    theirs = {"licence": "research only", "data": "their streets", "source": "Somebody et al."}
    start.save_pretrained(tmp_path / "start", card=theirs)
    run(streets, tmp_path / "run", "--epochs", "1", "--initial", str(tmp_path / "start"))
    run(streets, tmp_path / "on", "--epochs", "1", "--initial", f"{tmp_path}/run/best.safetensors")
    for name in ("run", "on"):
        card = citysegzoo.load(tmp_path / name / "best.safetensors").card
        for field, value in theirs.items():
            assert card[field].startswith(train.TERMS["drawn"][field])
            assert card[field].endswith(f"; started from weights of: {value}")


def test_resumed_weights_keep_the_terms_of_what_they_come_from(
    streets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, output = tmp_path / "start", tmp_path / "run"
    model = citysegzoo.create_model("unet", widths=(4, 8))
    model.save_pretrained(start, card={"licence": "research only"})
    words = ("--epochs", "2", "--evaluate-every", "2")
    stopped_run(monkeypatch, 2, streets, output, *words, "--initial", str(start))
    shutil.rmtree(start)  # no longer needed, as last.pt has all that came of it
    run(streets, output, *words, "--resume")
    card = citysegzoo.load(output / "best.safetensors").card
    assert card["licence"].endswith("; started from weights of: research only")


def test_preprocessing_of_the_first_weights_stays(
    streets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of those it began with, and on resuming without them."""
    start = citysegzoo.create_model("unet", widths=(4, 8))
    start.preprocessing = UNIT_RANGE
    start.save_pretrained(tmp_path / "start")
    words = ("--initial", str(tmp_path / "start"), "--save-every", "1")
    run(streets, tmp_path / "whole", *words)
    stopped_run(monkeypatch, 3, streets, tmp_path / "parts", *words)
    shutil.rmtree(tmp_path / "start")
    run(streets, tmp_path / "parts", "--save-every", "1", "--resume")
    assert_same_runs(tmp_path / "parts", tmp_path / "whole")
    found = citysegzoo.load(tmp_path / "parts" / "best.safetensors")
    assert found.preprocessing == UNIT_RANGE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--evaluate-every", "2"], "evaluate_every was 1 and is 2"),
        (["--limit", "4"], "images was 8 and is 4; validation images was 8 and is 4"),
        (["--annotations", "coarse"], "annotations was 'fine' and is 'coarse'"),
        (["--labels", "category"], "labels was 'cityscapes19' and is 'cityscapes_categories'"),
    ],
)
def test_a_run_on_other_labels_is_not_gone_on_with(
    change: list[str], message: str, streets: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    run(streets, tmp_path / "run", "--epochs", "1")
    before = state_of(tmp_path / "run")
    said = refused(capsys, streets, tmp_path / "run", "--epochs", "1", "--resume", *change)
    assert message in said
    assert_same(state_of(tmp_path / "run"), before)
    run(streets, tmp_path / "run", "--epochs", "1", "--resume", "--annotations", "fine")


def test_weights_that_went_on_from_others_name_both_commands(streets: Path, tmp_path: Path) -> None:
    commands = []
    for name, more in (
        ("first", []),
        ("second", ["--initial", f"{tmp_path}/first/best.safetensors"]),
    ):
        run(streets, tmp_path / name, *more)
        commands.append(citysegzoo.load(tmp_path / name / "best.safetensors").card["command"])
    first, second = commands[1].split(" && ")
    assert first == commands[0]
    assert "--output second" in second
    assert "--initial first/best.safetensors" in second


def test_tensorboard_is_written_where_it_is_installed(
    streets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[str, float, int]] = []

    class SummaryWriter:
        def __init__(self, folder: Path, purge_step: int) -> None:
            assert folder == tmp_path / "run" / "tensorboard"
            assert purge_step == 1

        def add_scalar(self, name: str, value: float, epoch: int) -> None:
            written.append((name, float(value), epoch))

        def flush(self) -> None:
            pass

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    run(streets, tmp_path / "run")
    rows = log_of(tmp_path / "run")
    assert [(v, e) for name, v, e in written if name == "mean_iou"] == [
        (float(row["mean_iou"]), int(row["epoch"])) for row in rows
    ]


def test_evaluating_less_often_and_keeping_the_last(streets: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    run(streets, output, "--epochs", "3", "--evaluate-every", "2", "--kept", "last")
    rows = log_of(output)
    assert [bool(row["mean_iou"]) for row in rows] == [False, True, True]
    card = citysegzoo.load(output / "best.safetensors").card
    assert card["epoch"] == 3
    last = {k: v for k, v in state_of(output)["state"]["averaged"].items() if k != "n_averaged"}
    assert_same(
        load_checkpoint(output / "best.safetensors"),
        {k: last[f"module.{k}"] for k in load_checkpoint(output / "best.safetensors")},
    )


def test_workers_change_nothing(streets: Path, tmp_path: Path) -> None:
    run(streets, tmp_path / "a")
    run(streets, tmp_path / "b", "--workers", "2")
    assert_same_runs(tmp_path / "b", tmp_path / "a", command=False)


def test_images_in_memory_change_nothing(streets: Path, tmp_path: Path) -> None:
    run(streets, tmp_path / "a")
    run(streets, tmp_path / "b", "--in-memory", "--workers", "1")
    assert_same_runs(tmp_path / "b", tmp_path / "a", command=False)


def test_checkpointed_activations_train_the_same(streets: Path, tmp_path: Path) -> None:
    run(streets, tmp_path / "a")
    run(streets, tmp_path / "b", "--checkpoint-activations")
    rows = [log_of(tmp_path / name) for name in "ab"]
    for its, expected in zip(rows[1], rows[0], strict=True):
        assert float(its["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-6)


@pytest.mark.slow
def test_compiled_training_is_the_same(streets: Path, tmp_path: Path) -> None:
    words = ("--precision", "fp32", "--optimizer", "sgd", "--lr", "0.05")
    run(streets, tmp_path / "a", *words)
    run(streets, tmp_path / "b", *words, "--compile")
    assert_near_runs(tmp_path / "b", tmp_path / "a", statistics=False)
    run(streets, tmp_path / "b", *words, "--compile", "--resume", "--epochs", "2")


def test_it_learns(streets: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    run(streets, output, "--epochs", "15", "--lr", "0.05", "--ema", "0", "--loss",
        "cross_entropy+dice", "--clip-norm", "5")  # fmt: skip
    rows = log_of(output)
    assert float(rows[-1]["loss"]) < 0.8 * float(rows[0]["loss"])
    assert float(rows[-1]["mean_iou"]) > 0.04  # all road would be 0.02


# --- the same batch in parts and by several processes

EXACT = ("--optimizer", "sgd", "--lr", "0.05", "--class-weights", "enet", "--precision", "fp32")


def assert_near_runs(found: Path, expected: Path, *, statistics: bool) -> None:
    """Float32 sums in another order, through some steps: relative 1e-4 of the largest weight."""
    for key, value in (state := state_of(expected)["state"])["model"].items():
        its = state_of(found)["state"]["model"][key]
        if value.is_floating_point():
            assert (its - value).abs().max() <= 1e-4 * value.abs().max() + 1e-6, key
        elif statistics:
            assert torch.equal(its, value)
    assert state["step"] == 0
    for its, row in zip(log_of(found), log_of(expected), strict=True):
        assert float(its["loss"]) == pytest.approx(float(row["loss"]), rel=1e-5)
        assert float(its["val_loss"]) == pytest.approx(float(row["val_loss"]), rel=1e-5)
        # Of 49 thousand pixels, a few may be on the border between two classes.
        assert float(its["mean_iou"]) == pytest.approx(float(row["mean_iou"]), abs=1e-3)


def void_the_left(root: Path) -> None:
    """Leave nearly all pixels of every other image without a label."""
    for file in sorted((root / "gtFine" / "train").rglob("*_labelIds.png"))[::2]:
        labels = np.array(Image.open(file))
        labels[:, : labels.shape[1] - 8] = 0
        Image.fromarray(labels).save(file)


@pytest.mark.parametrize("loss", ["cross_entropy", "fixman2024_cross_entropy"])
def test_parts_of_a_batch_are_the_batch(loss: str, broken: Path, tmp_path: Path) -> None:
    void_the_left(broken)
    plain = ("--option", "norm=False", "--option", "first_norm=False", "--option", "up_norm=False")
    words = [*EXACT, *plain, "--loss", loss]
    if loss != "cross_entropy":  # a sum over all pixels
        words += ["--lr", "1e-6", "--class-weights", "none"]
    run(broken, tmp_path / "a", *words)
    for parts in ("2", "4"):
        run(broken, tmp_path / parts, *words, "--accumulate", parts)
        assert log_of(tmp_path / parts)[0]["loss"] != ""
        with pytest.raises(AssertionError, match="accumulate"):
            assert_same(
                state_of(tmp_path / parts)["settings"], state_of(tmp_path / "a")["settings"]
            )
        assert_near_runs(tmp_path / parts, tmp_path / "a", statistics=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        (),
        ("--ema", "0", "--checkpoint-activations"),  # as recipes of reports have it
        ("--accumulate", "2", "--checkpoint-activations"),
    ],
)
def test_two_processes_are_one(more: tuple[str, ...], broken: Path, tmp_path: Path) -> None:
    void_the_left(broken)
    words = [*TINY, *EXACT, *HERE, "--data", "cityscapes", "--root", str(broken), "--epochs", "2",
             "--batch-size", "4", *more]  # fmt: skip
    if (
        "--accumulate" in more
    ):  # two parts of one image each: batch norm of two images, in one process likewise
        words += ["--option", "norm=False", "--option", "first_norm=False"]
        words += ["--option", "up_norm=False"]
    one = tmp_path / "one"
    two = tmp_path / "two"
    train.main([*words, "--output", str(one)])
    process = start(*words, "--output", str(two), processes=2)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "Warning" not in err
    # One process speaks.
    said = [line for line in out.splitlines() if not line.endswith(" are here.")]
    assert [line[:8] for line in said] == ["epoch 1:", "epoch 2:", "kept: /t"[:8]]
    assert_near_runs(two, one, statistics=True)
    best = [load_checkpoint(path / "best.safetensors") for path in (two, one)]
    for key, value in best[1].items():
        if value.is_floating_point():
            assert (best[0][key] - value).abs().max() <= 1e-4 * value.abs().max() + 1e-6, key
    # What two processes began, they go on with, and one says that it is at its end.
    process = start(*words, "--output", str(two), "--resume", processes=2)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert out.count("resumed after 2 epochs") == 1


@pytest.mark.slow
def test_an_error_of_one_process_ends_both(broken: Path, tmp_path: Path) -> None:
    file = sorted((broken / "leftImg8bit" / "train").rglob("*.png"))[3]
    file.write_bytes(file.read_bytes()[:300])
    words = [*TINY, *HERE, "--data", "cityscapes", "--root", str(broken), "--epochs", "2"]
    words += ["--batch-size", "4", "--output", str(tmp_path / "run")]
    begun = time.monotonic()
    process = start(*words, processes=2)
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert time.monotonic() - begun < 60
    told = [line for line in err.splitlines() if line.startswith("train.py: ")]
    assert sum(file.name in line for line in told) == 1
    assert "[rank" not in err  # no traceback of the one that waited


# --- stopping and going on

STEADY = ("--model", "segformer_b0", "--option", "decoder_width=16", "--option", "dropout=0.3",
          "--crop", "32", "48", "--ema", "0.9", "--save-every", "1")  # fmt: skip


def stopped_run(
    monkeypatch: pytest.MonkeyPatch, at: int, root: Path, output: Path, *words: str
) -> None:
    """A run that is interrupted in its step number ``at``."""
    step = train.Run.train_step
    taken = iter(range(10**6))

    def interrupted(self: Any, batch: Any) -> Any:
        if next(taken) == at:
            raise KeyboardInterrupt
        return step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(train.Run, "train_step", interrupted)
        with pytest.raises(SystemExit) as stopped:
            run(root, output, *words)
    assert stopped.value.code not in (0, None)
    assert str(stopped.value.code).startswith("train.py: stopped.")


@pytest.mark.parametrize(
    ("at", "every", "optimizer"),
    [
        (1, "1", "muon"),
        *(
            pytest.param(*its, "adamw", marks=pytest.mark.slow)
            for its in ((1, "1"), (3, "1"), (1, "0"), (3, "0"))
        ),
    ],
)
def test_an_interrupted_run_goes_on(
    at: int,
    every: str,
    optimizer: str,
    streets: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = (*STEADY, "--save-every", every, "--optimizer", optimizer)
    run(streets, tmp_path / "whole", *words)
    output = tmp_path / "parts"
    stopped_run(monkeypatch, at, streets, output, *words)
    saved = (at, every) != (1, "0")
    assert (output / "last.pt").exists() == saved
    run(streets, output, *words, "--resume")
    assert_same_runs(output, tmp_path / "whole")


def test_a_run_at_its_end_stays_as_it_is(
    streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(streets, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    capsys.readouterr()
    run(streets, tmp_path, "--resume")
    assert {path: path.read_bytes() for path in before} == before
    *_, first, last = capsys.readouterr().out.splitlines()
    assert first == "resumed after 2 epochs and 0 steps."
    assert last.startswith("kept: ")


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_the_same(streets: Path, tmp_path: Path) -> None:
    words = [*STEADY, "--device", "cpu", "--workers", "1", "--data", "cityscapes", "--root",
             str(streets), "--batch-size", "2", "--epochs", "3"]  # fmt: skip
    whole = start(*words, "--output", str(tmp_path / "whole"))
    _, err = whole.communicate(timeout=300)
    assert whole.returncode == 0, err
    output = tmp_path / "parts"
    chance = random.Random(1)
    kills = writing = 0
    while True:
        resume = ["--resume"] if output.exists() else []
        before = (output / "last.pt").stat().st_mtime_ns if (output / "last.pt").exists() else 0
        process = start(*words, "--output", str(output), *resume)
        after = chance.randrange(1, 7)  # saves that it gets
        seen = before
        while process.poll() is None:
            partial = list(output.glob(".*.part.pt"))
            if after == 1 and kills % 2 == 0 and partial:  # in the middle of writing
                writing += 1
                break
            now = (output / "last.pt").stat().st_mtime_ns if (output / "last.pt").exists() else 0
            if now != seen:
                seen, after = now, after - 1
                if after <= 0:
                    time.sleep(chance.random() * 0.2)
                    break
        if process.poll() is not None:
            _, err = process.communicate()
            assert process.returncode == 0, err
            break
        process.send_signal(signal.SIGINT if kills % 3 == 2 else signal.SIGKILL)
        process.communicate()
        kills += 1
        if (output / "last.pt").exists():
            assert state_of(output)["format"] == 3
        assert kills < 20
    print(f"{kills} kills, {writing} while last.pt was being written")
    assert kills >= 3
    assert_same_runs(output, tmp_path / "whole")


def test_what_a_killed_run_left_is_cleared(streets: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    (output / "samples").mkdir(parents=True)
    left = [output / ".0123456789abcdef.part.pt", output / "samples" / ".0123456789abcdef.part.jpg"]
    for path in (*left, output / "notes.txt"):
        path.write_text("x")
    run(streets, output, "--epochs", "1")
    assert not any(path.exists() for path in left)
    assert (output / "notes.txt").exists()


@pytest.mark.slow
def test_ctrl_c_is_one_line(streets: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    words = [*TINY, "--data", "cityscapes", "--root", str(streets), "--device", "cpu",
             "--output", str(output), "--epochs", "1000", "--batch-size", "4"]  # fmt: skip
    process = start(*words)
    while not (output / "last.pt").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode not in (0, -signal.SIGINT)
    assert err.splitlines() == [
        f"train.py: stopped. The last good state is in {output / 'last.pt'}; --resume goes on "
        "from it."
    ]
    assert state_of(output)["state"]["epoch"] >= 1


def test_clipped_gradients_move_nothing(streets: Path, tmp_path: Path) -> None:
    """Under so small a norm SGD leaves the weights where they were."""
    words = ("--optimizer", "sgd", "--lr", "0.1", "--weight-decay", "0", "--epochs", "1")
    moved = {}
    for norm in ("1e-12", "1e12"):
        run(streets, tmp_path / norm, *words, "--clip-norm", norm, "--precision", "fp32")
        torch.manual_seed(0)
        before = citysegzoo.create_model("unet", widths=(4, 8), num_classes=19).state_dict()
        after = state_of(tmp_path / norm)["state"]["model"]
        moved[norm] = max(
            float((after[name] - value).abs().max())
            for name, value in before.items()
            if name.endswith("conv.weight") or name.endswith(".0.weight")
        )
    assert moved["1e-12"] < 1e-9 < 1e-4 < moved["1e12"]


def test_initial_weights_of_other_classes(
    camvid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As many of them: the classifier starts anew, and the rest does not."""
    for name, labels in (("same", CAMVID_11), ("other", numbered_labels(11))):
        torch.manual_seed(1)
        start = citysegzoo.create_model("unet", widths=(4, 8), num_classes=11)
        start.labels = labels
        start.save_pretrained(tmp_path / name)
        words = ["--model", "unet", "--option", "widths=(4, 8)", "--data", "camvid"]
        args = train.parse_args(
            [*words, "--root", str(camvid), "--output", "x", "--initial", str(tmp_path / name)]
        )
        args.resume = False
        torch.manual_seed(2)
        model = train.create(args, CAMVID_11)
        told = "tells as many other classes apart" in capsys.readouterr().out
        assert told is (name == "other")
        same = {k: torch.equal(v, model.state_dict()[k]) for k, v in start.state_dict().items()}
        assert all(same[k] for k in same if not k.startswith("classifier."))
        assert same["classifier.conv.weight"] is (name == "same")
    bundled = train.parse_args(
        ["--model", "unet.small", *words[4:], "--root", "x", "--output", "x", "--initial",
         "unet.small"]
    )  # fmt: skip
    bundled.resume = False
    assert train.create(bundled, CAMVID_11).card["data"].startswith("CamVid")


def test_median_frequency_is_of_the_images_that_hold_a_class(camvid: Path) -> None:
    from citysegzoo.losses import count_pixels, median_frequency_weights

    loss, _ = losses_of(
        "unet.small", camvid, "camvid", "--loss", "cross_entropy", "--class-weights",
        "median_frequency",
    )  # fmt: skip
    counts = count_pixels(CamVid(camvid, "train"), 11, ignore_index=11)
    expected = median_frequency_weights(counts.pixels, image_pixels=counts.image_pixels, absent=1.0)
    assert torch.equal(loss.class_weights, expected)
    assert not torch.equal(expected, median_frequency_weights(counts.pixels, absent=1.0))


def test_losses_of_reports_fit_models_without_a_recipe(streets: Path, camvid: Path) -> None:
    words = ("--loss", "xiang2020_weighted_cross_entropy")
    loss, _ = losses_of("unet.small", camvid, "camvid", *words)
    assert len(loss.class_weights) == 11
    of_34, _ = losses_of("unet.stevens2020_improved", streets, "cityscapes", *words)
    assert len(of_34.class_weights) == 34


def test_a_link_that_leads_nowhere_does_not_stop_a_run(tmp_path: Path) -> None:
    image, link = tmp_path / "a.png", tmp_path / "b.png"
    image.write_bytes(b"1234")
    link.symlink_to(tmp_path / "gone.png")
    assert train.fingerprint([(image, link)]) != train.fingerprint([(image, image)])


def test_initial_weights_of_another_network(
    streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(streets, tmp_path / "unet", "--epochs", "1")
    first = str(tmp_path / "unet" / "best.safetensors")
    words = ("--model", "fcn", "--option", "widths=(4, 8)", "--crop", "32", "48")
    message = refused(capsys, streets, tmp_path / "fcn", *words, "--initial", first)
    assert message == f"{first} holds another model than fcn."


def test_weights_without_a_state_are_not_written_over(
    streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    run(streets, output)
    before = (output / "best.safetensors").read_bytes()
    epoch = citysegzoo.load(output / "best.safetensors").card["epoch"]
    (output / "last.pt").unlink()
    for words in ((), ("--resume",)) if epoch > 1 else ((),):
        message = refused(capsys, streets, output, *words)
        assert message == (
            f"{output} holds the weights of a run without its state; name another --output."
        )
    assert (output / "best.safetensors").read_bytes() == before


def test_a_broken_state_is_not_offered(
    streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "last.pt"
    state.write_bytes(b"no state")
    message = refused(capsys, streets, tmp_path, "--resume")
    assert message == f"{state} holds no state of a run; begin it anew in another folder."


def test_validation_images_that_do_not_fit_into_memory(
    streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def full(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(train.Run, "logits", full)
    message = refused(capsys, streets, tmp_path / "run")
    assert message.startswith("out of memory with one validation image; begin in another --output")


def test_the_card_says_that_images_were_resized(streets: Path, tmp_path: Path) -> None:
    for words, ending, size in (
        ((), "single scale", None),
        (("--resize", "64", "64"), "single scale, of images resized to 64x64", [64, 64]),
    ):
        output = tmp_path / str(len(words))
        run(streets, output, "--epochs", "1", *words)
        card = citysegzoo.load(output / "best.safetensors").card
        assert card["score"]["metric"].endswith(ending)
        assert card.get("resized_to") == size


def test_part_of_a_download_is_said(
    streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(streets, tmp_path / "run", "--epochs", "1")
    said = capsys.readouterr().out
    assert "8 of the 2975 images of the split train are here." in said
    assert "8 of the 500 images of the split val are here." in said


def test_a_state_of_other_settings_is_not_offered(
    streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(streets, tmp_path / "run", "--epochs", "1")
    message = refused(capsys, streets, tmp_path / "run", "--epochs", "1", "--lr", "1", "--resume")
    assert "had other settings: lr was" in message
    assert "--resume goes on from it" not in message


def test_validation_images_without_a_class(
    camvid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = shutil.copytree(camvid, tmp_path / "camvid")
    for file in (root / "valannot").iterdir():
        Image.fromarray(np.full((360, 480), 11, np.uint8)).save(file)
    with pytest.raises(SystemExit):
        run(root, tmp_path / "run", "--epochs", "1", data="camvid")
    said = capsys.readouterr().err
    assert said == "train.py: no pixel of the validation images has a class; check them.\n"


def test_a_score_that_is_no_number_gives_way() -> None:
    """A later one that is a number is kept in its place."""
    run_ = train.Run.__new__(train.Run)
    run_.best, run_.epoch, run_.processes = float("nan"), 1, SimpleNamespace(first=False)
    run_.settings = SimpleNamespace(kept="lowest_loss")
    run_.keep(SimpleNamespace(mean_iou=0.5), 2.0)
    assert run_.best == -2.0
    run_.keep(SimpleNamespace(mean_iou=0.5), float("nan"))
    assert run_.best == -2.0


# --- one's own data

CLASSES = ("--classes", "road", "kerb", "sky")


def test_own_data(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "run"
    run(own, output, *CLASSES, data="folder")
    model = citysegzoo.load(output / "best.safetensors")
    assert model.labels.classes == ("road", "kerb", "sky")
    assert model.labels.ignore_index == 255
    assert model.card["data"] == "own images, 6 training images"
    assert model.card["licence"] == "not stated"  # so that publish_to_hub.py asks for it
    assert "--data folder --root folder --output run" in model.card["command"]
    assert "--classes road kerb sky" in model.card["command"]
    words = ("--resume", "--epochs", "3", "--classes", "road", "kerb", "tree")
    said = refused(capsys, own, output, *words, data="folder")
    assert "classes" in said
    assert "tree" in said


def test_own_data_from_weights_keeps_their_terms(own: Path, tmp_path: Path) -> None:
    start = citysegzoo.create_model("unet", widths=(4, 8))
    start.save_pretrained(tmp_path / "start", card={"licence": "research only", "data": "theirs"})
    words = (*CLASSES, "--epochs", "1", "--initial", str(tmp_path / "start"))
    with pytest.warns(UserWarning, match="classifier"):
        run(own, tmp_path / "run", *words, data="folder")
    card = citysegzoo.load(tmp_path / "run" / "best.safetensors").card
    assert card["licence"] == "not stated; started from weights of: research only"
    assert card["data"] == "own images, 6 training images; started from weights of: theirs"


def test_own_data_in_the_classes_of_a_label_set(own: Path) -> None:
    words = ["--model", "unet.stevens2020_baseline", "--data", "folder", "--root", str(own)]
    words += ["--output", "x", "--device", "cpu", "--classes", "cityscapes19"]
    args = train.parse_args(words)
    recipe = citysegzoo.model_info(args.model).recipe
    images, val = train.open_data(args, recipe)
    assert images.labels is CITYSCAPES_19
    assert train.look_over(args, images, val) == (64, 96)
    settings = train.settings_of(args, recipe, len(images), (48, 80))
    assert settings.augmentation.resize is None
    plain = train.settings_of(args, None, len(images), (48, 800))
    assert plain.augmentation.crop == (48, 512)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--data", "folder"), "--data folder needs --classes: names in the order of their values"),
        (
            ("--data", "folder", "--classes", "cityscapes"),
            "no label set 'cityscapes'; did you mean",
        ),
        (
            ("--data", "folder", "--classes", "a,b"),
            "; or name two classes and more, by spaces apart",
        ),
        (
            ("--data", "folder", "--classes", "a", ""),
            "a class cannot be called ''; give it another",
        ),
        (
            ("--data", "folder", "--classes", "a", "loss"),
            "cannot be called 'loss'; give it another",
        ),
        (("--data", "folder", "--classes", *map(str, range(256))), "takes 255 names at most"),
        (
            ("--data", "folder", *CLASSES, "car"),
            "no label image in labels/train has a pixel of car",
        ),
        (("--data", "folder", *CLASSES, "--labels", "train_id"), "are of --data cityscapes; leave"),
        (("--data", "camvid", *CLASSES), "--classes are of --data folder; camvid has its own"),
        (("--data", "folder", "--classes", "road", "kerb"), "has the value 2"),
    ],
)
def test_own_data_that_is_not_told(
    words: tuple[str, ...], message: str, own: Path, tmp_path: Path, capsys: Any
) -> None:
    assert message in refused(capsys, own, tmp_path / "run", *words)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("images/val", "own has no images/val: --data folder needs images/train, labels/train, im"),
        ("labels/train", "own has no labels/train: --data folder needs images/train, labels/train"),
        ("labels/train/0.png", "own/labels/train, such as 0; images and labels are files of equal"),
    ],
)
def test_own_data_that_is_not_all_there(
    part: str, message: str, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if (own / part).is_dir():
        shutil.rmtree(own / part)
    else:
        (own / part).unlink()
    assert message in refused(capsys, own, tmp_path / "run", *CLASSES, data="folder")


def test_own_label_images_of_which_none_can_be_read(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in (own / "labels" / "train").iterdir():
        file.write_bytes(b"no picture")
    said = refused(capsys, own, tmp_path / "run", *CLASSES, data="folder")
    assert "0.png" in said
    words = (*CLASSES, "--skip-broken")
    said = refused(capsys, own, tmp_path / "run", *words, data="folder")
    assert "0.png" in said


def test_own_label_images_that_are_void(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As masks of 0 and 255 are for the most part."""
    for file in (own / "labels" / "val").iterdir():
        Image.fromarray(np.where(np.asarray(Image.open(file)) > 0, 255, 0).astype("u1")).save(file)
    run(own, tmp_path / "run", *CLASSES, data="folder")
    said = capsys.readouterr().out
    assert "no label image in labels/val has a pixel of kerb (1), sky (2).\n" in said
    for file in (own / "labels" / "train").iterdir():
        Image.fromarray(np.full_like(np.asarray(Image.open(file)), 255)).save(file)
    words = ("--loss", "stevens2020_weighted_cross_entropy", "--classes", "cityscapes19")
    said = refused(capsys, own, tmp_path / "void", *words, data="folder")
    assert said.startswith("no label image in labels/train has a pixel of road (0), sidewalk (1),")
    assert said.endswith("255 where there is none.")


def test_a_wrong_value_is_found_before_training(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = own / "labels" / "val" / "1.png"
    labels = np.array(Image.open(file))
    labels[0, 0] = 7
    Image.fromarray(labels).save(file)
    said = refused(capsys, own, tmp_path / "run", *CLASSES, "--save-every", "1", data="folder")
    assert "val/1.png has the value 7" in said
    assert "resume" not in said
    assert not list((tmp_path / "run").iterdir())


def test_default_crops_are_of_the_usual_size(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind, suffix in (("images", "jpg"), ("labels", "png")):
        file = own / kind / "train" / f"0.{suffix}"
        Image.open(file).crop((0, 0, 40, 34)).save(file)  # the first, and a small one
    words = ("--model", "unet", "--option", "widths=(4, 8)", *CLASSES)
    run(own, tmp_path / "run", *words, data="folder")
    assert "crops are 64x96: --crop takes another size." in capsys.readouterr().out


def test_the_command_names_classes_as_they_are() -> None:
    words = ["--model", "unet", "--data", "folder", "--root", "kerb", "--output=runs/sky"]
    words += [*CLASSES, "--initial", "road"]
    command = train.command_of(train.parse_args(words), words)
    assert "--root folder --output=sky --classes road kerb sky --initial road" in command


# --- recipes

REPORTED = [name for name in citysegzoo.list_models() if citysegzoo.model_info(name).recipe]


def settings_of(name: str, data: str, *words: str, images: int = 2975) -> Any:
    args = train.parse_args(
        ["--model", name, "--data", data, "--root", "x", "--output", "x", "--device", "cpu", *words]
    )
    return train.settings_of(args, citysegzoo.model_info(name).recipe, images, train.FRAMES[data])


def test_the_recipe_of_a_report_is_taken() -> None:
    name = "unet.stevens2020_baseline"
    recipe = citysegzoo.model_info(name).recipe
    assert recipe is not None
    settings = settings_of(name, "cityscapes")
    assert (settings.optimizer, settings.lr, settings.epochs, settings.batch_size) == (
        ("adam", 0.01, 3, 4)
    )
    assert settings.schedule == recipe.schedule
    assert settings.weight_decay == 0.0005
    assert (settings.loss, settings.kept, settings.ema) == (
        "stevens2020_cross_entropy",
        "last",
        None,
    )
    words = "--lr 0.5 --epochs 7 --schedule poly:2 --optimizer sgd --loss dice --crop 64 96"
    settings = settings_of(name, "cityscapes", *words.split())
    assert (settings.optimizer, settings.lr, settings.epochs, settings.loss) == (
        ("sgd", 0.5, 7, "dice")
    )
    assert str(settings.schedule) == str(train.parse_schedule("poly:2"))
    assert settings.augmentation.crop == (64, 96)


@pytest.mark.parametrize("data", ["cityscapes", "camvid"])
@pytest.mark.parametrize("name", REPORTED)
def test_every_recipe_gives_settings(
    name: str, data: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = citysegzoo.model_info(name).recipe
    assert recipe is not None
    settings = settings_of(name, data)
    printed = capsys.readouterr().out
    for field, value in (
        ("optimizer", recipe.optimizer),
        ("lr", recipe.learning_rate),
        ("schedule", recipe.schedule),
        ("batch_size", recipe.batch_size),
    ):
        assert (getattr(settings, field) == value) != (value is None)
        assert (f"{field} " in printed) == (value is None)
    assert settings.loss == recipe.loss
    if recipe.epochs:
        assert settings.epochs == recipe.epochs
    if recipe.steps:
        steps = 2975 // settings.batch_size
        assert (settings.epochs - 1) * steps < recipe.steps <= settings.epochs * steps
    assert ("adapted" in printed) == (data == "camvid")
    if data == "camvid":
        assert settings.augmentation.resize is None
        crop = settings.augmentation.crop
        assert crop is None or (crop[0] <= 360 and crop[1] <= 480)
        assert "ignore_index" not in settings.loss_options
    else:
        assert settings.augmentation == recipe.augmentation
        assert settings.loss_options == dict(recipe.loss_options)


ONE_OF_EACH = {
    "unet.stevens2020_improved": (),
    "fcn.chen2020_augmented": ("--resize", "64", "96"),
    "unet.fixman2024_enhanced": (),
    "segnet_vgg16.mei2019": ("--resize", "64", "96"),
    "fcn.xiang2020_weighted": (),
}
LARGE = ("unet.fixman2024_enhanced", "segnet_vgg16.mei2019")


@pytest.mark.parametrize("data", ["cityscapes", "camvid"])
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in LARGE)) for name in ONE_OF_EACH],
)
def test_a_recipe_of_each_report_trains(
    name: str, data: str, streets: Path, camvid: Path, tmp_path: Path
) -> None:
    words = ["--model", name, "--crop", "32", "48", "--batch-size", "2", "--epochs", "1"]
    words += ["--limit", "2", "--encoder-weights", "none"]
    words += [] if data == "camvid" else ONE_OF_EACH[name]
    run(streets if data == "cityscapes" else camvid, tmp_path / "run", *words, data=data)
    row = log_of(tmp_path / "run")[0]
    assert math.isfinite(float(row["loss"]))
    model = citysegzoo.load(tmp_path / "run" / "best.safetensors")
    recipe = citysegzoo.model_info(name).recipe
    assert recipe is not None
    classes = 11 if data == "camvid" else {"label_id": 34, "train_id": 19}[recipe.labels]
    assert model.num_classes == classes
    assert model.card["data"].startswith("CamVid" if data == "camvid" else "streets drawn")


def losses_of(name: str, root: Path, data: str, *words: str) -> tuple[Any, Any]:
    """The loss and the training images that the script gives a model."""
    args = train.parse_args(
        ["--model", name, "--data", data, "--root", str(root), "--output", "x", *words]
    )
    recipe = citysegzoo.model_info(name).recipe
    images, val = train.open_data(args, recipe)
    settings = train.settings_of(args, recipe, len(images), train.look_over(args, images, val))
    train.augment(images, val, settings.augmentation)
    own = recipe is not None and data != recipe.dataset
    return train.loss_of(settings, images, own=own, skip_broken=args.skip_broken), images


def test_losses_of_reports_weigh_by_the_data_at_hand(streets: Path, camvid: Path) -> None:
    from citysegzoo.losses import create_loss
    from citysegzoo.losses.class_weights import log_frequency_weights

    name = "unet.stevens2020_improved"
    printed, _ = losses_of(name, streets, "cityscapes")
    assert torch.equal(
        printed.class_weights, create_loss("stevens2020_weighted_cross_entropy").class_weights
    )
    assert printed.ignore_index is None
    own, _ = losses_of(name, camvid, "camvid")
    assert own.ignore_index == 11
    labels = np.stack([target.numpy() for _, target in CamVid(camvid, "train")])
    pixels = np.bincount(labels.ravel(), minlength=12)[:11]
    assert torch.equal(own.class_weights, log_frequency_weights(pixels))


def test_a_class_that_is_not_there_has_a_weight(camvid: Path, tmp_path: Path) -> None:
    root = shutil.copytree(camvid, tmp_path / "camvid")
    for file in (root / "trainannot").iterdir():
        labels = np.array(Image.open(file))
        labels[labels == 3] = 0
        Image.fromarray(labels).save(file)
    loss, _ = losses_of("fcn.xiang2020_weighted", root, "camvid")
    assert loss.class_weights[3] == loss.class_weights.max() == 5


@pytest.mark.parametrize("loss", ["dice", "dice+iou", "xiang2020_cross_entropy"])
def test_class_weights_need_something_to_weigh(
    loss: str, streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--loss", loss, "--class-weights", "enet")
    message = refused(capsys, streets, tmp_path / "run", *words)
    assert message == (
        f"--class-weights enet has nothing to weigh in {loss}; it goes with cross_entropy, focal, "
        "ohem_cross_entropy, or a sum with one of these."
    )


def test_every_part_of_a_recipe_has_an_option() -> None:
    words = "--model x --data camvid --root x --output x"
    args = vars(train.parse_args(words.split()))
    renamed = {"learning_rate": "lr", "dataset": "data", "loss_options": "loss_option"}
    parts = {field.name for kind in (Recipe, Augmentation) for field in fields(kind)}
    # Frozen parts are an option of the model, and epochs take the place of steps.
    for name in parts - {"augmentation", "notes", "frozen", "steps"}:
        assert renamed.get(name, name) in args, name


def test_parts_of_a_recipe_can_be_left_out_and_changed() -> None:
    name = "fcn.chen2020_augmented_resized"
    assert settings_of(name, "cityscapes").augmentation.resize
    settings = settings_of(
        name, "cityscapes", "--resize", "none", "--rotate-probability", "0.5", "--loss", "focal",
        "--loss-option", "gamma=1.5",
    )  # fmt: skip
    assert settings.augmentation.resize is None
    assert settings.augmentation.rotate_probability == 0.5
    assert settings.loss_options == {"gamma": 1.5}
    with pytest.raises(SystemExit):
        settings_of(name, "cityscapes", "--crop", "12")


def test_other_labels_than_the_recipes_have_their_own_void() -> None:
    name = "unet_swinv2_base.fixman2024_jnet"
    assert settings_of(name, "cityscapes").loss_options["ignore_index"] == 0
    for words in (("--labels", "train_id"), ("--labels", "category")):
        assert "ignore_index" not in settings_of(name, "cityscapes", *words).loss_options


def test_what_a_report_leaves_unsaid_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    settings_of("segnet_vgg16.mei2019", "cityscapes")
    said = capsys.readouterr().out
    assert "weight_decay 0.0" in said
    assert "kept best_mean_iou" in said
    assert "momentum 0.9" in said


def test_labels_and_annotations_of_cityscapes(streets: Path, tmp_path: Path) -> None:
    words = ("--labels", "category", "--annotations", "coarse", "--epochs", "1")
    run(streets, tmp_path / "run", *words)
    assert citysegzoo.load(tmp_path / "run" / "best.safetensors").num_classes == 7


def test_a_coarse_recipe_is_validated_on_coarse_labels(streets: Path) -> None:
    name = "unet.fixman2024_enhanced"
    args = train.parse_args(["--model", name, "--data", "cityscapes", "--root", str(streets),
                             "--output", "x"])  # fmt: skip
    train_set, val = train.open_data(args, citysegzoo.model_info(name).recipe)
    assert {path.name.split("_")[3] for _, path in (*train_set.files, *val.files)} == {"gtCoarse"}


def test_options_of_losses(streets: Path, camvid: Path) -> None:
    jnet = "unet_swinv2_base.fixman2024_jnet"  # which ignores label 0 of all 34
    draw_coarse(streets)
    assert losses_of(jnet, streets, "cityscapes")[0].ignore_index == 0
    assert losses_of(jnet, camvid, "camvid")[0].ignore_index == 11
    other, _ = losses_of(jnet, streets, "cityscapes", "--loss", "cross_entropy+lovasz_softmax")
    assert [loss.ignore_index for loss in other.losses] == [None, None]


def draw_coarse(streets: Path) -> None:
    assert (streets / "gtCoarse").is_dir()  # drawn streets have them


def test_void_of_all_34_labels_is_unlabeled(streets: Path) -> None:
    _, images = losses_of(
        "unet.stevens2020_baseline", streets, "cityscapes", "--crop", "128", "192"
    )
    assert images.labels.ignore_index is None
    target = images[0][1]
    assert target.shape == (128, 192)
    assert int((target == 0).sum()) >= 128 * 192 - 64 * 96
    assert int(target.max()) < 34


# --- what cannot be done is told in a sentence


def test_wrong_folders(
    streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], broken: Path
) -> None:
    output = tmp_path / "run"
    message = refused(capsys, tmp_path / "nowhere", output)
    assert "Cityscapes needs the folder" in message
    assert "does not exist" in message
    shutil.rmtree(broken / "gtFine" / "val")
    assert "gtFine_trainvaltest.zip" in refused(capsys, broken, output)
    next((broken / "gtFine" / "train").rglob("*labelIds.png")).unlink()
    assert "1 of 8 images" in refused(capsys, broken, output)
    assert not (output / "last.pt").exists()


@pytest.mark.parametrize("workers", ["0", pytest.param("1", marks=pytest.mark.slow)])
def test_a_corrupt_image_is_named_or_skipped(
    workers: str, broken: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = sorted((broken / "leftImg8bit" / "train").rglob("*.png"))[5]
    file.write_bytes(file.read_bytes()[:1000])
    message = refused(capfd, broken, tmp_path / "run", "--workers", workers)
    assert str(file) in message
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        run(broken, tmp_path / "run", "--workers", workers, "--skip-broken")
    told_of = [w for w in told if str(w.message).startswith(f"left out: {file}")]
    assert len(told_of) == (workers == "0")  # a worker warns in its own process
    assert len(log_of(tmp_path / "run")) == 2


@pytest.mark.filterwarnings("ignore:left out")
def test_a_corrupt_validation_image_counts_for_nothing(broken: Path, tmp_path: Path) -> None:
    """As if it, and its labels, were not there."""
    fewer = shutil.copytree(broken, tmp_path / "fewer")
    image = sorted((broken / "leftImg8bit" / "val").rglob("*.png"))[1]
    for folder, ending in (("leftImg8bit", "leftImg8bit.png"), ("gtFine", "gtFine_labelIds.png")):
        name = image.name.replace("leftImg8bit.png", ending)
        (fewer / folder / "val" / image.parent.name / name).unlink()
    image.write_bytes(image.read_bytes()[:1000])
    run(broken, tmp_path / "run", "--skip-broken")
    run(fewer, tmp_path / "expected")
    assert log_of(tmp_path / "run") == log_of(tmp_path / "expected")
    card = citysegzoo.load(tmp_path / "run" / "best.safetensors").card
    assert "validation split, 7 images" in card["score"]["split"]


def test_a_corrupt_image_in_a_later_epoch_loses_nothing(
    broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    file = sorted((broken / "leftImg8bit" / "train").rglob("*.png"))[5]
    whole = file.read_bytes()
    run(broken, tmp_path / "expected")
    write_log = train.Run.write_log

    def then_break(self: Any) -> None:
        write_log(self)
        file.write_bytes(whole[:1000])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.Run, "write_log", then_break)
        message = refused(capsys, broken, output)
    assert str(file) in message
    assert f"The last good state is in {output / 'last.pt'}" in message
    file.write_bytes(whole)
    run(broken, output, "--resume")
    assert_same_runs(output, tmp_path / "expected")


def test_broken_labels(broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "run"
    file = sorted((broken / "gtFine" / "train").rglob("*_labelIds.png"))[2]
    labels = np.array(Image.open(file))
    Image.fromarray(np.full_like(labels, 77)).save(file)
    message = refused(capsys, broken, output)
    assert f"{file} has the value 77" in message
    weighted = ("--class-weights", "enet")
    assert f"{file} has the value 77" in refused(capsys, broken, output, *weighted)
    with pytest.warns(UserWarning, match="left out: .* has the value 77"):
        run(broken, output, "--skip-broken", *weighted)
    Image.fromarray(labels[:, :50]).save(file)
    message = refused(capsys, broken, tmp_path / "other")
    assert "is 96x64 but its labels" in message
    assert "50x64" in message


def test_runs_that_cannot_go_on(
    streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    assert "there is no run to resume" in refused(capsys, streets, output, "--resume")
    assert not output.exists()
    output.mkdir()
    run(streets, output, "--epochs", "1", "--resume")  # one that ended before it saved anything
    assert "has no last.pt yet, so the run begins anew" in capsys.readouterr().out
    before = {path: path.read_bytes() for path in output.iterdir() if path.is_file()}
    message = refused(capsys, streets, output, "--epochs", "1")
    assert message == (
        f"{output} holds a run already; add --resume to go on with it, or name another --output."
    )
    message = refused(capsys, streets, output, "--epochs", "3", "--lr", "0.5", "--resume")
    assert "epochs was 1 and is 3" in message
    assert "lr was 0.001 and is 0.5" in message
    message = refused(capsys, streets, output, "--epochs", "1", "--model", "fcn", "--resume")
    assert "model was 'unet' and is 'fcn'" in message
    message = refused(
        capsys, streets, output, "--epochs", "1", "--option", "norm=False", "--resume"
    )
    assert "options was" in message
    message = refused(capsys, streets, output, "--epochs", "1", "--limit", "4", "--resume")
    assert "images was 8 and is 4" in message
    others = tmp_path / "others"
    shutil.copytree(streets, others)
    message = refused(capsys, others, output, "--model", "fcn", "--resume")
    assert "files was" not in message  # the same ones elsewhere
    with next((others / "leftImg8bit" / "train").rglob("*.png")).open("ab") as file:
        file.write(b"more")
    message = refused(capsys, others, output, "--model", "fcn", "--resume")
    assert "files was" in message
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--model", "unet.smal"), "did you mean 'unet.small'"),
        (("--option", "width=3"), "did you mean 'widths'"),
        (
            ("--option", "widths"),
            "--option is given as NAME=VALUE, such as aspp_rates=3,6,9, not 'w",
        ),
        (("--option", "num_classes=4"), "num_classes is that of the labels, 19; leave it out"),
        (("--loss-option", "reduction='none'"), "reduction='none' is no single number to train on"),
        (
            ("--loss", "xiang2020_weighted_cross_entropy", "--class-weights", "none"),
            "weighs classes",
        ),
        (("--loss", "cross_entropi"), "did you mean 'cross_entropy'"),
        (("--loss", "cross_entropy+dise"), "did you mean 'dice'"),
        (("--batch-size", "9"), "there are 8 training images, fewer than a batch of 9"),
        (("--accumulate", "3"), "a batch of 4 images cannot be shared evenly"),
        (("--lr", "-1"), "Invalid learning rate"),
        (("--ema", "2"), "decay of averaged weights"),
        (("--flip", "2"), "flip is a probability"),
        (("--crop", "16", "16"), "at least 32"),
        (("--schedule", "cosine:50"), "warm-up of 50 epochs"),
        (("--initial", "/nowhere.safetensors"), "nowhere.safetensors"),
        (("--optimizer", "muon", "--momentum", "0.8"), "of --optimizer sgd; muon has its own"),
        (("--device", "cuda:9"), "'cuda:9' cannot be used; there is cpu"),
        (("--device", "tpu9000"), "'tpu9000' cannot be used; there is cpu"),
        (("--root", "/nowhere"), "does not exist"),
    ],
)
def test_settings_that_cannot_be(
    words: tuple[str, ...],
    message: str,
    streets: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert message in refused(capsys, streets, tmp_path / "run", *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--epochs 0", "--epochs must be at least 1"),
        ("--seed -1", "--seed must be at least 0"),
        (f"--seed {2**63}", "--seed must be below 2**63"),
        ("--workers 100000", "--workers must be at most"),
        ("--momentum 2", "--momentum must be from 0 to below 1"),
        ("--clip-norm -1", "--clip-norm must be above 0"),
        ("--clip-norm nan", "--clip-norm must be above 0"),
        ("--compile --checkpoint-activations", "do not go together; leave one out"),
        ("--schedule steps:3", "'steps:3' is no schedule: one is constant, step:EPOCHS:GAMMA"),
        ("--data kitti", "invalid choice: 'kitti'"),
        ("--batch 3", "unrecognized arguments: --batch 3"),
    ],
)
def test_words_that_cannot_be(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(Path("x"), Path("y"), *words.split())
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_scale_needs_a_crop(
    streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--model", "unet.stevens2020_baseline", "--scale", "0.5", "2")
    assert "add --crop" in refused(capsys, streets, tmp_path / "run", *words)


def test_images_of_many_sizes_need_a_crop(
    broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("leftImg8bit", "gtFine"):
        for file in (broken / folder / "train" / "inkford").glob("*.png"):
            Image.open(file).crop((0, 0, 64, 64)).save(file)
    words = ("--model", "unet.stevens2020_baseline", "--epochs", "1")
    assert "of several sizes; add --crop" in refused(capsys, broken, tmp_path / "run", *words)


def test_fp16(streets: Path, tmp_path: Path) -> None:
    run(streets, tmp_path / "run", "--precision", "fp16", "--epochs", "1")
    state = state_of(tmp_path / "run")["state"]
    assert state["scaler"]["scale"] > 1
    assert math.isfinite(float(log_of(tmp_path / "run")[0]["loss"]))


PLAIN = ("--option", "norm=False", "--option", "first_norm=False", "--option", "up_norm=False")


@pytest.mark.parametrize("every", ["0", pytest.param("1", marks=pytest.mark.slow)])
def test_a_loss_that_is_no_number(
    every: str, streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    words = (*PLAIN, "--optimizer", "sgd", "--lr", "1e-3", "--schedule", "step:1:1e20")
    message = refused(capsys, streets, output, *words, "--save-every", every)
    assert message == (
        "the loss is no number any more in epoch 2; begin a run in another --output with a lower "
        f"--lr, --clip-norm 1 or --precision fp32; --initial {output / 'best.safetensors'} starts "
        "it from the best weights."
    )
    # What it says helps.
    again = (*PLAIN, "--initial", str(output / "best.safetensors"), "--lr", "1e-4", "--epochs", "1")
    run(streets, tmp_path / "again", *again, "--clip-norm", "1", "--precision", "fp32")
    assert log_of(tmp_path / "again")
    state = state_of(output)["state"]
    assert all(bool(value.isfinite().all()) for value in state["model"].values())
    assert state["epoch"] == 1
    message = refused(capsys, streets, tmp_path / "other", *words, "--lr", "1e20")
    assert message.startswith("the loss is no number any more in epoch 1")
    assert not (tmp_path / "other" / "last.pt").exists()


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "1"])
def test_more_memory_than_there_is(workers: str, streets: Path, tmp_path: Path) -> None:
    words = [*TINY, "--data", "cityscapes", "--root", str(streets), "--device", "cpu"]
    words += ["--workers", workers, "--output", str(tmp_path / "run"), "--batch-size", "4"]

    def little() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (2 << 30, 2 << 30))

    process = start(*words, "--crop", "20000", "20000", prepare=little)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    *before, last = err.splitlines()
    assert last == (
        "train.py: out of memory with 4 images of (20000, 20000): add --checkpoint-activations, or "
        "begin in another --output with --accumulate 2 or a smaller --crop."
    )
    if workers == "0":  # a worker without memory may speak itself
        assert not before


@pytest.mark.slow
def test_files_that_may_not_be_large(streets: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    words = [*TINY, *HERE, "--data", "cityscapes", "--root", str(streets), "--epochs", "1"]
    words += ["--batch-size", "4", "--output", str(output)]

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (15_000, 15_000))

    process = start(*words, prepare=small)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2, err
    assert err.count("\n") == 1
    assert "File too large" in err
    assert not list(output.glob(".*"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_a_full_disk_keeps_the_last_state(
    streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = tmp_path / "expected"
    run(streets, expected, "--kept", "last")
    # Room for all files, for what is written before it takes the place of the old, and for blocks
    # that are not full.
    room = sum(path.stat().st_size for path in expected.rglob("*") if path.is_file())
    room += sum((expected / name).stat().st_size for name in ("last.pt", "best.safetensors"))
    room += 100_000
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        filler = disk / "filler"
        output = disk / "run"
        write_log = train.Run.write_log

        def then_fill(self: Any) -> None:
            write_log(self)
            if self.epoch == 2:
                # Half a state fits.
                filler.write_bytes(bytes(shutil.disk_usage(disk).free - 20_000))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(train.Run, "write_log", then_fill)
            message = refused(capsys, streets, output, "--kept", "last")
        assert "last.pt could not be written, because there is no space left" in message
        assert f"The last good state is in {output / 'last.pt'}" in message
        assert state_of(output)["state"]["epoch"] == 1
        assert not list(output.glob(".*"))
        filler.unlink()
        run(streets, output, "--kept", "last", "--resume")
        shutil.copytree(output, tmp_path / "run")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert_same_runs(tmp_path / "run", expected)
