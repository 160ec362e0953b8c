"""`citysegzoo convert`: other libraries' checkpoints become saved models."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import citysegzoo
from citysegzoo.cli import main


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from torchvision.models.segmentation import deeplabv3_resnet50

    torch.manual_seed(0)
    theirs = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=19, aux_loss=True)
    path = tmp_path_factory.mktemp("theirs") / "deeplab.pth"
    torch.save({"state_dict": theirs.state_dict()}, path)
    return path


def test_torchvision(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from torchvision.models.segmentation import deeplabv3_resnet50

    out = tmp_path / "ours"
    arguments = ["convert", str(checkpoint), "--output", str(out), "--labels", "cityscapes19"]
    assert main([*arguments, "--licence", "CC BY 4.0", "--source", "a friend"]) == 0
    said = capsys.readouterr().out
    assert "layout: torchvision_deeplabv3" in said
    assert "model: deeplabv3_resnet50, 19 classes (cityscapes19)" in said
    assert "left out" in said  # the auxiliary classifier
    model = citysegzoo.load(out)
    assert model.labels is citysegzoo.data.CITYSCAPES_19
    assert json.loads((out / "config.json").read_text())["card"]["licence"] == "CC BY 4.0"
    theirs = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=19, aux_loss=True)
    theirs.load_state_dict(torch.load(checkpoint)["state_dict"])
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(model(x), theirs.eval()(x)["out"], rtol=0, atol=1e-4)


def test_smp_segformer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the folder that smp writes to a saved model of the same logits."""
    smp = pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    theirs = smp.Segformer("mit_b0", encoder_weights=None, classes=19).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    file, out = tmp_path / "theirs" / "model.safetensors", tmp_path / "ours"
    arguments = ["convert", str(file), "--output", str(out), "--labels", "cityscapes19"]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "layout: smp_segformer" in said
    assert "model: segformer_b0, 19 classes (cityscapes19)" in said
    model = citysegzoo.load(out)
    images = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        torch.testing.assert_close(model(images), theirs(images), rtol=0, atol=1e-4)


