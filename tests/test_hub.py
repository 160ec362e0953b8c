"""The whole round trip through a Hub on this machine, with the real client, process by process."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from loopback_hub import LoopbackHub

import citysegzoo
from citysegzoo.data import CAMVID_11
from citysegzoo.pretrained import push_to_hub
from citysegzoo.weights.hub import explained

pytestmark = pytest.mark.skipif(
    os.environ.get("HF_HUB_OFFLINE", "0") != "0", reason="the client is told to be offline"
)
WHERE = "someone/street-unet"


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    with LoopbackHub() as server:
        yield server


@pytest.fixture
def model() -> citysegzoo.SegmentationModel:
    torch.manual_seed(0)
    model = citysegzoo.create_model("unet", widths=(4, 8, 8, 8, 8), num_classes=11)
    model.labels = CAMVID_11
    return model.eval()


def publish(model: citysegzoo.SegmentationModel, hub: LoopbackHub, **options) -> str:
    card = {"data": "nothing", "licence": "CC BY-NC 4.0", "source": "a test"}
    return push_to_hub(model, WHERE, card=card, token="hf_t", endpoint=hub.endpoint, **options)


def elsewhere(program: str, folder: Path, hub: LoopbackHub, **environment: str) -> str:
    """Run a program in a process with a cache of its own; what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith("HF_")},
            "HF_HOME": str(folder / "cache"),
            "HF_ENDPOINT": hub.endpoint,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


LOAD = """
import sys, torch, citysegzoo
try:
    model = citysegzoo.load({source!r})
except (OSError, ValueError) as error:
    print(type(error).__name__, error)
else:
    torch.save(model(torch.linspace(-1, 1, 3 * 40 * 50).view(1, 3, 40, 50)).detach(), {out!r})
    print(model.labels.name, model.card.get("licence"))
"""


def load_elsewhere(
    source: str, folder: Path, hub: LoopbackHub, **environment: str
) -> tuple[str, torch.Tensor | None]:
    out = folder / "logits.pt"
    out.unlink(missing_ok=True)
    said = elsewhere(LOAD.format(source=source, out=str(out)), folder, hub, **environment)
    return said, torch.load(out) if out.exists() else None


def logits(model: citysegzoo.SegmentationModel) -> torch.Tensor:
    return model(torch.linspace(-1, 1, 3 * 40 * 50).view(1, 3, 40, 50)).detach()


@pytest.mark.slow
def test_published_and_loaded_elsewhere(
    hub: LoopbackHub, model: citysegzoo.SegmentationModel, tmp_path: Path
) -> None:
    where = publish(model, hub, tag="v1")
    assert where.startswith(f"{WHERE}@")
    commit = where.partition("@")[2]
    assert hub.tags(WHERE) == {"v1": commit}
    assert set(hub.files(WHERE)) >= {"model.safetensors", "config.json", "README.md"}
    assert sum("Publish unet" in message for message in hub.commits(WHERE)) == 1
    expected = logits(model)
    said, found = load_elsewhere(WHERE, tmp_path, hub)
    assert said == "camvid11 CC BY-NC 4.0\n"
    assert torch.equal(found, expected)
    # By tag and by commit, which once cached need no network at all.
    for source in (f"{WHERE}@v1", where):
        assert torch.equal(load_elsewhere(source, tmp_path, hub)[1], expected)
    hub.requests.clear()
    assert torch.equal(load_elsewhere(where, tmp_path, hub)[1], expected)
    assert hub.requests == []
    # A later version does not touch what is pinned.
    with torch.no_grad():
        next(model.parameters()).add_(1)
    publish(model, hub)
    later = logits(model)
    assert not torch.equal(later, expected)
    assert torch.equal(load_elsewhere(where, tmp_path, hub)[1], expected)
    assert torch.equal(load_elsewhere(WHERE, tmp_path, hub)[1], later)
    # With the server down: what is cached loads, by commit and by name.
    hub.stop()
    assert torch.equal(load_elsewhere(where, tmp_path, hub)[1], expected)
    for environment in ({}, {"HF_HUB_OFFLINE": "1"}):
        assert torch.equal(load_elsewhere(WHERE, tmp_path, hub, **environment)[1], later)


