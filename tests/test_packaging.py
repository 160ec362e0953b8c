"""What is installed: the wheel, its dependencies, the citation."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

import citysegzoo

ROOT = Path(__file__).parents[1]
BUNDLED = "citysegzoo/weights/bundled/unet_resnet18.street.camvid.safetensors"


def pyproject() -> dict:
    tomllib = pytest.importorskip("tomllib")  # of Python 3.11
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


# --- wheel and sdist


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", folder],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return folder


def test_the_wheel_has_what_it_needs_and_no_more(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    assert wheel.stat().st_size < 40e6
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {BUNDLED, "citysegzoo/data/demo_street.jpg", "citysegzoo/py.typed"} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "citysegzoo").rglob("*.py")}
    assert modules <= names
    for name in names:
        assert name.startswith("citysegzoo"), name
        assert not {"tests", "__pycache__", "benchmarks", "runs"} & set(Path(name).parts), name
        assert Path(name).suffix not in (".pyc", ".pt", ".part"), name


def test_the_sdist_can_be_tested(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    assert sdist.stat().st_size < 40e6
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"README.md", "LICENSE", "CITATION.cff", "CONTRIBUTING.md", "pyproject.toml", BUNDLED}
    wanted |= {"tests/test_packaging.py", "examples/train.py", "docs/index.md"}
    assert wanted <= names
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]


def require_pip() -> None:
    """Skip where there is no pip, which is not imported: setuptools would leave distutils alone.

    Then torch.compile, where it runs first after that in this process, meets Python's own one,
    whose warning is an error here.
    """
    command = [sys.executable, "-m", "pip", "--version"]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("there is no pip here")


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["*.whl", "*.tar.gz"], ids=["wheel", "sdist"])
def test_what_is_installed_segments(pattern: str, built: Path, tmp_path: Path) -> None:
    """In an environment of its own, with the dependencies of this one."""
    require_pip()
    hatchling = pytest.importorskip("hatchling")
    (package,) = built.glob(pattern)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True).stdout
    # A folder named so is on the path, but an editable install in it is not looked at.
    here = sorted({str(Path(module.__file__).parents[1]) for module in (torch, pytest, hatchling)})
    Path(site.strip(), "dependencies.pth").write_text("\n".join(here))
    # What is installed among the dependencies is another one.
    install = ["install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    install += ["--ignore-installed", package]
    subprocess.run([sys.executable, "-m", "pip", "--python", python, *install], check=True)

    def said(*words: str | Path) -> str:
        done = subprocess.run(
            words,
            cwd=tmp_path,
            env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = said(python, "-c", "import citysegzoo; print(citysegzoo.__file__)")
    assert Path(where.strip()).is_relative_to(tmp_path)
    assert "unet.small" in said(python, "-m", "citysegzoo", "models")
    out = said(python.with_name("citysegzoo"), "segment", "--demo", "--output", "out")
    assert "road" in out
    assert len(list((tmp_path / "out").iterdir())) == 2


# --- dependencies


def floors(requirements: list[str]) -> dict[str, str]:
    """The lowest version of each dependency, all of which have one."""
    found = {}
    for requirement in requirements:
        match = re.fullmatch(r"([\w.-]+)(?:\[\w+\])?>=([\d.]+)", requirement)
        assert match, f"{requirement} has no lowest version"
        found[match[1]] = match[2]
    return found


# Package -> the first version without a fault that files from others could use, and its advisory.
REPAIRED = {
    "torch": ("2.6", "CVE-2025-32434: torch.load ran code in spite of weights_only"),
    "pillow": ("10.3", "CVE-2024-28219: a buffer overflow"),
    "tqdm": ("4.66.3", "CVE-2024-34062: arguments of its command line were evaluated"),
}


def test_floors_have_known_repairs() -> None:
    lowest = floors(pyproject()["project"]["dependencies"])
    for name, (version, advisory) in REPAIRED.items():
        assert numbers(lowest[name]) >= numbers(version), advisory


def numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version.partition("+")[0])[:3]))


def test_floors_agree() -> None:
    from importlib.metadata import version

    project = pyproject()["project"]
    lowest = floors(project["dependencies"])
    for name, floor in lowest.items():
        assert numbers(version(name)) >= numbers(floor), name
    # A torchvision is made for one PyTorch.
    assert numbers(lowest["torchvision"])[1] == numbers(lowest["torch"])[1] + 15
    extras = {key: floors(value) for key, value in project["optional-dependencies"].items()}
    for extra in extras.values():
        for name, floor in extra.items():
            for other in (lowest, *extras.values()):
                assert other.get(name, floor) == floor, name


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info >= (3, 12), reason="NumPy's floor has no wheel for it")
def test_floors_can_be_installed() -> None:
    """Together, from the package registry, of which no file is fetched."""
    require_pip()
    pins = [f"{k}=={v}" for k, v in floors(pyproject()["project"]["dependencies"]).items()]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed",
         "--only-binary", ":all:", "--retries", "0", *pins],
        capture_output=True,
        text=True,
    )  # fmt: skip
    if re.search("connection|resolution|retries", done.stderr, re.IGNORECASE):
        pytest.skip("the package registry cannot be reached")
    assert done.returncode == 0, done.stderr
    assert f"torch-{floors(pyproject()['project']['dependencies'])['torch']}" in done.stdout


# --- citation


def test_the_citation_is_of_this_version() -> None:
    yaml = pytest.importorskip("yaml")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors", "type"} <= citation.keys()
    assert citation["version"] == citysegzoo.__version__ == pyproject()["project"]["version"]
    assert citation["license"] == pyproject()["project"]["license"]
    for reference in citation["references"]:
        assert {"type", "title", "year", "authors"} <= reference.keys()
        assert all(author.keys() == {"family-names", "given-names"}
                   for author in reference["authors"])  # fmt: skip
    cited = " ".join(reference["notes"] for reference in citation["references"])
    for name in citysegzoo.list_models():
        assert re.match(r"[a-z]+\d?(plus)?", name)[0].partition("v3")[0] in cited, name
