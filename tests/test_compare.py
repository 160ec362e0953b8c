"""Contact sheets: disagreement, several label sets, the command."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import told
from PIL import Image

import citysegzoo
from citysegzoo.cli import main
from citysegzoo.data import CAMVID_11, DEMO_IMAGE
from citysegzoo.data.labels import (
    CITYSCAPES_19,
    CITYSCAPES_34,
    CITYSCAPES_CATEGORIES,
    LabelSet,
    numbered_labels,
)
from citysegzoo.visualize import common_labels, contact_sheet, disagreement, overlay
from citysegzoo.weights import WeightsRecord, records
from citysegzoo.weights.checkpoint import save_checkpoint

PANEL, GAP, LINE = 96, 10, 30


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "street.png"
    with Image.open(DEMO_IMAGE) as image:
        image.resize((96, 64)).save(path)
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Small saved models of random weights: two for CamVid, one for Cityscapes, one unnamed."""
    folder = tmp_path_factory.mktemp("models")
    for seed, (name, labels) in enumerate(
        (
            ("one", CAMVID_11),
            ("two", CAMVID_11),
            ("city", CITYSCAPES_19),
            ("numbered", numbered_labels(5)),
        )
    ):
        torch.manual_seed(seed)
        model = citysegzoo.create_model("unet.small", widths=(4, 8), num_classes=len(labels))
        model.labels = labels
        model.save_pretrained(folder / name)
    return {path.name: str(path) for path in folder.iterdir()}


def panel_of(sheet: Image.Image, row: int, column: int, size: tuple[int, int]) -> np.ndarray:
    """The picture in a place of the grid of panels of 96 pixels, (width, height) in size."""
    x, y = GAP + column * (PANEL + GAP), row * (size[1] + LINE + GAP) + LINE
    return np.asarray(sheet.crop((x, y, x + size[0], y + size[1])))


# Disagreement


def test_disagreement_by_hand() -> None:
    one = np.array([[0, 0, 1, 1, 5, 255]], np.uint8)
    two = np.array([[0, 1, 1, 2, 5, 255]], np.uint8)
    three = np.array([[0, 2, 1, 2, 6, 0]], np.uint8)
    assert disagreement([one, two, three]).tolist() == [[0, 2, 0, 1, 1, 1]]
    assert disagreement([one, two]).tolist() == [[0, 1, 0, 1, 0, 0]]
    # Two against two: a tie has no larger side, and half of them differ from either.
    assert disagreement([one, one, two, two]).tolist() == [[0, 2, 0, 2, 0, 0]]
    assert disagreement([one]).tolist() == [[0] * 6]
    assert disagreement([one, two, three]).dtype == np.uint8


def test_disagreement_is_that_of_counting() -> None:
    random = np.random.default_rng(0)
    maps = random.integers(0, 4, (7, 20, 30))
    most = np.max([(maps == i).sum(axis=0) for i in range(4)], axis=0)
    assert np.array_equal(disagreement([*maps]), 7 - most)


def test_unfit_maps() -> None:
    small, large = np.zeros((4, 5), np.uint8), np.zeros((5, 5), np.uint8)
    for maps, part in (
        ([], "not 0"),
        ([small] * 256, "not 256"),
        ([small, large], "different sizes"),
    ):
        with pytest.raises(ValueError, match=part):
            disagreement(maps)


# Label sets


def test_equal_classes_are_compared_as_they_are() -> None:
    labels, tables = common_labels([CAMVID_11, CAMVID_11.with_palette("safe")])
    assert labels is CAMVID_11
    assert all((table == np.arange(256)).all() for table in tables)


