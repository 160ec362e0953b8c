"""Checkpoints of torchvision's segmentation networks."""

from __future__ import annotations

from torch import Tensor

from citysegzoo.weights.readers._common import StateDict, Suggestion, rename, resnet_depth, suggest

# From torchvision's names to ours, first match wins.
_DEEPLABV3 = (
    (r"backbone\.", "encoder."),
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
_FCN = (
    (r"backbone\.", "encoder."),
    (r"classifier\.0\.", "decoder.conv.conv."),
    (r"classifier\.1\.", "decoder.conv.norm."),
    (r"classifier\.4\.", "classifier.conv."),
)
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
    return rename(state_dict, _DEEPLABV3, source="torchvision's DeepLabv3", ignored=_IGNORED)


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


def suggest_deeplabv3(state_dict: StateDict) -> Suggestion:
    """The zoo's network for torchvision's DeepLabv3."""
    return _suggest("deeplabv3", "deeplabv3", state_dict)


def suggest_fcn(state_dict: StateDict) -> Suggestion:
    """The zoo's network for torchvision's FCN."""
    return _suggest("fcn", "fcn_dilated", state_dict)


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
