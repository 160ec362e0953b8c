"""Faults of the world around: no home, no space, no memory, no patience, many at once.

What happens in each case is in docs/hardening.md. Each program here runs in a process of its own.
"""

import ast
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from commands import enlarge_disk
from loopback_hub import LoopbackHub

import citysegzoo

ROOT = Path(__file__).parents[1]
MAIN = "import sys; from citysegzoo.cli import main; sys.exit(main(sys.argv[1:]))"
WHERE = "streets/unet"
in_linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc here")


def environment(home: Path | None, **more: str) -> dict[str, str]:
    """That of a user with this home, or none, and no settings for the Hub."""
    known = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "XDG_", "HOME"))}
    places = {} if home is None else {"HOME": str(home)}
    return {**known, "OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1", **places, **more}  # fmt: skip


def start(
    program: str,
    *words: str | Path,
    home: Path | None = None,
    prepare: Callable[[], None] | None = None,
    **more: str,
) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, words)],
        env=environment(home, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=prepare,
    )


def command(*words: str | Path, **more: object) -> tuple[int, str, str]:
    """Exit status, output and errors of a command."""
    process = start(MAIN, *words, **more)
    out, err = process.communicate(timeout=300)
    assert "Traceback" not in err
    return process.returncode, out, err


def half_written(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if path.is_file() and ".part" in path.name]


def assert_results(folder: Path, names: list[str]) -> None:
    """Every file that is there is whole, and there are no others."""
    for file in folder.iterdir():
        assert file.stem.rpartition("_")[0] in names, file
        with PIL.Image.open(file) as image:
            image.load()


@pytest.fixture
def model() -> citysegzoo.SegmentationModel:
    torch.manual_seed(0)
    return citysegzoo.create_model("unet", widths=(4, 8, 8, 8, 8), num_classes=11).eval()


@pytest.fixture
def saved(model: citysegzoo.SegmentationModel, tmp_path: Path) -> Path:
    return model.save_pretrained(tmp_path / "saved")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(40):
        noise = np.random.default_rng(i).integers(0, 256, (64, 96, 3), np.uint8)
        PIL.Image.fromarray(noise).save(folder / f"street{i}.png")
    return folder


# --- pickles, secrets


def test_no_pickle_is_read_without_weights_only() -> None:
    """The source itself: every torch.load has weights_only=True, and nothing else unpickles."""
    loads = 0
    for file in [*(ROOT / "citysegzoo").rglob("*.py"), *(ROOT / "examples").glob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [getattr(node, "module", None), *(alias.name for alias in node.names)]
                unsafe = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal"}
                assert not unsafe & set(names), file
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                assert name not in ("eval", "exec", "torch.hub.load", "yaml.load"), (file, name)
                if not name.endswith(("load", "load_state_dict_from_url")):
                    continue
                given = {k.arg: ast.unparse(k.value) for k in node.keywords}
                if name in ("torch.load", "torch.hub.load_state_dict_from_url"):
                    loads += 1
                    assert given.get("weights_only") == "True", (file, node.lineno)
                if name.endswith(("np.load", "numpy.load")):
                    assert given.get("allow_pickle", "False") == "False", (file, node.lineno)
    assert loads >= 2


@pytest.mark.slow
@pytest.mark.parametrize("status", [0, 401, 403, 404, 429, 500])
def test_secrets_are_not_printed(status: int, saved: Path, tmp_path: Path) -> None:
    token = "hf_" + "Secret" * 6
    with LoopbackHub() as hub:
        hub.fail["/api/"] = status
        publish = ("publish", saved, "someone/unet")
        segment = ("segment", "--demo", "--model", "someone/unet", "--output", tmp_path / "out")
        # Tracebacks where there are some of several kinds.
        debugged = [("--debug", *publish), ("--debug", *segment)] if status in (0, 401) else []
        for words in (publish, segment, *debugged):
            process = start(MAIN, *words, home=tmp_path, HF_TOKEN=token, HF_ENDPOINT=hub.endpoint)
            out, err = process.communicate(timeout=300)
            assert process.returncode == (1 if words[0] == "--debug" else 2), err
            assert token not in out + err
            assert token[3:] not in out + err
        # It did go where it should.
        assert any(token in request.headers.get("authorization", "") for request in hub.requests)


# --- memory


def bomb(path: Path, width: int, height: int) -> Path:
    """A PNG of black pixels that is small on disk, written without ever being in memory."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    deflate = zlib.compressobj(9)
    row = bytes(1 + width)
    data = b"".join(deflate.compress(row) for _ in range(height)) + deflate.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )
    return path


READ = """
import resource, sys, warnings
from pathlib import Path
from citysegzoo.images import read_image
warnings.simplefilter("ignore")
def status(name):  # in KiB; getrusage's peak begins at that of the process that started this one
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))
before = status("VmRSS")
limit = status("VmSize") * 1024 + int(sys.argv[2]) * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    print("read", read_image(sys.argv[1]).shape)
except (MemoryError, ValueError) as error:
    print(error)
