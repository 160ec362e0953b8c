"""Writing files whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_UMASK = os.umask(0)  # it can only be read by setting it
os.umask(_UMASK)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that takes its place once the block succeeds.

    The temporary path keeps the suffix, so that writers which go by it choose the right format.
    If the block raises, the temporary file is removed and ``path`` stays as it was. A device such
    as ``/dev/null`` cannot be replaced and is written to directly.

    Args:
        path: File to write; a symbolic link is followed.

    Raises:
        FileNotFoundError: If the folder of ``path`` does not exist.
        IsADirectoryError: If ``path`` is a folder.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file to write.")
    if not target.parent.is_dir():
        raise FileNotFoundError(
            f"{path} cannot be written because its folder does not exist; create it first."
        )
    if target.exists() and not target.is_file():
        yield target
        return
    partial = target.with_name(f".{secrets.token_hex(8)}.part{target.suffix}")
    try:
        yield partial
        # Some writers make files that only their owner may read.
        partial.chmod(target.stat().st_mode if target.exists() else 0o666 & ~_UMASK)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
