"""The report of errors: its numbers, its page, the command."""

import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from cityscapes_frames import write_frames
from commands import told
from PIL import Image

from citysegzoo.cli import main
from citysegzoo.data.labels import CAMVID_11, CITYSCAPES_34, LabelSet
from citysegzoo.metrics.folders import evaluate_folders, pair_files
from citysegzoo.visualize.errors import REACH, Errors, boundary_distance, find_errors, find_photos
from citysegzoo.visualize.report import error_report

SIZE = (48, 64)
Folders = tuple[Path, Path]


@pytest.fixture
def cam(tmp_path: Path) -> Folders:
    """Four frames of blocks, the later ones worse, with some ignored pixels."""
    random = np.random.default_rng(0)
    predictions, truths = tmp_path / "cam" / "out", tmp_path / "cam" / "truth"
    for folder in (predictions, truths):
        folder.mkdir(parents=True)
    for i in range(4):
        truth = np.kron(random.integers(0, 12, (3, 4)), np.ones((16, 16))).astype(np.uint8)
        wrong = random.random(SIZE) < 0.1 + 0.2 * i
        predicted = np.where(wrong | (truth == 11), random.integers(0, 11, SIZE), truth)
        Image.fromarray(truth).save(truths / f"{i}.png")
        Image.fromarray(predicted.astype(np.uint8)).save(predictions / f"{i}_labels.png")
    return predictions, truths


def errors_of(folders: Folders, labels: LabelSet, **options: int) -> Errors:
    return find_errors(pair_files(*folders, labels), labels=labels, **options)


class Page(HTMLParser):
    """What a page holds; an error for tags that do not match."""

    VOID = {"meta", "img"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def assert_self_contained(text: str) -> Page:
    page = Page(text)
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base"}
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "srcset", "action", "data", "xlink:href"):
            assert (attributes.get(name) or "data:image/").startswith("data:image/")
        if tag == "img":
            assert attributes["alt"]
    assert "http:" not in text
    assert "https:" not in text
    assert "url(" not in text
    assert "@import" not in text
    return page


# Numbers


def test_distances_are_those_of_brute_force() -> None:
    random = np.random.default_rng(1)
    for shape in ((17, 23), (1, 30), (30, 1), (2, 2), (1, 1)):
        truth = (random.random(shape) < 0.03).astype(np.uint8) * 255
        places = np.argwhere(np.ones(shape, bool))
        gaps = np.abs(places[:, None] - places[None]).max(axis=2)
        others = truth.ravel()[:, None] != truth.ravel()[None]
        expected = np.where(others, gaps, 99).min(axis=1).reshape(shape)
        for reach in (1, 3, REACH):
            found = boundary_distance(truth, reach)
            assert found.dtype == np.uint8
            assert np.array_equal(found, np.minimum(expected, reach + 1))


def test_no_boundary_is_far() -> None:
    assert (boundary_distance(np.zeros((5, 6), np.uint8)) == REACH + 1).all()


def test_distances_to_a_line() -> None:
    truth = np.zeros((4, 50), np.uint16)
    truth[:, 20:] = 7
    expected = [min(17, 20 - x if x < 20 else x - 19) for x in range(50)]
    assert boundary_distance(truth).tolist() == [expected] * 4


def same(ours: dict[str, float], theirs: dict[str, float]) -> bool:
    return list(ours) == list(theirs) and np.array_equal(
        [*ours.values()], [*theirs.values()], equal_nan=True
    )


@pytest.mark.parametrize("workers", [1, 3])
def test_scores_are_those_of_evaluate(cam: Folders, tmp_path: Path, workers: int) -> None:
    scores = evaluate_folders(*cam, labels=CAMVID_11)
    errors = errors_of(cam, CAMVID_11, workers=workers)
    assert same(errors.class_iou, scores.class_iou)
    assert errors.mean_iou == scores.mean_iou
    assert errors.pixel_accuracy == pytest.approx(scores.pixel_accuracy)
    assert np.array_equal(errors.confusion, scores.matrix)

    city = write_frames(tmp_path / "city", 3, SIZE)
    official = evaluate_folders(*city)
    errors = errors_of(city, CITYSCAPES_34, workers=workers)
    assert same(errors.class_iou, official.class_iou)
    assert errors.mean_iou == official.mean_class_iou
    counted = official.confusion[7].sum()  # of the road, which is evaluated
    assert errors.confusion[7].sum() == counted
    assert not errors.confusion[:7].any()  # void