print((status("VmHWM") - before) // 1024)
"""


def read_within(path: Path, mebibytes: int) -> tuple[str, int]:
    """What reading an image says, and the MiB it took, with so many at its disposal."""
    process = start(READ, path, str(mebibytes))
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    said, taken = out.splitlines()
    return said, int(taken)


@in_linux
def test_a_decompression_bomb_is_refused_unread(tmp_path: Path) -> None:
    said, taken = read_within(bomb(tmp_path / "bomb.png", 50_000, 5_000), 500)
    assert "more pixels than Pillow opens for safety" in said
    assert taken < 100


@pytest.mark.slow
@in_linux
def test_100_megapixels_take_memory_in_proportion(tmp_path: Path) -> None:
    """At most 16 bytes for each pixel, of which the array is 3."""
    said, taken = read_within(bomb(tmp_path / "large.png", 10_000, 10_000), 1600)
    assert said == "read (10000, 10000, 3)"
    assert taken > 290


@pytest.mark.slow
@in_linux
def test_an_image_that_does_not_fit_into_memory(tmp_path: Path) -> None:
    said, _ = read_within(bomb(tmp_path / "large.png", 10_000, 10_000), 250)
    assert "does not fit into memory; make it smaller" in said


@pytest.mark.slow
@in_linux
def test_100_megapixels_are_segmented_in_tiles(saved: Path, tmp_path: Path) -> None:
    """Whole it is too large, which is said, and what to do; in tiles it fits."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))

    photo = bomb(tmp_path / "large.png", 10_000, 10_000)
    words = ("segment", photo, "--model", saved, "--output", tmp_path / "out")
    status, _, err = command(*words, prepare=limit)
    assert status == 2
    assert "large.png could not be segmented, as there is not enough memory for it" in err
    assert "--tile 1024" in err
    assert not list((tmp_path / "out").iterdir())
    status, _, err = command(*words, "--tile", "1024", prepare=limit)
    assert status == 0, err
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "large_labels.png",
        "large_overlay.jpg",
    }


# --- a home that is not there, a network that is not there


@pytest.mark.slow
@pytest.mark.parametrize("home", ["none", "missing", "a file", "read-only"])
def test_bundled_weights_need_no_home(home: str, tmp_path: Path) -> None:
    place: Path | None = tmp_path / "home"
    assert place is not None
    if home == "none":
        place = None
    elif home == "a file":
        place.write_text("")
    elif home == "read-only":
        place.mkdir(mode=0o500)
    status, out, err = command(
        "segment", "--demo", "--output", tmp_path / "out", home=place,
        HF_ENDPOINT="http://127.0.0.1:9",
    )  # fmt: skip
    assert status == 0, err
    assert "demo_street" in out
    if home == "read-only":
        assert not list(place.iterdir())


