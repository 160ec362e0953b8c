"""Evaluating folders: reading, pairing, the command."""

import base64
import io
import json
import re
import struct
import subprocess
import sys
import warnings
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cityscapes_frames import largest_difference, official, write_frames
from commands import run_on_a_terminal, told
from PIL import Image

from citysegzoo import create_model
from citysegzoo.cli import main
from citysegzoo.data import Cityscapes, draw_streets
from citysegzoo.data.labels import (
    CAMVID_11,
    CITYSCAPES_19,
    CITYSCAPES_34,
    CITYSCAPES_CLASSES,
    LabelSet,
)
from citysegzoo.images import read_ids
from citysegzoo.metrics import ConfusionMatrix
from citysegzoo.metrics.cityscapes import CityscapesScores
from citysegzoo.metrics.folders import (
    evaluate_folders,
    evaluate_pairs,
    find_instances,
    labels_of,
    pair_files,
)
from citysegzoo.visualize import label_image
from citysegzoo.visualize.errors import find_errors
from citysegzoo.visualize.report import error_report

SIZE = (48, 96)
COUNT = 5
CHOICES = [*range(11), 11]


@pytest.fixture
def city(tmp_path: Path) -> tuple[Path, Path]:
    """Predictions and ground truth of Cityscapes."""
    return write_frames(tmp_path / "city", COUNT, SIZE)


@pytest.fixture
def cam(tmp_path: Path) -> tuple[Path, Path]:
    """Predictions as `citysegzoo segment` writes them, and ground truth, of CamVid."""
    random = np.random.default_rng(0)
    predictions, truths = tmp_path / "cam" / "segmented", tmp_path / "cam" / "valannot"
    for folder in (predictions, truths):
        folder.mkdir(parents=True)
    for i in range(COUNT):
        labels = random.choice(CHOICES, SIZE).astype(np.uint8)
        predicted = np.where(random.random(SIZE) < 0.5, labels % 11, 3).astype(np.uint8)
        Image.fromarray(labels).save(truths / f"{i}.png")
        label_image(predicted, CAMVID_11).save(predictions / f"{i}_labels.png")
        Image.new("RGB", SIZE).save(predictions / f"{i}_overlay.jpg")
    return predictions, truths


def test_ones_own_label_set_is_not_taken_for_that_of_its_name(tmp_path: Path) -> None:
    own = replace(CITYSCAPES_34, ignore_index=0)
    predictions, truths = write_frames(tmp_path / "city", 1, SIZE)
    with pytest.raises(FileNotFoundError, match="Cityscapes, not of one's own cityscapes34"):
        evaluate_folders(predictions, truths, labels=own)
    pairs = pair_files(predictions, truths, CITYSCAPES_34)
    found = evaluate_pairs(pairs, labels=own)
    matrix = ConfusionMatrix(34, 0)
    for file in predictions.rglob("*.png"):
        matrix.update(read_ids(file), read_ids(truth_of(file, truths)))
    assert found.to_dict() == matrix.scores(own).to_dict()
    recoloured = evaluate_folders(predictions, truths, labels=CITYSCAPES_34.with_palette("safe"))
    assert isinstance(recoloured, CityscapesScores)
    for folder in ("p", "t"):
        (tmp_path / folder).mkdir()
        image = Image.fromarray(np.array([[0, 1], [1, 1]], np.uint8))
        image.save(tmp_path / folder / "1.png")
    two = LabelSet("cityscapes34", ("road", "other"), ((0, 0, 0), (1, 1, 1)))
    for scores in (
        evaluate_folders(tmp_path / "p", tmp_path / "t", labels=two),
        find_errors(pair_files(tmp_path / "p", tmp_path / "t", two), labels=two).scores,
    ):
        assert scores.class_iou == {"road": 1, "other": 1}


def truth_of(prediction: Path, truths: Path) -> Path:
    return next(truths.rglob(prediction.name.replace("leftImg8bit", "gtFine_labelIds")))


def read_all(folder: Path, pattern: str = "*.png") -> np.ndarray:
    files = sorted(folder.rglob(pattern), key=lambda file: file.name)
    return np.stack([np.asarray(Image.open(file)) for file in files])


