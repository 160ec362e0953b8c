"""Label sets, preprocessing and datasets."""

from pathlib import Path

from citysegzoo.data.augmentation import MEAN_COLOR, Augmentation
from citysegzoo.data.camvid import CamVid
from citysegzoo.data.checks import DataReport, SplitReport, check
from citysegzoo.data.cityscapes import Cityscapes
from citysegzoo.data.folder import Folder
from citysegzoo.data.labels import (
    CAMVID_11,
    CITYSCAPES_19,
    CITYSCAPES_34,
    CITYSCAPES_CATEGORIES,
    LabelSet,
    default_labels,
)
from citysegzoo.data.preprocessing import BGR_MEAN, IMAGENET, UNIT_RANGE, Preprocessing
from citysegzoo.data.samples import LabeledImages, SampleError, SkipBroken
from citysegzoo.data.streets import draw_streets

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
