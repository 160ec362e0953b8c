"""Weights on disk: safetensors whose header says what they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from citysegzoo.files import replacing


def save_checkpoint(
    path: str | Path,
    state_dict: Mapping[str, Tensor],
    card: Mapping[str, Any],
    *,
    dtype: torch.dtype | None = None,
) -> None:
    """Write weights and their card as one safetensors file, whole or not at all.

    Args:
        path: File to write.
        state_dict: The weights.
        card: JSON-serialisable description, stored in the header under ``"citysegzoo"``.
        dtype: Floating-point type to store, such as ``torch.float16``; None keeps theirs.
    """
    from safetensors.torch import save_file

    tensors = {
        name: value.detach().to("cpu", dtype if value.is_floating_point() else None).contiguous()
        for name, value in state_dict.items()
    }
    with replacing(Path(path)) as partial:
        save_file(tensors, partial, metadata={"citysegzoo": json.dumps(dict(card))})


def load_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file, floating-point ones as float32.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no whole safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no weights file {path}.")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"{path} is no whole safetensors file ({error}); fetch it again."
        ) from error
    return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}


def load_weights(
    model: nn.Module, state_dict: Mapping[str, Tensor], *, source: str, assign: bool = False
) -> None:
    """Load a state dict whose keys and shapes match the model's exactly.

    Args:
        model: The model.
        state_dict: The weights.
        source: Where they come from, for the message.
        assign: Put the tensors in place of the model's own (which may be on the meta device)
            rather than copying them over.

    Raises:
        ValueError: If keys are missing, unknown or of another shape, naming the first few.
    """
    own = model.state_dict()
    problems = []
    for what, keys in (
        ("missing", [k for k in own if k not in state_dict]),
        ("unknown", [k for k in state_dict if k not in own]),
        (
            "of another shape",
            [k for k, v in own.items() if k in state_dict and state_dict[k].shape != v.shape],
        ),
    ):
        if keys:
            more = ", ..." if len(keys) > 3 else ""
            problems.append(f"{len(keys)} {what} ({', '.join(keys[:3])}{more})")
    if problems:
        raise ValueError(f"the weights of {source} do not fit this model: {'; '.join(problems)}.")
    model.load_state_dict(state_dict, strict=True, assign=assign)
