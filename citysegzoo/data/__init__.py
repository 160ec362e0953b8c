"""Label sets, preprocessing and datasets.

What models are made of is imported at once; datasets, checks and drawing when they are first used.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from citysegzoo.data.labels import (
    CAMVID_11,
    CITYSCAPES_19,
    CITYSCAPES_34,
    CITYSCAPES_CATEGORIES,
    LabelSet,
    default_labels,
)
from citysegzoo.data.preprocessing import BGR_MEAN, IMAGENET, UNIT_RANGE, Preprocessing

if TYPE_CHECKING:
    from citysegzoo.data.augmentation import MEAN_COLOR, Augmentation
    from citysegzoo.data.camvid import CamVid
    from citysegzoo.data.checks import DataReport, SplitReport, check
    from citysegzoo.data.cityscapes import Cityscapes
    from citysegzoo.data.folder import Folder
    from citysegzoo.data.samples import LabeledImages, SampleError, SkipBroken
    from citysegzoo.data.streets import draw_streets

DEMO_IMAGE = Path(__file__).parent / "demo_street.jpg"
"""A street scene that this project drew, to have something to segment."""

# Public name -> module it lives in.
_HOMES = {
    "MEAN_COLOR": "augmentation",
    "Augmentation": "augmentation",
    "CamVid": "camvid",
    "Cityscapes": "cityscapes",
    "DataReport": "checks",
    "Folder": "folder",
    "LabeledImages": "samples",
    "SampleError": "samples",
    "SkipBroken": "samples",
    "SplitReport": "checks",
    "check": "checks",
    "draw_streets": "streets",
}

__all__ = [
    "BGR_MEAN",
    "CAMVID_11",
    "CITYSCAPES_19",
    "CITYSCAPES_34",
    "CITYSCAPES_CATEGORIES",
    "DEMO_IMAGE",
    "IMAGENET",
    "MEAN_COLOR",
    "UNIT_RANGE",
    "Augmentation",
    "CamVid",
    "Cityscapes",
    "DataReport",
    "Folder",
    "LabelSet",
    "LabeledImages",
    "Preprocessing",
    "SampleError",
    "SkipBroken",
    "SplitReport",
    "check",
    "default_labels",
    "draw_streets",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES.values():  # a module, as it is there once one of its names was used
        return importlib.import_module(f"citysegzoo.data.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'citysegzoo.data' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"citysegzoo.data.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
