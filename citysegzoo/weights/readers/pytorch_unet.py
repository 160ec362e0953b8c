"""Checkpoints of the U-Net of stevens2020, whose code is a changed jvanvugt/pytorch-unet.

The names are those of ``models/UNet.py`` in github tristan-deep/5LSM0_CityscapesDataset. In a
block of the published networks batch norm stands before the ReLU (positions 0, 1, 2 and 3, 4, 5).
The code it began as has it after, at positions 2 and 5: such weights fit no network of the zoo and
are refused.
"""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from citysegzoo.weights.readers._common import StateDict, Suggestion, rename, require, suggest

_SOURCE = "stevens2020's U-Net"
_NORMED = "down_path.0.block.1.weight"
_UP = r"up_path\.(\d+)\.conv_block\.block\."
_DOWN = r"down_path\.(\d+)\.block\."


def _block(theirs: str, ours: str, *, norm: bool) -> tuple[tuple[str, str], ...]:
    """Rules for a block of two convolutions, whose parts are numbered past the ReLUs."""
    if not norm:
        return ((rf"{theirs}0\.", f"{ours}.0.conv."), (rf"{theirs}2\.", f"{ours}.1.conv."))
    return (
        (rf"{theirs}0\.", f"{ours}.0.conv."),
        (rf"{theirs}1\.", f"{ours}.0.norm."),
        (rf"{theirs}3\.", f"{ours}.1.conv."),
        (rf"{theirs}4\.", f"{ours}.1.norm."),
    )


def from_pytorch_unet(state_dict: StateDict) -> dict[str, Tensor]:
    """Weights of stevens2020's U-Net under our names.

    Args:
        state_dict: What the repository's ``.pt`` files hold under ``model_state_dict``.

    Returns:
        A state dict for ``create_model("unet.stevens2020_improved")`` or another of its U-Nets.

    Raises:
        ValueError: If a key is not one of that network's, or batch norm comes after the ReLU.
    """
    if "down_path.0.block.2.running_var" in state_dict:
        raise ValueError(
            "these weights have batch norm after the ReLU, as pytorch-unet had it at first; "
            "citysegzoo's U-Net has it before, so take a checkpoint trained that way."
        )
    norm = _NORMED in state_dict
    rules = (
        *_block(_DOWN, r"encoder.stages.\1", norm=norm),
        *_block(_UP, r"decoder.blocks.\1.fuse", norm=norm),
        # Position 0 of a bilinear step is the resize, which has no weights.
        (r"up_path\.(\d+)\.up\.1\.", r"decoder.blocks.\1.up.conv."),
        (r"up_path\.(\d+)\.up\.(?=weight|bias)", r"decoder.blocks.\1.up."),
        (r"last\.", "classifier.conv."),
    )
    return rename(state_dict, rules, source=_SOURCE)


def matches(state_dict: StateDict) -> bool:
    """Whether the keys are of stevens2020's U-Net."""
    return {"down_path.0.block.0.weight", "last.weight"} <= state_dict.keys()


def suggest_unet(state_dict: StateDict) -> Suggestion:
    """The zoo's network for stevens2020's U-Net: one of the report's by name, or ``unet``.

    Runs 1, 2, 5 and 6 are one network, so run 1 stands for them. That the convolutions are padded
    and a bilinear step aligns the corners is the report's code; the weights do not tell.
    """
    levels = sum(re.fullmatch(rf"{_DOWN}0\.weight", key) is not None for key in state_dict)
    convs = [f"down_path.{i}.block.0.weight" for i in range(levels)]
    require(state_dict, dict.fromkeys(convs, 4))
    widths = tuple(state_dict[name].shape[0] for name in convs)
    norm, bilinear = _NORMED in state_dict, "up_path.0.up.1.weight" in state_dict
    known = {
        ((8, 16, 32, 64), False, True): "unet.stevens2020_baseline",
        ((8, 16, 32, 64, 128), True, False): "unet.stevens2020_improved",
        ((8, 16, 32, 64), True, False): "unet.stevens2020_run1",
    }
    name = known.get((widths, norm, bilinear), "unet")
    options: dict[str, Any] = {}
    if name == "unet":
        options = {"widths": widths, "norm": norm, "skip_first": False}
        if bilinear:
            options |= {
                "up": "bilinear",
                "up_kernel_size": 1,
                "up_norm": False,
                "align_corners": True,
            }
    return suggest(
        name,
        options,
        state_dict,
        first="down_path.0.block.0.weight",
        classifier="last.weight",
    )
