"""Saving and loading whole models: what goes in comes out, and nothing else is believed."""

import json
import os
import random
import struct
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file

import citysegzoo
from citysegzoo.base import Encoder
from citysegzoo.data import CAMVID_11, LabelSet
from citysegzoo.registry import ENCODERS
from citysegzoo.structure import difference
from citysegzoo.weights import save_checkpoint
from citysegzoo.weights.card import check_card, was_edited, write_card
from citysegzoo.weights.checkpoint import build_with, load_checkpoint
from citysegzoo.weights.config import ModelConfig

CARD = {
    "data": "ten images",
    "score": {
        "metric": "mean class IoU",
        "split": "CamVid val",
        "mean_iou": 0.5,
        "class_iou": dict.fromkeys(CAMVID_11.classes, 0.5),
    },
    "licence": "CC BY-NC 4.0: the terms of CamVid",
    "source": "here",
    "command": "python train.py",
}


def small(**options) -> citysegzoo.SegmentationModel:
    model = citysegzoo.create_model("unet", widths=(4, 8, 8, 8, 8), num_classes=11, **options)
    model.labels = CAMVID_11
    return model.eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return small().save_pretrained(tmp_path / "model", card=CARD)


ARCHITECTURES = [
    name
    for name in citysegzoo.list_models()
    # One of each family: depths and sizes of one share their code.
    if "." not in name
    and not name.endswith(("18", "101", "152", "_small", "_base", "_large", "b1", "b3", "b4"))
]


SMALLEST = ("fcn", "unet", "unet_aspp", "segnet_basic", "resnet18", "_b0", "_tiny")


def same(a: torch.nn.Module, b: torch.nn.Module) -> None:
    """Every parameter and buffer, those that no checkpoint holds included."""
    for ours, theirs in (
        (a.named_parameters(), b.named_parameters()),
        (a.named_buffers(), b.named_buffers()),
    ):
        expected = dict(theirs)
        found = dict(ours)
        assert found.keys() == expected.keys()
        for name, value in found.items():
            assert value.device.type == "cpu", name
            assert value.dtype == expected[name].dtype, name
            assert torch.equal(value, expected[name]), name