def test_load_in_this_process(
    hub: LoopbackHub, model: citysegzoo.SegmentationModel, tmp_path: Path
) -> None:
    where = publish(model, hub)
    options = {"cache_dir": tmp_path / "cache", "endpoint": hub.endpoint}
    assert torch.equal(logits(citysegzoo.load(where, **options)), logits(model))
    hub.requests.clear()
    assert torch.equal(logits(citysegzoo.load(where, **options)), logits(model))
    assert hub.requests == []
    hub.stop()
    again = citysegzoo.load(where, **options, local_files_only=True)
    assert again.labels is CAMVID_11
    with pytest.raises(ConnectionError, match="not in the cache .*run `hf download"):
        citysegzoo.load("someone/else", **options, local_files_only=True)
    with pytest.raises(ConnectionError, match="someone/else"):
        citysegzoo.load("someone/else", **options)  # at once, not after half a minute


def test_private_and_missing(
    hub: LoopbackHub, model: citysegzoo.SegmentationModel, tmp_path: Path
) -> None:
    publish(model, hub)
    hub.add("other/library", {"config.json": b'{"model_type": "bert"}'})
    hub.add("no/weights", {"README.md": b"# nothing\n"})
    hub.add("half/weights", {"config.json": hub.files(WHERE)["config.json"]})
    hub.private["secret/model"] = "hf_secret"
    hub.add("secret/model", hub.files(WHERE))
    hub.gated["gated/model"] = "hf_secret"
    hub.add("gated/model", hub.files(WHERE))
    options = {"cache_dir": tmp_path, "endpoint": hub.endpoint}
    for source, error, message in (
        ("nobody/nothing", FileNotFoundError, "no repository nobody/nothing, or it is private"),
        (f"{WHERE}@v9", FileNotFoundError, "has no such revision"),
        ("no/weights", FileNotFoundError, "no file config.json; it holds no model of citysegzoo"),
        ("half/weights", FileNotFoundError, "no file model.safetensors"),
        ("other/library", ValueError, "no configuration of citysegzoo; `citysegzoo convert`"),
        ("secret/model", FileNotFoundError, "log in with `hf auth login` or pass token="),
        ("gated/model", PermissionError, "is gated: accept its terms"),
    ):
        with pytest.raises(error, match=message) as caught:
            citysegzoo.load(source, **options)
        assert "\n" not in str(caught.value)
    assert citysegzoo.load("secret/model", **options, token="hf_secret").num_classes == 11


def test_failing_hub(hub: LoopbackHub, model: citysegzoo.SegmentationModel, tmp_path: Path) -> None:
    publish(model, hub)
    options = {"cache_dir": tmp_path, "endpoint": hub.endpoint}
    hub.fail["/api/models/"] = 503
    with pytest.raises(OSError, match="the Hub answered 503"):
        citysegzoo.load(WHERE, **options)
    hub.fail.clear()
    hub.fail["GET /someone/"] = 501
    with pytest.raises(OSError, match="answered 501"):
        citysegzoo.load(WHERE, **options)
    hub.fail.clear()
    # Broken off half-way: nothing that looks whole is left, and the next try succeeds.
    hub.cut_after, hub.reset = [10**9, 1000], True
    with pytest.raises(ConnectionError, match="broke off"):
        citysegzoo.load(WHERE, **options)
    hub.cut_after, hub.reset = None, False
    assert not list(tmp_path.rglob("model.safetensors"))
    # Another file of the same length: found out, removed, and right the next time.
    hub.corrupt = {"model.safetensors"}
    with pytest.raises(OSError, match="not the file it should be .*removed"):
        citysegzoo.load(WHERE, **options)
    assert not list(tmp_path.rglob("model.safetensors"))
    hub.corrupt = set()
    assert torch.equal(logits(citysegzoo.load(WHERE, **options)), logits(model))


def test_a_client_built_on_requests_is_explained_too() -> None:
    """That of the oldest huggingface_hub; its errors are an OSError, and still of the network."""
    requests = pytest.importorskip("requests")
    error = explained(requests.exceptions.ConnectionError("refused"), WHERE, "config.json")
    assert isinstance(error, ConnectionError)
    assert "cannot be reached or broke off (refused)" in str(error)


