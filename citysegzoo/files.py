"""Writing files whole or not at all."""

from __future__ import annotations

import errno
import io
import math
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import PIL.Image

_UMASK = os.umask(0o077)  # it can only be read by setting it
os.umask(_UMASK)


def files_below(folder: str | os.PathLike[str], *, depth: int | None = None) -> list[Path]:
    """The files in a folder at any depth, sorted, hidden ones and those in hidden folders excepted.

    Links to folders are followed, as data are often put together of them; a folder that several
    lead to counts once.

    Args:
        folder: Where to look.
        depth: Levels to look at, 1 for the folder alone; None for all.

    Raises:
        OSError: If a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise OSError(
            f"the folder {error.filename} cannot be read ({error.strerror}); check its permissions."
        ) from error

    found: list[Path] = []
    seen: set[str] = set()
    for path, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        real = os.path.realpath(path)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        if depth is not None and len(Path(path).parts) - len(Path(folder).parts) >= depth - 1:
            folders.clear()
        found += [Path(path, name) for name in names if not name.startswith(".")]
    return sorted(found)


@contextmanager
def replacing(path: str | os.PathLike[str], *, needed: int | None = None) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that takes its place once the block succeeds.

    The temporary path keeps the suffix, so that writers which go by it choose the right format.
    If the block raises, the temporary file is removed and ``path`` stays as it was. What cannot be
    replaced, such as ``/dev/null`` or a pipe, is written to directly.

    Args:
        path: File to write; a symbolic link is followed.
        needed: Bytes it will have, if known, for the message of a full disk.

    Raises:
        OSError: If the disk is full.
        FileNotFoundError: If the folder of ``path`` does not exist.
        IsADirectoryError: If ``path`` is a folder.
    """
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        yield Path(path)
        return
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file to write.")
    if not target.parent.is_dir():
        raise FileNotFoundError(
            f"{path} cannot be written because its folder does not exist; create it first."
        )
    partial = target.with_name(f".{secrets.token_hex(8)}.part{target.suffix}")
    try:
        yield partial
        # Some writers make files that only their owner may read. Some disks have no such rights.
        with suppress(OSError):
            partial.chmod(target.stat().st_mode if target.exists() else 0o666 & ~_UMASK)
        os.replace(partial, target)
    except Exception as error:
        sentence = isinstance(error, OSError) and error.errno is None  # of another file within
        if sentence or not is_full(error):
            raise
        raise full_disk(
            f"{path} could not be written",
            target.parent,
            needed=needed,
            remedy="make room there, or save to another disk",
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def write(path: str | os.PathLike[str], content: str | bytes) -> Path:
    """Write a file whole or not at all, a text as UTF-8; its path.

    Raises:
        OSError: If it cannot be written, as :func:`replacing` says.
    """
    data = content.encode() if isinstance(content, str) else content
    with replacing(path, needed=len(data)) as partial:
        partial.write_bytes(data)
    return Path(path)


def write_image(image: PIL.Image.Image, path: str | os.PathLike[str], *, quality: int = 92) -> None:
    """Write an image whole or not at all.

    Args:
        image: The image.
        path: File to write; its suffix says the format.
        quality: Of formats that lose some, 0 to 100.

    Raises:
        ValueError: If no format has that suffix.
        OSError: If it cannot be written, as :func:`replacing` says.
    """
    from PIL.Image import SAVE, registered_extensions

    suffix = Path(path).suffix.lower()
    formats = registered_extensions()
    if formats.get(suffix) not in SAVE:  # some it reads only
        raise ValueError(f"{path} has no suffix of an image, such as .png or .jpg.")
    # By way of memory: where a disk fills up within its last block, Pillow takes the part of the
    # file that was written for the whole.
    data = io.BytesIO()
    image.save(data, formats[suffix], quality=quality)
    write(path, data.getvalue())


def is_full(error: BaseException | None) -> bool:
    """Whether a disk without space, or a quota used up, is behind an error."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        # hf_xet, which is written in Rust, raises with this text and no number.
        if "No space left on device" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def full_disk(what: str, folder: Path, *, needed: int | None, remedy: str) -> OSError:
    """One sentence for a disk without space.

    Args:
        what: What failed, as the beginning of the sentence.
        folder: Where there is no space; it need not exist.
        needed: Bytes that are needed, if known.
        remedy: What to do.
    """
    there = next(
        parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists()
    )
    free = shutil.disk_usage(there).free
    sizes = [] if needed is None else [f"{_megabytes(needed)} needed"]
    if needed is None or free < needed:  # a quota, or a disk that was emptied since, says nothing
        sizes.append(f"{_megabytes(free)} free")
    return OSError(
        f"{what}, because there is no space left in {folder} ({', '.join(sizes)}); {remedy}."
    )


def _megabytes(count: int) -> str:
    return f"{math.ceil(count / 1e5) / 10} MB"
