"""``citysegzoo data``: checking and drawing datasets on the command line."""

from pathlib import Path

import pytest

from citysegzoo.cli import main
from citysegzoo.data import Cityscapes, draw_streets


@pytest.fixture(autouse=True)
def _warnings_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line shows warnings its own way; here only while a test runs."""
    import warnings

    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)


def test_draw_then_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "streets"
    assert main(["data", "draw", str(root), "--images", "2", "--size", "64", "96"]) == 0
    assert f"drawn: {root}" in capsys.readouterr().out
    assert Cityscapes(root, "val")[1][0].shape == (3, 64, 96)
    assert main(["data", "check", str(root), "--read"]) == 0
    out = capsys.readouterr().out
    assert "fine train              2       2      2975  complete" in out
    assert "get leftImg8bit_trainextra.zip from https://www.cityscapes-dataset.com" in out


def test_check_of_broken_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = draw_streets(tmp_path / "streets", images=2, size=(64, 64))
    file = Cityscapes(root).files[1][0]
    file.write_bytes(file.read_bytes()[:1000])
    assert main(["data", "check", str(root)]) == 0
    capsys.readouterr()
    assert main(["data", "check", str(root), "--read"]) == 2
    printed = capsys.readouterr()
    assert f"{file} cannot be decoded" in printed.out
    assert printed.err.endswith(f"error: {root} cannot be used as it is: see fine train above.\n")


def test_check_of_a_folder_without_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert "see fine train and fine val above" in printed.err
    assert f"{tmp_path} is empty; get leftImg8bit_trainvaltest.zip from" in printed.out
    assert main(["data", "check", str(tmp_path), "--data", "camvid"]) == 2
    assert "see train and val above" in capsys.readouterr().err
    assert main(["data", "check", str(tmp_path / "nowhere")]) == 2
    assert "nowhere is no folder" in capsys.readouterr().err


def test_draw_refuses_a_folder_in_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("all there is")
    assert main(["data", "draw", str(tmp_path)]) == 2
    assert "is not empty; name a new folder" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]
