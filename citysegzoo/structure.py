"""What a network computes that its weights do not show."""

from __future__ import annotations

import re

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

# What a layer's description and our modules' attributes say that matters in training alone.
_OF_TRAINING = re.compile(r"\b(momentum|inplace)=[^,]*")
_ATTRIBUTES_OF_TRAINING = ("training", "encoder_frozen", "momentum", "name")
_PLAIN = (bool, int, float, str, tuple, type(None))


def structure(network: nn.Module) -> dict[str, str]:
    """Kind and settings of every layer by its name, but for what matters in training alone.

    Two networks of one structure and the same weights give the same logits in evaluation mode,
    as far as their layers say what they do: those of torch and timm in their description, ours
    in their attributes.
    """
    return {
        name: _described(module)
        for name, module in network.named_modules()
        if not _does_nothing(module)
    }


def difference(network: nn.Module, other: nn.Module) -> str:
    """The first layer in which two networks differ, "" where they have one structure."""
    ours, theirs = structure(network), structure(other)
    for name in {**ours, **theirs}:
        if ours.get(name) != theirs.get(name):
            layer = name or "the model"
            return f"{layer} is {ours.get(name, 'left out')}, not {theirs.get(name, 'left out')}"
    return ""


def _does_nothing(module: nn.Module) -> bool:
    """Whether a layer hands on what it gets, at least in evaluation mode."""
    path = type(module).__name__ == "DropPath"  # timm's, which is not imported for this
    return path or isinstance(module, (nn.Identity, _DropoutNd))


def _described(module: nn.Module) -> str:
    kind = type(module)
    settings = [_OF_TRAINING.sub("", module.extra_repr()).replace(" ", "")]
    if kind.__module__.startswith("citysegzoo.") and not isinstance(module, _BatchNorm):
        settings += [
            f"{name}={value}"
            for name, value in vars(module).items()
            if isinstance(value, _PLAIN) and not name.startswith("_")
            if name not in _ATTRIBUTES_OF_TRAINING
        ]
    # Batch norm over several processes is the same function in evaluation mode.
    called = "BatchNorm" if isinstance(module, _BatchNorm) else kind.__name__
    return f"{called}({', '.join(filter(None, settings))})"
