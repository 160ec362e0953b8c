"""Files of the Hugging Face Hub, and what goes wrong with it in one sentence."""

from __future__ import annotations

import hashlib
import os
import re
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from citysegzoo.files import full_disk, is_full
from citysegzoo.hardware import available_cores

_REPOSITORY = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?")


BLOCK = 1 << 24
"""Bytes of a block that has a checksum of its own."""

_BUFFER = 1 << 18
_CLIENTS = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")


class HubOptions(NamedTuple):
    """How to reach the Hub; None leaves it to huggingface_hub and its environment variables.

    Attributes:
        token: Access token, for private repositories.
        cache_dir: Where downloads are kept.
        local_files_only: Whether to use what is there and no network.
        endpoint: Address of another Hub.
    """

    token: str | None = None
    cache_dir: str | os.PathLike[str] | None = None
    local_files_only: bool = False
    endpoint: str | None = None


DEFAULTS = HubOptions()


def split_repository(source: str) -> tuple[str, str | None]:
    """``"owner/name@revision"`` as repository and revision (None if not given).

    Raises:
        ValueError: If it is no such name.
    """
    match = _REPOSITORY.fullmatch(source)
    if not match or ".." in source:
        raise ValueError(
            f"{source!r} is neither a folder or file here nor a repository of the Hub, which is "
            "named 'owner/name' or 'owner/name@revision'."
        )
    return match[1], match[2]


def fetch(
    repository: str,
    file: str,
    *,
    revision: str | None = None,
    is_right: Callable[[Path], bool] | None = None,
    options: HubOptions = DEFAULTS,
) -> Path:
    """A file of a repository, from the cache or, if need be, downloaded.

    Args:
        repository: ``"owner/name"``.
        file: Name of the file in it.
        revision: Branch, tag or 40-hex commit; None is the main branch. A commit that is in the
            cache needs no network.
        is_right: Says whether a file that is downloaded now is the one it should be; if not, it
            is removed again.
        options: How to reach the Hub.

    Raises:
        FileNotFoundError: If there is no such repository, revision or file.
        PermissionError: If the repository is private or gated and the token does not open it.
        ConnectionError: If it is not in the cache and the Hub cannot be reached.
        OSError: If there is no space for it, the download fails otherwise, or is not the right
            file.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    at = f"{repository}@{revision}" if revision else repository
    cache_dir = None if options.cache_dir is None else Path(options.cache_dir)
    cached = try_to_load_from_cache(repository, file, cache_dir=cache_dir, revision=revision)
    with room_for(repository, file, revision=revision, options=options):
        try:
            if not isinstance(cached, str) and not options.local_files_only:
                ask_once(repository, revision=revision, options=options)
            path = Path(
                hf_hub_download(
                    repository,
                    file,
                    revision=revision,
                    token=options.token,
                    cache_dir=cache_dir,
                    local_files_only=options.local_files_only,
                    endpoint=options.endpoint,
                )
            )
        except Exception as error:
            known = explained(error, at, file)
            if known is None:
                raise
            raise known from error
    if is_right is not None and str(path) != cached and not is_right(path):
        _forget(path)
        raise OSError(
            f"{file} of {at} was downloaded but is not the file it should be (its sha256 differs), "
            "and was removed; try again, or ask who published it."
        )
    return path


def ask_once(
    repository: str, *, revision: str | None = None, options: HubOptions = DEFAULTS
) -> None:
    """Raise at once if the Hub cannot be reached or has no such repository or revision.

    A download asks again and again for half a minute where there is no Hub.
    """
    from huggingface_hub import HfApi

    HfApi(endpoint=options.endpoint, token=options.token).model_info(repository, revision=revision)


@contextmanager
def room_for(
    repository: str,
    file: str,
    *,
    revision: str | None = None,
    options: HubOptions = DEFAULTS,
) -> Iterator[None]:
    """Say in one sentence that a download within finds no space, how much it needs, and where.

    Args:
        repository: Where the file is.
        file: The file that is downloaded.
        revision: Of the repository.
        options: How to reach the Hub.

    Raises:
        OSError: If there was no space.
    """
    from huggingface_hub import constants

    try:
        with warnings.catch_warnings():
            # The client's own; if it comes true, it is said below.
            warnings.filterwarnings("ignore", message="Not enough free disk space")
            yield
    except Exception as error:
        if not is_full(error):
            raise
        raise full_disk(
            f"{file} of {repository} could not be fetched",
            Path(options.cache_dir or constants.HF_HUB_CACHE),
            needed=_published_size(repository, file, revision=revision, options=options),
            remedy="make room there, or keep downloads on another disk with HF_HOME=",
        ) from error


def _published_size(
    repository: str, file: str, *, revision: str | None, options: HubOptions
) -> int | None:
    """Bytes of a file on the Hub; None if that cannot be found out."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=options.endpoint, token=options.token)
    try:
        info = api.model_info(repository, revision=revision, files_metadata=True)
    except Exception:
        return None  # the error to tell of is another
    return next((s.size for s in info.siblings or () if s.rfilename == file), None)