def computed(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Every buffer, and every tensor that a module keeps as a plain attribute."""
    attributes = {
        f"{path}.{name}": value
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, torch.Tensor)
    }
    return {**dict(model.named_buffers()), **attributes}


@pytest.mark.parametrize(
    "name",
    [
        # The smallest of each family in the fast core: depths and sizes of one share their code.
        pytest.param(name, marks=[pytest.mark.slow] * (not name.endswith(SMALLEST)))
        for name in citysegzoo.list_models()
        if "." not in name
    ],
)
def test_what_no_checkpoint_holds_is_as_in_a_model_built_as_ever(name: str) -> None:
    """Masks and tables of relative positions, which loading computes without drawing weights."""

    def build() -> citysegzoo.SegmentationModel:
        return citysegzoo.create_model(name, num_classes=5)

    model = build()
    found = computed(build_with(build, model.state_dict(), source=name))
    expected = computed(model)
    assert expected  # no network of the zoo is without batch norm or tables
    if "swin" in name:
        assert expected.keys() - model.state_dict().keys()
    assert found.keys() == expected.keys()
    for key, value in found.items():
        assert value.device.type == "cpu", key
        assert value.dtype == expected[key].dtype, key
        assert torch.equal(value, expected[key]), key


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.slow
def test_every_architecture_comes_back(name: str, tmp_path: Path) -> None:
    model = citysegzoo.create_model(name, num_classes=5).eval()
    model.save_pretrained(tmp_path)
    again = citysegzoo.load(tmp_path)
    same(again, model)
    assert not again.training
    x = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        assert torch.equal(again(x), model(x))
    # What it keeps of that run is nothing that saving takes for a change.
    with torch.device("meta"):
        assert not difference(again, citysegzoo.create_model(name, num_classes=5))


def test_bit_for_bit_with_everything_it_knows(folder: Path) -> None:
    again = citysegzoo.load(folder)
    assert again.name == "unet"
    assert again.labels is CAMVID_11
    assert again.card == CARD
    assert again.blueprint.options["widths"] == (4, 8, 8, 8, 8)
    file = citysegzoo.load(folder / "model.safetensors")
    same(file, again)
    assert file.card == CARD
    resaved = citysegzoo.load(again.save_pretrained(folder.parent / "again", card=again.card))
    same(resaved, again)
    for name in ("model.safetensors", "config.json"):
        assert (folder / name).read_bytes() == (folder.parent / "again" / name).read_bytes()


def test_the_file_is_a_safetensors_file_in_line(folder: Path) -> None:
    """The library reads it, and all but a few small tensors begin at a multiple of 64 bytes."""
    trained = citysegzoo.create_model("unet.small", pretrained=True)
    path = trained.save_pretrained(folder.parent / "trained", card=CARD) / "model.safetensors"
    model = citysegzoo.load(path.parent)
    state = load_file(path)
    assert state.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(state[name], value)
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["citysegzoo"]) == CARD
    out = sum(value.nbytes for value in state.values() if value.data_ptr() % 64)
    assert out < 0.02 * path.stat().st_size
    assert all(value.data_ptr() % 64 == 0 for value in model.state_dict().values())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"card": {"licence": ["MIT"]}}, TypeError, "licence of a card is a text"),
        ({"card": {"score": {"split": 3}}}, TypeError, "split of a card is a text"),
        ({"dtype": torch.int8}, ValueError, "dtype is torch.float64, .* not torch.int8"),
        ({"dtype": torch.float8_e4m3fn}, ValueError, "dtype is .* not torch.float8_e4m3fn"),
        ({"dtype": "float16"}, ValueError, "dtype is .* not 'float16'"),
    ],
)
def test_what_cannot_be_saved_leaves_what_was(
    change: dict, error: type[Exception], message: str, folder: Path
) -> None:
    before = {file: file.read_bytes() for file in folder.iterdir()}
    other = small()
    with pytest.raises(error, match=message):
        other.save_pretrained(folder, **change)
    assert {file: file.read_bytes() for file in folder.iterdir()} == before


def deeplab() -> citysegzoo.SegmentationModel:
    return citysegzoo.create_model("deeplabv3_resnet18", aspp_width=8)


CHANGES = {
    "activation": (small, lambda m: setattr(m.encoder.stages[0][0], "act", torch.nn.SiLU())),
    "dilation": (deeplab, lambda m: setattr(m.encoder.layer4[1].conv1, "dilation", (1, 1))),
    "corners": (small, lambda m: setattr(m, "align_corners", True)),
    "inner": (deeplab, lambda m: setattr(m.decoder, "align_corners", True)),
    "size": (small, lambda m: setattr(m, "working_size", (64, 64))),
    "epsilon": (small, lambda m: setattr(m.encoder.stages[0][0].norm, "eps", 0.1)),
    "up": (small, lambda m: setattr(m.decoder.blocks[0], "skip_first", False)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_weights_do_not_show_must_be_as_built(change: str, tmp_path: Path) -> None:
    build, alter = CHANGES[change]
    model = build()
    alter(model)
    with pytest.raises(ValueError, match="no longer what .* builds .* is .*, not .*could not be"):
        model.save_pretrained(tmp_path / "x")
    assert not (tmp_path / "x").exists()


class Mine(citysegzoo.SegmentationModel):
    """With something of its own that loading does not need."""

    def note(self) -> str:
        return "mine"


def test_what_a_user_adds_is_no_change(tmp_path: Path) -> None:
    model = small()
    model.best_iou, model.encoder.frozen_stages = 0.5, 2
    model.__class__ = Mine
    assert not difference(model, small())
    same(citysegzoo.load(model.save_pretrained(tmp_path / "a")), model)
    model.align_corners = True
    with pytest.raises(ValueError, match="no longer what unet builds .*align_corners=True"):
        model.save_pretrained(tmp_path / "b")

    class Other(Mine):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return -super().forward(images)

    model.__class__, model.align_corners = Other, False
    with pytest.raises(ValueError, match="no longer what unet builds .the model is Other"):
        model.save_pretrained(tmp_path / "b")


def test_what_matters_in_training_alone_may_differ(tmp_path: Path) -> None:
    model = deeplab()
    model.freeze_encoder()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.01
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.9
    model.save_pretrained(tmp_path / "a")
    torch.nn.SyncBatchNorm.convert_sync_batchnorm(model).save_pretrained(tmp_path / "b")
    for name in "ab":
        same(citysegzoo.load(tmp_path / name), model)


def test_a_score_is_not_that_of_weights_that_may_have_changed(folder: Path, tmp_path: Path) -> None:
    model = citysegzoo.load(folder)
    with torch.no_grad():
        model.classifier.conv.weight.zero_()
    with pytest.warns(UserWarning, match="score on the card .* left out, .* card=model.card") as w:
        model.save_pretrained(tmp_path / "new")
    assert w[0].filename == __file__
    assert citysegzoo.load(tmp_path / "new").card == {
        name: value for name, value in CARD.items() if name != "score"
    }
    model.save_pretrained(tmp_path / "same", card=model.card)
    assert citysegzoo.load(tmp_path / "same").card == CARD


@pytest.mark.parametrize(
    ("licence", "key", "name"),
    [
        ("MIT", "mit", None),
        ("apache-2.0", "apache-2.0", None),
        ("CC BY-SA 4.0", "cc-by-sa-4.0", None),
        ("CC BY-NC 4.0: the terms of CamVid", "cc-by-nc-4.0", None),
        ("CC BY-NC 4.0: of CamVid; started from weights of: NVIDIA", "other", "cc-by-nc-4.0"),
        ("Apache-2.0 code, weights non-commercial", "other", "apache-2.0-code-weights-non-co"),
        ("the terms of Cityscapes: non-commercial use", "other", "the-terms-of-cityscapes"),
    ],
)
def test_licences_have_the_names_of_the_hub(
    licence: str, key: str, name: str | None, tmp_path: Path
) -> None:
    text = (small().save_pretrained(tmp_path, card={"licence": licence}) / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["license"] == key
    assert front.get("license_name", "").startswith(name or "")
    assert ("license_name" in front) is (name is not None)
    assert f"Licence: {licence}" in text


def test_a_mistyped_folder_is_said_to_be_none(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConnectionError, match="there is no folder or file runs/unt here, and con"):
        citysegzoo.load("runs/unt", local_files_only=True)


def test_numbers_too_large_for_half_precision_are_refused(folder: Path) -> None:
    model = citysegzoo.load(folder)
    model.encoder.stages[0][0].norm.running_var[0] = 1e5
    key = next(k for k, v in model.state_dict().items() if v.is_floating_point() and v.max() > 9e4)
    with pytest.raises(ValueError, match=f"{key} has a number too large for torch.float16"):
        model.save_pretrained(folder, card={}, dtype=torch.float16)
    assert model.save_pretrained(folder, card={}, dtype=torch.bfloat16) == folder


def test_a_score_that_is_not_known_is_left_out(tmp_path: Path) -> None:
    card = {"score": {"mean_iou": None, "pixel_accuracy": None, "metric": "mean class IoU"}}
    folder = small().save_pretrained(tmp_path, card=card)
    assert citysegzoo.load(folder).card == card
    assert "model-index" not in (folder / "README.md").read_text()
    card = {"score": {"mean_iou": 0.5, "metric": None, "split": None, "command": None}}
    text = (small().save_pretrained(tmp_path, card=card) / "README.md").read_text()
    assert "**50.00 %** mean IoU." in text
    assert "None" not in text


def test_a_new_classifier_has_no_score() -> None:
    with pytest.warns(UserWarning, match="tell 11 classes apart, not 4"):
        model = citysegzoo.create_model("unet.small", pretrained=True, num_classes=4)
    whole = citysegzoo.create_model("unet.small", pretrained=True)
    assert set(whole.card) - set(model.card) == {"score", "epoch", "labels"}
    assert model.card["licence"] == whole.card["licence"]


def test_a_new_classifier_of_a_saved_model_has_no_score(folder: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="tell 11 classes apart, not 4"):
        model = citysegzoo.load(folder, num_classes=4)
    assert "score" in citysegzoo.load(folder).card
    model.labels = LabelSet("mine", tuple("abcd"), ((0, 0, 0),) * 4)
    text = (model.save_pretrained(tmp_path / "new") / "README.md").read_text()
    assert "Score" not in text
    assert "model-index" not in text


@pytest.mark.parametrize(("number", "error"), [("5", TypeError), (2.0, TypeError), (0, ValueError)])
def test_a_number_of_classes_is_a_number(number: object, error: type, folder: Path) -> None:
    with pytest.raises(error, match="^num_classes must be a"):
        citysegzoo.load(folder, num_classes=number)


def test_nothing_in_a_file_has_weights_fetched(tmp_path: Path) -> None:
    folder = citysegzoo.compose("resnet18", "unet", num_classes=2).save_pretrained(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["options"]["encoder_weights"] = True
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="a composed model has .*, not 'encoder_weights'"):
        citysegzoo.load(folder)


@pytest.mark.parametrize("name", ["last.pt", "x.pth", "pytorch_model.bin"])
def test_pickles_are_no_saved_models(name: str, tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / name)
    with pytest.raises(ValueError, match="is no saved model.*citysegzoo convert"):
        citysegzoo.load(tmp_path / name)


def test_a_file_that_may_not_be_read_is_not_damaged(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(PermissionError):
        load_checkpoint(folder / "model.safetensors")


def test_a_model_without_memory_is_not_saved(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = small()
    with pytest.raises(ValueError, match="the model is on the meta device"):
        model.save_pretrained(tmp_path / "model")


@pytest.mark.parametrize("rates", [range(6, 24, 6), np.array([6, 12, 18]), iter([6, 12, 18])])
def test_options_of_any_kind_come_back(rates: object, tmp_path: Path) -> None:
    model = citysegzoo.create_model(
        "deeplabv3_resnet18", aspp_rates=rates, in_channels=np.int64(4), num_classes=np.int32(3)
    )
    assert model.blueprint.options["aspp_rates"] == (6, 12, 18)
    same(citysegzoo.load(model.save_pretrained(tmp_path)), model.eval())


def test_nested_options_come_back(tmp_path: Path) -> None:
    options = {"timm_options": {"out_indices": (1, 2, 3)}}
    model = citysegzoo.compose("timm/resnet18", "unet", encoder_options=options)
    options["timm_options"]["out_indices"] = (0, 1)  # not the model's any more
    assert model.blueprint.options["encoder_options"]["timm_options"] == {"out_indices": (1, 2, 3)}
    same(citysegzoo.load(model.save_pretrained(tmp_path)), model.eval())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_stored_precisions(dtype: torch.dtype, folder: Path) -> None:
    model = citysegzoo.load(folder)
    config = ModelConfig.from_json((folder / "config.json").read_text(), source="x")
    config = replace(config, checksums=())  # of the weights in the folder
    path = folder.parent / "half.safetensors"
    save_checkpoint(path, model.state_dict(), CARD, config=config.to_json(), dtype=dtype)
    again = citysegzoo.load(path)
    for name, value in model.state_dict().items():
        found = again.state_dict()[name]
        if value.is_floating_point():
            assert torch.equal(found, value.to(dtype).float())


def test_composed_models(tmp_path: Path) -> None:
    model = citysegzoo.compose(
        "resnet18",
        "deeplabv3plus",
        num_classes=3,
        in_channels=4,
        encoder_options={"output_stride": 16},
        decoder_options={"aspp_rates": (2, 4)},
    ).eval()
    model.labels = LabelSet("mine", ("a", "b", "c"), ((0, 0, 0), (1, 2, 3), (255, 0, 9)), None)
    again = citysegzoo.load(model.save_pretrained(tmp_path))
    same(again, model)
    assert again.labels == model.labels
    assert again.name is None


def test_reported_models_come_back_with_their_preprocessing(tmp_path: Path) -> None:
    model = citysegzoo.create_model("unet.stevens2020_improved").eval()
    again = citysegzoo.load(model.save_pretrained(tmp_path))
    same(again, model)
    assert again.name == "unet.stevens2020_improved"
    assert again.preprocessing == model.preprocessing


def test_other_classes_keep_all_but_the_classifier(folder: Path) -> None:
    with pytest.warns(UserWarning, match="tell 11 classes apart, not 4"):
        model = citysegzoo.load(folder, num_classes=4)
    whole = citysegzoo.load(folder)
    assert model(torch.rand(1, 3, 32, 32)).shape[1] == 4
    assert torch.equal(next(model.encoder.parameters()), next(whole.encoder.parameters()))


def test_what_cannot_come_back_is_not_saved(tmp_path: Path) -> None:
    model = small()
    model.classifier = torch.nn.Conv2d(4, 11, 3, padding=1)
    with pytest.raises(ValueError, match="no longer what unet builds"):
        model.save_pretrained(tmp_path / "x")
    model = small()
    model.labels = citysegzoo.data.CITYSCAPES_19
    with pytest.raises(ValueError, match="11 classes and its labels 'cityscapes19' have 19"):
        model.save_pretrained(tmp_path / "x")
    model = small()
    model.blueprint = None
    with pytest.raises(ValueError, match="only a model of create_model"):
        model.save_pretrained(tmp_path / "x")
    with pytest.raises(TypeError, match="no field 'license'; did you mean 'licence'"):
        small().save_pretrained(tmp_path / "x", card={"license": "MIT"})
    with pytest.raises(ValueError, match="score of mean_iou is a share"):
        small().save_pretrained(tmp_path / "x", card={"score": {"mean_iou": 61.3}})
    with pytest.raises(ValueError, match="score of pixel_accuracy is a share"):
        small().save_pretrained(tmp_path / "x", card={"score": {"pixel_accuracy": 93.9}})
    with pytest.raises(TypeError, match="score of mean_iou is a number, not 'good'"):
        small().save_pretrained(tmp_path / "x", card={"score": {"mean_iou": "good"}})
    with pytest.raises(TypeError, match="epoch of a card is a whole number"):
        small().save_pretrained(tmp_path / "x", card={"epoch": np.int64(3)})
    with pytest.raises(TypeError, match="class_iou of a card is a dict"):
        small().save_pretrained(tmp_path / "x", card={"score": {"class_iou": [0.5]}})
    assert not (tmp_path / "x").exists()


def test_a_run_of_train_py_loads(tmp_path: Path) -> None:
    """examples/train.py writes a card with the name of the model and of its labels."""
    model = citysegzoo.create_model("unet.small", pretrained=True)
    save_checkpoint(tmp_path / "best.safetensors", model.state_dict(), model.card)
    again = citysegzoo.load(tmp_path / "best.safetensors")
    same(again, model)
    assert again.labels is CAMVID_11


def test_the_card(folder: Path) -> None:
    text = (folder / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["library_name"] == "citysegzoo"
    assert front["license"] == "cc-by-nc-4.0"
    metric = front["model-index"][0]["results"][0]["metrics"][0]
    assert metric == {"type": "mean_iou", "name": "mean class IoU", "value": 0.5}
    assert "| bicyclist | 50.00 |" in text
    assert not was_edited(text)
    assert was_edited(text.replace("ten images", "ten fine images"))
    assert was_edited("# my own card\n")
    huggingface_hub = pytest.importorskip("huggingface_hub")
    card = huggingface_hub.ModelCard(text)
    assert card.data.eval_results[0].metric_value == 0.5
    # The Hub reads any text; JSON's halves of a sign beyond 16 bits are two in YAML.
    config = ModelConfig.from_json((folder / "config.json").read_text(), source="x")
    told = {"score": {**CARD["score"], "metric": "mean IoU \U0001f697"}}
    marked = write_card(ModelConfig(**{**vars(config), "card": told}), source="owner/name")
    front = yaml.safe_load(marked.split("---\n")[1])
    assert front["model-index"][0]["results"][0]["metrics"][0]["name"] == "mean IoU \U0001f697"
    # A model nothing is known of claims nothing.
    bare = write_card(ModelConfig(**{**vars(config), "card": {}}), source="owner/name")
    assert "model-index" not in bare
    assert "license" not in bare
    assert "%" not in bare


def test_the_snippet_of_the_card_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (folder / "README.md").read_text()
    monkeypatch.chdir(folder.parent)
    exec(text.split("```python\n")[1].split("```")[0], {})
    assert (folder.parent / "segmented").is_dir()


def test_missing_and_strange_sources(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="has no config.json"):
        citysegzoo.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no weights file"):
        citysegzoo.load(tmp_path / "none.safetensors")
    (folder / "model.safetensors").rename(tmp_path / "moved.safetensors")
    with pytest.raises(FileNotFoundError, match="has no model.safetensors"):
        citysegzoo.load(folder)
    with pytest.raises(ValueError, match=r"create_model\('unet.small', pretrained=True\) loads"):
        citysegzoo.load("unet.small")
    for source in ("unet.smol", "a/b/c", "../x/y", "owner/../name", "owner/na me", "/no/such"):
        with pytest.raises(ValueError, match="neither a folder or file here nor a repository"):
            citysegzoo.load(source)
    with pytest.raises(ValueError, match="it has no revision main"):
        citysegzoo.load(folder, revision="main")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(ValueError, match="no whole safetensors file"):
        citysegzoo.load(tmp_path / "text.safetensors")


def broken(folder: Path, **changes) -> Path:
    content = json.loads((folder / "config.json").read_text())
    for path, value in changes.items():
        part = content
        *above, last = path.split("__")
        for name in above:
            part = part[name]
        part[last] = value
    (folder / "config.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"library_name": "timm"}, "no configuration of citysegzoo"),
        ({"format": 2}, "of a later citysegzoo; update"),
        ({"model": "unnet"}, "no model 'unnet'; did you mean"),
        ({"model": "../../etc/passwd"}, "there is no model"),
        ({"model": 3}, "are texts or null"),
        ({"options__withs": [1]}, "no option 'withs'; did you mean"),
        ({"options__widths": [4, 8, 8, 8, 16]}, "do not fit this model"),
        ({"options__widths": [10**9]}, "options.widths has a value that no option has"),
        ({"options__norm": "yes"}, "norm of model 'unet' is True or False"),
        ({"options": []}, "options is missing or no object"),
        ({"num_classes": 12}, "num_classes is 12 but there are 11 labels"),
        ({"in_channels": 0}, "in_channels must be a whole number"),
        ({"in_channels": 4}, "1 of another shape"),
        ({"labels__classes": []}, "0 classes but 11 colours"),
        ({"labels__classes": ["road"] * 11}, "two classes named 'road'"),
        ({"labels__palette": [[0, 0, 256]] * 11}, "in 0..255, not"),
        ({"labels__ignore_index": "255"}, "ignore_index must be a whole number"),
        ({"preprocessing__mean": [0.5]}, "mean has three numbers"),
        ({"preprocessing__mean": [10**400, 0, 0]}, "mean has three numbers"),
        ({"options__widths": [10**400]}, "a value that no option has"),
        ({"preprocessing__std": [0.0, 1.0, 1.0]}, "std of a Preprocessing must be positive"),
        ({"preprocessing__channel_order": "rgb"}, "'RGB' or 'BGR'"),
    ],
)
def test_configurations_that_lie(changes: dict, message: str, folder: Path) -> None:
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        citysegzoo.load(broken(folder, **changes))
    assert "\n" not in str(caught.value)


def test_configuration_reads_no_file(tmp_path: Path) -> None:
    """A timm option that would load a file, or fetch one, is refused."""
    model = citysegzoo.compose("timm/resnet10t", "unet", num_classes=2)
    folder = model.save_pretrained(tmp_path / "m")
    with pytest.raises(ValueError, match="no model 'hf-hub:owner/name'"):
        citysegzoo.load(broken(folder, options__encoder="timm/hf-hub:owner/name"))
    broken(folder, options__encoder="timm/resnet10t")
    for option in ("checkpoint_path", "pretrained", "pretrained_cfg_overlay", "cache_dir"):
        changed = broken(folder, options__encoder_options={"timm_options": {option: "/etc/passwd"}})
        with pytest.raises(ValueError, match=f"timm_options cannot set '{option}'"):
            citysegzoo.load(changed)


def damaged(folder: Path, change) -> Path:
    path = folder / "model.safetensors"
    path.write_bytes(change(path.read_bytes()))
    return folder


def reheaded(content: bytes, change) -> bytes:
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


@pytest.mark.parametrize(
    "change",
    [
        lambda content: b"",
        lambda content: content[:-100],
        lambda content: content[: len(content) // 2] + b"\x00" + content[len(content) // 2 + 1 :],
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: struct.pack("<Q", 1 << 60) + content[8:],
    ],
)
def test_damaged_weights(change, folder: Path) -> None:
    with pytest.raises(ValueError, match=r"its checksum differs.*save or fetch it again"):
        citysegzoo.load(damaged(folder, change))


def test_a_damaged_file_of_the_hub_is_found_in_the_cache(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged(folder, lambda content: content[:-1] + bytes([content[-1] ^ 1]))
    monkeypatch.setattr("citysegzoo.pretrained.fetch", lambda repo, name, **_: folder / name)
    monkeypatch.setattr("citysegzoo.pretrained.commit_of", lambda file: "0" * 40)
    with pytest.raises(ValueError, match="its checksum differs"):
        citysegzoo.load("owner/name")


def test_an_interrupted_save_leaves_the_model_that_was_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = citysegzoo.load(folder)

    def interrupt(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("citysegzoo.pretrained.file_sha256", interrupt)
    with pytest.raises(KeyboardInterrupt):
        small().save_pretrained(folder, card=CARD)
    monkeypatch.undo()
    same(citysegzoo.load(folder), before)
    assert {file.name for file in folder.iterdir()} == {
        "README.md", "config.json", "model.safetensors"
    }  # fmt: skip


@pytest.mark.parametrize("built", [True, False])
def test_whether_the_encoder_is_frozen_comes_back(built: bool, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is frozen as drawn
        model = citysegzoo.create_model("fcn_resnet18", freeze_encoder=built)
    (model.unfreeze_encoder if built else model.freeze_encoder)()
    again = citysegzoo.load(model.save_pretrained(tmp_path / "model")).train()
    assert again.encoder_frozen is not built
    assert again.encoder.training is built
    assert all(weight.requires_grad is built for weight in again.encoder.parameters())


class Reading(Encoder):
    """Reads values while it is built, and keeps a tensor that is no buffer."""

    def __init__(self, in_channels: int = 3, *, rate: float = 0.5) -> None:
        super().__init__()
        self.in_channels, self.channels, self.strides = in_channels, (4,), (1,)
        self.rates = [step.item() for step in torch.linspace(0, rate, 2)]
        self.scale = torch.ones(4, 1, 1) * 2
        self.conv = torch.nn.Conv2d(in_channels, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [self.conv(x) * self.scale]


class Keeping(Reading):
    """Keeps a tensor that is no buffer alone."""

    def __init__(self, in_channels: int = 3, *, rate: float = 0.5) -> None:
        Encoder.__init__(self)
        self.in_channels, self.channels, self.strides = in_channels, (4,), (1,)
        self.scale = torch.ones(4, 1, 1) * 2
        self.conv = torch.nn.Conv2d(in_channels, 4, 3, padding=1)


@pytest.mark.parametrize("encoder", [Reading, Keeping])
def test_parts_that_cannot_be_built_without_memory(
    encoder: type[Encoder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ENCODERS, "_builders", dict(ENCODERS._builders))
    citysegzoo.register_encoder("reading")(encoder)
    model = citysegzoo.compose("reading", "fcn_head").eval()
    again = citysegzoo.load(model.save_pretrained(tmp_path / "model"))
    images = torch.randn(1, 3, 32, 33)
    assert torch.equal(again(images), model(images))
    with pytest.warns(UserWarning, match="all is loaded but the classifier"):
        other = citysegzoo.load(tmp_path / "model", num_classes=5)
    assert torch.equal(other.encoder.conv.weight, model.encoder.conv.weight)
    assert other(images).shape == (1, 5, 32, 33)


def test_headers_that_lie(folder: Path) -> None:
    """Without digests, the file's own structure is what is left to check."""
    broken(folder, crc32_of_16_mib_blocks=[])
    whole = (folder / "model.safetensors").read_bytes()
    name = "classifier.conv.weight"

    def shape(header: dict) -> None:
        header[name]["shape"] = [1 << 40, 1]

    def offsets(header: dict) -> None:
        header[name]["data_offsets"] = [0, 1 << 50]

    def missing(header: dict) -> None:
        header["another.name"] = header.pop(name)

    for change, message in (
        (shape, "no whole safetensors file"),
        (offsets, "no whole safetensors file"),
        (missing, r"1 missing \(classifier.conv.weight\); 1 unknown \(another.name\)"),
    ):
        damaged(folder, lambda _, c=change: reheaded(whole, c))
        with pytest.raises(ValueError, match=message):
            citysegzoo.load(folder)
    for content in (b"", whole[:7], whole[:100], whole[:-1], struct.pack("<Q", 1 << 60)):
        damaged(folder, lambda _, c=content: c)
        with pytest.raises(ValueError, match="no whole safetensors file"):
            citysegzoo.load(folder)


def test_weights_of_another_kind(folder: Path) -> None:
    broken(folder, crc32_of_16_mib_blocks=[])
    state = citysegzoo.load(folder).state_dict()
    state["classifier.conv.bias"] = torch.arange(11)
    save_checkpoint(folder / "model.safetensors", state, {})
    with pytest.raises(ValueError, match="1 of another kind of number"):
        citysegzoo.load(folder)


def test_fuzzed_configurations(folder: Path) -> None:
    """Whatever config.json says, loading gives a model or one clear error, quickly."""
    chance = random.Random(0)
    text = (folder / "config.json").read_text()
    values = [None, True, -1, 0, 7, 1e308, "x", "", [], {}, [[]], "../..", [1, 2], {"a": 1}, 65536]

    def mutate(part):
        if isinstance(part, dict) and part:
            key = chance.choice(list(part))
            if chance.random() < 0.2:
                part[chance.choice(["__class__", "a", key + "x"])] = part.pop(key)
            elif isinstance(part[key], (dict, list)) and chance.random() < 0.7:
                mutate(part[key])
            else:
                part[key] = chance.choice(values)
        elif isinstance(part, list) and part:
            part[chance.randrange(len(part))] = chance.choice(values)

    messages = []
    for _ in range(150):
        content = json.loads(text)
        for _ in range(chance.randint(1, 3)):
            mutate(content)
        mutated = json.dumps(content)
        if chance.random() < 0.2:
            at = chance.randrange(len(mutated))
            mutated = mutated[:at] + chance.choice('{}[]",:0\\ ') + mutated[at + 1 :]
        (folder / "config.json").write_text(mutated)
        try:
            citysegzoo.load(folder)
        except (ValueError, TypeError) as error:
            messages.append(str(error))
    assert len(messages) > 50
    assert all(0 < len(message) < 1500 for message in messages)


def test_fuzzed_headers(folder: Path) -> None:
    broken(folder, crc32_of_16_mib_blocks=[])
    whole = (folder / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    rng = np.random.default_rng(0)
    messages = []
    for _ in range(150):
        content = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            content[rng.integers(0, 8 + length)] = rng.integers(0, 256)
        (folder / "model.safetensors").write_bytes(content)
        try:
            citysegzoo.load(folder)
        except ValueError as error:
            messages.append(str(error))
    assert len(messages) > 100
    assert all(messages)


def test_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file"):
        small().save_pretrained(tmp_path / "file" / "model")
    assert check_card({}) == {}
    assert os.listdir(tmp_path) == ["file"]


def test_one_file_is_a_whole_model(tmp_path: Path) -> None:
    model = small()
    file = model.save_pretrained(tmp_path / "new" / "best.safetensors", card=CARD)
    assert file == tmp_path / "new" / "best.safetensors"
    assert [f.name for f in file.parent.iterdir()] == [file.name]
    again = citysegzoo.load(file)
    same(again, model)
    assert again.card == CARD
    assert again.labels is CAMVID_11


def test_weights_can_be_stored_in_half_the_size(tmp_path: Path) -> None:
    model = small()
    whole = model.save_pretrained(tmp_path / "whole")
    half = model.save_pretrained(tmp_path / "half", dtype=torch.float16)
    sizes = [(f / "model.safetensors").stat().st_size for f in (whole, half)]
    assert sizes[1] < 0.75 * sizes[0]  # a small network's header is a good part of it
    for ours, theirs in zip(citysegzoo.load(half).parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs.half().float())


def test_loading_is_silent_on_a_frozen_encoder(tmp_path: Path) -> None:
    widths = (8, 8, 8, 8, 8)
    with pytest.warns(UserWarning, match="frozen as it was drawn at random"):
        model = citysegzoo.create_model("fcn_resnet50.chen2020_transfer", decoder_widths=widths)
    model.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="starts untrained") as warned:
        other = citysegzoo.load(tmp_path, num_classes=5)
    assert [str(w.message) for w in warned if "frozen" in str(w.message)] == []
    assert other.encoder_frozen
    for model in (other, citysegzoo.load(tmp_path)):
        assert not any(p.requires_grad for p in model.encoder.parameters())
        assert all(p.requires_grad for p in model.decoder.parameters())
    assert torch.equal(next(other.encoder.parameters()), next(model.encoder.parameters()))


def test_layers_that_depend_on_the_classes_start_untrained(tmp_path: Path) -> None:
    model = citysegzoo.create_model("unet_aspp", widths=(8, 16, 32))
    model.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="the classifier and 2. more that depend on their number"):
        other = citysegzoo.load(tmp_path, num_classes=5)
    assert other(torch.rand(1, 3, 64, 64)).shape == (1, 5, 64, 64)
    for name, weight in model.encoder.state_dict().items():
        assert torch.equal(other.encoder.state_dict()[name], weight)