def iou_of(predicted: np.ndarray, true: np.ndarray, labels: LabelSet) -> list[float]:
    seen = true != labels.ignore_index
    predicted, true = predicted[seen], true[seen]
    return [
        ((predicted == i) & (true == i)).sum() / max(1, ((predicted == i) | (true == i)).sum())
        for i in range(len(labels))
    ]


def scored(predictions: Path, truths: Path, labels: LabelSet, **options) -> CityscapesScores:
    scores = evaluate_folders(predictions, truths, labels=labels, **options)
    assert isinstance(scores, CityscapesScores) == (labels is CITYSCAPES_34)
    return scores


# Reading


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
@pytest.mark.parametrize("mode", ["L", "P"])
def test_ids_are_read_as_they_are(suffix: str, mode: str, tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 256, SIZE, np.uint8)
    image = Image.fromarray(ids)
    if mode == "P":
        image.putpalette(bytes(range(255, -1, -1)) * 3)
    image.save(tmp_path / f"ids{suffix}")
    read = read_ids(tmp_path / f"ids{suffix}")
    assert np.array_equal(read, ids)
    assert read.dtype == np.uint8
    assert read.flags.writeable


def test_other_depths(tmp_path: Path) -> None:
    ids = np.arange(24000, 24000 + 64, dtype=np.uint16).reshape(8, 8)
    Image.fromarray(ids).save(tmp_path / "16.png")
    Image.fromarray(ids.astype(np.int32)).save(tmp_path / "32.tif")
    Image.fromarray(ids.astype(">u2")).save(tmp_path / "big.tif")
    Image.fromarray(ids % 2 == 1).save(tmp_path / "1.png")
    few = Image.fromarray((ids % 4).astype(np.uint8))
    few.putpalette([0, 0, 0, 9, 9, 9, 50, 0, 0, 1, 1, 1])
    few.save(tmp_path / "2.png", bits=2, transparency=3)
    for name, dtype, expected in (
        ("16.png", np.uint16, ids),
        ("32.tif", np.int32, ids),
        ("big.tif", np.uint16, ids),
        ("1.png", np.uint8, ids % 2),
        ("2.png", np.uint8, ids % 4),
    ):
        read = read_ids(tmp_path / name)
        assert (read.dtype, read.shape) == (dtype, (8, 8))
        assert np.array_equal(read, expected)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "CMYK"])
def test_colour_images_are_no_ids(mode: str, tmp_path: Path) -> None:
    file = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.new(mode, (8, 8)).save(file)
    with pytest.raises(ValueError, match=rf"a\..* is a colour image \({mode}\); class ids are exp"):
        read_ids(file)


