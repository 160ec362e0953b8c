"""Checkpoints of torchvision's segmentation networks."""

from __future__ import annotations

import torch
from torch import Tensor

from citysegzoo.weights.readers._common import (
    StateDict,
    Suggestion,
    rename,
    require,
    resnet_depth,
    suggest,
)

# From torchvision's names to ours, first match wins.
_ASPP = (
    (r"classifier\.0\.convs\.4\.1\.", "decoder.pyramids.0.branches.4.conv.conv."),
    (r"classifier\.0\.convs\.4\.2\.", "decoder.pyramids.0.branches.4.conv.norm."),
    (r"classifier\.0\.convs\.(\d)\.0\.", r"decoder.pyramids.0.branches.\1.conv."),
    (r"classifier\.0\.convs\.(\d)\.1\.", r"decoder.pyramids.0.branches.\1.norm."),
    (r"classifier\.0\.project\.0\.", "decoder.project.0.conv."),
    (r"classifier\.0\.project\.1\.", "decoder.project.0.norm."),
    (r"classifier\.1\.", "decoder.project.2.conv."),
    (r"classifier\.2\.", "decoder.project.2.norm."),
    (r"classifier\.4\.", "classifier.conv."),
)
_RESNET = (r"backbone\.", "encoder.")
_MOBILENET = (r"backbone\.", "encoder.layers.")
_LRASPP = (
    _MOBILENET,
    (r"classifier\.cbr\.0\.", "decoder.conv.conv."),
    (r"classifier\.cbr\.1\.", "decoder.conv.norm."),
    (r"classifier\.scale\.1\.", "decoder.gate."),
    (r"classifier\.high_classifier\.", "classifier.conv."),
    (r"classifier\.low_classifier\.", "low_classifier."),
)
_FCN = (
    _RESNET,
    (r"classifier\.0\.", "decoder.conv.conv."),
    (r"classifier\.1\.", "decoder.conv.norm."),
    (r"classifier\.4\.", "classifier.conv."),
)
_LRASPP_LAST = {
    "high_classifier.weight": 4,
    "high_classifier.bias": 1,
    "low_classifier.weight": 4,
    "low_classifier.bias": 1,
}
# The auxiliary classifier only serves training.
_IGNORED = ("aux_classifier.",)


def from_torchvision_deeplabv3(state_dict: StateDict) -> dict[str, Tensor]:
    """Weights of torchvision's ``deeplabv3_resnet50`` or ``_resnet101`` under our names.

    The auxiliary classifier, which only serves training, is left out.

    Args:
        state_dict: ``state_dict()`` of torchvision's model.

    Returns:
        A state dict for ``create_model("deeplabv3_resnet50")`` or ``_resnet101``.

    Raises:
        ValueError: If a key is not one of that network's.
    """
    return rename(state_dict, (_RESNET, *_ASPP), source="torchvision's DeepLabv3", ignored=_IGNORED)


def from_torchvision_deeplabv3_mobilenet(state_dict: StateDict) -> dict[str, Tensor]:
    """Weights of torchvision's ``deeplabv3_mobilenet_v3_large`` under our names.

    The auxiliary classifier, which only serves training, is left out.

    Args:
        state_dict: ``state_dict()`` of torchvision's model.

    Returns:
        A state dict for ``create_model("deeplabv3_mobilenet_v3_large")``.

    Raises:
        ValueError: If a key is not one of that network's.
    """
    return rename(
        state_dict,
        (_MOBILENET, *_ASPP),
        source="torchvision's DeepLabv3 on MobileNetV3",
        ignored=_IGNORED,
    )


def from_torchvision_lraspp(state_dict: StateDict) -> dict[str, Tensor]:
    """Weights of torchvision's ``lraspp_mobilenet_v3_large`` under our names.

    Its two classifiers, whose logits are added up, become one of both maps.

    Args:
        state_dict: ``state_dict()`` of torchvision's model.

    Returns:
        A state dict for ``create_model("lraspp_mobilenet_v3_large")``.

    Raises:
        ValueError: If a key is not one of that network's, or a classifier's is missing.
    """
    state = rename(state_dict, _LRASPP, source="torchvision's LR-ASPP")
    require(state_dict, {f"classifier.{part}": ndim for part, ndim in _LRASPP_LAST.items()})
    low = state.pop("low_classifier.weight")
    state["classifier.conv.weight"] = torch.cat([state["classifier.conv.weight"], low], dim=1)
    state["classifier.conv.bias"] = state["classifier.conv.bias"] + state.pop("low_classifier.bias")
    return state


