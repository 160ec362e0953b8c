"""The real Hugging Face client against the loopback hub, where it works and where it fails.

And what the zoo asks of it: ImageNet weights for its encoders, and models where no space is left.

What is left out takes the client half a minute: a file that is not in the cache, while the hub
answers 408, 429 or 5xx (but 501) or refuses connections, is asked for seven times in 23 seconds.
"""

import errno
import hashlib
import random
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import pytest
import safetensors.torch
import segmentation_models_pytorch as smp
import timm
import torch
from commands import enlarge_disk
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from loopback_hub import LoopbackHub, entity_tag, git_blob_id

import citysegzoo
from citysegzoo.weights import checkpoint, save_checkpoint

REPO = "streets/unet"
FILES = {"config.json": b'{"model": "unet.small"}', "model.safetensors": bytes(range(256)) * 40}
CARD = "---\nlibrary_name: citysegzoo\n---\n# A model\n"

pytestmark = pytest.mark.skipif(
    huggingface_hub.constants.HF_HUB_OFFLINE, reason="HF_HUB_OFFLINE is set: the client asks nobody"
)


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    with LoopbackHub() as hub:
        yield hub


@pytest.fixture
def api(hub: LoopbackHub) -> HfApi:
    return HfApi(endpoint=hub.endpoint, token="hf_writer")


@pytest.fixture
def download(hub: LoopbackHub, tmp_path: Path) -> Callable[..., Path]:
    """hf_hub_download of FILES' repository, with a cache of its own and without a token."""

    def call(file: str = "config.json", repo_id: str = REPO, **how: object) -> Path:
        how = {"endpoint": hub.endpoint, "cache_dir": tmp_path / "cache", "token": False} | how
        return Path(hf_hub_download(repo_id, file, **how))

    return call


def asked(hub: LoopbackHub) -> list[str]:
    """Every request since the last call, as a line."""
    lines = [f"{method} {path}" for method, path, _ in hub.requests]
    hub.requests.clear()
    return lines