def fetch_any(repository: str, files: Sequence[str]) -> Path:
    """The first of several files that a repository's main branch has.

    One that is in the cache comes first: without a network nobody can say that the others are not
    there.

    Raises:
        OSError: As for :func:`fetch`, if there is none of them.
    """
    from huggingface_hub import try_to_load_from_cache

    first, *others = sorted(
        files, key=lambda name: not isinstance(try_to_load_from_cache(repository, name), str)
    )
    try:
        return fetch(repository, first)
    except FileNotFoundError:
        if not others:
            raise
    return fetch_any(repository, others)


def commit_of(path: Path) -> str | None:
    """The commit a fetched file belongs to, as its place in the cache says."""
    for parent in path.parents:
        if parent.parent.name == "snapshots" and re.fullmatch(r"[0-9a-f]{40}", parent.name):
            return parent.name
    return None


def file_sha256(path: str | os.PathLike[str]) -> str:
    """The sha256 of a file: whether it is the one that was published."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(1 << 20))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()


def block_checksums(path: str | os.PathLike[str]) -> tuple[int, ...]:
    """The CRC-32 of each 16 MiB of a file, on all cores: whether it is still what was written.

    Fast enough to be looked at whenever weights are loaded, which a sha256 is not.
    """
    size = os.path.getsize(path)
    if not size:
        return ()

    def checksum(start: int) -> int:
        # Read and not mapped: pages of a map count as the process's memory, all of the file.
        value, left, buffer = 0, BLOCK, memoryview(bytearray(_BUFFER))
        with open(path, "rb", buffering=0) as file:
            file.seek(start)
            while left and (count := file.readinto(buffer[:left])):
                value, left = zlib.crc32(buffer[:count], value), left - count
        return value

    starts = range(0, size, BLOCK)
    with ThreadPoolExecutor(min(len(starts), available_cores())) as pool:
        return tuple(pool.map(checksum, starts))


def _forget(path: Path) -> None:
    """Remove a file from the cache: the name in the snapshot and the content it points to."""
    content = path.resolve()
    path.unlink(missing_ok=True)
    content.unlink(missing_ok=True)


def explained(error: Exception, at: str, file: str, *, doing: str = "fetched") -> OSError | None:
    """What huggingface_hub raised, in one sentence that says what to do; None for other errors."""
    from huggingface_hub import errors

    repository, _, revision = at.partition("@")
    download = f"hf download {repository}{f' --revision {revision}' if revision else ''}"
    if isinstance(error, errors.GatedRepoError):
        return PermissionError(
            f"{at} is gated: accept its terms on its page of the Hub, then log in with "
            "`hf auth login` or pass token=."
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return FileNotFoundError(
            f"the Hub has no repository {repository}, or it is private and needs a "
            "token; check the name, or log in with `hf auth login` or pass token=."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return FileNotFoundError(f"{at} does not exist: the repository has no such revision.")
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        return ConnectionError(
            f"{file} of {at} is not in the cache and the Hub cannot be reached; run "
            f"`{download} {file}` once where there is a network."
        )
    if isinstance(error, errors.EntryNotFoundError):
        return FileNotFoundError(f"{at} has no file {file}; it holds no model of citysegzoo.")
    if isinstance(error, errors.HfHubHTTPError) and getattr(error, "response", None) is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            what = "publish to" if doing == "published" else "read"
            return PermissionError(
                f"the Hub refused ({status}) to let this token {what} {at}; log in with "
                "`hf auth login`, or pass a token= that may."
            )
        if status is not None and 400 <= status < 500 and status not in (408, 429):
            said = getattr(error, "server_message", None) or "no reason given"
            return OSError(f"the Hub refused {file} of {at} ({status}): {said}.")
        return OSError(f"the Hub answered {status} for {file} of {at}; try again later.")
    # The client's own errors, some an OSError and some not, by whichever library it is built on.
    if type(error).__module__.partition(".")[0] in _CLIENTS:
        reason = str(error) or type(error).__name__
        else_ = f", or run `{download}` once where there is a network"
        return ConnectionError(
            f"{file} of {at} could not be {doing}, because the Hub cannot be reached or broke off "
            f"({reason}); try again{else_ if doing == 'fetched' else ''}."
        )
    if isinstance(error, OSError):
        return OSError(f"{file} of {at} could not be {doing}: {error}.")
    return None
