"""Reading published checkpoint files without running anything they contain."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from citysegzoo.weights.checkpoint import load_checkpoint

_LOG = logging.getLogger(__name__)
_ENVELOPES = ("state_dict", "model_state_dict", "model")
_PICKLES = (".bin", ".pt", ".pth")
_PARALLEL = "module."


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The weights of a published checkpoint, floating-point ones as float32, on the CPU.

    A ``.safetensors`` file holds nothing but tensors. A ``.bin``, ``.pt`` or ``.pth`` file is a
    pickle, of which tensors, plain containers and numbers are read; one that asks for more, which
    could be anything, is refused and nothing of it is run.

    Weights under ``state_dict``, ``model_state_dict`` or ``model`` beside other things, and names
    that all begin with the ``module.`` of ``DataParallel``, are unwrapped, which the log of
    ``citysegzoo.weights.readers.files`` says at level INFO.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is of another kind, not whole, asks to run code, or holds no state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no weights file {path}.")
    if path.suffix == ".safetensors":
        return _unwrap(load_checkpoint(path), path)
    if path.suffix not in _PICKLES:
        raise ValueError(
            f"{path} is no checkpoint by its name; files that end in .safetensors, "
            f"{', '.join(_PICKLES[:-1])} or {_PICKLES[-1]} are read."
        )
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty; fetch it again.")
    return _unwrap(_load_pickle(path), path)


def _load_pickle(path: Path) -> Any:
    file = path.open("rb")  # a file that may not be read says so itself
    try:
        with file:
            return torch.load(file, weights_only=True, map_location="cpu")
    except Exception as error:  # a broken pickle may raise anything at all, OSError among it
        asked = re.search(
            r"(?:GLOBAL|import of module|unrecognized function) '?([\w.]+)", str(error)
        )
        if asked:
            raise ValueError(
                f"{path} holds more than weights and asks to run {asked[1]!r} on opening, which "
                "was not done; ask its author for the state dict alone, or for safetensors."
            ) from error
        if "TorchScript" in str(error):
            raise ValueError(
                f"{path} is a TorchScript archive, which holds a program; ask its author for the "
                "state dict alone, or for safetensors."
            ) from error
        raise ValueError(
            f"{path} is no whole PyTorch checkpoint ({type(error).__name__}); fetch it again."
        ) from error


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    """The state dict in what a file holds."""
    if isinstance(content, Mapping):
        for envelope in _ENVELOPES:
            if isinstance(content.get(envelope), Mapping):
                _LOG.info("%s: the weights stand under %r", path, envelope)
                content = content[envelope]
                break
    if not isinstance(content, Mapping) or not content:
        what = "an empty dict" if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise ValueError(f"{path} holds {what}, not the state dict of a network; save that alone.")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ValueError(
                f"{path} holds a {type(value).__name__} under {key!r}, where a state dict has "
                "tensors alone; save the network's state_dict()."
            )
    if all(key.startswith(_PARALLEL) for key in content):
        _LOG.info("%s: the names begin with %r of DataParallel", path, _PARALLEL)
        content = {key.removeprefix(_PARALLEL): value for key, value in content.items()}
    return {k: v.float() if v.is_floating_point() else v for k, v in content.items()}