@pytest.mark.slow
def test_downloads_where_nothing_can_be_kept(tmp_path: Path, saved: Path) -> None:
    home = tmp_path / "home"
    home.write_text("")  # a file, which stops root as well
    with LoopbackHub() as hub:
        hub.add(WHERE, {file.name: file.read_bytes() for file in saved.iterdir()})
        status, _, err = command("segment", "--demo", "--model", WHERE, "--output",
                                 tmp_path / "out", home=home, HF_ENDPOINT=hub.endpoint)  # fmt: skip
    assert status == 2
    assert err.count("error: ") == 1
    assert WHERE in err
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


# --- space


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 1000, 3000])
def test_files_that_may_not_be_large(size: int, saved: Path, photos: Path, tmp_path: Path) -> None:
    """A quota, as RLIMIT_FSIZE is one: what does not fit is named, nothing half-written stays."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    out = tmp_path / "out"
    words = ("segment", photos, "--model", saved, "--output", out)
    status, _, err = command(*words, prepare=limit)
    assert status == 2
    assert "error: " in err
    assert not half_written(tmp_path)
    assert_results(out, [f"street{i}" for i in range(40)])
    status, _, err = command(*words)
    assert status == 0, err
    assert len(list(out.iterdir())) == 80


@pytest.mark.slow
def test_a_disk_that_fills_up(saved: Path, tmp_path: Path, small_disk: Path) -> None:
    """A real one: what does not fit is named, what is there is whole, with space all is done."""
    photos, names = tmp_path / "photos", [f"street{i}" for i in range(6)]
    photos.mkdir()
    for i, name in enumerate(names):
        noise = np.random.default_rng(i).integers(0, 256, (480, 640, 3), np.uint8)
        PIL.Image.fromarray(noise).save(photos / f"{name}.png")
    out = small_disk / "out"
    words = ("segment", photos, "--model", saved, "--output", out)
    status, _, err = command(*words)
    assert status == 2
    assert "no space left" in err
    assert not half_written(small_disk)
    assert_results(out, names)
    enlarge_disk(small_disk, "16m")
    status, _, err = command(*words)
    assert status == 0, err
    assert len(list(out.iterdir())) == 12


# --- interruptions


def interrupt(process: "subprocess.Popen[str]", how: int, after: float) -> tuple[int, str]:
    time.sleep(after)
    process.send_signal(how)
    _, err = process.communicate(timeout=120)
    return process.returncode, err


def begun(process: "subprocess.Popen[str]", folder: Path) -> None:
    """Wait until something of its work is there, or it has ended."""
    while process.poll() is None and not (folder.is_dir() and any(folder.iterdir())):
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_segment_stopped_at_random(
    how: signal.Signals, saved: Path, photos: Path, tmp_path: Path
) -> None:
    """No file under its name is ever half-written, and the same command again does all."""
    chance = random.Random(how)
    names = [f"street{i}" for i in range(40)]
    words = ("segment", photos, "--model", saved)
    for round_ in range(3):
        out = tmp_path / f"out{round_}"
        process = start(MAIN, *words, "--output", out)
        if round_:  # else it is stopped while it begins
            begun(process, out)
        status, err = interrupt(process, how, chance.random() * 0.2)
        if status not in (0, -how):
            assert (how, status) == (signal.SIGINT, 130), err
            assert err.splitlines()[-1] == "citysegzoo: interrupted."
            assert "Traceback" not in err
        if how == signal.SIGINT:
            assert not half_written(tmp_path)
        for part in half_written(tmp_path):  # of a process that was killed: hidden, no result
            part.unlink()
        if out.exists():
            assert_results(out, names)
    status, _, err = command(*words, "--output", out)
    assert status == 0, err
    assert len(list(out.iterdir())) == 80


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_publish_stopped_at_random(how: signal.Signals, saved: Path, tmp_path: Path) -> None:
    """A repository has all files of a model or none, and publishing again succeeds."""
    chance = random.Random(how)
    place = tmp_path / "tmp"
    place.mkdir()
    with LoopbackHub() as hub:
        more = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": "hf_t", "TMPDIR": str(place)}
        for round_ in range(3):
            name = f"someone/unet{round_}"
            process = start(MAIN, "publish", saved, name, home=tmp_path, **more)
            seen = len(hub.requests)
            while process.poll() is None and len(hub.requests) == seen:
                time.sleep(0.01)
            status, err = interrupt(process, how, chance.random() * 0.3)
            assert status in (0, 130, -how), err
            files = set(hub.files(name)) if any(name in r.path for r in hub.requests) else set()
            wanted = {"model.safetensors", "config.json", "README.md"}
            assert not wanted & files or wanted <= files
            if how == signal.SIGINT:
                assert not list(place.iterdir())
            status, _, err = command("publish", saved, name, home=tmp_path, **more)
            assert status == 0, err
            assert wanted <= set(hub.files(name))


# --- many at once


@pytest.mark.slow
def test_processes_share_a_cache_and_a_folder(saved: Path, tmp_path: Path) -> None:
    """Four at once fetch the same model and write the same results."""
    out, home = tmp_path / "out", tmp_path / "home"
    home.mkdir()
    with LoopbackHub() as hub:
        hub.add(WHERE, {file.name: file.read_bytes() for file in saved.iterdir()})
        words = ("segment", "--demo", "--model", WHERE, "--output", out)
        running = [start(MAIN, *words, home=home, HF_ENDPOINT=hub.endpoint) for _ in range(4)]
        for process in running:
            _, err = process.communicate(timeout=300)
            assert process.returncode == 0, err
    assert sorted(file.name for file in out.iterdir()) == [
        "demo_street_labels.png",
        "demo_street_overlay.jpg",
    ]
    assert_results(out, ["demo_street"])
    # What is in the cache is good, without the Hub too.
    status, _, err = command(*words, home=home, HF_HUB_OFFLINE="1")
    assert status == 0, err


THREADS = """
import sys, threading
import citysegzoo
names = [name for name in citysegzoo.__all__ if name != "__version__"]
models = ["unet", "segnet_basic", "fcn_resnet18", "deeplabv3_resnet18", "segformer_b0"]
barrier, wrong = threading.Barrier(16), []

