"""The real Hugging Face client against the loopback hub, where it works and where it fails.

What is left out takes the client half a minute: a file that is not in the cache, while the hub
answers 408, 429 or 5xx (but 501) or refuses connections, is asked for seven times in 23 seconds.
"""

import hashlib
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from loopback_hub import LoopbackHub, entity_tag, git_blob_id

REPO = "streets/unet"
FILES = {"config.json": b'{"model": "unet.small"}', "model.safetensors": bytes(range(256)) * 40}
CARD = "---\nlibrary_name: citysegzoo\n---\n# A model\n"

pytestmark = pytest.mark.skipif(
    huggingface_hub.is_offline_mode(), reason="HF_HUB_OFFLINE is set: the client asks nobody"
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
    with pytest.raises(RemoteEntryNotFoundError):
        download("weights.pt")
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
