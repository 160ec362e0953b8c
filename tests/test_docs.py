"""The docs say what is so: their code runs as printed, their generated page is up to date."""

import importlib.util
import re
from contextlib import nullcontext
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import citysegzoo

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
CODE = {
    page.name: re.findall(r"^```python\n(.*?)^```", page.read_text(), re.S | re.M) for page in PAGES
}


@pytest.mark.parametrize("page", [name for name, blocks in CODE.items() if blocks])
def test_python_blocks_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page's blocks run as printed, one after the other."""
    from citysegzoo.registry import DECODERS, LOSSES, MODELS

    monkeypatch.chdir(tmp_path)
    (
        citysegzoo.list_models(),
        citysegzoo.losses.list_losses(),
    )  # what is imported later would be registered in the copies
    for registry in (DECODERS, LOSSES, MODELS):
        monkeypatch.setattr(registry, "_builders", dict(registry._builders))
    Image.fromarray(np.full((64, 96, 3), 120, np.uint8)).save("street.jpg")
    names: dict[str, object] = {}
    for block in CODE[page]:
        for raises, lines in groupby(block.splitlines(), lambda line: "# TypeError" in line):
            with pytest.raises(TypeError, match="did you mean") if raises else nullcontext():
                exec("\n".join(lines), names)


def test_there_are_blocks_to_run() -> None:
    assert sum(len(blocks) for blocks in CODE.values()) >= 8


def test_reports_page_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("write", ROOT / "docs" / "write_reports.py")
    write = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(write)
    assert write.PAGE.read_text() == write.page(), "run: python docs/write_reports.py"


def test_every_reported_model_is_on_the_page() -> None:
    page = (ROOT / "docs" / "reports.md").read_text()
    for report in citysegzoo.reports.REPORTS.values():
        for variant in report.variants:
            assert f"`{variant.name}`" in page


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


def test_every_loss_is_in_the_docs() -> None:
    page = (ROOT / "docs" / "losses.md").read_text()
    for name in citysegzoo.losses.list_losses():
        assert f"| `{name}` |" in page, name


@pytest.mark.parametrize("part", ["losses", "metrics"])
def test_every_public_name_is_in_the_docs(part: str) -> None:
    page = (ROOT / "docs" / f"{part}.md").read_text()
    for name in getattr(citysegzoo, part).__all__:
        assert re.search(rf"\b{name}\b", page), name


def test_the_score_in_the_docs_is_the_cards() -> None:
    score = citysegzoo.model_info("unet.small").weights[0].card["score"]
    assert f"**{100 * score['mean_iou']:.1f} % mean IoU**" in (ROOT / "README.md").read_text()
    page = (ROOT / "docs" / "weights.md").read_text()
    for name, iou in score["class_iou"].items():
        assert f"| {name} | {100 * iou:.1f} |" in page
