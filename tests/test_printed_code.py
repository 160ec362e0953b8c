"""Every command that the README and the docs print is one that its program takes.

Those that take seconds are run as well, on small stand-ins for the data they name, and so is the
Python that needs such data, the Hub or another library; tests/test_docs.py runs the rest.
"""

import argparse
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from loopback_hub import LoopbackHub
from PIL import Image
from safetensors.torch import save

import citysegzoo
from citysegzoo.cli import main as citysegzoo_command
from citysegzoo.data import CAMVID_11, DEMO_IMAGE, draw_streets
from citysegzoo.data.labels import CITYSCAPES_CLASSES
from citysegzoo.pretrained import save_pretrained
from citysegzoo.registry import DECODERS, ENCODERS, LOSSES, MODELS

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
SHELL = re.compile(r"^```(?:bash|sh|text)\n(.*?)^```", re.S | re.M)

# Of other programs, which this repository has no parser of; who tries them instead.
FOREIGN = {
    "pip": ".ci/run and tests/test_packaging.py install",
    "pytest": ".ci/run",
    ".ci/matrix": "run by hand: it needs other Pythons",
    "PYTHONS=3.12": "as .ci/matrix",
    "hf": "huggingface_hub's own",
    "git": "git's own",
    "mkdir": "the shell's own",
    "export": "the shell's own",
    ".ci/audit": "run by hand: it needs a network",
}


def words_of(block: str) -> list[list[str]]:
    """The commands of a block: lines that begin with a program, those of torchrun without it."""
    found = []
    for line in re.sub(r"\\\n\s*", "", block).splitlines():
        words = shlex.split(line.split(" && ")[0].split(" > ")[0], comments=True)
        if words[:1] == ["torchrun"]:
            words = ["python", *words[2:]]
        if words and "..." not in words:
            found.append(words)
    return found


def ours(page: Path) -> list[list[str]]:
    """The commands of a page whose programs are in this repository."""
    commands = [words for block in SHELL.findall(page.read_text()) for words in words_of(block)]
    return [words for words in commands if words[0] in ("python", "citysegzoo")]


PRINTED = {str(page.relative_to(ROOT)): ours(page) for page in PAGES if ours(page)}


# The command of bundled weights, of an older train.py; the page says so.
HISTORICAL = "--model unet.small --root camvid --output runs/unet-small --epochs 100"


class ParsedError(BaseException):
    """The words were taken; nothing is to be done with them. Not caught as errors are."""


@pytest.fixture
def only_parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(self, *given, **more):
        parse(self, *given, **more)
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    citysegzoo.list_models(), citysegzoo.losses.list_losses()  # all that is registered by itself
    for registry in (DECODERS, ENCODERS, LOSSES, MODELS):  # what a script registers is gone then
        monkeypatch.setattr(registry, "_builders", dict(registry._builders))


def start(name: str, arguments: list[str]) -> int:
    if name == "citysegzoo":
        return citysegzoo_command(arguments)
    runpy.run_path(str(ROOT / name), run_name="__main__")
    return 0


