"""One's own images and labels, in two folders."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from citysegzoo.data.labels import LabelSet, find_label_set
from citysegzoo.data.pairing import pair_by_key, require_folder
from citysegzoo.data.samples import LabeledImages, Transform
from citysegzoo.files import files_below
from citysegzoo.images import LABEL_SUFFIXES, SUFFIXES


class Folder(LabeledImages):
    """Images and label images of equal names, each in a folder of its own, at any depth.

    An image's labels are at the same place in their folder, whatever the suffix, or elsewhere
    under a name that is there once. Labels without an image are left out.

    Args:
        images: Folder of JPEG, PNG, WebP, BMP or TIFF images.
        labels: Folder of PNG, BMP or TIFF label images, whose values are classes or the ignored
            value.
        label_set: The classes, or the name of a label set such as ``"cityscapes19"``.
        transform: Called with image and labels, returns both.

    Raises:
        FileNotFoundError: If a folder or a label image is missing.
        ValueError: If there are two files for an image or for its labels, or no such label set.
        TypeError: If ``label_set`` is no label set and no name.
    """

    def __init__(
        self,
        images: str | os.PathLike[str],
        labels: str | os.PathLike[str],
        label_set: LabelSet | str,
        *,
        transform: Transform | None = None,
    ) -> None:
        classes = find_label_set(label_set)
        folders = Path(images), Path(labels)
        for folder, what in zip(folders, ("images", "labels"), strict=True):
            require_folder(folder, data="the dataset", source=f"name the folder of the {what}")
        found = _by_place(folders[0], SUFFIXES)
        matches = _matching(found, _by_place(folders[1], LABEL_SUFFIXES))
        # Only where labels are missing: a JPEG beside them may be a picture of them.
        others = _by_place(folders[1], SUFFIXES) if len(matches) < len(found) else {}
        for place in found:
            if place not in matches and place in others:
                raise ValueError(
                    f"{others[place]} is no label image: those are {', '.join(LABEL_SUFFIXES)}, as "
                    "JPEG and WebP change values; write labels as PNG."
                )
        files = pair_by_key(
            found,
            matches,
            folders=folders,
            source="images and labels are files of equal names",
            spare_labels=True,
        )
        super().__init__(files, classes, transform=transform)


def _by_place(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Files with these suffixes by their path below the folder, without suffix."""
    places: dict[str, Path] = {}
    for file in files_below(folder):
        if file.suffix.lower() not in suffixes:
            continue
        other = places.setdefault(file.relative_to(folder).with_suffix("").as_posix(), file)
        if other != file:
            raise ValueError(f"{other} and {file} have one name; keep one of them.")
    return places


def _matching(images: dict[str, Path], labels: dict[str, Path]) -> dict[str, Path]:
    """The labels of each image that has some: at its place, or else of its name."""
    by_name: dict[str, list[Path]] = {}
    for file in labels.values():
        by_name.setdefault(file.stem, []).append(file)
    once = Counter(image.stem for image in images.values())
    matches = {}
    for place, image in images.items():
        named = by_name.get(image.stem, []) if once[image.stem] == 1 else []
        named = [labels[place]] if place in labels else named
        if len(named) > 1:
            raise ValueError(
                f"{image} may belong to {named[0]} or {named[1]}; put labels at the same place in "
                f"their folder as images."
            )
        if named:
            matches[place] = named[0]
    return matches
