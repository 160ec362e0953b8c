"""What a named variant of an architecture carries: options, recipe, results. Data only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from citysegzoo.data.preprocessing import IMAGENET, Preprocessing
from citysegzoo.recipe import Recipe


@dataclass(frozen=True)
class Result:
    """One figure that a report or its repository gives for a model.

    Attributes:
        metric: What was measured, such as ``"mean_class_iou_pct"``; the ending tells the unit
            (``_pct`` 0..100, ``_frac`` 0..1). ``_repo`` is a score that a report's code defines in
            its own way, see the note.
        value: The figure as printed.
        split: The images it was measured on.
        source: Table, figure or file it stands in.
        label: The class or category it is of, None for a figure over all.
        note: What the source leaves unsaid or gets wrong.
        corrected: The figure the evidence supports, where it differs from ``value``; nan where
            ``value`` is wrong and the true figure unknown.
    """

    metric: str
    value: float
    split: str
    source: str
    label: str | None = None
    note: str = ""
    corrected: float | None = None


@dataclass(frozen=True)
class Variant:
    """A named preset of an architecture's options, with what is known of it.

    Attributes:
        architecture: Registered name of the builder.
        variant: What follows the dot in the model's name.
        summary: One sentence.
        options: Options of the builder that differ from its defaults.
        num_classes: Number of classes.
        preprocessing: What the network's input went through.
        report: Key of the report it comes from, None for the zoo's own.
        recipe: How it was trained.
        results: What was printed about it.
    """

    architecture: str
    variant: str
    summary: str
    options: Mapping[str, Any] = field(default_factory=dict)
    num_classes: int = 19
    preprocessing: Preprocessing = IMAGENET
    report: str | None = None
    recipe: Recipe | None = None
    results: tuple[Result, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.architecture}.{self.variant}"
