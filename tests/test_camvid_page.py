"""docs/camvid.md says what the cards of the runs say, and the cards say what was run."""

import math
import shlex
from importlib import import_module
from pathlib import Path

import pytest
import torch
from test_docs import script

import citysegzoo
from citysegzoo.cli.common import option
from citysegzoo.data import CAMVID_11
from citysegzoo.pretrained import save_pretrained

write = script("write_camvid")
CARDS = [(group, run) for group, runs in write.cards().items() for run in runs]
NAMES = [f"{group}-{run['run']}" for group, run in CARDS]


def test_the_page_is_that_of_the_cards() -> None:
    assert write.PAGE.read_text() == write.page(), "run: python docs/write_camvid.py"


@pytest.mark.parametrize(("group", "run"), CARDS, ids=NAMES)
def test_a_run_is_what_its_card_says(group: str, run: dict) -> None:
    card, score = run["card"], run["card"]["score"]
    if group == "reports":
        assert run["run"] == card["model"]
        assert citysegzoo.model_info(card["model"]).report
    ious = score["class_iou"]
    assert list(ious) == list(CAMVID_11.classes)
    assert math.isclose(score["mean_iou"], sum(ious.values()) / len(ious), abs_tol=1e-4)
    assert "non-commercial" in card["licence"]


@pytest.mark.parametrize(("group", "run"), CARDS, ids=NAMES)
def test_a_command_builds_what_was_counted(
    group: str, run: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "examples")
    program, file, *words = shlex.split(run["card"]["command"])
    assert (program, file) == ("python", "examples/train.py")
    args = import_module("train").parse_args(words)
    with torch.device("meta"):
        options = dict(map(option, args.option))
        model = citysegzoo.create_model(args.model, num_classes=11, **options)
    assert sum(p.numel() for p in model.parameters()) == run["parameters"]


def test_only_finished_runs_are_collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "CARDS", tmp_path / "camvid.json")
    with pytest.raises(SystemExit, match="no finished run"):
        write.collect("reports", tmp_path)
    for name, epochs in (("stopped", 2), ("unet.chen2020", 3)):
        (tmp_path / name).mkdir()
        model = citysegzoo.create_model("unet.small", num_classes=11, widths=(4, 8))
        model.card = {"command": f"{name} --epochs 3 --output {name}"}
        save_pretrained(model, tmp_path / name / "best.safetensors")
        log = "".join(f"{epoch},0.1\n" for epoch in range(1, epochs + 1))
        (tmp_path / name / "log.csv").write_text(f"epoch,loss\n{log}")
    write.collect("reports", tmp_path)
    (kept,) = write.cards()["reports"]
    assert kept["run"] == "unet.chen2020"
    assert kept["card"]["command"].startswith("unet.chen2020")


def test_what_is_no_reported_network_is_not_collected_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "CARDS", tmp_path / "camvid.json")
    (tmp_path / "mine").mkdir()
    model = citysegzoo.create_model("unet.small", num_classes=11, widths=(4, 8))
    model.card = {"command": "--epochs 1"}
    save_pretrained(model, tmp_path / "mine" / "best.safetensors")
    (tmp_path / "mine" / "log.csv").write_text("epoch,loss\n1,0.1\n")
    with pytest.raises(SystemExit, match="mine: no network of a report"):
        write.collect("reports", tmp_path)
    assert not write.CARDS.exists()
