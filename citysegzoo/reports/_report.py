"""What a report is."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass

from citysegzoo.variant import Result, Variant


@dataclass(frozen=True)
class Report:
    """One project report: who, what they built, what they printed and what of it does not fit.

    ``print(report)`` gives a summary.

    Attributes:
        key: Short name, with which its variants begin.
        title: As printed.
        authors: As printed.
        year: Of the report.
        institution: University, and the course where known.
        summary: What they built and found.
        code: Their public repository as ``"github owner/name @commit"``, None if none is known.
        variants: Their models.
        contradictions: What contradicts what, ``->``, and how it is resolved here.
        other_results: Figures of no variant.
    """

    key: str
    title: str
    authors: tuple[str, ...]
    year: int
    institution: str
    summary: str
    code: str | None
    variants: tuple[Variant, ...]
    contradictions: tuple[str, ...]
    other_results: tuple[Result, ...] = ()

    def __str__(self) -> str:
        blocks = [
            [self.title],
            [f"{', '.join(self.authors)}. {self.institution}, {self.year}."],
            [f"Code: {self.code or 'none found'}"],
            ["", self.summary],
            ["", "Models (figures over all classes from the source named first)"],
        ]
        for variant in self.variants:
            blocks.append([f"  {variant.name}", f"      {variant.summary}"])
            if variant.results:
                blocks.append([f"      {_headline(variant)}"])
        blocks.append(["", "Contradictions, and how each is resolved"])
        blocks.extend([f"  {text}"] for text in self.contradictions)
        return "\n".join(_wrap(line) for block in blocks for line in block)


def _headline(variant: Variant) -> str:
    """The means over all classes in the source named first, else all its overall figures."""
    source = variant.results[0].source
    overall = [r for r in variant.results if r.source == source and r.label is None]
    means = [r for r in overall if r.metric.startswith("mean_")] or overall
    by_split: dict[str, list[str]] = {}
    for result in means:
        by_split.setdefault(result.split, []).append(figure_text(result))
    figures = "; ".join(f"{split}: {', '.join(texts)}" for split, texts in by_split.items())
    return f"{source}, {figures}."


def overall_iou(results: Iterable[Result]) -> Result | None:
    """The IoU over all classes to stand for a model in a table, or None if none is printed.

    The first one of validation images, so that models are not told apart by their splits, or else
    the first of any.

    Args:
        results: Figures of a model, as in ``model_info(name).results``.
    """
    overall = [r for r in results if r.label is None and "iou" in r.metric]
    return next((r for r in overall if r.split.startswith("val")), next(iter(overall), None))


def figure_text(result: Result) -> str:
    """A figure in words: ``"mean class IoU 65.43 % (corrected: 65.34 %)"``."""
    name, percent = re.subn("_pct$", "", result.metric)
    name = re.sub("(i?iou)_score_repo", r"mean_of_images_\1", name)  # as docs/metrics.md calls it
    name = re.sub(r"\b(i?)iou\b", r"\1IoU", _words(name))
    unit = " %" if percent else ""
    text = f"{name} {_number(result.value)}{unit}"
    if result.corrected is None:
        return text
    if math.isnan(result.corrected):
        return f"{text} (wrong, the true figure is unknown)"
    return f"{text} (corrected: {_number(result.corrected)}{unit})"


def _words(name: str) -> str:
    return re.sub("_frac$", "", name).replace("_", " ")


def _number(value: float) -> str:
    return f"{value:,.4f}".rstrip("0").rstrip(".")


def _wrap(line: str) -> str:
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.fill(
        line, 100, subsequent_indent=indent + "  " if indent else "", break_on_hyphens=False
    )