def test_every_error_is_counted_once(cam: Folders) -> None:
    errors = errors_of(cam, CAMVID_11)
    right = errors.confusion.diagonal().sum()
    assert errors.pixels.sum() == errors.confusion.sum()
    assert errors.wrong.sum() == errors.confusion.sum() - right
    assert errors.near(REACH + 1) == 1
    assert errors.near(2) == errors.wrong[:2].sum() / errors.wrong.sum()
    confusions = errors.confusions(1000)
    assert sum(one.pixels for one in confusions) == errors.wrong.sum()
    assert [one.pixels for one in confusions] == sorted(
        (one.pixels for one in confusions), reverse=True
    )
    assert all(one.true != one.predicted for one in confusions)
    assert errors.confusions(3) == confusions[:3]


def test_errors_by_distance_by_hand(tmp_path: Path) -> None:
    truth = np.zeros((8, 60), np.uint8)
    truth[:, 30:] = 3
    predicted = truth.copy()
    predicted[:, 27:30] = 3  # at distances 3, 2 and 1
    predicted[0, 0] = 1  # 30 from the boundary
    for name, labels in (("t.png", truth), ("p.png", predicted)):
        Image.fromarray(labels).save(tmp_path / name)
    errors = errors_of((tmp_path / "p.png", tmp_path / "t.png"), CAMVID_11)
    assert errors.wrong.tolist() == [8, 8, 8, *[0] * 13, 1]
    assert errors.pixels.tolist() == [16] * 16 + [8 * 28]
    assert errors.confusions(5) == [("sky", "road", 24), ("sky", "building", 1)]
    assert errors.near(2) == 16 / 25


def test_the_worst_images_come_first(cam: Folders) -> None:
    errors = errors_of(cam, CAMVID_11, worst=3)
    scores = {
        file.name: evaluate_folders(cam[0] / f"{file.stem}_labels.png", file, labels=CAMVID_11)
        for file in cam[1].iterdir()
    }
    expected = sorted((one.mean_iou, name) for name, one in scores.items())[:3]
    assert [(w.mean_iou, w.pair.ground_truth.name) for w in errors.worst] == expected
    assert errors_of(cam, CAMVID_11, worst=0).worst == ()


# The page


def test_page(cam: Folders) -> None:
    errors = errors_of(cam, CAMVID_11, worst=2)
    text = error_report(errors)
    page = assert_self_contained(text)
    tags = [tag for tag, _ in page.tags]
    assert tags.count("img") == 2 * 3
    assert ("html", {"lang": "en"}) in page.tags
    assert "prefers-color-scheme: dark" in text
    for name, iou in errors.class_iou.items():
        assert name in page.text
        assert f"{100 * iou:.2f} %" in page.text
    assert f"{100 * errors.mean_iou:.2f} %" in page.text
    for one in errors.confusions(12):
        assert f"{one.pixels:,}" in page.text
    shares = re.findall(r"background:rgba\([\d,]+,([\d.]+)\)", text)
    assert len(shares) == 11 * 11
    rows = np.array(shares, float).reshape(11, 11).sum(axis=1)
    assert np.allclose(rows, 1, atol=0.01)  # of the true class


def test_pictures_show_what_is_wrong(tmp_path: Path) -> None:
    import base64
    import io

    truth = np.full((40, 60), 3, np.uint8)
    truth[:, 40:] = 11
    predicted = truth.copy()
    predicted[:, :20] = 0
    predicted[:, 40:] = 99  # no class, but ignored
    for name, labels in (("t.png", truth), ("p.png", predicted)):
        Image.fromarray(labels).save(tmp_path / name)
    errors = errors_of((tmp_path / "p.png", tmp_path / "t.png"), CAMVID_11)
    for palette in ("standard", "safe"):
        labels_ = CAMVID_11.with_palette(palette)
        text = error_report(errors, palette=palette)
        uris = re.findall(r'src="data:image/\w+;base64,([^"]+)"', text)
        shown = [
            np.asarray(Image.open(io.BytesIO(base64.b64decode(uri))).convert("RGB")).astype(int)
            for uri in uris
        ]
        prediction, ground_truth, wrong = (picture[20, [10, 30, 50]] for picture in shown)
        sky, road, black = labels_.palette[0], labels_.palette[3], (0, 0, 0)
        assert prediction.tolist() == [list(sky), list(road), list(black)]
        assert ground_truth.tolist() == [list(road), list(road), list(black)]
        assert np.abs(wrong - [(200, 30, 0), (225, 229, 234), (120, 124, 130)]).max() < 12