def from_torchvision_fcn(state_dict: StateDict) -> dict[str, Tensor]:
    """Weights of torchvision's ``fcn_resnet50`` or ``_resnet101`` under our names.

    The auxiliary classifier, which only serves training, is left out.

    Args:
        state_dict: ``state_dict()`` of torchvision's model.

    Returns:
        A state dict for ``create_model("fcn_dilated_resnet50")`` or ``_resnet101``. (The zoo's
        ``fcn_resnet50`` is another network: it climbs back by transposed convolutions.)

    Raises:
        ValueError: If a key is not one of that network's.
    """
    return rename(state_dict, _FCN, source="torchvision's FCN", ignored=_IGNORED)


def matches_deeplabv3(state_dict: StateDict) -> bool:
    """Whether the keys are of torchvision's DeepLabv3 on a ResNet."""
    return {"backbone.conv1.weight", "classifier.0.convs.0.0.weight"} <= state_dict.keys()


def matches_fcn(state_dict: StateDict) -> bool:
    """Whether the keys are of torchvision's FCN on a ResNet."""
    return {"backbone.conv1.weight", "classifier.0.weight"} <= state_dict.keys()


def matches_deeplabv3_mobilenet(state_dict: StateDict) -> bool:
    """Whether the keys are of torchvision's DeepLabv3 on a MobileNetV3."""
    return {"backbone.0.0.weight", "classifier.0.convs.0.0.weight"} <= state_dict.keys()


def matches_lraspp(state_dict: StateDict) -> bool:
    """Whether the keys are of torchvision's LR-ASPP."""
    return {"backbone.0.0.weight", "classifier.low_classifier.weight"} <= state_dict.keys()


def suggest_deeplabv3(state_dict: StateDict) -> Suggestion:
    """The zoo's network for torchvision's DeepLabv3."""
    return _suggest("deeplabv3", "deeplabv3", state_dict)


def suggest_fcn(state_dict: StateDict) -> Suggestion:
    """The zoo's network for torchvision's FCN."""
    return _suggest("fcn", "fcn_dilated", state_dict)


def suggest_deeplabv3_mobilenet(state_dict: StateDict) -> Suggestion:
    """The zoo's network for torchvision's DeepLabv3 on a MobileNetV3."""
    return _suggest_mobilenet("deeplabv3", state_dict, classifier="classifier.4.weight")


def suggest_lraspp(state_dict: StateDict) -> Suggestion:
    """The zoo's network for torchvision's LR-ASPP."""
    return _suggest_mobilenet("lraspp", state_dict, classifier="classifier.high_classifier.weight")


def _suggest_mobilenet(kind: str, state_dict: StateDict, *, classifier: str) -> Suggestion:
    last = state_dict.get("backbone.16.0.weight")
    if last is None or tuple(last.shape) != (960, 160, 1, 1):
        raise ValueError(
            f"torchvision has {kind}_mobilenet_v3_large alone, and these weights are of another "
            "MobileNet; build the network that they were trained as."
        )
    name = f"{kind}_mobilenet_v3_large"
    return suggest(name, {}, state_dict, first="backbone.0.0.weight", classifier=classifier)


def _suggest(theirs: str, ours: str, state_dict: StateDict) -> Suggestion:
    depth = resnet_depth(state_dict, "backbone.")
    if depth not in (50, 101):  # built by hand, and nothing tells at what stride
        raise ValueError(
            f"torchvision has {theirs}_resnet50 and {theirs}_resnet101, not the ResNet-{depth} of "
            "these weights, whose stride is unknown; build the network with the output_stride it "
            "was trained at."
        )
    return suggest(
        f"{ours}_resnet{depth}",
        {},
        state_dict,
        first="backbone.conv1.weight",
        classifier="classifier.4.weight",
    )