def first(i):
    barrier.wait()
    try:
        if i % 2:
            for name in names[i:] + names[:i]:
                assert getattr(citysegzoo, name) is not None
        else:
            import torch
            with torch.device("meta"):
                assert citysegzoo.create_model(models[i // 2 % 5], num_classes=3).num_classes == 3
        assert len(citysegzoo.list_models()) == len(set(citysegzoo.list_models())) > 50
    except BaseException as error:
        wrong.append((i, repr(error)))

threads = [threading.Thread(target=first, args=(i,)) for i in range(16)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(wrong)
sys.exit(bool(wrong))
"""


@pytest.mark.slow
@pytest.mark.parametrize("round_", range(6))
def test_first_use_in_many_threads(round_: int) -> None:
    """Lazy imports and the registry, which is filled by them, while all threads ask at once."""
    process = start("import sys; sys.setswitchinterval(1e-5)\n" + THREADS)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err


PROCESSES = """
import multiprocessing, sys
import citysegzoo

def build(name):
    import torch
    torch.set_num_threads(1)
    model = citysegzoo.create_model(name, num_classes=3)
    return model.name, len(citysegzoo.list_models())

if __name__ == "__main__":
    if sys.argv[2] == "used":  # the parent has it all imported
        citysegzoo.list_models()
    names = ["unet.small", "segnet_basic", "fcn_resnet18", "segformer_b0"]
    with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
        built = pool.map(build, names, chunksize=1)
    assert [name for name, _ in built] == names, built
    assert len({count for _, count in built}) == 1
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("parent", ["fresh", "used"])
def test_processes_of_a_process(method: str, parent: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROCESSES)
    done = subprocess.run(
        [sys.executable, program, method, parent],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
