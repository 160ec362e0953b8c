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
    f"classifier.{part}_classifier.{value}": ndim
    for part in ("high", "low")
    for value, ndim in (("weight", 4), ("bias", 1))
}
# The last convolution of each MobileNetV3, and its channels.
_ENDS = {"large": ("backbone.16.0.weight", 960), "small": ("backbone.12.0.weight", 576)}
# The auxiliary classifier only serves training.
IGNORED = ("aux_classifier.",)
"""What torchvision's networks may hold beside the segmentation."""


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
    return rename(state_dict, (_RESNET, *_ASPP), source="torchvision's DeepLabv3", ignored=IGNORED)


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
        ignored=IGNORED,
    )


def from_torchvision_lraspp(state_dict: StateDict) -> dict[str, Tensor]:
    """Weights of torchvision's ``lraspp_mobilenet_v3_large`` under our names.

    Its two classifiers, whose logits are added up, become one of both maps.

    Args:
        state_dict: ``state_dict()`` of torchvision's model.

    Returns:
        A state dict for ``create_model("lraspp_mobilenet_v3_large")``.

    Raises:
        ValueError: If a key is not one of that network's, or its classifiers are not whole.
    """
    state = rename(state_dict, _LRASPP, source="torchvision's LR-ASPP")
    require(state_dict, _LRASPP_LAST)
    shapes = {key: tuple(state_dict[key].shape) for key in _LRASPP_LAST}
    classes = shapes["classifier.high_classifier.weight"][0]
    for key, shape in shapes.items():
        if (shape[0], *shape[2:]) != ((classes, 1, 1) if len(shape) == 4 else (classes,)):
            raise ValueError(
                f"{key} is of shape {shape}, where both classifiers of torchvision's LR-ASPP have "
                f"1x1 kernels and as many classes ({classes}); take the checkpoint as it was saved."
            )
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
    return rename(state_dict, _FCN, source="torchvision's FCN", ignored=IGNORED)


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
    large = any(key.startswith("backbone.13.") for key in state_dict)
    size = "large" if large else "small"
    last, width = _ENDS[size]
    require(state_dict, {last: 4})
    name = f"{kind}_mobilenet_v3_{size}"
    if not large or len(state_dict[last]) != width:  # built by hand, and nothing tells the stride
        options = "" if len(state_dict[last]) == width else " with reduced_tail=True"
        raise ValueError(
            f"torchvision has {kind}_mobilenet_v3_large alone, whole, and these weights are of a "
            f"{size} MobileNetV3 that ends in {len(state_dict[last])} channels, whose stride is "
            f"unknown; where citysegzoo has {name}, name it{options} and the output_stride it was "
            "trained at."
        )
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