def test_shared_names_are_compared() -> None:
    labels, tables = common_labels([CITYSCAPES_19, CAMVID_11])
    assert labels.classes == ("road", "building", "fence", "pole", "sky", "car", "other")
    assert labels.palette[0] == CITYSCAPES_19.palette[0]
    for given, table in zip((CITYSCAPES_19, CAMVID_11), tables, strict=True):
        for i, name in enumerate(given.classes):
            expected = name if name in labels.classes else "other"
            assert labels.classes[table[i]] == expected
    one, two = (
        LabelSet("x", ("road", "other", name), ((1, 1, 1), (2, 2, 2), (3, 3, 3)))
        for name in ("car", "tree")
    )
    with pytest.raises(ValueError, match="share 1 of their classes"):
        common_labels([one, two])  # what each calls other is another rest
    labels, _ = common_labels([CITYSCAPES_34, CITYSCAPES_19])
    assert set(labels.classes) == {*CITYSCAPES_19.classes, "other"}


@pytest.mark.parametrize(
    "other", [numbered_labels(4), LabelSet("one", ("sky", "sea"), ((0, 0, 0), (1, 1, 1)))]
)
def test_nothing_in_common(other: LabelSet) -> None:
    for first in (CITYSCAPES_CATEGORIES, numbered_labels(5)):
        with pytest.raises(ValueError, match="share . of their classes by name"):
            common_labels([first, other])


# Sheets


def test_sheet() -> None:
    image = np.full((48, 96, 3), 100, np.uint8)
    one = np.zeros((48, 96), np.uint8)
    two, three = one.copy(), one.copy()
    two[:, 48:] = 3
    three[24:, 48:] = 5
    predictions = {"a": one, "b": two, "c": three}
    sheet = contact_sheet(image, predictions, CITYSCAPES_19, panel=PANEL)
    assert sheet.mode == "RGB"
    assert sheet.width == 3 * (PANEL + GAP) + GAP
    size = (96, 48)
    assert (panel_of(sheet, 0, 0, size) == image).all()
    for place, labels in (((0, 1), one), ((0, 2), two), ((1, 0), three)):
        expected = np.asarray(overlay(image, labels, CITYSCAPES_19, legend=False))
        assert (panel_of(sheet, *place, size) == expected).all()
    map_ = panel_of(sheet, 1, 1, size)
    assert (map_[:, :48] == 203).all()  # the image, faint
    assert (map_[:24, 48:] == (255, 190, 90)).all()  # one of three
    assert (map_[24:, 48:] == (110, 0, 60)).all()  # two of three
    legend = np.asarray(sheet)[2 * (48 + LINE + GAP) :].reshape(-1, 3).tolist()
    for color in (*(CITYSCAPES_19.palette[i] for i in (0, 3, 5)), (255, 190, 90), (110, 0, 60)):
        assert list(color) in legend
    assert list(CITYSCAPES_19.palette[7]) not in legend


def test_sheet_of_one_has_no_disagreement() -> None:
    image, labels = np.full((48, 96, 3), 100, np.uint8), np.zeros((48, 96), np.uint8)
    sheet = contact_sheet(image, {"a": labels}, CAMVID_11, panel=PANEL)
    assert sheet.width == 2 * (PANEL + GAP) + GAP
    both = contact_sheet(image, {"a": labels, "b": labels}, CAMVID_11, panel=PANEL)
    assert both.height > sheet.height


@pytest.mark.parametrize("shape", [(40, 700), (700, 40), (33, 35), (600, 900)])
def test_panels_fit_into_a_square(shape: tuple[int, int]) -> None:
    image = np.full((*shape, 3), 100, np.uint8)
    labels = np.zeros(shape, np.uint8)
    sheet = contact_sheet(image, {"a" * 200: labels, "": labels}, CAMVID_11, panel=200)
    assert sheet.width == 2 * 210 + GAP
    edge = np.asarray(sheet)[:, -3:]
    assert (edge == 250).all(), "something is cut off"


def test_sheet_in_safe_colors() -> None:
    image, labels = np.full((48, 96, 3), 100, np.uint8), np.full((48, 96), 4, np.uint8)
    sheet = contact_sheet(image, {"a": labels}, CAMVID_11, alpha=1, palette="safe", panel=PANEL)
    expected = CAMVID_11.with_palette("safe").palette[4]
    assert (panel_of(sheet, 0, 1, (96, 48)) == expected).all()


