"""Which weights exist for which model, and what is known of them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from citysegzoo.data.labels import LABEL_SETS, LabelSet
from citysegzoo.encoders.mit import LICENCE
from citysegzoo.files import write
from citysegzoo.weights.checkpoint import load_checkpoint, read_header
from citysegzoo.weights.hub import commit_of, fetch, fetch_any, file_sha256

_BUNDLED = Path(__file__).parent / "bundled"
PINS = Path(__file__).parent / "pins.json"


@dataclass(frozen=True)
class WeightsRecord:
    """A set of trained weights: in the package, or on the Hugging Face Hub.

    Attributes:
        model: Name of the model they belong to.
        tag: What this set is called, such as ``"camvid"``.
        file: The safetensors file in the package, or None.
        repository: The repository on the Hub, or None.
        files: Names the file may have in that repository; the first that is there is taken.
        facts: What the card of weights on the Hub says; that of a file in the package is in it.
    """

    model: str
    tag: str
    file: Path | None = None
    repository: str | None = None
    files: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @cached_property
    def _card(self) -> dict[str, Any]:
        if self.file is None:
            return {"model": self.model, **self.facts}
        card: dict[str, Any] = json.loads(read_header(self.file)["citysegzoo"])
        return card

    @property
    def card(self) -> dict[str, Any]:
        """What is known of them: labels, data, split and score, licence, source, command."""
        return deepcopy(self._card)

    @property
    def labels(self) -> LabelSet:
        """The classes the weights tell apart."""
        return LABEL_SETS[self._card["labels"]]

    @property
    def pin(self) -> dict[str, str] | None:
        """``file``, ``revision`` and ``sha256`` that are locked, or None: then ``main`` counts."""
        pin: dict[str, str] | None = _pins().get(self.repository or "")
        return pin

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The weights under our names, and the card, with the commit that they are of.

        Those of the Hub are fetched if they are not in the cache; the licence of others' weights
        is said aloud.

        Raises:
            OSError: If they can be neither found nor fetched.
            ValueError: If the file is damaged or not what it should be.
        """
        if self.file is not None:
            return load_checkpoint(self.file), self.card
        from citysegzoo.weights.readers import convert_state_dict, read_state_dict

        path, commit = self._fetch()
        warnings.warn(
            f"the weights of {self.model} are from {self.repository}: {self._card['licence']}.",
            stacklevel=4,
        )
        return convert_state_dict(read_state_dict(path)), {**self.card, "revision": commit}

    def _fetch(self) -> tuple[Path, str | None]:
        assert self.repository is not None
        pin = self.pin
        if pin is None:
            path = fetch_any(self.repository, self.files)
            return path, commit_of(path)
        path = fetch(
            self.repository,
            pin["file"],
            revision=pin["revision"],
            is_right=lambda file: file_sha256(file) == pin["sha256"],
        )
        return path, pin["revision"]


def _pins() -> dict[str, Any]:
    return json.loads(PINS.read_text()) if PINS.is_file() else {}


def lock(path: Path = PINS) -> list[str]:
    """Pin every record of the Hub to the commit that its main branch is at, which is fetched.

    Args:
        path: File to write: revision, file and sha256 by repository.

    Returns:
        A line for each.

    Raises:
        OSError: If one cannot be fetched, or the file cannot be written.
    """
    pins, lines = {}, []
    for record in RECORDS:
        if record.repository is None:
            continue
        file = fetch_any(record.repository, record.files)
        pins[record.repository] = {
            "file": file.name,
            "revision": commit_of(file),
            "sha256": file_sha256(file),
        }
        lines.append(f"{record.repository}: {file.name} at {commit_of(file)}")
    write(path, json.dumps(pins, indent=2, sort_keys=True) + "\n")
    return lines


_SEGFORMER = "Xie et al., SegFormer, NeurIPS 2021"


def _segformer(
    size: int, tag: str, name: str, mean_iou: float, images: str, *, table: int = 1
) -> WeightsRecord:
    return WeightsRecord(
        f"segformer_b{size}",
        tag,
        repository=f"nvidia/segformer-b{size}-finetuned-cityscapes-{name}",
        files=("model.safetensors", "pytorch_model.bin"),
        facts={
            "labels": "cityscapes19",
            "data": "Cityscapes, fine annotations of the training split; ImageNet-1K encoder",
            "score": {
                "metric": f"mean class IoU as its authors print it ({_SEGFORMER}, table {table}), "
                "single scale; not measured here",
                "split": f"Cityscapes val, {images}",
                "mean_iou": mean_iou,
            },
            "licence": LICENCE,
            "source": "NVIDIA, https://github.com/NVlabs/SegFormer",
            "citation": _SEGFORMER,
        },
    )


RECORDS = (
    WeightsRecord(
        "unet_resnet18.street", "camvid", _BUNDLED / "unet_resnet18.street.camvid.safetensors"
    ),
    WeightsRecord("unet.small", "camvid", _BUNDLED / "unet.small.camvid.safetensors"),
    *(
        _segformer(size, "cityscapes", "1024-1024", mean_iou, "at 1024x2048")
        for size, mean_iou in enumerate((0.762, 0.785, 0.810, 0.817, 0.823, 0.824))
    ),
    _segformer(0, "cityscapes_768", "768-768", 0.753, "at 768x1536", table=2),
    _segformer(0, "cityscapes_640", "640-1280", 0.737, "at 640x1280", table=2),
    _segformer(0, "cityscapes_512", "512-1024", 0.719, "at 512x1024", table=2),
)
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