def blobs(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache").glob("models--*/blobs/*"))


def test_create_upload_tag_and_download(hub, api, download, tmp_path: Path) -> None:
    url = api.create_repo(REPO)
    assert (url.repo_id, url.endpoint) == (REPO, hub.endpoint)
    folder = tmp_path / "folder"
    (folder / "extra").mkdir(parents=True)
    written = FILES | {"README.md": CARD.encode(), "extra/empty.txt": b""}
    for name, data in written.items():
        (folder / name).write_bytes(data)
    commit = api.upload_folder(repo_id=REPO, folder_path=folder, commit_message="A model")
    assert hub.commits(REPO) == ["initial commit", "A model"]
    assert hub.files(REPO).keys() == written.keys() | {".gitattributes"}
    assert commit.commit_url == f"{hub.endpoint}/{REPO}/commit/{commit.oid}"
    api.create_tag(REPO, tag="v1", revision=commit.oid)
    assert hub.tags(REPO) == {"v1": commit.oid}

    api.create_commit(
        REPO,
        [CommitOperationAdd("config.json", b"{}"), CommitOperationDelete("extra/", is_folder=True)],
        commit_message="Another model",
        parent_commit=commit.oid,
    )
    assert "extra/empty.txt" not in hub.files(REPO)
    assert hub.files(REPO, "v1")["config.json"] == FILES["config.json"]
    for revision, text in ((None, b"{}"), ("v1", FILES["config.json"])):
        assert download(revision=revision).read_bytes() == text
    for name, data in written.items():
        assert download(name, revision=commit.oid).read_bytes() == data


def test_describe(hub, api) -> None:
    first = hub.add(REPO, FILES)
    second = hub.add(REPO, {"extra/deep/note.txt": b"words"}, message="A note")
    api.create_tag(REPO, tag="v1", revision=first)
    assert re.fullmatch("[0-9a-f]{40}", first)
    assert api.model_info(REPO).sha == second
    assert api.model_info(REPO, revision="v1").sha == first
    assert api.model_info(REPO, revision=first).sha == first
    info = api.model_info(REPO, revision="v1", files_metadata=True)
    assert [(s.rfilename, s.size) for s in info.siblings] == [(p, len(FILES[p])) for p in FILES]
    assert info.siblings[1].lfs.sha256 == hashlib.sha256(FILES["model.safetensors"]).hexdigest()
    assert sorted(api.list_repo_files(REPO)) == sorted([*FILES, "extra/deep/note.txt"])
    assert api.list_repo_files(REPO, revision="v1") == list(FILES)
    assert [e.path for e in api.list_repo_tree(REPO)] == ["config.json", "extra", *list(FILES)[1:]]
    assert [e.path for e in api.list_repo_tree(REPO, "extra")] == ["extra/deep"]
    refs = api.list_repo_refs(REPO)
    assert [(tag.name, tag.target_commit) for tag in refs.tags] == [("v1", first)]
    assert [(b.name, b.target_commit) for b in refs.branches] == [("main", second)]
    assert api.whoami()["name"] == "tester"
    assert api.file_exists(REPO, "config.json")
    assert not api.file_exists(REPO, "weights.pt")
    assert api.repo_exists(REPO)
    assert not api.repo_exists("streets/none")


def test_what_is_there_already(hub, api) -> None:
    api.create_repo(REPO)
    api.create_repo(REPO, exist_ok=True)
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo(REPO)
    api.create_tag(REPO, tag="v1")
    api.create_tag(REPO, tag="v1", exist_ok=True)
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_tag(REPO, tag="v1")
    operation = [CommitOperationAdd("config.json", b"{}")]
    commit = api.create_commit(REPO, operation, commit_message="One")
    operation = [CommitOperationAdd("config.json", b"{}")]
    assert api.create_commit(REPO, operation, commit_message="Again").oid == commit.oid
    assert hub.commits(REPO) == ["initial commit", "One"]
    stale = hub.tags(REPO)["v1"]
    with pytest.raises(HfHubHTTPError, match="412"):
        api.create_commit(
            REPO, [CommitOperationAdd("a", b"")], commit_message="Late", parent_commit=stale
        )
    with pytest.raises(UserWarning, match="empty or missing yaml metadata"):
        api.create_commit(REPO, [CommitOperationAdd("README.md", b"# A")], commit_message="Card")


def test_pinned_revision_needs_no_request(hub, download) -> None:
    sha = hub.add(REPO, FILES)
    path = download(revision=sha)
    url = f"/{REPO}/resolve/{sha}/config.json"
    assert asked(hub) == [f"HEAD {url}", f"GET {url}"]
    assert download(revision=sha) == path
    assert download(revision=sha, local_files_only=True) == path
    assert asked(hub) == []
    hub.stop()
    assert download(revision=sha) == path
    hub.start()
    assert download("model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_branch_is_asked_for_and_falls_back(hub, download) -> None:
    hub.add(REPO, FILES)
    path = download()
    asked(hub)
    assert download() == path
    assert asked(hub) == [f"HEAD /{REPO}/resolve/main/config.json"]
    assert download(local_files_only=True) == path
    assert asked(hub) == []
    for status in (401, 404, 500, 503):
        hub.fail["/resolve/"] = status
        assert download() == path
    hub.fail.clear()
    hub.stop()
    assert download() == path
    hub.start()
    hub.add(REPO, {"config.json": b"{}"})
    assert download(local_files_only=True) == path
    assert download().read_bytes() == b"{}"


def test_blobs_are_named_by_content(hub, download, tmp_path: Path) -> None:
    hub.add(REPO, FILES)
    for name in FILES:
        download(name)
    tags = [entity_tag(name, data) for name, data in FILES.items()]
    assert tags[0] == git_blob_id(FILES["config.json"])
    assert tags[1] == hashlib.sha256(FILES["model.safetensors"]).hexdigest()
    assert blobs(tmp_path) == sorted(tags)
    assert git_blob_id(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"


def test_what_is_missing(hub, api, download) -> None:
    hub.add(REPO, FILES)
    with pytest.raises(RepositoryNotFoundError, match="401"):
        download(repo_id="streets/none")
    with pytest.raises(RepositoryNotFoundError, match="404"):
        download(repo_id="streets/none", token="hf_reader")
    with pytest.raises(RepositoryNotFoundError):
        download(repo_id="none")
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("streets/none")
    with pytest.raises(RepositoryNotFoundError):
        api.create_commit("streets/none", [CommitOperationAdd("a", b"a")], commit_message="Nowhere")
    for revision in ("v9", "0" * 40):
        with pytest.raises(RevisionNotFoundError):
            download(revision=revision)
        with pytest.raises(RevisionNotFoundError):
            api.model_info(REPO, revision=revision)
        with pytest.raises(RevisionNotFoundError):
            api.list_repo_files(REPO, revision=revision)
    with pytest.raises(EntryNotFoundError) as raised:
        download("weights.pt")
    assert not isinstance(raised.value, LocalEntryNotFoundError)  # the hub said so
    with pytest.raises(EntryNotFoundError, match="A file with this name"):
        api.create_commit(REPO, [CommitOperationDelete("weights.pt")], commit_message="Tidy")
    with pytest.raises(LocalEntryNotFoundError):
        download(local_files_only=True)


def test_private_and_gated(hub, api, download) -> None:
    hub.add(REPO, FILES)
    hub.private[REPO] = "hf_reader"
    with pytest.raises(RepositoryNotFoundError, match="401"):
        download()
    with pytest.raises(RepositoryNotFoundError, match="404"):
        download(token="hf_other")
    assert download(token="hf_reader").read_bytes() == FILES["config.json"]
    assert hub.requests[-1].headers["authorization"] == "Bearer hf_reader"
    with pytest.raises(HfHubHTTPError, match="401"):
        HfApi(endpoint=hub.endpoint, token=False).create_repo("streets/mine")
    api.create_repo("streets/mine", private=True)
    assert hub.private["streets/mine"] == "hf_writer"
    assert api.model_info("streets/mine").private

    hub.add("streets/gated", FILES)
    hub.gated["streets/gated"] = "hf_reader"
    assert api.model_info("streets/gated").gated == "manual"
    for token in (False, "hf_other"):
        with pytest.raises(GatedRepoError):
            download(repo_id="streets/gated", token=token)
    assert download(repo_id="streets/gated", token="hf_reader").is_file()


def test_server_errors(hub, api, download, tmp_path: Path) -> None:
    """Not 503 for a file that is not cached: that is retried for 23 seconds, 501 is not."""
    hub.add(REPO, FILES)
    hub.fail["/streets/"] = 501
    with pytest.raises(LocalEntryNotFoundError) as error:
        download()
    assert isinstance(error.value.__cause__, HfHubHTTPError)
    hub.fail["/streets/"] = 503
    with pytest.raises(HfHubHTTPError, match="503"):
        api.model_info(REPO)
    with pytest.raises(ValueError, match="Force download failed"):
        download(force_download=True)
    hub.fail.clear()
    hub.fail["GET /streets/"] = 503
    with pytest.raises(HfHubHTTPError, match="503"):
        download()
    assert blobs(tmp_path) == []
    hub.fail.clear()
    hub.fail["HEAD /streets/"] = [503]
    assert download().read_bytes() == FILES["config.json"]
    hub.fail["/api/repos/create"] = 403
    with pytest.raises(HfHubHTTPError, match="403"):
        api.create_repo("streets/mine")
    hub.fail["/commit/"] = 503
    with pytest.raises(HfHubHTTPError, match="503"):
        api.create_commit(REPO, [CommitOperationAdd("a", b"a")], commit_message="Lost")
    assert hub.commits(REPO) == ["Add files"]
    with pytest.raises(HfHubHTTPError, match="no answer: GET /api/models"):
        list(api.list_models())


def test_reset_download_leaves_no_file(hub, download, tmp_path: Path) -> None:
    hub.add(REPO, FILES)
    hub.cut_after, hub.reset = len(FILES["model.safetensors"]) // 2, True
    with pytest.raises(Exception, match="reset") as error:
        download("model.safetensors")
    assert error.type.__name__ == "ReadError"  # of httpx2, which is not a dependency by name
    assert blobs(tmp_path) == []
    with pytest.raises(LocalEntryNotFoundError):
        download("model.safetensors", local_files_only=True)
    hub.cut_after = None
    assert download("model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_cut_download_is_resumed(hub, download, tmp_path: Path) -> None:
    """The client keeps what it has in steps of 10 MiB, waits a second and asks for the rest."""
    step = 10 << 20
    data = random.Random(0).randbytes(step + 5000)
    hub.add(REPO, {"model.safetensors": data})
    hub.cut_after = [step + 1000]
    assert download("model.safetensors").read_bytes() == data
    assert hub.requests[-1].headers["range"] == f"bytes={step}-"
    assert [request.method for request in hub.requests] == ["HEAD", "GET", "GET"]
    assert blobs(tmp_path) == [hashlib.sha256(data).hexdigest()]


def test_corrupt_file_goes_unnoticed_by_the_client(hub, download, tmp_path: Path) -> None:
    hub.add(REPO, FILES)
    hub.corrupt.add("model.safetensors")
    good, got = FILES["model.safetensors"], download("model.safetensors").read_bytes()
    assert len(got) == len(good)
    assert sum(a != b for a, b in zip(got, good, strict=True)) == 1
    assert blobs(tmp_path) == [hashlib.sha256(good).hexdigest()]
    assert hub.files(REPO) == FILES
    hub.corrupt.clear()
    assert download("model.safetensors", force_download=True).read_bytes() == good


def test_stop_and_start(hub, api) -> None:
    sha, endpoint = hub.add(REPO, FILES), hub.endpoint
    hub.stop()
    hub.stop()
    with pytest.raises(Exception, match="refused"):
        api.model_info(REPO)
    hub.start()
    with pytest.raises(RuntimeError, match="up already"):
        hub.start()
    assert hub.endpoint == endpoint
    assert api.model_info(REPO).sha == sha
    with pytest.raises(RuntimeError, match="no address"):
        _ = LoopbackHub().endpoint


def small_model() -> citysegzoo.SegmentationModel:
    """A model of 3 MB, which fits a disk of 4 MB once but not twice."""
    torch.manual_seed(0)
    return citysegzoo.create_model("unet", widths=(16, 32, 64, 96, 96), num_classes=19).eval()


def publish(hub: LoopbackHub, folder: Path) -> str:
    saved = small_model().save_pretrained(folder)
    hub.add(REPO, {file.name: file.read_bytes() for file in saved.iterdir()})
    return REPO


def left(folder: Path) -> list[str]:
    """Files that hold weights, or a part of them."""
    return [file.name for file in folder.rglob("*") if file.is_file() and file.stat().st_size > 9e4]


@pytest.mark.slow
def test_full_disk_on_the_command_line(hub, tmp_path: Path, small_disk: Path) -> None:
    """One sentence and status 2, nothing that looks whole, and with space the next run works."""
    source = publish(hub, tmp_path / "saved")
    arguments = ["segment", "--demo", "--model", source, "--output", str(tmp_path / "out")]
    program = f"import sys\nfrom citysegzoo.cli import main\nsys.exit(main({arguments}))"
    done = hub.run(program, small_disk)
    assert done.returncode == 2
    said = re.fullmatch(
        r"citysegzoo: error: model.safetensors of streets/unet could not be fetched, because "
        r"there is no space left in (\S+) \(([\d.]+) MB needed, ([\d.]+) MB free\); make room "
        r"there, or keep downloads on another disk with HF_HOME=.\n",
        done.stderr,
    )
    assert said, done.stderr
    assert Path(said[1]).is_relative_to(small_disk)
    size = len(hub.files(REPO)["model.safetensors"])
    assert 0 <= float(said[2]) * 1e6 - size < 1e5
    assert 0 < float(said[3]) <= 1.1
    assert left(small_disk) == []
    assert not list(small_disk.rglob("model.safetensors"))
    enlarge_disk(small_disk, "16m")
    done = hub.run(program, small_disk)
    assert done.returncode == 0, done.stderr
    assert "demo_street" in done.stdout
    # From here on what is in the cache is good, without the Hub too.
    hub.stop()
    assert hub.run(program, small_disk).returncode == 0


@pytest.mark.slow
def test_disk_without_a_single_free_page(hub, tmp_path: Path, small_disk: Path) -> None:
    """Not even the name of the commit can be written: no trace of it may count later."""
    source = publish(hub, tmp_path / "saved")
    program = (
        f"import citysegzoo\ntry: citysegzoo.load({source!r})\n"
        "except OSError as error: print(error)\nelse: print('loaded')"
    )
    subprocess.run(["dd", "if=/dev/zero", f"of={small_disk / 'filler'}"], capture_output=True)
    assert shutil.disk_usage(small_disk).free == 0
    done = hub.run(program, small_disk)
    assert "there is no space left in" in done.stdout, done.stderr
    assert "config.json of streets/unet" in done.stdout
    (small_disk / "filler").unlink()
    enlarge_disk(small_disk, "16m")
    assert hub.run(program, small_disk).stdout == "loaded\n"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("Data processing error: I/O error: No space left on device (os error 28)"),
    ],
    ids=["disk", "quota", "xet"],
)
def test_full_disk_half_way(
    error: Exception, hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above where no disk can be mounted: the client's writing fails half-way."""
    source = publish(hub, tmp_path / "saved")
    options = {"endpoint": hub.endpoint, "cache_dir": tmp_path / "cache"}

    def full(url: str, file, **_: object) -> None:
        file.write(bytes(100_000))
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.file_download.http_get", full)
        with pytest.raises(
            OSError, match="config.json .* no space left in .*/cache .* needed"
        ) as e:
            citysegzoo.load(source, **options)
    assert "\n" not in str(e.value)
    assert left(tmp_path / "cache") == []
    assert citysegzoo.load(source, **options).num_classes == 19