def test_a_card_that_a_person_edited_stays(
    hub: LoopbackHub, model: citysegzoo.SegmentationModel
) -> None:
    publish(model, hub)
    generated = hub.files(WHERE)["README.md"]
    assert f"citysegzoo.load('{WHERE}')".encode() in generated
    card = {"data": "something else"}
    push_to_hub(model, WHERE, card=card, token="hf_t", endpoint=hub.endpoint)
    assert b"something else" in hub.files(WHERE)["README.md"]
    edited = hub.files(WHERE)["README.md"] + b"\nBy hand.\n"
    hub.add(WHERE, {"README.md": edited})
    with torch.no_grad():
        next(model.parameters()).add_(1)
    push_to_hub(model, WHERE, card=card, token="hf_t", endpoint=hub.endpoint)
    assert hub.files(WHERE)["README.md"] == edited


def test_a_page_that_is_given_is_published(
    hub: LoopbackHub, model: citysegzoo.SegmentationModel
) -> None:
    page = "---\nlicense: mit\n---\nby hand\n"
    publish(model, hub, readme=page, dtype=torch.float16)
    assert hub.files(WHERE)["README.md"] == page.encode()
    halved = len(hub.files(WHERE)["model.safetensors"])
    publish(model, hub)
    assert hub.files(WHERE)["README.md"] == page.encode()
    assert len(hub.files(WHERE)["model.safetensors"]) > halved


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_a_card_that_cannot_be_read_stays(
    hub: LoopbackHub, model: citysegzoo.SegmentationModel, method: str
) -> None:
    """One that cannot be fetched now is not one that does not exist."""
    publish(model, hub)
    hub.add(WHERE, {"README.md": b"Words of a person."})
    hub.fail = {f"{method} /{WHERE}/resolve/main/README.md": 403}
    with pytest.raises(OSError, match=r"^[^\n]*someone/street-unet[^\n]*\.$"):
        publish(model, hub)
    assert hub.files(WHERE)["README.md"] == b"Words of a person."


def test_publishing_what_cannot_be(hub: LoopbackHub, model: citysegzoo.SegmentationModel) -> None:
    with pytest.raises(ValueError, match="names a revision"):
        push_to_hub(model, f"{WHERE}@main", token="hf_t", endpoint=hub.endpoint)
    model.blueprint = None
    with pytest.raises(ValueError, match="only a model of create_model"):
        push_to_hub(model, WHERE, token="hf_t", endpoint=hub.endpoint)
    assert hub.requests == []  # found before anything is sent
    fresh = citysegzoo.create_model("unet", widths=(4, 8, 8, 8, 8))
    hub.fail["/api/repos/create"] = 501
    with pytest.raises(OSError, match="could not be published|answered 501"):
        push_to_hub(fresh, WHERE, token="hf_t", endpoint=hub.endpoint)
    hub.fail["/api/repos/create"] = 403
    with pytest.raises(PermissionError, match="refused .403. to let this token publish to"):
        push_to_hub(fresh, WHERE, token="hf_t", endpoint=hub.endpoint)
    hub.fail["/api/repos/create"] = 422
    with pytest.raises(OSError, match="the Hub refused the model of .*422"):
        push_to_hub(fresh, WHERE, token="hf_t", endpoint=hub.endpoint)


def test_a_tag_is_not_moved(hub: LoopbackHub, model: citysegzoo.SegmentationModel) -> None:
    publish(model, hub, tag="v1")
    commits = hub.commits(WHERE)
    with pytest.raises(FileExistsError, match="has a tag 'v1' already, and nothing was published"):
        publish(model, hub, tag="v1")
    assert hub.commits(WHERE) == commits
    publish(model, hub, tag="v2")
    assert set(hub.tags(WHERE)) == {"v1", "v2"}


@pytest.mark.slow
def test_command_line(
    hub: LoopbackHub, model: citysegzoo.SegmentationModel, tmp_path: Path
) -> None:
    folder = model.save_pretrained(tmp_path / "saved", card={"licence": "CC BY 4.0"})

    def cli(*arguments: str) -> str:
        program = f"import sys\nfrom citysegzoo.cli import main\nsys.exit(main({list(arguments)}))"
        return elsewhere(program, tmp_path, hub, HF_TOKEN="hf_t")

    assert f"published: {WHERE}@" in cli("publish", str(folder), WHERE, "--tag", "v1")
    assert "v1" in hub.tags(WHERE)
    said = cli("segment", "--demo", "--model", WHERE, "--output", str(tmp_path / "out"))
    assert "demo_street" in said