@pytest.mark.parametrize("named", [False, True])
def test_what_the_layout_knows_stays_where_the_model_is_named(
    named: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Options without weights, such as align_corners, and the number of channels."""
    smp = pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    theirs = smp.DeepLabV3("resnet18", encoder_weights=None, classes=5, in_channels=4).eval()
    torch.save(theirs.state_dict(), tmp_path / "theirs.pt")
    words = ["convert", str(tmp_path / "theirs.pt"), "--output", str(tmp_path / "ours")]
    assert main([*words, *(["--model", "deeplabv3_resnet18"] if named else [])]) == 0
    assert "left out" not in capsys.readouterr().out
    model = citysegzoo.load(tmp_path / "ours")
    images = torch.rand(1, 4, 64, 96)
    with torch.inference_mode():
        torch.testing.assert_close(model(images), theirs(images), rtol=0, atol=1e-4)


def test_an_output_that_cannot_be_written_is_said_first(tmp_path: Path, capsys) -> None:
    torch.save(citysegzoo.create_model("unet.small").state_dict(), tmp_path / "x.pt")
    (tmp_path / "file").touch()
    words = ["convert", str(tmp_path / "x.pt"), "--model", "unet.small", "--output"]
    for output in ("file", "no/x.safetensors"):
        assert main([*words, str(tmp_path / output)]) == 2
        said = capsys.readouterr()
        assert "cannot be written" in said.err
        assert not said.out


def test_other_channels_under_our_own_names(tmp_path: Path) -> None:
    model = citysegzoo.create_model("unet.small", num_classes=3, in_channels=5)
    torch.save(model.state_dict(), tmp_path / "x.pt")
    words = ["convert", str(tmp_path / "x.pt"), "--output", str(tmp_path / "ours")]
    assert main([*words, "--model", "unet.small"]) == 0
    assert citysegzoo.load(tmp_path / "ours").blueprint.in_channels == 5


def test_options_that_weights_do_not_show(tmp_path: Path, capsys) -> None:
    model = citysegzoo.create_model("unet.small", num_classes=3, up="bilinear", align_corners=True)
    torch.save(model.state_dict(), tmp_path / "x.pt")
    words = ["convert", str(tmp_path / "x.pt"), "--output", str(tmp_path / "ours")]
    words += ["--model", "unet.small"]
    assert main(words) == 2
    assert main([*words, "-o", "up=bilinear", "-o", "align_corners=true"]) == 0
    images = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        assert torch.equal(citysegzoo.load(tmp_path / "ours")(images), model.eval()(images))
    capsys.readouterr()
    saved = str(tmp_path / "ours" / "model.safetensors")
    assert main(["convert", saved, "--output", str(tmp_path / "again")]) == 2
    assert "is a saved model already, which citysegzoo.load takes" in capsys.readouterr().err


def test_a_saved_model_is_shown(tmp_path: Path, capsys) -> None:
    model = citysegzoo.create_model("unet.small", num_classes=3)
    card = {"licence": "MIT", "score": {"mean_iou": 0.5, "class_iou": {"class0": None}}}
    folder = str(model.save_pretrained(tmp_path / "ours", card=card))
    assert main(["show", folder]) == 0
    said = capsys.readouterr().out
    for part in ("unet.small\n", "3 classes", "(16, 32, 64, 128, 256)", "50.00 % mean IoU", "MIT"):
        assert part in said
    assert main(["show", folder, "-o", "up=bilinear"]) == 2
    assert "is built already" in capsys.readouterr().err


def test_folders_with_names_of_the_zoo(tmp_path: Path, capsys, monkeypatch) -> None:
    """Such as --output unet.small of train.py, and --root camvid."""
    monkeypatch.chdir(tmp_path)
    for name in ("unet.small", "camvid"):
        Path(name).mkdir()
    assert main(["show", "unet.small"]) == 0
    words = ["segment", "--demo", "--model", "unet.small", "--output", "out"]
    assert main(words) == 0
    capsys.readouterr()
    assert main(["evaluate", "out", "out", "--labels", "camvid"]) == 2
    assert "did you mean 'camvid11'" in capsys.readouterr().err


@pytest.mark.parametrize("edited", [False, True])
def test_what_publish_hands_on(
    edited: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The card as it is, the page that was edited, and the type that is stored."""
    handed: dict[str, Any] = {}
    monkeypatch.setattr(
        "citysegzoo.pretrained.push_to_hub",
        lambda model, repository, **how: handed.update(how) or f"{repository}@1",
    )
    card = {"licence": "MIT", "score": {"mean_iou": 0.5}}
    model = citysegzoo.create_model("unet", widths=(4, 8))
    folder = model.save_pretrained(tmp_path / "ours", card=card, dtype=torch.float16)
    page = folder / "README.md"
    if edited:
        page.write_text(page.read_text() + "by hand\n")
    assert main(["publish", str(folder), "a/b"]) == 0
    assert (handed["card"], handed["dtype"]) == (card, torch.float16)
    assert handed["readme"] == (page.read_text() if edited else None)


def test_weights_from_before_batches_were_counted(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The counts that they get do not hide what is left out."""
    state = torch.load(checkpoint)["state_dict"]
    for name in [name for name in state if name.endswith("num_batches_tracked")]:
        del state[name]
    torch.save(state, tmp_path / "old.pth")
    assert main(["convert", str(tmp_path / "old.pth"), "--output", str(tmp_path / "ours")]) == 0
    left = sum(name.startswith("aux_classifier.") for name in state)
    assert f", {left} left out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "deeplabv3_resnet101"], "do not fit this model"),
        (["--model", "deeplab"], "no model 'deeplab'; did you mean"),
        (["--labels", "cityscapes"], "no label set 'cityscapes'; did you mean"),
        (["--labels", "camvid11"], "19 classes and its labels 'camvid11' have 11"),
    ],
)
def test_what_does_not_fit(
    arguments: list[str],
    message: str,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "ours"
    assert main(["convert", str(checkpoint), "--output", str(out), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 broken"])
def test_files_that_are_none(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("x.pt", "x.safetensors", "missing.pt"):
        if name != "missing.pt":
            (tmp_path / name).write_bytes(content)
        assert main(["convert", str(tmp_path / name), "--output", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert name in error
        assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_nothing_that_is_read_is_replaced(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "download"
    folder.mkdir()
    own = folder / checkpoint.name
    own.write_bytes(checkpoint.read_bytes())
    (folder / "README.md").write_text("the licence")
    (tmp_path / "link").symlink_to(folder)
    links = tmp_path / "links"  # as a snapshot in the cache of the Hub
    links.mkdir()
    (links / "model.safetensors").symlink_to(own)
    saved = tmp_path / "saved"
    assert main(["convert", str(own), "--output", str(saved)]) == 0
    capsys.readouterr()
    for words in (
        ["convert", own, "--output", folder],
        ["convert", own, "--output", tmp_path / "link"],
        ["convert", links / "model.safetensors", "--output", links],
        ["export", saved / "model.safetensors", "--output", saved / "model.safetensors"],
        ["export", saved, "--output", saved / "model.safetensors"],
    ):
        before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
        assert main([*map(str, words)]) == 2
        error = capsys.readouterr().err
        assert "replaced; name another --output" in error
        assert error.count("\n") == 1
        assert {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()} == before


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_programs_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Conv2d(1, 1, 1)), tmp_path / "x.pt")
    assert main(["convert", str(tmp_path / "x.pt"), "--output", str(tmp_path / "out")]) == 2
    assert "x.pt is a TorchScript archive" in capsys.readouterr().err


def test_no_classifier(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --model the layout is not asked which network it is, nor how many classes it has."""
    torch.save({"encoder.x": torch.zeros(1), "classifier.y": torch.zeros(1)}, tmp_path / "x.pt")
    words = [
        "convert",
        str(tmp_path / "x.pt"),
        "--model",
        "unet",
        "--output",
        str(tmp_path / "out"),
    ]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "x.pt" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_publish_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["publish", str(tmp_path / "none"), "a/b"]) == 2
    assert "does not exist; name a saved model's folder" in capsys.readouterr().err
    assert main(["publish", str(tmp_path), "a/b"]) == 2
    assert "has no config.json" in capsys.readouterr().err
    assert main(["segment", "--demo", "--model", str(tmp_path), "--weights", "x"]) == 2
    assert "--weights names weights of a model of the zoo" in capsys.readouterr().err