def test_full_disk_while_saving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was saved before stays, and nothing else is there."""
    model = small_model()
    folder = model.save_pretrained(tmp_path / "model")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    def full(path: Path, *_: object) -> None:
        path.write_bytes(bytes(1000))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "_write_aligned", full)
    with torch.no_grad():
        next(model.parameters()).add_(1)
    with pytest.raises(OSError, match="model.safetensors could not be written, because there is"):
        model.save_pretrained(folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    with pytest.raises(OSError, match="no space left in .* needed.*; make room there, or save to"):
        save_checkpoint(tmp_path / "x.safetensors", model.state_dict(), {})
    assert not (tmp_path / "x.safetensors").exists()


def test_full_disk_while_saving_for_real(
    tmp_path: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder that holds a model keeps it; `citysegzoo convert` ends with status 2."""
    from citysegzoo.cli import main

    model = small_model()
    enlarge_disk(small_disk, "4m")
    folder = model.save_pretrained(small_disk / "model")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with torch.no_grad():
        next(model.parameters()).add_(1)
    for target in (folder, small_disk / "other"):
        with pytest.raises(
            OSError, match=r"no space left in .* MB needed, .* MB free\); make"
        ) as e:
            model.save_pretrained(target)
        assert "\n" not in str(e.value)
    output = small_disk / "converted"
    options = ["--model", "unet.small", "--output", str(output)]
    small = citysegzoo.create_model("unet.small", num_classes=11)
    torch.save(small.state_dict(), tmp_path / "unet.pt")
    assert main(["convert", str(tmp_path / "unet.pt"), *options]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"citysegzoo: error: {output}/model.safetensors could not be written")
    assert said.count("\n") == 1
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert left(small_disk) == ["model.safetensors"]
    assert not any(file.is_file() for file in output.rglob("*"))
    enlarge_disk(small_disk, "32m")
    assert main(["convert", str(tmp_path / "unet.pt"), *options]) == 0