def bad_files(folder: Path) -> dict[str, Path]:
    """One of each kind of file that cannot be read as ids."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("missing", "empty", "text", "cut", "jpeg", "float", "folder")
    files = {name: folder / f"{name}.png" for name in names}
    files["empty"].touch()
    files["text"].write_text("no picture")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 34, SIZE, np.uint8))
    noise.save(files["cut"])
    files["cut"].write_bytes(files["cut"].read_bytes()[:-900])
    noise.save(files["jpeg"], "JPEG")
    Image.fromarray(np.zeros(SIZE, np.float32)).save(files["float"], "TIFF")
    files["folder"].mkdir()
    return files


BAD = [
    ("missing", "missing.png does not exist"),
    ("empty", r"empty.png is empty \(0 bytes\)"),
    ("text", "text.png is no PNG, BMP or TIFF image"),
    ("cut", "cut.png cannot be decoded because it is truncated"),
    ("jpeg", "jpeg.png is no PNG, BMP or TIFF image"),
    ("float", "float.png has floating-point values"),
    ("folder", "folder.png is a folder"),
]


@pytest.mark.parametrize(("name", "message"), BAD)
def test_unreadable_files(name: str, message: str, tmp_path: Path) -> None:
    file = bad_files(tmp_path)[name]
    with pytest.raises((ValueError, OSError), match=message) as raised:
        read_ids(file)
    assert "\n" not in str(raised.value)


# Pairing


def test_pairs_of_cityscapes(city: tuple[Path, Path]) -> None:
    predictions, _ = city
    (predictions / "extra.png").touch()
    (predictions / "munster_000000_000099.png").touch()
    (predictions / ".lindau_000000_000000.png").touch()
    (predictions / "lindau_000000_000000.txt").touch()
    deep = predictions / "deep" / "er"
    deep.mkdir(parents=True)
    moved = next(predictions.glob("lindau_000000_000002*"))
    moved.rename(deep / "lindau_000000_000002_any_name.png")
    pairing = pair_files(*city, CITYSCAPES_34)
    assert [pair.ground_truth.name for pair in pairing.pairs] == [
        *(f"lindau_000000_00000{i}_gtFine_labelIds.png" for i in (0, 2, 4)),
        *(f"munster_000000_00000{i}_gtFine_labelIds.png" for i in (1, 3)),
    ]
    for prediction, truth in pairing.pairs:
        assert prediction.name[:21] == truth.name[:21]
    assert [file.name for file in pairing.unused] == ["extra.png", "munster_000000_000099.png"]
    assert find_instances(pairing, CITYSCAPES_34)


def test_cities_of_several_words(city: tuple[Path, Path]) -> None:
    """The official script takes no such names; every other part of this library does."""
    predictions, truths = city
    for file in [*predictions.iterdir(), *truths.rglob("lindau*")]:
        file.rename(file.with_name(file.name.replace("lindau_", "bad_lindau_")))
    pairing = pair_files(predictions, truths, CITYSCAPES_34)
    names = [pair.ground_truth.name for pair in pairing.pairs]
    assert names[0] == "bad_lindau_000000_000000_gtFine_labelIds.png"
    assert len(names) == 5
    assert not pairing.unused


def test_pairs_by_stem(cam: tuple[Path, Path]) -> None:
    predictions, _ = cam
    (predictions / "3_labels.png").rename(predictions / "3.png")
    (predictions / "sub").mkdir()
    (predictions / "4_labels.png").rename(predictions / "sub" / "4.bmp")
    (predictions / "10_labels.png").touch()
    pairing = pair_files(*cam, CAMVID_11)
    assert [pair.prediction.name for pair in pairing.pairs] == [
        *(f"{i}_labels.png" for i in range(3)),
        "3.png",
        "4.bmp",
    ]
    assert [pair.ground_truth.name for pair in pairing.pairs] == [f"{i}.png" for i in range(COUNT)]
    assert [file.name for file in pairing.unused] == ["10_labels.png"]
    assert not find_instances(pairing, CAMVID_11)


def test_equal_stems_pair_by_folder(cam: tuple[Path, Path]) -> None:
    for folder in cam:
        for sub in ("b", "a"):
            (folder / sub).mkdir()
            file = next(folder.glob("0*.png"))
            (folder / sub / file.name).write_bytes(file.read_bytes())
    for prediction, truth in pair_files(*cam, CAMVID_11).pairs:
        assert prediction.parent.relative_to(cam[0]) == truth.parent.relative_to(cam[1])


def test_single_files(city: tuple[Path, Path], cam: tuple[Path, Path], tmp_path: Path) -> None:
    prediction = sorted(city[0].iterdir())[0]
    truth = truth_of(prediction, city[1])
    ours = scored(prediction, truth, CITYSCAPES_34)
    assert ours.confusion.sum() == SIZE[0] * SIZE[1]
    assert ours.mean_class_iiou > 0
    other = tmp_path / "renamed.png"
    other.write_bytes(prediction.read_bytes())
    assert scored(other, truth, CITYSCAPES_34).class_iou == pytest.approx(
        ours.class_iou, nan_ok=True
    )
    assert pair_files(city[0], truth, CITYSCAPES_34).pairs == ((prediction, truth),)
    assert len(pair_files(city[0], truth, CITYSCAPES_34).unused) == COUNT - 1
    with pytest.raises(ValueError, match="4 of 5 ground-truth files have no prediction"):
        pair_files(prediction, city[1], CITYSCAPES_34)
    assert len(pair_files(cam[0], cam[1] / "0.png", CAMVID_11).pairs) == 1


def test_missing_and_several(city: tuple[Path, Path], cam: tuple[Path, Path]) -> None:
    for predictions, truths, labels, wanted in (
        (*city, CITYSCAPES_34, r"lindau_000000_000000\*\.png"),
        (*cam, CAMVID_11, r"0\.png or 0_labels\.png"),
    ):
        first, second = sorted(predictions.rglob("*.png"))[:2]
        copy = first.with_name(f"{first.stem.removesuffix('_labels')}.bmp")
        copy = first.with_name(f"{first.stem}_2.png") if labels is CITYSCAPES_34 else copy
        copy.write_bytes(first.read_bytes())
        with pytest.raises(ValueError, match=f"has 2 predictions named {wanted}, .*keep one"):
            pair_files(predictions, truths, labels)
        for file in (first, copy, second):
            file.unlink()
        message = rf"2 of 5 ground-truth files have no prediction in .* needs a file named {wanted}"
        with pytest.raises(ValueError, match=message):
            pair_files(predictions, truths, labels)


def test_label_sets_by_name(city: tuple[Path, Path], cam: tuple[Path, Path]) -> None:
    assert labels_of(city[1]) is CITYSCAPES_34
    assert labels_of(cam[1]) is None
    for file in city[1].rglob("*_labelIds.png"):
        file.rename(file.with_name(file.name.replace("labelIds", "labelTrainIds")))
    assert labels_of(city[1]) is CITYSCAPES_19
    with pytest.raises(FileNotFoundError, match=r"no \*_gtFine_labelIds.png; make them"):
        pair_files(*city, CITYSCAPES_34)
    with pytest.raises(FileNotFoundError, match="of Cityscapes, not of camvid11"):
        pair_files(*city, CAMVID_11)


# Scores


@pytest.mark.parametrize("workers", [None, 1, 3])
def test_the_folder_scores_are_the_official_ones(
    city: tuple[Path, Path], workers: int | None
) -> None:
    pytest.importorskip("cityscapesscripts")
    predictions = sorted(city[0].iterdir())
    theirs = official(predictions, [truth_of(file, city[1]) for file in predictions])
    ours = scored(*city, CITYSCAPES_34, workers=workers).to_dict()
    difference, where = largest_difference({key: ours[key] for key in theirs}, theirs)
    assert difference <= 1e-12, where


def test_workers_change_no_bit(city: tuple[Path, Path]) -> None:
    one, many = (scored(*city, CITYSCAPES_34, workers=workers).to_dict() for workers in (1, 8))
    assert json.dumps(one) == json.dumps(many)


def test_train_ids(city: tuple[Path, Path]) -> None:
    train_ids = np.array([label.train_id for label in CITYSCAPES_CLASSES], np.uint8)
    for folder, pattern in zip(city, ("*.png", "*labelIds.png"), strict=True):
        for file in folder.rglob(pattern):
            ids = train_ids[np.asarray(Image.open(file))]
            ids = np.minimum(ids, 18) if folder is city[0] else ids
            Image.fromarray(ids).save(
                file.with_name(file.name.replace("labelIds", "labelTrainIds"))
            )
    scores = scored(*city, CITYSCAPES_19)
    expected = iou_of(
        read_all(city[0]), read_all(city[1], "*_gtFine_labelTrainIds.png"), CITYSCAPES_19
    )
    for name, iou in zip(CITYSCAPES_19.classes, expected, strict=True):
        assert np.nan_to_num(scores.class_iou[name]) == pytest.approx(iou, abs=1e-12)


@pytest.mark.parametrize("workers", [1, 4])
def test_camvid(cam: tuple[Path, Path], workers: int) -> None:
    scores = scored(*cam, CAMVID_11, workers=workers)
    expected = iou_of(read_all(cam[0]), read_all(cam[1]), CAMVID_11)
    assert list(scores.class_iou.values()) == pytest.approx(expected, abs=1e-12)
    assert scores.mean_iou == pytest.approx(np.mean(expected), abs=1e-12)


def test_instances_are_used_if_they_are_there(city: tuple[Path, Path]) -> None:
    with_them = scored(*city, CITYSCAPES_34)
    assert with_them.mean_class_iiou > 0
    without = scored(*city, CITYSCAPES_34, instances=False)
    assert np.isnan(without.mean_class_iiou)
    files = sorted(city[1].rglob("*instanceIds.png"))
    files[0].unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 5 .* no instance ids .*000000_gtFine"):
        scored(*city, CITYSCAPES_34)
    for file in files[1:]:
        file.unlink()
    assert json.dumps(scored(*city, CITYSCAPES_34).to_dict()) == json.dumps(without.to_dict())
    with pytest.raises(FileNotFoundError, match="5 of 5 .* no instance ids"):
        scored(*city, CITYSCAPES_34, instances=True)


def test_only_label_ids_have_instances(cam: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match="for cityscapes34 only, not for camvid11"):
        scored(*cam, CAMVID_11, instances=True)


@pytest.mark.parametrize(
    ("workers", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)]
)
def test_bad_workers(cam: tuple[Path, Path], workers, error: type[Exception]) -> None:
    with pytest.raises(error, match="workers must be"):
        scored(*cam, CAMVID_11, workers=workers)


def test_the_first_bad_frame_is_told(city: tuple[Path, Path]) -> None:
    files = sorted(city[0].iterdir())
    for file in files[1:]:
        Image.new("L", SIZE[::-1], 40).save(file)
    for _ in range(3):
        message = rf"{files[1].name} against .*_gtFine_labelIds.png: .* 4608 pixels of value 40,"
        with pytest.raises(ValueError, match=message):
            scored(*city, CITYSCAPES_34, workers=4)


# The command


def test_command_on_cityscapes(city: tuple[Path, Path], tmp_path: Path, capsys) -> None:
    (city[0] / "notes.png").touch()
    target = tmp_path / "result.json"
    assert main(["evaluate", *map(str, city), "--json", str(target), "--workers", "2"]) == 0
    out, err = capsys.readouterr()
    scores = scored(*city, CITYSCAPES_34)
    assert out == f"cityscapes34, 5 frames\n\n{scores.table()}\n"
    assert err == "citysegzoo: predictions without a ground truth, which are left out: 1.\n"
    assert target.read_text() == json.dumps(scores.to_dict(), sort_keys=True, indent=4)
    for options in (["--no-instances"], ["--labels", "cityscapes34", "--no-instances"]):
        assert main(["evaluate", *map(str, city), *options]) == 0
        assert "iIoU" not in capsys.readouterr().err
    for file in city[1].rglob("*instanceIds.png"):
        file.unlink()
    assert main(["evaluate", *map(str, city)]) == 0
    assert "iIoU is left out" in capsys.readouterr().err


def test_command_on_camvid(cam: tuple[Path, Path], tmp_path: Path, capsys) -> None:
    target = tmp_path / "result.json"
    arguments = ["evaluate", *map(str, cam), "--labels", "camvid11"]
    assert main([*arguments, "--json", str(target)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "camvid11, 5 frames" in out
    for name in CAMVID_11.classes:
        assert name in out
    scores = scored(*cam, CAMVID_11)
    assert json.loads(target.read_text()) == json.loads(json.dumps(scores.to_dict()))


@pytest.mark.slow
def test_command_shows_progress_on_a_terminal(city: tuple[Path, Path]) -> None:
    out, shown = run_on_a_terminal("evaluate", *city)
    assert out.startswith("cityscapes34, 5 frames")
    assert "5/5" in shown


@pytest.mark.parametrize(("name", "message"), BAD)
def test_command_on_bad_files(
    city: tuple[Path, Path], name: str, message: str, tmp_path: Path, capsys
) -> None:
    truth = next(city[1].rglob("*_labelIds.png"))
    file = bad_files(tmp_path / "bad")[name]
    if name == "folder":
        message = "folder .*folder.png holds no label image"
    assert main(["evaluate", str(file), str(truth)]) == 2
    sentence = told(capsys)
    with pytest.raises(ValueError, match=message):
        raise ValueError(sentence)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda p, _: next(p.iterdir()).unlink(), ["1 of 5 ground-truth files have no prediction"]),
        (
            lambda p, _: Image.new("L", (95, 48)).save(sorted(p.iterdir())[2]),
            ["is 95x48 but its ground truth is 96x48"],
        ),
        (
            lambda p, _: Image.new("RGB", (96, 48)).save(sorted(p.iterdir())[2]),
            ["lindau_000000_000004_leftImg8bit.png is a colour image (RGB); class ids"],
        ),
        (
            lambda p, _: Image.new("L", (96, 48), 255).save(sorted(p.iterdir())[2]),
            ["lindau_000000_000004_leftImg8bit.png", "4608 pixels of value 255", "ids 0..33"],
        ),
        (
            lambda _, t: Image.new("I;16", (96, 48), 7001).save(
                sorted(t.rglob("*instanceIds.png"))[2]
            ),
            ["lindau_000000_000004", "label id 7", "'road', which has no instances"],
        ),
        (
            lambda _, t: Image.new("I;16", (48, 48)).save(sorted(t.rglob("*instanceIds.png"))[2]),
            ["lindau_000000_000004_gtFine_instanceIds.png is 48x48 but its ground truth is 96x48"],
        ),
    ],
)
def test_command_on_bad_frames(city: tuple[Path, Path], change, parts: list[str], capsys) -> None:
    change(*city)
    assert main(["evaluate", *map(str, city)]) == 2
    sentence = told(capsys)
    for part in parts:
        assert part in sentence


def test_train_ids_are_scored_against_label_ids(tmp_path: Path, capsys) -> None:
    """As `citysegzoo segment` writes them with a model of 19 classes; the names say label ids."""
    streets, segmented = draw_streets(tmp_path / "st", images=2, size=(64, 128)), tmp_path / "seg"
    segmented.mkdir()
    data = Cityscapes(streets, "val")
    for (photo, _), (_, target) in zip(data.files, data, strict=True):
        right = np.where(target == 255, 0, target).astype(np.uint8)
        label_image(right, CITYSCAPES_19).save(segmented / f"{photo.stem}_labels.png")
    truth = streets / "gtFine" / "val"
    scores = evaluate_folders(segmented, truth, labels="cityscapes19")
    assert scores.mean_iou == scores.pixel_accuracy == 1
    pairs = pair_files(segmented, truth, CITYSCAPES_19)
    for count in (
        lambda: evaluate_folders(segmented, truth),
        lambda: evaluate_pairs(pairs, labels=CITYSCAPES_34),
        lambda: find_errors(pairs, labels=CITYSCAPES_34),
    ):
        with pytest.warns(UserWarning, match="as train ids are") as said:
            count()
        assert said[0].filename == __file__
    page = error_report(find_errors(pairs, labels=CITYSCAPES_19))
    (first, _) = re.findall(r'src="data:image/\w+;base64,([^"]+)" alt="errors of', page)
    with Image.open(io.BytesIO(base64.b64decode(first))) as marked:
        reds = np.asarray(marked.convert("RGB")).astype(int)
    assert not (reds[..., 0] - reds[..., 1] > 100).any()  # nothing is marked as wrong
    words = ["evaluate", str(segmented), str(truth)]
    assert main([*words, "--labels", "cityscapes19"]) == 0
    assert "warning" not in capsys.readouterr().err
    for command in (words, ["errors", *words[1:], "--output", str(tmp_path / "report.html")]):
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            assert main(command) == 0
        assert "warning: the predictions are 0 to 18 only, as train" in capsys.readouterr().err
    target = truth / "chalkton"
    for file in target.glob("*_labelIds.png"):
        Image.fromarray(np.full((64, 128), 40, np.uint8)).save(file)
    with pytest.raises(ValueError, match="has values from 40 to 40; label ids are 0 to 33"):
        evaluate_folders(segmented, truth, labels="cityscapes19")


def test_classes_of_a_saved_model(cam: tuple[Path, Path], tmp_path: Path, capsys) -> None:
    classes = tuple(f"part {i}" for i in range(11))
    model = create_model("unet", widths=(4, 8), num_classes=11)
    model.labels = LabelSet("own", classes, CAMVID_11.palette, ignore_index=11)
    folder = model.save_pretrained(tmp_path / "own")
    assert main(["evaluate", *map(str, cam), "--labels", str(folder)]) == 0
    assert "part 10" in capsys.readouterr().out


def test_max_megapixels(cam: tuple[Path, Path], tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # fonts are images too
    for command in ("evaluate", "errors"):
        words = [command, *map(str, cam), "--labels", "camvid11"]
        words += ["--output", str(tmp_path / "report.html")] * (command == "errors")
        assert main(words) == 2
        assert "(--max-megapixels)" in told(capsys)
        assert main([*words, "--max-megapixels", "1"]) == 0
        capsys.readouterr()


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--labels", "cityscape34"], ["no label set 'cityscape34'; did you mean 'cityscapes34'"]),
        (["--labels", "camvid"], ["did you mean 'camvid11'"]),
        (["--labels", "cityscapes19"], ["in the prediction, but the matrix is of 19 classes"]),
        (["--labels", "camvid11"], ["not of camvid11"]),
        (["--workers", "0"], ["workers must be at least 1, not 0"]),
        (["--json", "no/such/result.json"], ["no/such/result.json", "its folder does not exist"]),
        (["--json", "."], [". is a folder; name a file"]),
        (["--json", "/proc/result.json"], ["/proc/result.json", "cannot be written"]),
        (["--labels", "cityscapes19", "--instances"], ["cityscapes19"]),
    ],
)
def test_bad_options(
    city: tuple[Path, Path], options: list[str], parts: list[str], capsys, monkeypatch, tmp_path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", *map(str, city), *options]) == 2
    sentence = told(capsys)
    for part in parts:
        assert part in sentence
    assert [path.name for path in tmp_path.iterdir()] == ["city"]


def test_bad_folders(cam: tuple[Path, Path], tmp_path: Path, capsys) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments, part in (
        ((cam[0], cam[1]), "do not say what its values are; give labels (--labels)"),
        ((cam[0], tmp_path / "no"), "no does not exist"),
        ((tmp_path / "no", cam[1], "--labels", "camvid11"), "no does not exist"),
        ((empty, cam[1], "--labels", "camvid11"), "empty holds no label image"),
        ((cam[0], empty, "--labels", "camvid11"), "empty holds no label image"),
    ):
        assert main(["evaluate", *map(str, arguments)]) == 2
        assert part in told(capsys)


def test_nothing_that_is_evaluated_is_overwritten(city: tuple[Path, Path], capsys) -> None:
    file = next(city[0].iterdir())
    before = file.read_bytes()
    assert main(["evaluate", *map(str, city), "--json", str(file)]) == 2
    assert "is to be read and replaced; name another --json" in told(capsys)
    assert file.read_bytes() == before


def test_an_old_result_stays_if_the_work_fails(city: tuple[Path, Path], tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    target.write_text("old")
    Image.new("L", (3, 3)).save(next(city[0].iterdir()))
    assert main(["evaluate", *map(str, city), "--json", str(target)]) == 2
    assert target.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2


def test_linked_folders_are_evaluated_too(cam: tuple[Path, Path], tmp_path: Path) -> None:
    """A folder put together of links; one that leads back to it adds nothing."""
    predictions, truths = cam
    expected = evaluate_folders(predictions, truths, labels=CAMVID_11)
    for name, real in (("p", predictions), ("t", truths)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "here").symlink_to(real)
        (tmp_path / name / "round").symlink_to(tmp_path / name)
    found = evaluate_folders(tmp_path / "p", tmp_path / "t", labels=CAMVID_11)
    assert np.array_equal(found.matrix, expected.matrix)


def test_scores_are_written_though_nobody_reads_them(
    cam: tuple[Path, Path], tmp_path: Path
) -> None:
    line = f"{sys.executable} -u -m citysegzoo evaluate {cam[0]} {cam[1]} --labels camvid11 "
    subprocess.run(f"{line} --json {tmp_path}/scores.json | true", shell=True, check=True)
    assert json.loads((tmp_path / "scores.json").read_text())


def test_a_link_to_itself_gives_way_to_scores(cam: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    words = ["evaluate", *map(str, cam), "--labels", "camvid11", "--json", f"{tmp_path}/loop"]
    assert main(words) == 0
    assert json.loads((tmp_path / "loop").read_text())


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_grey_of_few_bits_is_not_spread(bits: int, tmp_path: Path) -> None:
    """Pillow makes 85 of a 1 of two bits, and 17 of one of four."""
    ids = (np.arange(64).reshape(8, 8) % (1 << bits)).astype(np.uint8)
    packed = np.packbits(np.unpackbits(ids[..., None], axis=-1)[..., -bits:].reshape(8, -1), axis=1)
    header = struct.pack(">IIBBBBB", 8, 8, bits, 0, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in packed)
    file = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        file += struct.pack(">I", len(data)) + kind + data
        file += struct.pack(">I", zlib.crc32(kind + data))
    (tmp_path / "grey.png").write_bytes(file)
    assert np.array_equal(read_ids(tmp_path / "grey.png"), ids)