@pytest.mark.usefixtures("only_parsing")
@pytest.mark.parametrize("page", PRINTED)
def test_programs_take_what_is_printed(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for words in PRINTED[page]:
        if " ".join(words).endswith(HISTORICAL):
            continue
        name, *arguments = words[1:] if words[0] == "python" else words
        if words[0] == "python" and not re.search("argparse|sweep", (ROOT / name).read_text()):
            assert not arguments, words
            continue
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        with pytest.raises(ParsedError):
            start(name, arguments)


def test_no_printed_line_is_overlooked() -> None:
    """Each line of a bash or sh block is a command of ours, or of a program that is listed."""
    shell = re.compile(r"^```(?:bash|sh)\n(.*?)^```", re.S | re.M)
    blocks = [block for page in PAGES for block in shell.findall(page.read_text())]
    programs = {words[0] for block in blocks for words in words_of(block)}
    assert programs == {"python", "citysegzoo", *FOREIGN}
    assert sum(map(len, PRINTED.values())) >= 80


# Of the citysegzoo commands, what is not run here; tests/test_examples.py runs the examples.
NOT_RUN = {
    "benchmark": "minutes: tests/test_benchmark.py",
    "compare street.jpg --models segformer_b0": "weights of the Hub: tests/test_hub.py",
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the commands name."""
    root = tmp_path_factory.mktemp("printed")
    draw_streets(root / "cityscapes", images=2, size=(64, 128))
    for name in ("street.jpg", "photo.jpg", "holiday/one.jpg", "own/images/val/b.jpg"):
        (root / name).parent.mkdir(exist_ok=True, parents=True)
        Image.open(DEMO_IMAGE).resize((128, 96)).save(root / name)
    (root / "own" / "labels" / "val").mkdir(parents=True)
    classes = np.random.default_rng(0).integers(0, 11, (96, 128), np.uint8)
    Image.fromarray(classes).save(root / "own" / "labels" / "val" / "b.png")
    for split, images in (("train", 367), ("val", 101), ("test", 233)):
        for folder in (split, f"{split}annot"):
            (root / "camvid" / folder).mkdir(parents=True)
        for i in range(images):
            name = f"0001TP_{i:06}.png"
            noise = np.random.default_rng(i).integers(0, 11, (64, 64), np.uint8)
            Image.fromarray(noise).save(root / "camvid" / f"{split}annot" / name)
            Image.fromarray(20 * noise).convert("RGB").save(root / "camvid" / split / name)
    torch.manual_seed(0)
    model = citysegzoo.create_model("unet", widths=(4, 8, 8, 8, 8), num_classes=11)
    model.labels = CAMVID_11
    card = {"data": "nothing", "licence": "CC BY-NC 4.0", "source": "a test"}
    for name in ("pruned_30", "pruned_50", "runs/mine"):
        save_pretrained(model, root / name, card=card)
    for name in ("mine", "dl2", "own"):
        save_pretrained(model, root / "runs" / name / "best.safetensors", card=card)
    shutil.copytree(root / "cityscapes" / "gtFine" / "val", root / "GROUNDTRUTH")
    (root / "PREDICTIONS").mkdir()
    train_ids = np.asarray([max(label.train_id, 0) for label in CITYSCAPES_CLASSES], np.uint8)
    for ids in [*(root / "GROUNDTRUTH").rglob("*_gtFine_labelIds.png")]:
        labels = ids.with_name(ids.name.replace("labelIds", "labelTrainIds"))
        Image.fromarray(train_ids[np.asarray(Image.open(ids))]).save(labels)
        shutil.copy(labels, root / "PREDICTIONS")
    (root / "citysegzoo").symlink_to(ROOT / "citysegzoo")
    return root


@pytest.fixture
def place(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, in which the commands are given."""
    root = shutil.copytree(prepared, tmp_path / "place", symlinks=True)
    monkeypatch.chdir(root)
    monkeypatch.setenv("HOME", str(root))
    (root / ".config" / "fish" / "completions").mkdir(parents=True)
    return root


def is_run(words: list[str]) -> bool:
    line = " ".join(words[1:])
    if words[0] == "python":
        return words[1] == "examples/draw_demo_scene.py"  # which the page goes on with
    return not any(line.startswith(start) for start in NOT_RUN)


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page, commands in PRINTED.items() if any(map(is_run, commands))]
)
@pytest.mark.usefixtures("place")
def test_printed_commands_run(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if page == "docs/weights.md":
        network = pytest.importorskip("torchvision").models.segmentation.deeplabv3_resnet101(
            weights_backbone=None, num_classes=19
        )
        torch.save(network.state_dict(), "deeplabv3.pth")
    for words in filter(is_run, PRINTED[page]):
        name, *arguments = words[1:] if words[0] == "python" else words
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        assert start(name, arguments) == 0, words


NEEDY = {
    str(page.relative_to(ROOT)): re.findall(
        r"^```(?:python|py)\n(.*?)^```", page.read_text(), re.S | re.M
    )
    for page in PAGES
    if "```py\n" in page.read_text()
}


@pytest.mark.slow
@pytest.mark.parametrize("page", NEEDY)
@pytest.mark.usefixtures("place")
def test_python_that_needs_more_than_the_zoo_runs(page: str, tmp_path: Path) -> None:
    """All blocks of a page as one program, in a process of its own, beside a Hub of its own."""
    program = "import os, torch, citysegzoo\nos.environ['HF_TOKEN'] = 'hf_t'\n"
    with LoopbackHub() as hub:
        if page == "docs/weights.md":
            program += publish_what_it_names(hub)
        if page == "docs/export.md":
            pytest.importorskip("onnxruntime")
        if page == "docs/datasets/cityscapes.md":  # which has more coarse images
            for folder in ("leftImg8bit", "gtCoarse"):
                shutil.copytree(f"cityscapes/{folder}/train", f"cityscapes/{folder}/train_extra")
        done = hub.run(program + "\n".join(NEEDY[page]), tmp_path / "cache")
    assert done.returncode == 0, done.stderr


def publish_what_it_names(hub: LoopbackHub) -> str:
    """SegFormer in the layout of its authors, encoders in timm's and smp's, all drawn at random.

    Returns the line that tells the zoo the commit which smp's weights have there.
    """
    timm, transformers = (pytest.importorskip(name) for name in ("timm", "transformers"))
    smp = pytest.importorskip("segmentation_models_pytorch")
    config = transformers.SegformerConfig(
        num_labels=19, depths=[2, 2, 2, 2], hidden_sizes=[32, 64, 160, 256], decoder_hidden_size=256
    )
    transformers.SegformerForSemanticSegmentation(config).save_pretrained("theirs")
    weights = Path("theirs/model.safetensors").read_bytes()
    hub.add("nvidia/segformer-b0-finetuned-cityscapes-1024-1024", {"model.safetensors": weights})
    for name, tag in (("resnet101", "tv_in1k"), ("resnet50", "a1_in1k")):
        state = timm.create_model(name).state_dict()
        hub.add(f"timm/{name}.{tag}", {"model.safetensors": save(state)})
    mix = smp.encoders.get_encoder("mit_b0").state_dict()
    commit = hub.add("smp-hub/mit_b0.imagenet", {"model.safetensors": save(mix)})
    commits = "citysegzoo.encoders.pretrained._SMP_COMMITS"
    return f"import citysegzoo.encoders.pretrained\n{commits}['mit_b0.imagenet'] = {commit!r}\n"


def test_every_fence_is_of_a_language_that_is_tried() -> None:
    """C++ alone is not: there is no compiler and no header of ONNX Runtime to count on."""
    fences = re.findall(r"^```(\w+)$", "\n".join(page.read_text() for page in PAGES), re.M)
    assert {*fences} == {"python", "py", "bash", "sh", "text", "cpp"}
    assert fences.count("cpp") == 1