def publish_encoder(hub: LoopbackHub, tag: str, folder: Path) -> None:
    """Weights at random, built and saved by timm as it publishes its own: a whole classifier."""
    published = timm.create_model(tag)
    with torch.no_grad():
        for name, value in published.state_dict().items():
            # All of them: Swin v2 starts with norms of zero, behind which nothing would be seen.
            if name.endswith("running_var"):
                value.uniform_(0.5, 1.5)
            elif value.is_floating_point():
                value.add_(torch.randn_like(value), alpha=0.1 if value.ndim == 1 else 0.01)
    timm.models.save_for_hf(published, folder, safe_serialization=True)
    hub.add(f"timm/{tag}", {file.name: file.read_bytes() for file in folder.iterdir()})


# Images at which each stage of a Swin has several windows. At the published size the last one has
# one, which timm never shifts and the zoo, as segmentation networks do at any size, always does.
# With the channels of images: of several numbers where a network does not take long.
ENCODERS = {
    "vgg16_bn": ("vgg16_bn.tv_in1k", {}, 64, (4,)),
    "swin_tiny": ("swin_tiny_patch4_window7_224.ms_in1k", {"img_size": 448}, 448, (3,)),
    "swinv2_tiny": ("swinv2_tiny_window8_256.ms_in1k", {"img_size": 512}, 512, (3,)),
    "mobilenet_v3_small": ("mobilenetv3_small_100.lamb_in1k", {}, 64, (3, 1, 4)),
    "timm/convnext_atto.d2_in1k": ("convnext_atto.d2_in1k", {}, 64, (3, 1, 4)),
    "timm/tf_efficientnet_lite0.in1k": (  # of 0.5 and 0.5
        "tf_efficientnet_lite0.in1k", {}, 64, (3, 1, 4)
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ENCODERS)
def test_imagenet_encoders(encoder: str, hub, tmp_path: Path) -> None:
    """The features of timm's own network with these weights, whatever the image's channels."""
    tag, options, size, several = ENCODERS[encoder]
    publish_encoder(hub, tag, tmp_path / "published")
    program = f"""
import timm, torch, citysegzoo
for channels in {several}:
    model = citysegzoo.compose(
        {encoder!r}, "unet", num_classes=2, in_channels=channels, encoder_weights=True
    ).eval()
    theirs = timm.create_model(
        {tag!r}, pretrained=True, features_only=True, in_chans=channels, **{options}
    ).eval()
    image = torch.rand(1, channels, {size}, {size})
    with torch.inference_mode():
        expected = theirs(image)
        found = model.encoder(image)
    if getattr(theirs, "output_fmt", "NCHW") == "NHWC":
        expected = [feature.permute(0, 3, 1, 2) for feature in expected]
    for ours, feature in zip(found, expected, strict=True):
        assert feature.std() > 1e-3
        torch.testing.assert_close(ours, feature, rtol=1e-5, atol=1e-5)
    published = timm.get_pretrained_cfg({tag!r})
    assert (model.preprocessing.mean, model.preprocessing.std) == (published.mean, published.std)
    model.save_pretrained({str(tmp_path)!r} + f"/saved{{channels}}")
"""
    done = hub.run(program, tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    file = f"/timm/{tag}/resolve/main/model.safetensors"
    assert sum(r.method == "GET" and r.path == file for r in hub.requests) == 1
    assert {path for _, path, _ in hub.requests} == {file, f"/api/models/timm/{tag}"}
    hub.requests.clear()
    program = f"""
import citysegzoo
for channels in {several}:
    citysegzoo.load({str(tmp_path)!r} + f"/saved{{channels}}")
"""
    done = hub.run(program, tmp_path / "another cache")
    assert done.returncode == 0, done.stderr
    assert hub.requests == []


@pytest.mark.slow
def test_imagenet_weights_of_a_report(hub, tmp_path: Path) -> None:
    """Exactly the set that fixman2024 names, for images of another size than it was made at."""
    tag = "swinv2_base_window8_256.ms_in1k"
    publish_encoder(hub, tag, tmp_path / "published")
    program = f"""
import timm, torch, citysegzoo
model = citysegzoo.create_model("unet_swinv2_base.fixman2024_jnet", encoder_weights=True).eval()
theirs = timm.create_model({tag!r}, pretrained=True, features_only=True, img_size=512).eval()
image = torch.rand(1, 3, 512, 512)
with torch.inference_mode():
    for ours, feature in zip(model.encoder(image), theirs(image), strict=True):
        torch.testing.assert_close(ours, feature.permute(0, 3, 1, 2), rtol=1e-5, atol=1e-5)
model.save_pretrained({str(tmp_path / "saved")!r})
"""
    done = hub.run(program, tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    file = f"/timm/{tag}/resolve/main/model.safetensors"
    assert {path for _, path, _ in hub.requests} == {file, f"/api/models/timm/{tag}"}
    hub.requests.clear()
    program = f"import citysegzoo; citysegzoo.load({str(tmp_path / 'saved')!r})"
    assert hub.run(program, tmp_path / "another cache").returncode == 0
    assert hub.requests == []


@pytest.mark.slow
def test_imagenet_weights_of_smp(hub, tmp_path: Path) -> None:
    """Fetched once, at their commit; said where to get them from where there is no Hub."""
    theirs = smp.encoders.get_encoder("mit_b0").eval()
    content = safetensors.torch.save(theirs.state_dict())
    commit = hub.add("smp-hub/mit_b0.imagenet", {"model.safetensors": content})
    hub.add("smp-hub/mit_b0.imagenet", {"model.safetensors": b"of another time"})
    program = f"""
import torch, citysegzoo
from citysegzoo.encoders import pretrained
pretrained._SMP_COMMITS["mit_b0.imagenet"] = {commit!r}
try:
    model = citysegzoo.create_model("segformer_b0", encoder_weights=True).eval()
except ConnectionError as error:
    print(error)
else:
    print(float(model.encoder(torch.ones(1, 3, 64, 64))[-1].abs().sum()))
"""
    hub.stop()
    said = hub.run(program, tmp_path / "cache")
    assert "not in the cache and could not be fetched" in said.stdout
    file = f"smp-hub/mit_b0.imagenet model.safetensors --revision {commit}"
    assert f"run `hf download {file}` once" in said.stdout
    hub.start()
    for _ in range(2):  # the second time without the Hub
        done = hub.run(program, tmp_path / "cache")
        assert "not for commercial use" in done.stderr
        with torch.inference_mode():
            expected = theirs(torch.ones(1, 3, 64, 64))[-1].abs().sum()
        assert float(done.stdout) == pytest.approx(float(expected), rel=1e-5)
        hub.stop()


@pytest.mark.slow
def test_imagenet_weights_that_do_not_come(hub, tmp_path: Path, small_disk: Path) -> None:
    """One sentence each, at once; and afterwards they come."""
    tag = "mobilenetv3_small_100.lamb_in1k"
    publish_encoder(hub, tag, tmp_path / "published")
    program = f"""
import citysegzoo
try:
    citysegzoo.compose("timm/{tag}", "unet", encoder_weights=True)
except OSError as error:
    print(type(error).__name__, error)
else:
    print("loaded")
"""

    def said() -> str:
        done = hub.run(program, small_disk)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("\n") == 1
        return done.stdout

    full = f"OSError model.safetensors of timm/{tag} could not be fetched, because there is no "
    assert said().startswith(full)
    assert left(small_disk) == []
    enlarge_disk(small_disk, "32m")
    hub.gated[f"timm/{tag}"] = "hf_reader"
    assert said().startswith(f"PermissionError timm/{tag} is gated: accept its terms")
    hub.gated.clear()
    hub.cut_after, hub.reset = 1000, True
    assert said().startswith(f"ConnectionError the weights {tag!r} are not in the cache and could")
    hub.cut_after, hub.reset = None, False
    assert left(small_disk) == []
    hub.stop()
    assert "or build without encoder_weights" in said()
    hub.start()
    assert said() == "loaded\n"
    hub.stop()
    assert said() == "loaded\n"
