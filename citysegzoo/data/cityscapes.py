"""Cityscapes: fine and coarse annotations of streets of 50 cities."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from citysegzoo.data.labels import (
    CITYSCAPES_19,
    CITYSCAPES_34,
    CITYSCAPES_CATEGORIES,
    CITYSCAPES_CLASSES,
    LabelSet,
)
from citysegzoo.data.pairing import list_files, pair_by_key, require_folder
from citysegzoo.data.samples import LabeledImages, SampleError, Transform
from citysegzoo.images import read_ids
from citysegzoo.registry import suggestion

WEBSITE = "https://www.cityscapes-dataset.com/downloads"
"""Where the dataset is, after registration."""

SPLITS = {
    "fine": {"train": 2975, "val": 500, "test": 1525},
    "coarse": {"train": 2975, "train_extra": 19998, "val": 500},
}
"""The splits of each kind of annotations, and how many images the official ones have."""

IMAGES = "leftImg8bit"
ANNOTATIONS = {"fine": "gtFine", "coarse": "gtCoarse"}
"""The folder of each kind of annotations, which is also part of the names in it."""


def _evaluated(train_id: int, category: str) -> int:
    """A category's number; 255 for what the evaluation ignores, such as caravans (vehicles)."""
    return 255 if train_id == 255 else CITYSCAPES_CATEGORIES.classes.index(category)


# Label id -> class. No label image has the licence plate's -1: json2labelImg of cityscapesscripts
# does not draw it, so the car below it stays.
LABELS: dict[str, tuple[LabelSet, dict[int, int]]] = {
    "train_id": (CITYSCAPES_19, {i: row.train_id for i, row in enumerate(CITYSCAPES_CLASSES)}),
    "label_id": (CITYSCAPES_34, {i: i for i in range(len(CITYSCAPES_CLASSES))}),
    "category": (
        CITYSCAPES_CATEGORIES,
        {i: _evaluated(row.train_id, row.category) for i, row in enumerate(CITYSCAPES_CLASSES)},
    ),
}
"""Label set, and class of each label id, of each kind of labels."""


class Cityscapes(LabeledImages):
    """Cityscapes in its official folder layout, read without any preparation.

    Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016.
    ``root`` holds ``leftImg8bit/<split>/<city>/<frame>_leftImg8bit.png`` and
    ``gtFine/<split>/<city>/<frame>_gtFine_labelIds.png`` (or ``gtCoarse`` for both ``gtFine``);
    train ids and categories are derived from the label ids.

    Args:
        root: Folder of the dataset.
        split: ``"train"``, ``"val"`` or ``"test"`` of fine annotations, whose test split has all
            but its borders unlabeled; ``"train"``, ``"train_extra"`` or ``"val"`` of coarse ones.
        annotations: ``"fine"`` or ``"coarse"``.
        labels: ``"train_id"`` for the 19 evaluated classes, ``"label_id"`` for all 34 ids,
            ``"category"`` for the seven evaluated categories. 255 is what the evaluation ignores,
            members of a category among it (parking, guard rail, caravan, ...), save for label
            ids, which ignore nothing.
        transform: Called with image and labels, returns both.

    Raises:
        ValueError: If there is no such split, annotations or labels.
        FileNotFoundError: If a folder or a file is missing; what, and where to get it, is told.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str = "train",
        *,
        annotations: str = "fine",
        labels: str = "train_id",
        transform: Transform | None = None,
    ) -> None:
        _check(annotations, "annotations", ANNOTATIONS)
        _check(labels, "labels", LABELS)
        _check(split, f"{annotations} split", SPLITS[annotations])
        root = Path(root)
        folders = image_folder(root, split), label_folder(root, split, annotations)
        for folder, package in zip(folders, packages(split, annotations), strict=True):
            require_folder(
                folder,
                data="Cityscapes",
                hint=_elsewhere(root, folder.parent.name),
                source=_get(package),
            )
        files = pair_by_key(
            find_images(root, split),
            find_label_files(root, split, annotations),
            folders=folders,
            source=_get(*packages(split, annotations)),
        )
        label_set, values = LABELS[labels]
        super().__init__(files, label_set, values=values, transform=transform)

    def read_instances(self, index: int) -> npt.NDArray[Any]:
        """The instance ids of a sample, from the ``*_instanceIds.png`` beside its label ids.

        Returns:
            ``(H, W)``, mostly uint16: below 1000 a label id, of what has no instances, or of a
            group; else 1000 times the label id and the number of the instance.

        Raises:
            SampleError: If there is no such file, or it cannot be read.
        """
        labels = self.files[index][1]
        try:
            return read_ids(labels.with_name(labels.name.replace("_labelIds", "_instanceIds")))
        except (OSError, ValueError) as error:
            raise SampleError(str(error)) from error


def image_folder(root: Path, split: str) -> Path:
    """The folder of the images of a split."""
    return root / IMAGES / split


def label_folder(root: Path, split: str, annotations: str) -> Path:
    """The folder of the label images of a split."""
    return root / ANNOTATIONS[annotations] / split


def find_images(root: Path, split: str) -> dict[str, Path]:
    """The images of a split by ``<city>/<frame>``, sorted."""
    return _by_frame(image_folder(root, split), f"_{IMAGES}.png")


def find_label_files(root: Path, split: str, annotations: str) -> dict[str, Path]:
    """The label images of a split by ``<city>/<frame>``, sorted."""
    ending = f"_{ANNOTATIONS[annotations]}_labelIds.png"
    return _by_frame(label_folder(root, split, annotations), ending)


def packages(split: str, annotations: str) -> tuple[str, str]:
    """The official archives with the images and with the labels of a split."""
    images = "trainextra" if split == "train_extra" else "trainvaltest"
    labels = "gtFine_trainvaltest.zip" if annotations == "fine" else "gtCoarse.zip"
    return f"{IMAGES}_{images}.zip", labels


def _by_frame(folder: Path, ending: str) -> dict[str, Path]:
    return {
        f"{file.parent.name}/{file.name.removesuffix(ending)}": file
        for file in list_files(folder, f"*/*{ending}")
    }


def _get(*archives: str) -> str:
    return f"get {' and '.join(archives)} from {WEBSITE}"


def _check(value: str, what: str, known: Mapping[str, object]) -> None:
    if value not in known:
        raise ValueError(
            f"Cityscapes has no {what} {value!r}{suggestion(str(value), known)}; there are "
            f"{', '.join(known)}."
        )


def _elsewhere(root: Path, name: str) -> str:
    """Where a folder that belongs into the root is instead; nothing if it is there or nowhere."""
    if (root / name).is_dir() or not root.is_dir():
        return ""
    below = sorted(path for path in root.iterdir() if path.is_dir())
    for place in (*root.absolute().parents[:2], *below):
        if (place / name).is_dir():
            if any((place / other).is_dir() for other in {IMAGES, *ANNOTATIONS.values()} - {name}):
                return f"its root seems to be {place}"
            return f"move {place / name} into {root}"
    return ""
