"""Cityscapes, one's own folders, drawn streets, and what is said of bad data."""

import dataclasses
import errno
import json
import os
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from citysegzoo.data import (
    CAMVID_11,
    CITYSCAPES_19,
    CITYSCAPES_34,
    CITYSCAPES_CATEGORIES,
    UNIT_RANGE,
    Cityscapes,
    Folder,
    LabeledImages,
    LabelSet,
    Preprocessing,
    SampleError,
    SkipBroken,
    check,
    draw_streets,
)
from citysegzoo.metrics import evaluate_folders

SIZE = (64, 128)
IMAGES = 4


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Never written to."""
    return draw_streets(tmp_path_factory.mktemp("drawn") / "streets", images=IMAGES, size=SIZE)


@pytest.fixture
def root(drawn: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(drawn, tmp_path / "streets"))


def write(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def image(size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.full((*size, 3), 90, np.uint8)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


# Cityscapes


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("annotations", ["fine", "coarse"])
def test_samples_of_cityscapes(drawn: Path, split: str, annotations: str) -> None:
    from torchvision import tv_tensors

    dataset = Cityscapes(drawn, split, annotations=annotations)
    assert isinstance(dataset, Dataset)
    assert len(dataset) == len(dataset.files) == IMAGES
    assert dataset.labels is CITYSCAPES_19
    for (image_file, label_file), (pixels, target) in zip(dataset.files, dataset, strict=True):
        kind = {"fine": "gtFine", "coarse": "gtCoarse"}[annotations]
        assert label_file.name == image_file.name.replace("leftImg8bit", f"{kind}_labelIds")
        assert isinstance(pixels, tv_tensors.Image)
        assert isinstance(target, tv_tensors.Mask)
        assert (pixels.shape, pixels.dtype) == ((3, *SIZE), torch.uint8)
        assert (target.shape, target.dtype) == (SIZE, torch.uint8)
        expected = np.asarray(Image.open(image_file)).transpose(2, 0, 1)
        assert np.array_equal(pixels, expected)


@pytest.mark.parametrize(
    ("labels", "label_set", "expected"),
    [
        ("train_id", CITYSCAPES_19, lambda label: label.trainId),
        ("label_id", CITYSCAPES_34, lambda label: label.id),
        (
            "category",
            CITYSCAPES_CATEGORIES,
            lambda label: 255 if label.ignoreInEval else label.categoryId - 1,
        ),
    ],
)
def test_every_label_id_is_what_cityscapesscripts_says(
    root: Path, labels: str, label_set: LabelSet, expected: object
) -> None:
    from cityscapesscripts.helpers.labels import labels as table

    official = {label.id: label for label in table if label.id >= 0}
    ids = np.resize(np.arange(34, dtype=np.uint8), SIZE)
    dataset = Cityscapes(root, labels=labels)
    Image.fromarray(ids).save(dataset.files[0][1])
    target = dataset[0][1].numpy()
    assert np.array_equal(target, np.vectorize(lambda i: expected(official[i]))(ids))
    assert dataset.labels is label_set


def test_files_are_in_the_order_of_their_names(drawn: Path) -> None:
    names = [label.relative_to(drawn).as_posix() for _, label in Cityscapes(drawn).files]
    assert names == sorted(names)
    assert len({name.split("/")[2] for name in names}) == 2, "two cities"


def test_transform_gets_image_and_labels(drawn: Path) -> None:
    from torchvision.transforms import v2

    pixels, target = Cityscapes(drawn, transform=v2.Resize((32, 64)))[0]
    assert pixels.shape == (3, 32, 64)
    assert set(target.unique().tolist()) <= {*range(19), 255}, "labels are not interpolated"


def test_test_split_is_ignored_pixels(root: Path) -> None:
    frame = "berlin/berlin_000000_000019"
    write(root / f"leftImg8bit/test/{frame}_leftImg8bit.png", image())
    write(root / f"gtFine/test/{frame}_gtFine_labelIds.png", np.full(SIZE, 3, np.uint8))
    assert Cityscapes(root, "test")[0][1].unique().tolist() == [255]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "training"}, "no fine split 'training'; did you mean 'train'"),
        ({"split": "train_extra"}, "no fine split 'train_extra'"),
        ({"split": "test", "annotations": "coarse"}, "are train, train_extra, val"),
        ({"annotations": "gtFine"}, "no annotations 'gtFine'; did you mean 'fine'"),
        ({"labels": "train_ids"}, "no labels 'train_ids'; did you mean 'train_id'"),
    ],
)
def test_arguments_that_do_not_exist(drawn: Path, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Cityscapes(drawn, **arguments)


def missing(root: Path, *args: str, **options: str) -> str:
    with pytest.raises(FileNotFoundError) as caught:
        Cityscapes(root, *args, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


def test_root_that_does_not_exist(tmp_path: Path) -> None:
    (tmp_path / "kitti").mkdir()
    message = missing(tmp_path / "cityscapes")
    assert f"needs the folder {tmp_path}/cityscapes/leftImg8bit/train" in message
    assert f"{tmp_path} holds kitti" in message
    assert "get leftImg8bit_trainvaltest.zip from https://www.cityscapes-dataset.com" in message


@pytest.mark.parametrize("below", ["leftImg8bit", "gtFine/train"])
def test_root_too_deep(drawn: Path, below: str) -> None:
    assert f"its root seems to be {drawn}." in missing(drawn / below)


def test_root_too_high(drawn: Path) -> None:
    assert f"its root seems to be {drawn}." in missing(drawn.parent)


def test_archives_in_folders_of_their_own(root: Path) -> None:
    for name in ("leftImg8bit", "gtFine"):
        (root / f"{name}_trainvaltest").mkdir()
        (root / name).rename(root / f"{name}_trainvaltest" / name)
    shutil.rmtree(root / "gtCoarse")
    assert f"move {root}/leftImg8bit_trainvaltest/leftImg8bit into {root}." in missing(root)


@pytest.mark.parametrize(
    ("gone", "arguments", "archive"),
    [
        ("leftImg8bit", {}, "leftImg8bit_trainvaltest.zip"),
        ("leftImg8bit/val", {"split": "val"}, "leftImg8bit_trainvaltest.zip"),
        ("gtFine", {}, "gtFine_trainvaltest.zip"),
        ("gtCoarse/train", {"annotations": "coarse"}, "gtCoarse.zip"),
        (
            "leftImg8bit/train_extra",
            {"split": "train_extra", "annotations": "coarse"},
            "leftImg8bit_trainextra.zip",
        ),
    ],
)
def test_archive_that_is_not_there(root: Path, gone: str, arguments: dict, archive: str) -> None:
    shutil.rmtree(root / gone, ignore_errors=True)
    message = missing(root, **arguments)
    assert f"needs the folder {root}/{gone}" in message
    assert f"get {archive} from" in message


def test_frames_without_labels_and_the_reverse(root: Path) -> None:
    files = Cityscapes(root).files
    for _, label in files[:2]:
        label.unlink()
    message = missing(root)
    assert f"2 of {IMAGES} images in {root}/leftImg8bit/train have no labels" in message
    assert "inkford/inkford_000000_000000, inkford/inkford_000000_000002" in message
    for picture, _ in files[:3]:
        picture.unlink()
    assert f"1 of 2 label images in {root}/gtFine/train have no image" in missing(root)


def test_empty_split(root: Path) -> None:
    for folder in ("leftImg8bit/train", "gtFine/train"):
        shutil.rmtree(root / folder)
        (root / folder).mkdir()
    assert f"no images in {root}/leftImg8bit/train" in missing(root)


def test_hidden_files_are_no_frames(root: Path) -> None:
    """macOS leaves ``._name`` beside each file of an archive."""
    picture, _ = Cityscapes(root).files[0]
    picture.with_name(f"._{picture.name}").write_bytes(b"x")
    assert len(Cityscapes(root)) == IMAGES


# Samples that cannot be used


def assert_broken(dataset: LabeledImages, *parts: str | Path, index: int = 0) -> None:
    with pytest.raises(SampleError) as caught:
        dataset[index]
    for part in parts:
        assert str(part) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("labels", ["train_id", "label_id", "category"])
def test_unknown_ids(root: Path, labels: str) -> None:
    dataset = Cityscapes(root, labels=labels)
    file = dataset.files[0][1]
    ids = np.full(SIZE, 33, np.uint8)
    ids[0, 0], ids[5, 7] = 34, 255
    Image.fromarray(ids).save(file)
    assert_broken(
        dataset, f"{file} has values 34, 255, no labels of this dataset, which has 0..33."
    )


def test_ids_of_16_bits(root: Path) -> None:
    dataset = Cityscapes(root)
    file = dataset.files[0][1]
    Image.fromarray(np.full(SIZE, 26, np.uint16)).save(file)
    assert dataset[0][1].unique().tolist() == [13]
    Image.fromarray(np.full(SIZE, 26001, np.uint16)).save(file)
    assert_broken(dataset, file, "the value 26001, no label")


def test_sizes_that_differ(root: Path) -> None:
    dataset = Cityscapes(root)
    picture, label = dataset.files[0]
    Image.new("L", (64, 64), 7).save(label)
    assert_broken(dataset, f"{picture} is 128x64 but its labels {label} are 64x64")


def test_colours_for_labels(root: Path) -> None:
    dataset = Cityscapes(root)
    write(dataset.files[0][1], image())
    assert_broken(dataset, dataset.files[0][1], "is a colour image")


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("damage", ["truncated", "bit", "empty", "gone"])
def test_corrupt_file_is_named(root: Path, side: int, damage: str) -> None:
    dataset = Cityscapes(root)
    file = dataset.files[0][side]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF  # a wrong checksum
    contents = {"truncated": data[: len(data) // 2], "bit": data, "empty": b""}
    file.unlink()
    if damage != "gone":
        file.write_bytes(contents[damage])
    assert_broken(dataset, file)


def test_error_of_a_worker_is_one_sentence(root: Path) -> None:
    dataset = Cityscapes(root)
    truncate(dataset.files[2][0])
    with pytest.raises(SampleError) as caught:
        list(DataLoader(dataset, batch_size=2, num_workers=1))
    assert re.fullmatch(
        rf"{re.escape(str(dataset.files[2][0]))} cannot be decoded .*\.", str(caught.value)
    )


def test_skip_broken(root: Path) -> None:
    dataset = Cityscapes(root)
    truncate(dataset.files[1][0])
    truncate(dataset.files[3][1])
    skipping = SkipBroken(dataset)
    assert len(skipping) == IMAGES
    assert (skipping.files, skipping.labels) == (dataset.files, dataset.labels)
    with pytest.warns(UserWarning, match="left out") as told:
        samples = list(skipping)
    named = [str(warning.message) for warning in told]
    assert [str(dataset.files[1][0]) in named[0], str(dataset.files[3][1]) in named[1]] == [
        True
    ] * 2
    assert skipping.broken == [dataset.files[1], dataset.files[3]]
    for sample, i in zip(samples, (0, 2, 2, 0), strict=True):
        assert torch.equal(sample[0], dataset[i][0])
        assert torch.equal(sample[1], dataset[i][1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # each file is told once
        list(skipping)
        assert torch.equal(skipping[-1][0], dataset[0][0])
    for index in (IMAGES, -IMAGES - 1):
        with pytest.raises(IndexError):
            skipping[index]


def test_skip_broken_tells_once_in_all_workers_and_epochs(root: Path) -> None:
    dataset = Cityscapes(root)
    truncate(dataset.files[1][0])
    skipping = SkipBroken(dataset)
    loader = DataLoader(skipping, batch_size=2, num_workers=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert [len(batch) for batch, _ in loader] == [2, 2]
        assert skipping.broken == [dataset.files[1]]
        warnings.simplefilter("error")  # in the workers of the next epoch
        assert [len(batch) for batch, _ in loader] == [2, 2]


def test_skip_broken_where_all_are(root: Path) -> None:
    dataset = Cityscapes(root)
    for picture, _ in dataset.files:
        truncate(picture)
    with (
        pytest.raises(SampleError, match=f"none of the {IMAGES} samples can be read"),
        pytest.warns(UserWarning, match="left out"),
    ):
        SkipBroken(dataset)[0]


@pytest.mark.parametrize(
    ("opening", "lack"),
    [
        ("PIL.Image.open", MemoryError()),
        ("builtins.open", OSError(errno.EMFILE, "Too many open files")),
    ],
)
def test_what_the_machine_lacks_makes_no_file_a_broken_one(
    opening: str, lack: Exception, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = Cityscapes(root)
    skipping = SkipBroken(dataset)

    def refuse(*_: object, **__: object) -> None:
        raise lack

    for ask in (lambda: skipping[0], lambda: dataset.read_labels(0), dataset.hold):
        with monkeypatch.context() as patch:
            patch.setattr(opening, refuse)
            with pytest.raises(type(lack), match=r"\.png |do not fit into memory"):
                ask()
    assert skipping.broken == []


def test_held_samples_are_those_of_the_files(root: Path) -> None:
    dataset, held = Cityscapes(root), Cityscapes(root)
    truncate(dataset.files[1][0])
    expected = {i: dataset[i] for i in (0, 2, 3)}
    assert held.hold() == sum(part.nbytes for sample in expected.values() for part in sample)
    for i, pair in enumerate(held.files):
        if i in expected:
            pair[0].unlink()
            for _ in range(2):
                image, target = held[i]
                assert torch.equal(image, expected[i][0])
                assert torch.equal(target, expected[i][1])
                image.zero_()  # of a sample's own
        else:
            assert_broken(held, pair[0], index=i)


def test_held_samples_follow_the_list_of_files(root: Path) -> None:
    plain, held = Cityscapes(root), Cityscapes(root)
    held.hold()
    for dataset in (plain, held):
        dataset.files = dataset.files[1::2]
    assert all(torch.equal(a, b) for a, b in zip(plain[0], held[0], strict=True))


def test_more_than_memory_holds(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = Cityscapes(root)
    read, calls = dataset._read, []

    def full(*pair: Path) -> Any:
        calls.append(pair)
        if len(calls) == 3:
            raise MemoryError
        return read(*pair)

    monkeypatch.setattr(dataset, "_read", full)
    with pytest.raises(MemoryError, match=rf"the {IMAGES} images do not fit .* the first 2 take"):
        dataset.hold()
    assert not dataset._held


# One's own folders


def test_folder(tmp_path: Path) -> None:
    labels = np.tile(np.array([0, 10, 11], np.uint8), (48, 16))
    palette = Image.fromarray(labels)
    palette.putpalette(bytes(range(36)))
    for name in ("a", "night/b", "night/c"):
        write(tmp_path / f"images/{name}.jpg", image((48, 48)))
    for name in ("a.png", "night/b.png", "c.bmp"):  # the last one elsewhere
        (tmp_path / "labels" / name).parent.mkdir(parents=True, exist_ok=True)
        palette.save(tmp_path / "labels" / name)
    (tmp_path / "images/notes.txt").write_text("no image")
    write(tmp_path / "labels/spare.png", labels)

    dataset = Folder(tmp_path / "images", str(tmp_path / "labels"), "camvid11")
    assert dataset.labels is CAMVID_11
    names = [(picture.name, label.name) for picture, label in dataset.files]
    assert names == [("a.jpg", "a.png"), ("b.jpg", "b.png"), ("c.jpg", "c.bmp")]
    for pixels, target in dataset:
        assert pixels.shape == (3, 48, 48)
        assert np.array_equal(target, labels)


def test_folder_with_labels_of_ones_own(tmp_path: Path) -> None:
    crossing = LabelSet("crossing", ("road", "else"), ((1, 1, 1), (2, 2, 2)), ignore_index=9)
    write(tmp_path / "x/1.png", image())
    file = write(tmp_path / "y/1.png", np.full(SIZE, 9, np.uint8))
    dataset = Folder(tmp_path / "x", tmp_path / "y", crossing)
    assert dataset[0][1].unique().tolist() == [9]
    write(file, np.full(SIZE, 2, np.uint8))
    assert_broken(
        dataset, f"{file} has the value 2, no label of this dataset, which has 0..1 and 9."
    )


def test_classes_are_those_of_the_label_set(tmp_path: Path) -> None:
    crossing = LabelSet("crossing", ("road", "else"), ((1, 1, 1), (2, 2, 2)), ignore_index=9)
    with pytest.raises(ValueError, match="the class 5, which label set 'crossing' of 2 classes"):
        LabeledImages([], crossing, values={7: 5})
    picture = write(tmp_path / "1.png", image())
    target = write(tmp_path / "2.png", np.full(SIZE, 3, np.uint8))
    dataset = LabeledImages([[str(picture), str(target)]], crossing, values={3: 9})
    assert dataset[0][1].unique().tolist() == [9]
    for files in ("1.png", "12", picture, (picture,), (picture, target, target), (1, 2), None):
        with pytest.raises(TypeError, match="must be a pair, an image and its label map, not"):
            LabeledImages([files], crossing)


def test_label_sets_of_lists_and_numpys_numbers_are_as_others() -> None:
    listed = LabelSet(
        "camvid11", list(CAMVID_11.classes), np.array(CAMVID_11.palette), np.int64(11)
    )
    assert listed == CAMVID_11
    assert hash(listed) == hash(CAMVID_11)
    assert listed.with_palette("safe") == CAMVID_11.with_palette("safe")
    json.dumps(dataclasses.asdict(listed))
    for classes, palette, error, message in (
        ((1, 2), ((0, 0, 0),) * 2, TypeError, "names of a label set are texts, not 1"),
        (("a", "b"), ((0, 0, 300),) * 2, ValueError, "is .R, G, B. in 0..255"),
        (("a", "b"), ((0, 0, 0.5),) * 2, TypeError, "each number of a colour must be a whole"),
        (("a", "b"), ((0, 0),) * 2, ValueError, "is .R, G, B. in 0..255"),
    ):
        with pytest.raises(error, match=message):
            LabelSet("mine", classes, palette)
    assert Preprocessing([0, 0, 0], [1, 1, 1]) == UNIT_RANGE
    with pytest.raises(ValueError, match="finite numbers"):
        Preprocessing((0, 0, 0), (float("nan"), 1, 1))


def test_folder_does_not_guess(tmp_path: Path) -> None:
    images, labels = tmp_path / "images", tmp_path / "labels"
    flat = np.zeros(SIZE, np.uint8)

    def folder() -> Folder:
        return Folder(images, labels, CITYSCAPES_19)

    with pytest.raises(FileNotFoundError, match=f"{images}, which does not exist.*of the images"):
        folder()
    images.mkdir()
    with pytest.raises(FileNotFoundError, match=f"{labels}, which does not exist.*of the labels"):
        folder()
    labels.mkdir()
    with pytest.raises(FileNotFoundError, match=f"no images in {images}; .* equal names."):
        folder()
    write(images / "a.png", image())
    with pytest.raises(FileNotFoundError, match=f"1 of 1 images in {images} have no labels .* a;"):
        folder()
    for place in ("1/a.png", "2/a.png"):
        write(labels / place, flat)
    with pytest.raises(ValueError, match="a.png may belong to .*1/a.png or .*2/a.png"):
        folder()
    shutil.rmtree(labels / "2")
    assert len(folder()) == 1
    write(images / "b/a.png", image())
    with pytest.raises(FileNotFoundError, match="2 of 2 images"):  # which of them is 1/a.png?
        folder()
    write(images / "b/a.jpg", image())
    with pytest.raises(ValueError, match="a.jpg and .*a.png have one name"):
        folder()
    with pytest.raises(ValueError, match="no label set 'cityscape19'"):
        Folder(images, labels, "cityscape19")


def test_jpeg_labels_are_said_to_be_none(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
        Image.new("L", (40, 40)).save(tmp_path / folder / "a.jpg")
    with pytest.raises(ValueError, match=r"labels/a.jpg is no label image.*write labels as PNG"):
        Folder(tmp_path / "images", tmp_path / "labels", "camvid11")


def test_images_of_a_label_set_by_name() -> None:
    assert LabeledImages([], "camvid11").labels is CAMVID_11
    with pytest.raises(ValueError, match="did you mean 'camvid11'"):
        LabeledImages([], "camvid12")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: draw_streets("x", size=64), TypeError, "size must be a sequence of whole numbers"),
        (lambda: draw_streets("x", size=(64, 64, 64)), ValueError, "size is \\(H, W\\), both at"),
        (lambda: draw_streets("x", images=2.5), TypeError, "images must be a whole number"),
        (lambda: draw_streets("x", seed=0.5), TypeError, "seed must be a whole number"),
        (lambda: Preprocessing(mean=0.5), TypeError, "mean of a Preprocessing is three numbers"),
        (lambda: LabelSet("x", ("a",), (5,)), TypeError, "a colour is .R, G, B. in 0..255, not 5"),
    ],
)
def test_arguments_that_are_none(make, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_classes_that_8_bits_do_not_hold() -> None:
    labels = LabelSet("many", tuple(map(str, range(300))), ((0, 0, 0),) * 300, ignore_index=None)
    with pytest.raises(ValueError, match="'many' has values outside 0..255"):
        LabeledImages([], labels)


# Drawn streets


def contents(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def test_drawing_again_gives_the_same(drawn: Path, tmp_path: Path) -> None:
    again = contents(draw_streets(tmp_path / "more", images=IMAGES + 1, size=SIZE))
    before = contents(drawn)
    assert len(before) == 2 * 4 * IMAGES
    assert {name: again[name] for name in before} == before
    other = contents(draw_streets(tmp_path / "other", images=1, size=SIZE, seed=1))
    assert not set(other.values()) & set(before.values())


def test_drawn_streets_have_all_classes_and_instances(tmp_path: Path) -> None:
    root = draw_streets(tmp_path / "streets", images=12, size=SIZE)
    seen, instances = np.zeros(256, int), 0
    for _, file in Cityscapes(root, "train").files:
        labels = np.asarray(Image.open(file))
        ids = np.asarray(Image.open(str(file).replace("labelIds", "instanceIds")))
        assert ids.dtype == np.uint16
        assert np.array_equal(np.where(ids >= 1000, ids // 1000, ids), labels)
        instances += len(np.unique(ids[ids >= 1000]))
        seen += np.bincount(labels.ravel(), minlength=256)
    evaluated = [i for i in range(34) if CITYSCAPES_34.classes[i] in CITYSCAPES_19.classes]
    assert (seen[evaluated] > 0).all()
    assert seen[[1, 2, 3]].all(), "borders, which are ignored"
    assert instances > 40


def test_coarse_labels_are_a_part_of_the_fine_ones(drawn: Path) -> None:
    fine, coarse = (Cityscapes(drawn, annotations=kind) for kind in ("fine", "coarse"))
    for (_, whole), (_, part) in zip(fine, coarse, strict=True):
        labelled = part != 255
        assert torch.equal(part[labelled], whole[labelled])
        assert 0.3 < labelled.float().mean() < (whole != 255).float().mean()


def test_official_evaluation_reads_drawn_streets(drawn: Path, tmp_path: Path) -> None:
    for _, file in Cityscapes(drawn, "val").files:
        shutil.copy(file, tmp_path)
    scores = evaluate_folders(tmp_path, drawn / "gtFine" / "val")
    assert scores.mean_class_iou == scores.mean_class_iiou == 1


def test_interrupted_drawing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from citysegzoo.data import streets

    save, saved = streets._Street.save, []

    def save_two(street: streets._Street, root: Path, *place: str) -> None:
        save(street, root, *place)
        saved.append(root)
        assert not (tmp_path / "streets").exists()
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(streets._Street, "save", save_two)
    with pytest.raises(KeyboardInterrupt):
        draw_streets(tmp_path / "streets", images=2, size=SIZE)
    assert len(saved) == 2
    assert list(tmp_path.iterdir()) == []


def test_drawing_into_an_empty_folder_that_must_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("real", "current"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "dangling").symlink_to(tmp_path / "made")
    monkeypatch.chdir(tmp_path / "current")
    for root in (tmp_path / "link", tmp_path / "dangling", Path(".")):
        assert draw_streets(root, images=1, size=SIZE) == root
        assert len(Cityscapes(root, "train")) == 1
        names = sorted(file.name for file in root.iterdir())
        assert names == ["gtCoarse", "gtFine", "leftImg8bit"]
    assert (tmp_path / "link").is_symlink()


def test_unreadable_folders_are_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    city = next(folder for folder in (root / "leftImg8bit" / "train").iterdir())
    scandir = os.scandir

    def refusing(path: Any = ".") -> Any:
        if os.fspath(path) == str(city):
            raise PermissionError(errno.EACCES, "Permission denied", str(city))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)  # the tests may be run by one who may read all
    with pytest.raises(OSError, match=f"{city.name} cannot be read .Permission denied"):
        Cityscapes(root, "train")


def test_two_classes_of_one_name() -> None:
    with pytest.raises(ValueError, match="'mine' has two classes named 'road'"):
        LabelSet("mine", ("road", "sky", "road"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)))


def test_drawing_refuses(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    draw_streets(tmp_path / "empty", images=1, size=SIZE)
    with pytest.raises(FileExistsError, match="empty exists and is not empty"):
        draw_streets(tmp_path / "empty", images=1, size=SIZE)
    for arguments, message in (
        ({"images": 0}, "images must be at least 1, not 0"),
        ({"size": (32, 128)}, r"size is \(H, W\), both at least 64, not \(32, 128\)"),
        ({"seed": -1}, "seed must be at least 0, not -1"),
    ):
        with pytest.raises(ValueError, match=message):
            draw_streets(tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_a_small_network_learns_drawn_streets(tmp_path: Path) -> None:
    """A few epochs of a few convolutions are far above always saying the commonest class."""
    import citysegzoo
    from citysegzoo.metrics import ConfusionMatrix

    torch.manual_seed(0)
    root = draw_streets(tmp_path / "streets", images=32, size=SIZE)
    model = citysegzoo.create_model("unet.small", num_classes=19)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(6):
        for pixels, target in DataLoader(Cityscapes(root), batch_size=4, shuffle=True):
            loss = torch.nn.functional.cross_entropy(
                model(pixels.float() / 128 - 1), target.long(), ignore_index=255
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    confusion = ConfusionMatrix(19, ignore_index=255)
    with torch.inference_mode():
        for pixels, target in DataLoader(Cityscapes(root, "val"), batch_size=4):
            confusion.update(model.eval()(pixels.float() / 128 - 1), target)
    assert confusion.scores().pixel_accuracy > 0.7
    assert confusion.scores().mean_iou > 0.15


# Checking


def test_check_drawn_streets(drawn: Path) -> None:
    report = check(drawn, read=True)
    assert (report.data, report.usable) == ("cityscapes", True)
    states = {split.name: (split.images, split.official, split.state) for split in report.splits}
    assert states["fine train"] == (IMAGES, 2975, "complete, not the official size")
    assert states["coarse train_extra"] == (0, 19998, "not here")
    assert "get leftImg8bit_trainextra.zip from" in str(report)


def test_check_half_a_download(root: Path) -> None:
    dataset = Cityscapes(root, "val")
    dataset.files[0][1].unlink()
    report = check(root)
    split = report.splits[1]
    assert (split.name, split.images, split.labels, split.state, split.usable) == (
        "fine val", IMAGES, IMAGES - 1, "incomplete", False,
    )  # fmt: skip
    assert not report.usable
    assert "1 of 4 images" in report.problems[0]


def test_check_reads_only_when_asked(root: Path) -> None:
    train, coarse = Cityscapes(root).files, Cityscapes(root, annotations="coarse").files
    truncate(coarse[1][1])
    assert check(root, read=True).usable, "coarse labels are not needed"
    truncate(train[1][0])
    assert check(root).usable
    report = check(root, read=True)
    assert not report.usable
    assert report.splits[0].state == "1 broken"
    assert f"{train[1][0]} cannot be decoded" in report.problems[0]


def test_check_refuses(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere is no folder"):
        check(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no dataset 'cityscape' to check; did you mean"):
        check(tmp_path, data="cityscape")


def test_instance_ids(tmp_path: Path) -> None:
    root = draw_streets(tmp_path / "streets", images=1, size=(64, 128))
    dataset = Cityscapes(root, "train", labels="label_id")
    instances, labels = dataset.read_instances(0), dataset.read_labels(0)
    assert instances.shape == labels.shape == (64, 128)
    assert (np.where(instances >= 1000, instances // 1000, instances) == labels).all()
    assert (instances >= 1000).any()
    next(root.glob("gtFine/train/*/*_instanceIds.png")).unlink()
    with pytest.raises(SampleError, match="_instanceIds.png does not exist"):
        dataset.read_instances(0)


def test_a_folder_of_links_and_what_is_hidden(tmp_path: Path) -> None:
    for kind in ("images", "labels"):
        content = image() if kind == "images" else np.zeros(SIZE, np.uint8)
        write(tmp_path / kind / "a" / "1.png", content)
        write(tmp_path / "elsewhere" / kind / "2.png", content)
        (tmp_path / kind / "b").symlink_to(tmp_path / "elsewhere" / kind)
    write(tmp_path / "images" / ".AppleDouble" / "3.png", image())
    (tmp_path / "images" / "a" / "folder.png").mkdir()
    dataset = Folder(tmp_path / "images", tmp_path / "labels", "camvid11")
    assert [file.name for file, _ in dataset.files] == ["1.png", "2.png"]
    assert len(list(dataset)) == 2
