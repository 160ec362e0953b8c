"""The bundled weights: what they say of themselves, and that they load as they are."""

import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import citysegzoo
from citysegzoo.cli import main
from citysegzoo.data import CAMVID_11, CITYSCAPES_19, DEMO_IMAGE
from citysegzoo.weights import find_record, list_records, load_checkpoint, save_checkpoint
from citysegzoo.weights.checkpoint import MappedFiles
from citysegzoo.weights.hub import BLOCK, block_checksums

BUNDLED = [record for record in list_records() if record.file]


@pytest.mark.parametrize("record", list_records(), ids=lambda r: f"{r.model}-{r.tag}")
def test_every_record_says_what_it_is(record) -> None:
    card = record.card
    assert card["model"] == record.model
    assert card["labels"] == record.labels.name
    assert 0 < card["score"]["mean_iou"] < 1
    for part in ("data", "licence", "source"):
        assert card[part]
    card["licence"] = "mine"
    assert record.card["licence"] != "mine"
    assert (record.file is None) != (record.repository is None)
    with torch.device("meta"):
        citysegzoo.create_model(record.model, num_classes=len(record.labels))


def test_records_can_be_keys() -> None:
    assert len(set(list_records())) == len(list_records())


def test_the_command_line_tells_the_classes_of_weights(capsys) -> None:
    """Which are other ones than those of a model without weights."""
    assert main(["models", "--pretrained"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = (line for line in lines if line.startswith("unet.small "))
    assert line.split()[1:5] == ["19", "camvid", "(11", "classes)"]
    assert "classes)" not in next(line for line in lines if line.startswith("segformer_b0 "))
    assert main(["show", "unet.small"]) == 0
    shown = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert f"classes 11: {', '.join(CAMVID_11.classes)}" in shown


@pytest.mark.parametrize("record", BUNDLED, ids=lambda r: f"{r.model}-{r.tag}")
def test_every_bundled_record_is_whole(record) -> None:
    assert record.file.stat().st_size <= 25_000_000
    card = record.card
    assert card["model"] == record.model
    assert set(card["score"]["class_iou"]) == set(record.labels.classes)
    mean = sum(card["score"]["class_iou"].values()) / len(record.labels)
    assert card["score"]["mean_iou"] == pytest.approx(mean, abs=1e-4)
    for part in ("data", "licence", "source", "command"):
        assert card[part]
    assert "--root camvid" in card["command"]
    with safe_open(record.file, "pt") as file:
        names = set(file.keys())
    with torch.device("meta"):
        model = citysegzoo.create_model(record.model, num_classes=len(record.labels))
    assert names == set(model.state_dict())


def test_the_package_stays_small() -> None:
    assert sum(record.file.stat().st_size for record in BUNDLED) <= 30_000_000


def test_pretrained_model_is_ready() -> None:
    model = citysegzoo.create_model("unet.small", pretrained="camvid")
    assert not model.training
    assert model.labels is CAMVID_11
    assert model.num_classes == 11
    state = load_checkpoint(find_record("unet.small").file)
    for name, value in model.state_dict().items():
        assert value.device.type == "cpu"
        assert value.dtype in (torch.float32, torch.int64)
        assert torch.equal(value, state[name])
    assert all(p.requires_grad for p in model.parameters())


def test_pretrained_model_sees_the_drawn_street() -> None:
    """Far better than a guess on a scene nobody trained on: sky above, road below, buildings."""
    labels = citysegzoo.create_model("unet.small", pretrained=True).segment(DEMO_IMAGE).labels
    height, width = labels.shape

    def share(name: str, rows: slice, columns: slice) -> float:
        return float((labels[rows, columns] == CAMVID_11.classes.index(name)).mean())

    middle = slice(width // 3, 2 * width // 3)
    assert share("sky", slice(0, height // 5), middle) > 0.7
    assert share("road", slice(3 * height // 4, height), middle) > 0.7
    assert share("building", slice(0, height // 2), slice(0, width // 4)) > 0.5


def test_options_said_again_are_no_others() -> None:
    model = citysegzoo.create_model(
        "unet.small", pretrained=True, widths=[16, 32, 64, 128, 256], skip_first=True
    )
    assert model.num_classes == 11


def test_other_classes_keep_all_but_the_classifier() -> None:
    trained = citysegzoo.create_model("unet.small", pretrained=True)
    with pytest.warns(UserWarning, match="tell 11 classes apart, not 19: all is loaded but"):
        model = citysegzoo.create_model("unet.small", pretrained=True, num_classes=19)
    assert model.labels == CITYSCAPES_19
    ours, theirs = model.state_dict(), trained.state_dict()
    for name, value in ours.items():
        if name.startswith("classifier."):
            assert value.shape[0] == 19
        else:
            assert torch.equal(value, theirs[name])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pretrained": "cityscapes"}, "no weights named 'cityscapes'; it has: camvid"),
        ({"pretrained": True, "widths": (8, 16, 32, 64, 128)}, "trained with widths=.16, 32, 64"),
        ({"pretrained": True, "skip_first": False}, "trained with skip_first=True; leave"),
        (
            {"name": "unet_resnet18.street", "pretrained": True, "encoder_options": {"width": 64}},
            "trained with encoder_options=.'width': 48",
        ),
        ({"pretrained": True, "in_channels": 4}, "take images of 3 channels; leave in_channels"),
        ({"pretrained": True, "encoder_weights": True}, "leave encoder_weights out"),
    ],
)
def test_weights_that_do_not_fit(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        citysegzoo.create_model(**{"name": "unet.small", **arguments})


def test_options_that_the_weights_were_trained_with_are_welcome() -> None:
    name = "unet_resnet18.street"
    options = {"encoder_options": {"width": 48}, "decoder_widths": [192, 96, 64, 48]}
    assert citysegzoo.create_model(name, pretrained=True, **options).num_classes == 11


def test_options_in_mappings_go_over_those_of_a_variant() -> None:
    """One by one: that of another does not drop the width."""
    name, options = "unet_resnet18.street", {"encoder_options": {"bn_momentum": 0.05}}
    with torch.device("meta"):
        model = citysegzoo.create_model(name, **options)
        same = citysegzoo.create_model(name)
    shapes = {k: v.shape for k, v in model.state_dict().items()}
    assert shapes == {k: v.shape for k, v in same.state_dict().items()}
    trained = citysegzoo.create_model(name, pretrained=True, **options)
    assert trained.encoder.bn1.momentum == 0.05


@pytest.mark.parametrize("name", ["unet", "deeplabv3_resnet101.mei2019_dl2"])
def test_names_without_weights_say_which_have_some(name: str) -> None:
    with pytest.raises(ValueError, match="models with weights: unet_resnet18.street, unet.small"):
        citysegzoo.create_model(name, pretrained=True)


def test_round_trip(tmp_path: Path) -> None:
    state = {"a": torch.randn(3, 4), "n": torch.tensor(7)}
    save_checkpoint(tmp_path / "x.safetensors", state, {"who": "me"}, dtype=torch.float16)
    read = load_checkpoint(tmp_path / "x.safetensors")
    assert torch.equal(read["a"], state["a"].half().float())
    assert torch.equal(read["n"], state["n"])
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert json.loads(file.metadata()["citysegzoo"]) == {"who": "me"}
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        save_checkpoint(tmp_path / "x.safetensors", {"a": torch.zeros(1)}, {"bad": object()})
    assert list(tmp_path.iterdir()) == []


def test_broken_files(tmp_path: Path) -> None:
    whole = find_record("unet.small").file.read_bytes()
    broken = tmp_path / "broken.safetensors"
    for content in (b"", whole[:100], whole[:-1], b"\xff" * 64):
        broken.write_bytes(content)
        with pytest.raises(ValueError, match="no whole safetensors file"):
            load_checkpoint(broken)
    with pytest.raises(FileNotFoundError, match="there is no weights file"):
        load_checkpoint(tmp_path / "nothing")


@pytest.mark.slow
def test_missing_imagenet_weights_are_one_sentence(tmp_path: Path) -> None:
    """Without a network and with an empty cache, the error says what to do."""
    program = (
        "import citysegzoo\n"
        "try: citysegzoo.create_model('unet_resnet50', encoder_weights=True)\n"
        "except OSError as error: print(error)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "the weights 'resnet50.tv_in1k' are not in the cache" in done.stdout


def resident() -> int:
    """Bytes of files that count as memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssFile"))


@pytest.mark.skipif(not Path("/proc/self/pagemap").exists(), reason="Linux alone says what is read")
def test_mapped_weights_are_given_back_and_come_back(tmp_path: Path) -> None:
    state = {"a": torch.randn(1 << 23), "b": torch.randn(1 << 20)}
    save_checkpoint(tmp_path / "x.safetensors", state, {})
    read = load_checkpoint(tmp_path / "x.safetensors")
    files = MappedFiles()
    before = resident()
    assert torch.equal(read["a"], state["a"])
    assert resident() - before > 24e6
    files.release(read["a"])
    assert resident() - before < 8e6
    assert torch.equal(read["a"], state["a"])


@pytest.mark.parametrize("offset", [0, 5000, (1 << 20) - 1])
def test_mapped_weights_that_were_written_to_stay(offset: int, tmp_path: Path) -> None:
    state = {"a": torch.zeros(1 << 20)}
    save_checkpoint(tmp_path / "x.safetensors", state, {})
    weight = load_checkpoint(tmp_path / "x.safetensors")["a"]
    weight[offset] = 1
    MappedFiles().release(weight)
    assert weight[offset] == 1
    assert weight.sum() == 1
    for other in (torch.ones(1 << 20), torch.ones(0), torch.ones(8, 8).T, state["a"]):
        expected = other.clone()
        MappedFiles().release(other)
        assert torch.equal(other, expected)


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, 2 * BLOCK + 12345])
def test_checksums_are_those_of_the_blocks(size: int, tmp_path: Path) -> None:
    content = bytes(range(251)) * (size // 251 + 1)
    content = content[:size]
    (tmp_path / "file").write_bytes(content)
    blocks = [content[start : start + BLOCK] for start in range(0, size, BLOCK)]
    assert block_checksums(tmp_path / "file") == tuple(map(zlib.crc32, blocks))