def test_unfit_sheets() -> None:
    image, labels = np.full((48, 96, 3), 100, np.uint8), np.zeros((48, 96), np.uint8)
    for predictions, options, part in (
        ({}, {}, "not 0"),
        ({"a": labels[1:]}, {}, "96x48 and 96x47"),
        ({"a": labels + 20}, {}, "unknown to the label set"),
        ({"a": labels}, {"panel": 10}, "at least 64"),
        ({"a": labels}, {"alpha": 2}, "alpha"),
        ({"a": labels}, {"palette": "loud"}, "'standard' or 'safe'"),
    ):
        with pytest.raises(ValueError, match=part):
            contact_sheet(image, predictions, CAMVID_11, **options)


# The command


def compared(arguments: list[str], *models: str) -> int:
    return main(["compare", *arguments, "--device", "cpu", "--models", *models])


@pytest.mark.parametrize(("suffix", "kind"), [(".png", "PNG"), (".jpg", "JPEG")])
def test_command(photo: Path, models, tmp_path: Path, capsys, suffix: str, kind: str) -> None:
    output = tmp_path / f"sheet{suffix}"
    output.write_text("old")
    names = [models["one"], models["two"]]
    assert compared([str(photo), "--output", str(output), "--precision", "fp32"], *names) == 0
    out, err = capsys.readouterr()
    assert err == ""
    results = {name: citysegzoo.load(models[name]).segment(photo).labels for name in ("one", "two")}
    agreed = (results["one"] == results["two"]).mean()
    assert out == f"{photo}: all 2 agree on {100 * agreed:.1f} %\n  -> {output}\n"
    with Image.open(output) as image:
        assert image.format == kind
        if kind == "PNG":
            expected = contact_sheet(photo, results, CAMVID_11)
            assert (np.asarray(image) == np.asarray(expected)).all()
    assert sorted(p.name for p in tmp_path.iterdir()) == [output.name, "street.png"]


