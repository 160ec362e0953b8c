"""Which weights exist for which model, and what is known of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from citysegzoo.data.labels import LABEL_SETS, LabelSet

_BUNDLED = Path(__file__).parent / "bundled"


@dataclass(frozen=True)
class WeightsRecord:
    """A set of trained weights that comes with the package.

    Attributes:
        model: Name of the model they belong to.
        tag: What this set is called, such as ``"camvid"``.
        file: The safetensors file.
    """

    model: str
    tag: str
    file: Path

    @cached_property
    def card(self) -> dict[str, Any]:
        """What the file says of itself: data, split and score, licence, source, command."""
        from safetensors import safe_open

        with safe_open(self.file, framework="pt") as weights:
            card: dict[str, Any] = json.loads(weights.metadata()["citysegzoo"])
        return card

    @property
    def labels(self) -> LabelSet:
        """The classes the weights tell apart."""
        return LABEL_SETS[self.card["labels"]]


RECORDS = (WeightsRecord("unet.small", "camvid", _BUNDLED / "unet.small.camvid.safetensors"),)
"""Every set of weights; the first of a model is its default."""


def list_records(model: str | None = None) -> list[WeightsRecord]:
    """The weights of one model, default first, or of all."""
    return [record for record in RECORDS if model in (None, record.model)]


def find_record(model: str, tag: str | None = None) -> WeightsRecord:
    """The weights of a model by tag, or its default ones.

    Raises:
        ValueError: If there are none, saying which models or tags have weights.
    """
    records = list_records(model)
    if not records:
        names = ", ".join(dict.fromkeys(record.model for record in RECORDS))
        raise ValueError(
            f"there are no trained weights for {model!r}; models with weights: {names}."
        )
    for record in records:
        if tag in (None, record.tag):
            return record
    tags = ", ".join(record.tag for record in records)
    raise ValueError(f"{model!r} has no weights named {tag!r}; it has: {tags}.")