def test_names_of_files_are_escaped(tmp_path: Path) -> None:
    names = ["<script>alert(1)<", '"><img src=x onerror=alert(1)>', "a&b'c"]
    for folder in ("p", "t"):
        (tmp_path / folder).mkdir()
        for i, name in enumerate(names):
            name = name.replace("/", "")
            Image.new("L", (40, 40), i).save(tmp_path / folder / f"{name}.png")
    text = error_report(errors_of((tmp_path / "p", tmp_path / "t"), CAMVID_11))
    page = assert_self_contained(text)
    assert "<script" not in text
    assert sum(tag == "img" for tag, _ in page.tags) == 9
    for name in names:
        assert f"{name}.png" in page.text
        assert any(name in (attributes.get("alt") or "") for _, attributes in page.tags)


def test_the_page_stays_small(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name in ("p.png", "t.png"):
        Image.fromarray(random.integers(0, 11, (400, 800), np.uint8)).save(tmp_path / name)
    Image.fromarray(random.integers(0, 256, (400, 800, 3), np.uint8)).save(tmp_path / "i.png")
    errors = errors_of((tmp_path / "p.png", tmp_path / "t.png"), CAMVID_11)
    photos = {tmp_path / "t.png": tmp_path / "i.png"}
    assert len(error_report(errors, photos=photos)) < 400_000  # of noise, which packs worst


def test_nothing_evaluated(tmp_path: Path) -> None:
    for name in ("p.png", "t.png"):
        Image.new("L", (40, 40), 11).save(tmp_path / name)
    errors = errors_of((tmp_path / "p.png", tmp_path / "t.png"), CAMVID_11)
    assert math.isnan(errors.mean_iou)
    assert math.isnan(errors.pixel_accuracy)
    assert errors.worst == ()
    assert "nan" not in assert_self_contained(error_report(errors)).text


# The command


def test_command(cam: Folders, tmp_path: Path, capsys) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(4):
        Image.new("RGB", SIZE[::-1], (10 * i, 0, 0)).save(photos / f"{i}.jpg")
    output = tmp_path / "report.html"
    output.write_text("old")
    arguments = ["errors", *map(str, cam), "--labels", "camvid11", "--output", str(output)]
    assert main([*arguments, "--images", str(photos), "--worst", "2", "--palette", "safe"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    scores = evaluate_folders(*cam, labels=CAMVID_11)
    assert f"camvid11, 4 frames: mean IoU {100 * scores.mean_iou:.2f} %" in out
    page = assert_self_contained(output.read_text())
    assert sum(tag == "img" for tag, _ in page.tags) == 2 * 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cam", "photos", "report.html"]


def test_command_on_cityscapes(tmp_path: Path, capsys, monkeypatch) -> None:
    city = write_frames(tmp_path / "city", 3, SIZE)
    photos = tmp_path / "leftImg8bit" / "lindau"
    photos.mkdir(parents=True)
    for file in city[0].iterdir():
        Image.new("RGB", SIZE[::-1]).save(photos / file.name)
    monkeypatch.chdir(tmp_path)
    assert main(["errors", *map(str, city), "--images", "leftImg8bit"]) == 0
    assert "cityscapes34, 3 frames" in capsys.readouterr().out
    page = assert_self_contained((tmp_path / "report.html").read_text())
    assert sum(tag == "img" for tag, _ in page.tags) == 3 * 4


def test_photographs_in_linked_folders_and_of_equal_names(cam: Folders, tmp_path: Path) -> None:
    for folder in cam:
        for part in ("a", "b"):
            (folder / part).mkdir()
        for i, file in enumerate(sorted(folder.glob("*.png"))):
            file.rename(folder / "ab"[i % 2] / file.name.replace(str(i), str(i // 2)))
    real, photos = tmp_path / "real", tmp_path / "photos"
    real.mkdir()
    photos.mkdir()
    for part in ("a", "b"):
        (real / part).mkdir()
        (photos / part).symlink_to(real / part)
        for i in range(2):
            Image.new("RGB", SIZE[::-1]).save(real / part / f"{i}.jpg")
    found = find_photos(photos, pair_files(*cam, CAMVID_11))
    assert len(found) == 4
    for truth, photo in found.items():
        assert (photo.parent.name, photo.stem) == (truth.parent.name, truth.stem)


def test_bad_input(cam: Folders, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    empty, p, t = tmp_path / "empty", str(cam[0]), str(cam[1])
    empty.mkdir()
    labels = ["--labels", "camvid11"]
    before = sorted(tmp_path.rglob("*"))
    for arguments, part in (
        ([p, t], "give labels (--labels)"),
        ([p, t, "--labels", "camvid"], "did you mean 'camvid11'"),
        ([str(empty), t, *labels], "empty holds no label image"),
        ([p, str(empty), *labels], "empty holds no label image"),
        ([p, "no", *labels], "no does not exist"),
        ([p, t, *labels, "--output", "empty"], "empty is a folder; name a file"),
        ([p, t, *labels, "--output", "no/report.html"], "its folder does not exist"),
        ([p, t, *labels, "--output", "/proc/report.html"], "cannot be written"),
        ([p, t, *labels, "--output", f"{t}/0.png"], "is to be read and replaced"),
        ([p, t, *labels, "--worst", "-1"], "0 to 100 images, not -1"),
        ([p, t, *labels, "--images", "no"], "no does not exist"),
        ([p, t, *labels, "--images", "empty"], "0.png has no photograph named 0"),
    ):
        assert main(["errors", *arguments]) == 2
        assert part in told(capsys)
    assert sorted(tmp_path.rglob("*")) == before


def test_sizes_that_differ(cam: Folders, tmp_path: Path, capsys) -> None:
    output = tmp_path / "report.html"
    output.write_text("old")
    Image.new("L", (65, 48)).save(cam[0] / "2_labels.png")
    arguments = ["errors", *map(str, cam), "--labels", "camvid11", "--output", str(output)]
    assert main(arguments) == 2
    assert "is 65x48 but its ground truth is 64x48" in told(capsys)
    assert output.read_text() == "old"


def test_interrupted(cam: Folders, tmp_path: Path, capsys, monkeypatch) -> None:
    """While counting, and while the file is written."""
    output = tmp_path / "report.html"

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    def half(path: Path, data: bytes) -> None:
        path.write_text(data[:100].decode())
        raise KeyboardInterrupt

    arguments = ["errors", *map(str, cam), "--labels", "camvid11", "--output", str(output)]
    for place, replacement in (
        ("citysegzoo.visualize.errors.boundary_distance", stop),
        ("pathlib.Path.write_bytes", half),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, replacement)
            assert main(arguments) == 130
        assert capsys.readouterr().err == "citysegzoo: interrupted.\n"
        assert [path.name for path in tmp_path.iterdir()] == ["cam"]


def test_a_class_that_is_ignored_is_no_error(tmp_path: Path) -> None:
    labels = LabelSet("few", ("unlabeled", "road"), ((0, 0, 0), (9, 9, 9)), ignore_index=0)
    for name, ids in (("truth", [1, 1, 1, 1, 0, 0, 0, 0]), ("found", [0, 1, 1, 1, 1, 1, 1, 1])):
        (tmp_path / name).mkdir()
        Image.fromarray(np.array([ids], np.uint8)).save(tmp_path / name / "1.png")
    folders = tmp_path / "found", tmp_path / "truth"
    errors = find_errors(pair_files(*folders, labels), labels=labels)
    assert errors.pixel_accuracy == evaluate_folders(*folders, labels=labels).pixel_accuracy == 0.75