def test_command_on_several(photo: Path, models, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    other, broken = tmp_path / "other.png", tmp_path / "broken.png"
    Image.open(photo).rotate(90, expand=True).save(other)
    broken.write_text("no picture")
    arguments = [str(path) for path in (photo, broken, other)]
    assert compared([*arguments, "--palette", "safe"], models["one"], models["city"]) == 2
    out, err = capsys.readouterr()
    assert "broken.png is no JPEG" in err
    assert "1 of 3 photographs failed, 2 are done." in err
    assert "compared are sky, building, pole, road, fence, car, the rest is other" in err
    assert out.count("all 2 agree on") == 2
    names = sorted(path.name for path in (tmp_path / "compared").iterdir())
    assert names == ["other_compared.jpg", "street_compared.jpg"]


def test_a_sheet_that_cannot_be_written_stops_no_other(
    photo: Path, models, tmp_path: Path, capsys
) -> None:
    other, output = tmp_path / "other.png", tmp_path / "sheets.v2"
    Image.open(photo).save(other)
    (output / "other_compared.jpg").mkdir(parents=True)
    assert compared([str(other), str(photo), "--output", str(output)], models["one"]) == 2
    assert "1 of 2 photographs failed, 1 are done." in capsys.readouterr().err
    assert (output / "street_compared.jpg").is_file()


def test_max_megapixels(photo: Path, models, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # fonts are images too
    arguments = [str(photo), "--output", str(tmp_path / "sheet.png")]
    assert compared(arguments, models["one"]) == 2
    assert "(--max-megapixels)" in told(capsys)
    assert compared([*arguments, "--max-megapixels", "1"], models["one"]) == 0


def test_called_from_python_it_leaves_warnings_as_they_were() -> None:
    before = warnings.showwarning
    assert main(["models", "unet.small"]) == 0
    assert warnings.showwarning is before


def test_one_model(photo: Path, models, tmp_path: Path) -> None:
    assert compared([str(photo), "--output", str(tmp_path / "a.png")], models["one"]) == 0
    assert (tmp_path / "a.png").is_file()


def test_weights_of_each_model(
    photo: Path, models, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    trained = citysegzoo.create_model("unet.small", num_classes=11, pretrained=True)
    trained.classifier.conv.bias.data[3] += 100  # all is road
    other = WeightsRecord("unet.small", "other", tmp_path / "other.safetensors")
    save_checkpoint(other.file, trained.state_dict(), trained.card)
    monkeypatch.setattr(records, "RECORDS", (*records.RECORDS, other))
    drawn: dict[str, np.ndarray] = {}

    def kept(image: np.ndarray, predictions: dict[str, np.ndarray], labels: LabelSet):
        drawn.update(predictions)
        return contact_sheet(image, predictions, labels)

    monkeypatch.setattr("citysegzoo.visualize.contact_sheet", kept)
    arguments = [str(photo), "--output", str(tmp_path / "sheet.png"), "--weights"]
    names = ["unet.small", "unet.small", models["one"]]
    assert compared([*arguments, "-", "other", "-"], *names) == 0
    assert list(drawn) == ["unet.small", "unet.small (other)", "one"]
    assert (drawn["unet.small (other)"] == 3).all()
    assert not (drawn["unet.small"] == 3).all()
    capsys.readouterr()
    for tags, chosen, part in (
        (["other"], names, "--weights has 1 tag for 3 models; give one for each"),
        (["none"], ["unet.small"], "'unet.small' has no weights named 'none'; it has: camvid, o"),
        (["-", "other"], ["unet.small", models["one"]], "has one set only"),
        (["other", "other"], names[:2], "unet.small (other) is named twice"),
    ):
        assert compared([*arguments, *tags], *chosen) == 2
        assert part in told(capsys)


def test_tiles(photo: Path, models, tmp_path: Path, capsys) -> None:
    arguments = [str(photo), "--output", str(tmp_path / "sheet.png"), "--tile"]
    assert compared([*arguments, "48"], models["one"], models["two"]) == 0
    capsys.readouterr()
    assert compared([*arguments, "3"], models["one"], models["two"]) == 2
    assert "a tile is at least" in told(capsys)


def test_bad_input(photo: Path, models, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    one, two = models["one"], models["two"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder.png").mkdir()
    twin = tmp_path / "twin" / "street.jpg"
    twin.parent.mkdir()
    Image.open(photo).save(twin)
    street = str(photo)
    before = sorted(tmp_path.rglob("*"))
    for arguments, names, part in (
        (["no.png"], [one, two], "no.png does not exist"),
        (["empty"], [one, two], "empty holds no image"),
        ([street], ["unet.smal", one], "did you mean 'unet.small'"),
        ([street], ["unet", one], "no trained weights for 'unet'"),
        ([street], [one, one], "is named twice"),
        ([street], [one, models["numbered"]], "share 0 of their classes by name"),
        ([street, "--output", "folder.png"], [one, two], "folder.png is a folder"),
        ([street, "--output", "sheet.gif"], [one, two], "neither a folder nor a picture"),
        ([street, "--output", "no/sheet.png"], [one, two], "its folder does not exist"),
        ([street, "--output", "/proc/sheet.png"], [one, two], "cannot be written"),
        ([street, "--output", "/proc/no/folder"], [one, two], "cannot be written to"),
        ([street, "--output", street], [one, two], "is to be read and replaced"),
        ([street, str(twin)], [one, two], "would both be written as street_compared.jpg"),
        ([street, str(twin), "--output", "a.png"], [one, two], "holds the sheet of one image"),
        ([street, "--palette", "safe"], [models["numbered"]], "no safe palette"),
    ):
        assert compared(arguments, *names) == 2
        assert part in told(capsys)
    assert sorted(tmp_path.rglob("*")) == before


def test_interrupted(photo: Path, models, tmp_path: Path, capsys, monkeypatch) -> None:
    output = tmp_path / "sheet.png"
    output.write_text("old")

    def half(path: Path, data: bytes) -> None:
        with path.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", half)
    assert compared([str(photo), "--output", str(output)], models["one"]) == 130
    assert capsys.readouterr().err == "citysegzoo: interrupted.\n"
    assert output.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["sheet.png", "street.png"]
