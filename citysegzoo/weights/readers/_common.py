"""What the readers share: renaming keys by rules, and telling networks by their keys."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from citysegzoo.encoders.resnet import BLOCKS

StateDict = Mapping[str, Tensor]


class Suggestion(NamedTuple):
    """A network of the zoo for the weights of a checkpoint.

    ``create_model(name, num_classes=num_classes, **options)`` builds it.

    Attributes:
        name: Its name.
        options: Options beside the name's own, ``in_channels`` where it is not 3.
        num_classes: Number of classes of the checkpoint's classifier.
    """

    name: str
    options: dict[str, Any]
    num_classes: int


def rename(
    state_dict: StateDict,
    rules: Sequence[tuple[str, str]],
    *,
    source: str,
    ignored: Sequence[str] = (),
) -> dict[str, Tensor]:
    """Give every weight its name in the zoo.

    Batch norms of checkpoints written before PyTorch counted their batches get a count of zero,
    as PyTorch itself does on loading.

    Args:
        state_dict: The weights under the names of their source.
        rules: Pairs of a pattern for the beginning of a key, up to and including a dot, and what
            takes its place; the first that matches is used.
        source: What the weights should be of, for the message.
        ignored: Beginnings of keys that are left out.

    Raises:
        ValueError: If a key matches no rule, or two keys get the same name.
    """
    origins: dict[str, str] = {}
    for key in state_dict:
        if key.startswith(tuple(ignored)):
            continue
        name = _first_match(key, rules)
        if name is None:
            raise ValueError(
                f"{key!r} is no weight of {source}; load it with the network it was saved from."
            )
        if name in origins:
            raise ValueError(
                f"{origins[name]!r} and {key!r} of {source} are both the weight {name!r}; "
                "take one of them out."
            )
        origins[name] = key
    result = {name: state_dict[key] for name, key in origins.items()}
    for name in origins:
        layer, _, value = name.rpartition(".")
        if value == "running_var":
            result.setdefault(f"{layer}.num_batches_tracked", torch.tensor(0))
    return result


def layer_rules(layers: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Rules for whole layers, which one of a layer's own values follows.

    A key that goes on in another way is one of another network and matches none of them.

    Args:
        layers: Pairs of a pattern for a layer's name, without the last dot, and our name for it.
    """
    value = r"\.(?=(?:weight|bias|running_mean|running_var|num_batches_tracked)$)"
    return tuple((layer + value, f"{ours}.") for layer, ours in layers)


def _first_match(key: str, rules: Sequence[tuple[str, str]]) -> str | None:
    for pattern, replacement in rules:
        match = re.match(pattern, key)
        if match:
            return match.expand(replacement) + key[match.end() :]
    return None


def resnet_depth(state_dict: StateDict, prefix: str) -> int:
    """Depth of the plain ResNet whose layers begin with ``prefix``.

    Raises:
        ValueError: If it is none of the zoo's, such as a ResNeXt, which has the same names.
    """
    blocks = tuple(
        sum(
            re.fullmatch(rf"{re.escape(prefix)}layer{stage}\.\d+\.conv1\.weight", key) is not None
            for key in state_dict
        )
        for stage in (1, 2, 3, 4)
    )
    conv = state_dict.get(f"{prefix}layer1.0.conv2.weight")
    bottleneck = f"{prefix}layer1.0.conv3.weight" in state_dict
    depth = next((d for d, b in BLOCKS.items() if b == blocks and (d >= 50) == bottleneck), None)
    if depth is None or conv is None or tuple(conv.shape) != (64, 64, 3, 3):
        raise ValueError(
            f"the layers {prefix}layer1 to {prefix}layer4 are no plain ResNet-18, 34, 50, 101 or "
            f"152 (blocks {blocks}); citysegzoo has no network for these weights."
        )
    return depth


def require(state_dict: StateDict, dims: Mapping[str, int]) -> None:
    """Raise ``ValueError`` where weights that tell the network are missing or of odd shapes.

    Args:
        state_dict: The weights.
        dims: Number of dimensions of each weight that has to be there.
    """
    odd = [
        key for key, ndim in dims.items() if key not in state_dict or state_dict[key].ndim != ndim
    ]
    if odd:
        names = ", ".join(odd[:3]) + (", ..." if len(odd) > 3 else "")
        raise ValueError(
            f"these weights lack {names}, or have them in another shape, so that the network "
            "cannot be told; take the whole checkpoint."
        )


def suggest(
    name: str,
    options: Mapping[str, Any],
    state_dict: StateDict,
    *,
    first: str,
    classifier: str,
) -> Suggestion:
    """A suggestion with what the first and last convolution's weights tell of it.

    Args:
        name: Name of the network.
        options: Its options so far.
        state_dict: The weights.
        first: Key of the first convolution's weight.
        classifier: Key of the classifier's.

    Raises:
        ValueError: If one of the two is missing or no weight of a convolution.
    """
    require(state_dict, {first: 4, classifier: 4})
    inputs = state_dict[first].shape[1]
    channels = {"in_channels": inputs} if inputs != 3 else {}
    return Suggestion(name, {**options, **channels}, state_dict[classifier].shape[0])
