"""Checkpoints of the DeepLabv3 that mei2019 built on, github chenxi116/DeepLabv3.pytorch @046818d.

What is read, and on what evidence: the names are those of the classes ``ResNet`` and ``ASPP`` in
that commit's ``deeplab.py``: torchvision's names for the ResNet, then ``aspp.aspp1`` to
``aspp.aspp5`` with ``aspp.aspp1_bn`` to ``aspp.aspp5_bn`` (1x1, three atrous, image pooling, joined
in this order), ``aspp.conv2`` and ``aspp.bn2`` (the projection), ``aspp.conv3`` (the classifier).
Its training script saves them under ``state_dict`` with a leading ``module.``.

mei2019's own changes were never published. Kernels of 4 (DL-3) need no other names. A fourth
atrous branch (DL-4) is read if it is numbered before the image pooling, ``aspp5`` and ``aspp6``,
which is a guess; another numbering is refused by the kernels' sizes. Networks with group norm or
the deep stem have other keys and are refused; weight standardisation together with batch norm has
the same keys as none and cannot be told from them.
"""

from __future__ import annotations

import re

from torch import Tensor

from citysegzoo.weights.readers._common import (
    StateDict,
    Suggestion,
    rename,
    require,
    resnet_depth,
    suggest,
)

_SOURCE = "chenxi116's DeepLabv3"


def from_chenxi116_deeplabv3(state_dict: StateDict) -> dict[str, Tensor]:
    """Weights of the DeepLabv3 that mei2019 built on under our names.

    Args:
        state_dict: What its files hold under ``state_dict``, without the leading ``module.``.

    Returns:
        A state dict for ``create_model("deeplabv3_resnet101.mei2019_dl1")`` or another of them.

    Raises:
        ValueError: If a key is not one of that network's, or the branches are not a 1x1
            convolution, atrous ones and, last, the 1x1 convolution of the image pooling.
    """
    kernels = _kernels(state_dict)
    atrous = set(kernels[1:-1])
    if len(kernels) < 3 or kernels[0] != 1 or kernels[-1] != 1 or len(atrous | {1}) != 2:
        raise ValueError(
            f"the branches aspp.aspp1 to aspp.aspp{len(kernels)} of these weights have kernels of "
            f"{kernels}; citysegzoo reads 1, atrous ones of one size, and 1 for the image pooling."
        )
    last, pooling = len(kernels), f"decoder.pyramids.0.branches.{len(kernels) - 1}.conv."
    rules = [
        (r"(?=(?:conv1|bn1|layer[1-4])\.)", "encoder."),
        (rf"aspp\.aspp{last}\.", f"{pooling}conv."),
        (rf"aspp\.aspp{last}_bn\.", f"{pooling}norm."),
    ]
    for i in range(1, last):
        branch = f"decoder.pyramids.0.branches.{i - 1}."
        rules += [
            (rf"aspp\.aspp{i}\.", f"{branch}conv."),
            (rf"aspp\.aspp{i}_bn\.", f"{branch}norm."),
        ]
    rules += [
        (r"aspp\.conv2\.", "decoder.project.0.conv."),
        (r"aspp\.bn2\.", "decoder.project.0.norm."),
        (r"aspp\.conv3\.", "classifier.conv."),
    ]
    return rename(state_dict, rules, source=_SOURCE)


def matches(state_dict: StateDict) -> bool:
    """Whether the keys are of that DeepLabv3 with batch norm."""
    keys = {"conv1.weight", "layer1.0.conv1.weight", "aspp.aspp1_bn.running_var"}
    return keys <= state_dict.keys()


def suggest_deeplabv3(state_dict: StateDict) -> Suggestion:
    """The network of mei2019 for the kernels and number of the branches.

    Rates leave no trace in the weights: what may be DL-1 may as well be DL-2, with the rates 3, 6
    and 9, and is suggested as DL-1, which has those of the code.

    Raises:
        ValueError: If it is none of mei2019's networks.
    """
    kernels, depth = _kernels(state_dict), resnet_depth(state_dict, "")
    known = {(1, 3, 3, 3, 1): "dl1", (1, 4, 4, 4, 1): "dl3", (1, 3, 3, 3, 3, 1): "dl4"}
    if depth != 101 or kernels not in known:
        raise ValueError(
            f"mei2019 has no DeepLabv3 on ResNet-{depth} with branches of kernels {kernels}; build "
            "the network from deeplabv3_resnet101.mei2019_dl1 with options of your own."
        )
    return suggest(
        f"deeplabv3_resnet101.mei2019_{known[kernels]}",
        {},
        state_dict,
        first="conv1.weight",
        classifier="aspp.conv3.weight",
    )


def _kernels(state_dict: StateDict) -> tuple[int, ...]:
    """Sides of the branches' kernels, in the order of their numbers."""
    matches = (re.fullmatch(r"aspp\.aspp(\d+)\.weight", key) for key in state_dict)
    branches = sorted((int(match[1]), match[0]) for match in matches if match)
    require(state_dict, {key: 4 for _, key in branches})
    return tuple(state_dict[key].shape[-1] for _, key in branches)
