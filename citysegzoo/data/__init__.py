"""Label sets, preprocessing and datasets."""

from pathlib import Path

from citysegzoo.data.camvid import CamVid
from citysegzoo.data.labels import (
    CAMVID_11,
    CITYSCAPES_19,
    CITYSCAPES_34,
    CITYSCAPES_CATEGORIES,
    LabelSet,
    default_labels,
)
from citysegzoo.data.preprocessing import BGR_MEAN, IMAGENET, UNIT_RANGE, Preprocessing

DEMO_IMAGE = Path(__file__).parent / "demo_street.jpg"
"""A street scene that this project drew, to have something to segment."""

__all__ = [
    "BGR_MEAN",
    "CAMVID_11",
    "CITYSCAPES_19",
    "CITYSCAPES_34",
    "CITYSCAPES_CATEGORIES",
    "DEMO_IMAGE",
    "IMAGENET",
    "UNIT_RANGE",
    "CamVid",
    "LabelSet",
    "Preprocessing",
    "default_labels",
]