@pytest.mark.slow
def test_segformer_by_name(hub: LoopbackHub, tmp_path: Path) -> None:
    """NVIDIA's layout, as transformers saves it: one line gives a network with its labels."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        num_labels=19, depths=[2, 2, 2, 2], hidden_sizes=[32, 64, 160, 256], decoder_hidden_size=256
    )
    theirs = transformers.SegformerForSemanticSegmentation(config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    state = {k: v.contiguous() for k, v in theirs.state_dict().items()}
    torch.save(state, tmp_path / "pytorch_model.bin")
    images = torch.linspace(-1, 1, 3 * 64 * 96).view(1, 3, 64, 96)
    with torch.inference_mode():
        small = theirs(images).logits
    expected = torch.nn.functional.interpolate(small, (64, 96), mode="bilinear")
    program = """
import sys, warnings, torch, citysegzoo
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    model = citysegzoo.create_model("segformer_b0", pretrained={tag})
print([str(w.message) for w in caught if "NVIDIA" in str(w.message)][0])
print(model.labels.name, model.card["revision"])
images = torch.linspace(-1, 1, 3 * 64 * 96).view(1, 3, 64, 96)
torch.save(model(images).detach(), {out!r})
"""
    out = tmp_path / "out.pt"
    for name, file, tag in (
        ("1024-1024", "model.safetensors", True),
        ("768-768", "pytorch_model.bin", "cityscapes_768"),
    ):
        content = {
            "model.safetensors": (tmp_path / "theirs" / "model.safetensors").read_bytes(),
            "pytorch_model.bin": (tmp_path / "pytorch_model.bin").read_bytes(),
        }[file]
        commit = hub.add(f"nvidia/segformer-b0-finetuned-cityscapes-{name}", {file: content})
        said = elsewhere(program.format(tag=repr(tag), out=str(out)), tmp_path, hub)
        assert "not for commercial use" in said
        assert f"cityscapes19 {commit}" in said
        torch.testing.assert_close(torch.load(out), expected, rtol=0, atol=1e-4)
    # Once cached, without the Hub, whichever of its names the file has there.
    hub.stop()
    for tag in (True, "cityscapes_768"):
        for environment in ({}, {"HF_HUB_OFFLINE": "1"}):
            out.unlink()
            elsewhere(program.format(tag=repr(tag), out=str(out)), tmp_path, hub, **environment)
            torch.testing.assert_close(torch.load(out), expected, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_locking(hub: LoopbackHub, tmp_path: Path) -> None:
    """Every record gets the commit and sha256 of what is there now."""
    for record in citysegzoo.weights.list_records():
        if record.repository:
            hub.add(record.repository, {"pytorch_model.bin": record.repository.encode()})
    program = f"""
from pathlib import Path
from citysegzoo.weights import lock
print(len(lock(Path({str(tmp_path / "pins.json")!r}))))
"""
    assert elsewhere(program, tmp_path, hub).strip() == "9"
    pins = json.loads((tmp_path / "pins.json").read_text())
    pin = pins["nvidia/segformer-b5-finetuned-cityscapes-1024-1024"]
    assert pin["file"] == "pytorch_model.bin"
    assert len(pin["revision"]) == 40
    assert len(pin["sha256"]) == 64


@pytest.mark.slow
def test_imagenet_encoders(hub: LoopbackHub, tmp_path: Path) -> None:
    """The exact set that a report used is fetched once; a saved model never asks for it again."""
    timm = pytest.importorskip("timm")
    from safetensors.torch import save

    torch.manual_seed(0)
    published = timm.create_model("resnet50")
    hub.add("timm/resnet50.tv_in1k", {"model.safetensors": save(published.state_dict())})
    program = f"""
import torch, citysegzoo
model = citysegzoo.create_model("fcn_resnet50.xiang2020", encoder_weights=True)
torch.save(model.encoder.state_dict(), {str(tmp_path / "encoder.pt")!r})
four = citysegzoo.create_model(
    "unet_resnet50", in_channels=4, encoder_weights="resnet50.tv_in1k"
)
print(tuple(four.encoder.conv1.weight.shape))
four.eval().save_pretrained({str(tmp_path / "saved")!r})
"""
    assert elsewhere(program, tmp_path, hub).strip() == "(64, 4, 7, 7)"
    state = torch.load(tmp_path / "encoder.pt")
    for name, value in published.state_dict().items():
        if not name.startswith("fc."):
            assert torch.equal(state[name], value), name
    hub.requests.clear()
    elsewhere(f"import citysegzoo; citysegzoo.load({str(tmp_path / 'saved')!r})", tmp_path, hub)
    assert hub.requests == []
