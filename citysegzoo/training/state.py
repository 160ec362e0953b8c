"""The state of a run: all that is needed to go on as if it had never stopped."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from citysegzoo.files import replacing

FORMAT = 3


def save_state(
    path: str | os.PathLike[str], state: Mapping[str, Any], *, settings: Mapping[str, Any]
) -> None:
    """Write the state of a run, whole or not at all: a run killed here keeps the one before.

    Args:
        path: File to write.
        state: Tensors, numbers, texts, and lists and dicts of them.
        settings: What must be the same when the run goes on.

    Raises:
        OSError: If it cannot be written; the file before stays.
    """
    with replacing(path) as partial, partial.open("wb") as file:
        torch.save({"format": FORMAT, "settings": dict(settings), "state": dict(state)}, file)
        file.flush()
        os.fsync(file.fileno())  # so that the file is whole even when the machine stops


class UnfitStateError(ValueError):
    """A state that a run cannot go on from: it is broken, or of other settings."""


def load_state(path: str | os.PathLike[str], *, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Read what :func:`save_state` wrote, for a run of the same settings.

    Args:
        path: The file.
        settings: Of the run that is to go on.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If it cannot be read.
        UnfitStateError: If it holds no state, or that of a run with other settings; they are named.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no run to resume: {path} does not exist.")
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        version, theirs, state = stored["format"], stored["settings"], stored["state"]
    except (OSError, MemoryError):
        raise  # of the disk or the machine: the state itself may be whole
    except Exception as error:  # torch.load raises errors of many kinds
        raise UnfitStateError(
            f"{path} holds no state of a run; begin it anew in another folder."
        ) from error
    if version != FORMAT:
        raise UnfitStateError(
            f"{path} is of another version of citysegzoo; begin the run anew in another folder."
        )
    other = [
        f"{name} was {theirs.get(name)!r} and is {settings.get(name)!r}"
        for name in {**theirs, **settings}
        if theirs.get(name) != settings.get(name)
    ]
    if other:
        raise UnfitStateError(
            f"the run in {path} had other settings: {'; '.join(other)}; give the same ones, or "
            "another output folder."
        )
    return dict(state)
