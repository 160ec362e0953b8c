"""The docs say what is so: their code runs as printed, their generated page is up to date."""

import importlib.util
import re
import sys
from contextlib import nullcontext
from decimal import ROUND_HALF_UP, Decimal
from itertools import groupby
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

import citysegzoo
from citysegzoo.data import CAMVID_11
from citysegzoo.data.labels import CITYSCAPES_CLASSES

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.rglob("*.md")])
CODE = {
    str(page.relative_to(ROOT)): re.findall(r"^```python\n(.*?)^```", page.read_text(), re.S | re.M)
    for page in PAGES
}

# The modules whose public names all are in the reference.
PARTS = ("data", "decoders", "encoders", "inference", "losses", "metrics", "reports", "training")
MODULES = [f"citysegzoo.{part}" for part in (*PARTS, "visualize", "weights")]


LARGE = "docs/index.md"  # ResNet-101 on two images


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name == LARGE))
        for name, blocks in CODE.items()
        if blocks
    ],
)
def test_python_blocks_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page's blocks run as printed, one after the other."""
    run_blocks(CODE[page], tmp_path, monkeypatch)


def test_python_blocks_run_with_a_smaller_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = CODE[LARGE]
    for printed, smaller in (("resnet101", "resnet18"), ("361, 481", "65, 97")):
        assert any(printed in block for block in blocks)
        blocks = [block.replace(printed, smaller) for block in blocks]
    run_blocks(blocks, tmp_path, monkeypatch)


