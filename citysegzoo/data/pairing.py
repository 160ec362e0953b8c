"""Finding the label image of each image, and saying what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from citysegzoo.data.samples import Pair
from citysegzoo.files import files_below


def list_files(folder: Path, pattern: str) -> list[Path]:
    """Files below a folder, sorted; hidden ones (which macOS leaves in archives) excepted.

    Args:
        folder: Where to look.
        pattern: What their paths below it match, a part for each folder: ``"*/*.png"``.

    Raises:
        OSError: If a folder cannot be read, which a glob leaves out without a word.
    """
    depth = pattern.count("/") + 1
    files = files_below(folder, depth=depth) if folder.is_dir() else []
    return [
        file
        for file in files
        if len(file.parts) == len(folder.parts) + depth
        and fnmatchcase(file.relative_to(folder).as_posix(), pattern)
    ]


def require_folder(folder: Path, *, data: str, source: str, hint: str = "") -> None:
    """Check that a folder exists.

    Args:
        folder: The folder.
        data: Name of the dataset that needs it.
        source: Where to get it, as the end of a sentence.
        hint: What to do otherwise, told in place of the source.

    Raises:
        FileNotFoundError: If it does not; what is there instead is told.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{data} needs the folder {folder}, which does not exist; "
            f"{hint or f'{_nearest(folder)}; {source}'}."
        )


def pair_by_key(
    images: Mapping[str, Path],
    labels: Mapping[str, Path],
    *,
    folders: tuple[Path, Path],
    source: str,
    spare_labels: bool = False,
) -> list[Pair]:
    """Pairs of equal keys, in the order of the images.

    Args:
        images: Images by what they share with their labels.
        labels: Label images by the same.
        folders: Where both were looked for.
        source: What to do about a missing file, as the end of a sentence.
        spare_labels: Whether labels may have no image.

    Raises:
        FileNotFoundError: If there is no image, or one side of a pair is missing.
    """
    image_folder, label_folder = folders
    if not images:
        raise FileNotFoundError(f"there are no images in {image_folder}; {source}.")
    alone = [key for key in images if key not in labels]
    if alone:
        raise FileNotFoundError(
            f"{len(alone)} of {len(images)} images in {image_folder} have no labels in "
            f"{label_folder}, such as {_some(alone)}; {source}."
        )
    alone = [] if spare_labels else [key for key in labels if key not in images]
    if alone:
        raise FileNotFoundError(
            f"{len(alone)} of {len(labels)} label images in {label_folder} have no image in "
            f"{image_folder}, such as {_some(alone)}; {source}."
        )
    return [(image, labels[key]) for key, image in images.items()]


def _some(names: Iterable[str]) -> str:
    first, *rest = sorted(names)
    return ", ".join([first, *rest[:2]]) + ", ..." * (len(rest) > 2)


def _nearest(folder: Path) -> str:
    """What is where the folder should be."""
    above = next(path for path in folder.absolute().parents if path.exists())
    if not above.is_dir():
        return f"{above} is a file"
    names = [path.name for path in above.iterdir() if not path.name.startswith(".")]
    return f"{above} holds {_some(names)}" if names else f"{above} is empty"
