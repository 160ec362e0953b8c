"""What a network computes that its weights do not show."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

# What a layer's description and our modules' attributes say that matters in training alone.
_OF_TRAINING = re.compile(r"\b(momentum|inplace)=[^,]*")
_ATTRIBUTES_OF_TRAINING = ("training", "encoder_frozen", "momentum", "name")
_PLAIN = (bool, int, float, str, tuple, type(None))


def difference(network: nn.Module, other: nn.Module) -> str:
    """What first differs in two networks, a layer or the weights' shapes; "" where nothing does.

    With one structure and the same weights they give the same logits in evaluation mode, as far as
    layers say what they do: those of torch and timm in their description, ours in the attributes
    that both have. What matters in training alone does not count.
    """
    ours, theirs = _layers(network), _layers(other)
    for name in {**ours, **theirs}:
        pair = ours.get(name), theirs.get(name)
        here, there = (_described(one, other) for one, other in (pair, pair[::-1]))
        if here != there:
            return f"{name or 'the model'} is {here}, not {there}"
    return "" if _shapes(network) == _shapes(other) else "its weights have other names or shapes"


def _shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in network.state_dict().items()}


def _layers(network: nn.Module) -> dict[str, nn.Module]:
    return {name: part for name, part in network.named_modules() if not _does_nothing(part)}


def _does_nothing(module: nn.Module) -> bool:
    """Whether a layer hands on what it gets, at least in evaluation mode."""
    path = type(module).__name__ == "DropPath"  # timm's, which is not imported for this
    return path or isinstance(module, (nn.Identity, _DropoutNd))


def _described(module: nn.Module | None, beside: nn.Module | None) -> str:
    """A layer's kind and settings, of which attributes are those that the one beside it has too."""
    if module is None:
        return "left out"
    # A class made of one of ours is that one, unless it computes something else.
    own = (kind for kind in type(module).__mro__ if kind.__module__.startswith("citysegzoo."))
    kind: Any = next(own, type(module))
    if kind.forward is not type(module).forward:
        kind = type(module)
    settings = [_OF_TRAINING.sub("", module.extra_repr()).replace(" ", "")]
    if kind.__module__.startswith("citysegzoo.") and not isinstance(module, _BatchNorm):
        settings += [
            f"{name}={value}"
            for name, value in vars(module).items()
            if isinstance(value, _PLAIN) and not name.startswith("_")
            if name not in _ATTRIBUTES_OF_TRAINING and hasattr(beside, name)
        ]
    # Batch norm over several processes is the same function in evaluation mode.
    called = "BatchNorm" if isinstance(module, _BatchNorm) else kind.__name__
    return f"{called}({', '.join(filter(None, settings))})"