def run_blocks(blocks: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from citysegzoo.registry import DECODERS, ENCODERS, LOSSES, MODELS

    monkeypatch.chdir(tmp_path)
    (
        citysegzoo.list_models(),
        citysegzoo.losses.list_losses(),
    )  # what is imported later would be registered in the copies
    for registry in (DECODERS, ENCODERS, LOSSES, MODELS):
        monkeypatch.setattr(registry, "_builders", dict(registry._builders))
    Image.fromarray(np.full((64, 96, 3), 120, np.uint8)).save("street.jpg")
    names: dict[str, object] = {}
    for block in blocks:
        for raises, lines in groupby(block.splitlines(), lambda line: "# TypeError" in line):
            with pytest.raises(TypeError, match="did you mean") if raises else nullcontext():
                exec("\n".join(lines), names)


def test_extending_takes_few_lines() -> None:
    """An encoder, a decoder and a model, each in under 40."""
    lengths = [len(block.splitlines()) for block in CODE["docs/extending.md"]]
    assert len(lengths) >= 3
    assert max(lengths) < 40


def test_there_are_blocks_to_run() -> None:
    assert sum(len(blocks) for blocks in CODE.values()) >= 8


def script(name: str) -> ModuleType:
    """A script beside the docs."""
    if str(DOCS) not in sys.path:  # as when it is run
        sys.path.insert(0, str(DOCS))
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_report_pages_are_up_to_date() -> None:
    pages = script("write_reports").pages()
    assert {path.stem for path in pages} == {"reports", *citysegzoo.reports.list_reports()}
    for path, text in pages.items():
        assert path.read_text() == text, "run: python docs/write_reports.py"


def test_every_reported_model_is_on_its_page() -> None:
    for report in citysegzoo.reports.REPORTS.values():
        page = (DOCS / "reports" / f"{report.key}.md").read_text()
        for variant in report.variants:
            assert f"| `{variant.name}` |" in page


ZOO = {
    line.split("`")[1]: line
    for line in (DOCS / "zoo.md").read_text().splitlines()
    if line.startswith("| `")
}


def test_every_model_is_in_the_zoo_page_once_and_in_order() -> None:
    assert list(ZOO) == citysegzoo.list_models(), "run: python docs/write_zoo.py"
    assert f"All {len(ZOO)} names" in (DOCS / "zoo.md").read_text()


@pytest.mark.parametrize("name", ["unet.small", "fcn.xiang2020_dice", "segformer_b1"])
def test_the_zoo_page_is_up_to_date(name: str) -> None:
    assert ZOO[name] == script("write_zoo").row(name), "run: python docs/write_zoo.py"


def test_the_drawings_are_up_to_date() -> None:
    for path, text in script("draw_networks").drawings().items():
        assert path.read_text() == text, "run: python docs/draw_networks.py"
        assert len(text) < 15_000
        assert f"images/{path.name}" in (DOCS / "parts.md").read_text()


@pytest.mark.parametrize("name", ["strided_conv", "resnet18"])
def test_the_receptive_fields_are_up_to_date(name: str) -> None:
    draw = script("draw_networks")
    line = draw.row(name, draw.MEASURED[name])
    assert line in draw.PAGE.read_text().splitlines(), "run: python docs/draw_networks.py"


@pytest.mark.slow
def test_all_receptive_fields_are_up_to_date() -> None:
    draw = script("draw_networks")
    text = draw.PAGE.read_text()
    assert text == draw.page(text), "run: python docs/draw_networks.py"


def test_every_public_name_is_in_the_reference() -> None:
    """By itself, or with all of the module that it is in."""
    covered = set()
    for page in (DOCS / "api").glob("*.md"):
        for path in re.findall(r"^::: ([\w.]+)$", page.read_text(), re.M):
            whole = importlib.import_module(path).__all__ if path in MODULES else ()
            covered |= {path.rpartition(".")[2], *whole}
    parts = [importlib.import_module(path) for path in MODULES]
    names = {name for part in (citysegzoo, *parts) for name in part.__all__}
    modules = {path.rpartition(".")[2] for path in MODULES}
    assert names - covered - modules == {"__version__"}


@pytest.mark.slow
def test_the_whole_zoo_page_is_up_to_date() -> None:
    write = script("write_zoo")
    assert write.PAGE.read_text() == write.page(), "run: python docs/write_zoo.py"


def test_the_zoo_page_counts_as_others_do() -> None:
    """torchvision counts multiply-adds, on 520x520 with the auxiliary head that is not ours."""
    from torchvision.models.segmentation import DeepLabV3_ResNet101_Weights as Weights

    meta = Weights.COCO_WITH_VOC_LABELS_V1.meta
    head = 65 * 65 * (9 * 1024 * 256 + 256 * 21) / 1e9
    theirs = 2 * (meta["_ops"] - head) * 512 * 1024 / (520 * 520)
    ours = float(ZOO["deeplabv3_resnet101"].split("|")[5])
    assert ours == pytest.approx(theirs, rel=0.002)


@pytest.mark.parametrize("kind", ["encoders", "decoders", "models"])
def test_every_name_is_in_the_docs(kind: str) -> None:
    """Each encoder, decoder and architecture, or the family it is listed under, has its row."""
    text = " ".join(page.read_text() for page in PAGES)
    names = {
        "encoders": citysegzoo.list_encoders(),
        "decoders": citysegzoo.list_decoders(),
        "models": [name for name in citysegzoo.list_models() if "." not in name],
    }[kind]
    for name in names:
        family = re.sub(r"\d+(_bn)?$|_(tiny|small|base|large)$", "", name)
        assert f"`{name}`" in text or f"`{family}" in text, name


def test_the_tables_of_classes_are_those_of_the_label_sets() -> None:
    def rows(page: str) -> list[list[str]]:
        found = re.findall(r"^\| (\d+ \|.*) \|$", (DOCS / "datasets" / page).read_text(), re.M)
        return [row.split(" | ") for row in found]

    assert rows("cityscapes.md") == [
        [str(i), str(c.train_id), c.name, c.category, ", ".join(map(str, c.color))]
        for i, c in enumerate(CITYSCAPES_CLASSES)
    ]
    assert [(*row[:2], row[3]) for row in rows("camvid.md")] == [
        (str(i), name, ", ".join(map(str, color)))
        for i, (name, color) in enumerate(zip(CAMVID_11.classes, CAMVID_11.palette, strict=True))
    ]


def test_every_loss_is_in_the_docs() -> None:
    page = (DOCS / "losses.md").read_text()
    for name in citysegzoo.losses.list_losses():
        assert f"| `{name}` |" in page, name


@pytest.mark.parametrize("part", ["losses", "metrics"])
def test_every_public_name_is_in_the_docs(part: str) -> None:
    page = (DOCS / f"{part}.md").read_text()
    for name in getattr(citysegzoo, part).__all__:
        assert re.search(rf"\b{name}\b", page), name


def said_of(score: dict[str, float]) -> str:
    """To a tenth, as the card's decimals have it: the float of 0.7715 is a little less."""
    share = 100 * Decimal(str(score["mean_iou"]))
    return f"**{share.quantize(Decimal('0.1'), ROUND_HALF_UP)} % mean IoU**"


def test_the_score_in_the_readme_is_the_cards() -> None:
    score = citysegzoo.model_info(citysegzoo.DEFAULT_MODEL).weights[0].card["score"]
    assert said_of(score) in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", ["unet_resnet18.street", "unet.small"])
def test_the_scores_in_the_docs_are_the_cards(name: str) -> None:
    score = citysegzoo.model_info(name).weights[0].card["score"]
    page = (DOCS / "weights.md").read_text().split(f"## `{name}`")[1].split("\n## ")[0]
    assert said_of(score) in page
    for name, iou in score["class_iou"].items():
        assert f"| {name} | {100 * iou:.1f} |" in page
