"""Checkpoints of segmentation-models-pytorch (smp) on plain ResNets, 18 to 152.

smp's dilated stages dilate their first block too, its DeepLabv3+ has separable convolutions, one
of them on the ASPP's map before the join, and its U-Net repeats pixels on the way up: options of
the zoo's networks, which the suggestions name.

Atrous rates and output stride leave no trace in the weights; the suggestions give smp's defaults
(rates 12, 24, 36; stride 8 for DeepLabv3, 16 for DeepLabv3+), and a checkpoint trained with others
takes ``aspp_rates=`` and ``output_stride=``. An activation that smp appends to the logits has no
weights either and is not part of the zoo's networks.
"""

from __future__ import annotations

from torch import Tensor

from citysegzoo.weights.readers._common import (
    StateDict,
    Suggestion,
    rename,
    require,
    resnet_depth,
    suggest,
)

_ENDS = ((r"encoder\.", "encoder."), (r"segmentation_head\.0\.", "classifier.conv."))


def _aspp(theirs: str, ours: str) -> tuple[tuple[str, str], ...]:
    """Rules for smp's ASPP under a prefix; separable convolutions come as pairs ``0.0``, ``0.1``.

    Args:
        theirs: Pattern of smp's prefix.
        ours: Our name of the decoder.
    """
    branches = f"{ours}pyramids.0.branches."
    return (
        (rf"{theirs}convs\.4\.1\.", f"{branches}4.conv.conv."),
        (rf"{theirs}convs\.4\.2\.", f"{branches}4.conv.norm."),
        (rf"{theirs}convs\.([0-3])\.0\.", rf"{branches}\1.conv."),
        (rf"{theirs}convs\.([0-3])\.1\.", rf"{branches}\1.norm."),
        (rf"{theirs}project\.0\.", f"{ours}project.0.conv."),
        (rf"{theirs}project\.1\.", f"{ours}project.0.norm."),
    )


# Older files number the parts of DeepLabv3's decoder; smp renames them on loading too.
_DEEPLABV3 = (
    *_ENDS,
    *_aspp(r"decoder\.(?:aspp|0)\.", "decoder."),
    (r"decoder\.(?:conv|1)\.", "decoder.project.2.conv."),
    (r"decoder\.(?:bn|2)\.", "decoder.project.2.norm."),
)
_DEEPLABV3PLUS = (
    *_ENDS,
    *_aspp(r"decoder\.aspp\.0\.", "decoder.aspp."),
    (r"decoder\.aspp\.1\.", "decoder.aspp.project.2.conv."),
    (r"decoder\.aspp\.2\.", "decoder.aspp.project.2.norm."),
    (r"decoder\.block1\.0\.", "decoder.reduce.conv."),
    (r"decoder\.block1\.1\.", "decoder.reduce.norm."),
    (r"decoder\.block2\.0\.", "decoder.refine.0.conv."),
    (r"decoder\.block2\.1\.", "decoder.refine.0.norm."),
)
_UNET = (
    *_ENDS,
    (r"decoder\.blocks\.(\d)\.conv1\.0\.", r"decoder.blocks.\1.fuse.0.conv."),
    (r"decoder\.blocks\.(\d)\.conv1\.1\.", r"decoder.blocks.\1.fuse.0.norm."),
    (r"decoder\.blocks\.(\d)\.conv2\.0\.", r"decoder.blocks.\1.fuse.1.conv."),
    (r"decoder\.blocks\.(\d)\.conv2\.1\.", r"decoder.blocks.\1.fuse.1.norm."),
)
_FPN = (
    *_ENDS,
    (r"decoder\.p5\.", "decoder.laterals.3."),
    *((rf"decoder\.p{i + 2}\.skip_conv\.", f"decoder.laterals.{i}.") for i in range(3)),
    *(
        (rf"decoder\.seg_blocks\.{3 - i}\.block\.(\d)\.block\.", rf"decoder.climbs.{i}.convs.\1.")
        for i in range(4)
    ),
)
# A class for the whole image, which smp offers beside the segmentation.
IGNORED = ("classification_head.",)
"""What smp's networks may hold beside the segmentation: a head that classifies images."""


def from_smp_deeplabv3(state_dict: StateDict) -> dict[str, Tensor]:
    """Weights of smp's ``DeepLabV3`` on a ResNet under our names.

    Args:
        state_dict: ``state_dict()`` of smp's model; a classification head is left out.

    Returns:
        A state dict for ``create_model("deeplabv3_resnet50", ...)`` or another depth with the
        options of :func:`suggest_deeplabv3`.

    Raises:
        ValueError: If a key is not one of that network's, or its atrous convolutions are separable
            but the last 3x3 one is not, which the zoo has no network for.
    """
    if _separable(state_dict, "decoder.aspp.convs.") or _separable(state_dict, "decoder.0.convs."):
        raise ValueError(
            "these weights are of smp's DeepLabV3 with decoder_aspp_separable=True, whose last 3x3 "
            "convolution is a plain one all the same; citysegzoo has no such network."
        )
    return rename(state_dict, _DEEPLABV3, source="smp's DeepLabV3", ignored=IGNORED)


def from_smp_deeplabv3plus(state_dict: StateDict) -> dict[str, Tensor]:
    """Weights of smp's ``DeepLabV3Plus`` on a ResNet under our names.

    Args:
        state_dict: ``state_dict()`` of smp's model; a classification head is left out.

    Returns:
        A state dict for ``create_model("deeplabv3plus_resnet50", ...)`` or another depth with
        the options of :func:`suggest_deeplabv3plus`.

    Raises:
        ValueError: If a key is not one of that network's, or its 3x3 convolutions are separable
            but the atrous ones are not, which the zoo has no network for.
    """
    if not _separable(state_dict, "decoder.aspp.0.convs."):
        raise ValueError(
            "these weights are of smp's DeepLabV3Plus with decoder_aspp_separable=False, whose "
            "other convolutions are separable all the same; citysegzoo has no such network."
        )
    return rename(state_dict, _DEEPLABV3PLUS, source="smp's DeepLabV3Plus", ignored=IGNORED)


def from_smp_unet(state_dict: StateDict) -> dict[str, Tensor]:
    """Weights of smp's ``Unet`` on a ResNet under our names.

    The logits are smp's on images of even height and width. On odd ones smp cuts the last
    doubling to the image's size where the zoo resizes the logits. A ``decoder_interpolation``
    other than smp's default, nearest, leaves no trace in the weights, and the zoo has none: the
    logits are others then.

    Args:
        state_dict: ``state_dict()`` of smp's model; a classification head is left out.

    Returns:
        A state dict for ``create_model("unet_resnet50", ...)`` or another depth with the options
        of :func:`suggest_unet`.

    Raises:
        ValueError: If a key is not one of that network's, attention among it, or its decoder has
            no batch norm.
    """
    if "decoder.blocks.0.conv1.1.running_var" not in state_dict:
        raise ValueError(
            "these weights are of smp's Unet with a decoder_use_norm other than batch norm; "
            "citysegzoo has no such network."
        )
    return rename(state_dict, _UNET, source="smp's Unet", ignored=IGNORED)


def from_smp_fpn(state_dict: StateDict) -> dict[str, Tensor]:
    """Weights of smp's ``FPN`` on a ResNet under our names.

    A ``decoder_interpolation`` other than smp's default, nearest, leaves no trace in the weights,
    and the zoo has none: the logits are others then.

    Args:
        state_dict: ``state_dict()`` of smp's model; a classification head is left out.

    Returns:
        A state dict for ``create_model("fpn_resnet50", ...)`` or another depth with the options
        of :func:`suggest_fpn`.

    Raises:
        ValueError: If a key is not one of that network's.
    """
    return rename(state_dict, _FPN, source="smp's FPN", ignored=IGNORED)


def matches_deeplabv3(state_dict: StateDict) -> bool:
    """Whether the keys are of smp's DeepLabV3 on a ResNet."""
    keys = state_dict.keys()
    names = ("decoder.aspp.project.0.weight", "decoder.0.project.0.weight")
    return _on_resnet(state_dict) and any(name in keys for name in names)


def matches_deeplabv3plus(state_dict: StateDict) -> bool:
    """Whether the keys are of smp's DeepLabV3Plus on a ResNet."""
    return _on_resnet(state_dict) and "decoder.aspp.0.project.0.weight" in state_dict


def matches_unet(state_dict: StateDict) -> bool:
    """Whether the keys are of smp's Unet on a ResNet."""
    return _on_resnet(state_dict) and "decoder.blocks.0.conv1.0.weight" in state_dict


def matches_fpn(state_dict: StateDict) -> bool:
    """Whether the keys are of smp's FPN on a ResNet."""
    return _on_resnet(state_dict) and "decoder.p5.weight" in state_dict


def suggest_deeplabv3(state_dict: StateDict) -> Suggestion:
    """The zoo's network for smp's DeepLabV3, with smp's default rates and stride."""
    prefix = "decoder.aspp." if "decoder.aspp.project.0.weight" in state_dict else "decoder.0."
    require(state_dict, {f"{prefix}project.0.weight": 4})
    options = {
        "output_stride": 8,
        "aspp_rates": (12, 24, 36),
        "aspp_width": state_dict[f"{prefix}project.0.weight"].shape[0],
        "dilate_first": True,
        "align_corners": True,
    }
    return _suggest("deeplabv3_resnet", options, state_dict)


def suggest_deeplabv3plus(state_dict: StateDict) -> Suggestion:
    """The zoo's network for smp's DeepLabV3Plus, with smp's default rates and stride."""
    require(state_dict, {"decoder.aspp.0.project.0.weight": 4})
    options = {
        "output_stride": 16,
        "aspp_rates": (12, 24, 36),
        "aspp_width": state_dict["decoder.aspp.0.project.0.weight"].shape[0],
        "dilate_first": True,
        "refine_first": True,
        "separable": True,
        "align_corners": True,
    }
    return _suggest("deeplabv3plus_resnet", options, state_dict)


def suggest_unet(state_dict: StateDict) -> Suggestion:
    """The zoo's network for smp's Unet.

    Raises:
        ValueError: If its encoder is cut short or no plain ResNet, or weights are missing that
            tell the network.
    """
    numbered = (f"decoder.blocks.{i}.conv2.0.weight" for i in range(len(state_dict)))
    convs = [name for name in numbered if name in state_dict]
    require(state_dict, dict.fromkeys(convs, 4))
    widths = [state_dict[name].shape[0] for name in convs]
    if len(widths) != 5:
        raise ValueError(
            f"these weights are of smp's Unet with encoder_depth={len(widths)}; citysegzoo has "
            "one with 5 alone."
        )
    require(state_dict, {"segmentation_head.0.weight": 4})
    options = {
        "up": "nearest",
        "skip_first": False,
        "bias": False,
        "decoder_widths": tuple(widths[:4]),
        "extra_widths": tuple(widths[4:]),
        "classifier_kernel_size": state_dict["segmentation_head.0.weight"].shape[-1],
    }
    return _suggest("unet_resnet", options, state_dict)


def suggest_fpn(state_dict: StateDict) -> Suggestion:
    """The zoo's network for smp's FPN.

    Raises:
        ValueError: If its encoder is cut short or no plain ResNet, its levels are concatenated
            rather than added up or have fewer than 64 channels, or weights are missing that tell
            the network.
    """
    climb, head = "decoder.seg_blocks.0.block.0.block.0.weight", "segmentation_head.0.weight"
    finest, deepest = "decoder.p2.skip_conv.weight", "decoder.p5.weight"
    require(state_dict, dict.fromkeys((finest, deepest, climb, head), 4))
    if state_dict[deepest].shape[1] != 8 * state_dict[finest].shape[1]:  # as of layers 1 and 4
        raise ValueError(
            "these weights are of smp's FPN with an encoder_depth other than 5; citysegzoo has one "
            "with 5 alone."
        )
    width = state_dict[climb].shape[0]
    if state_dict[head].shape[1] != width:
        raise ValueError(
            "these weights are of smp's FPN with decoder_merge_policy='cat'; citysegzoo has one "
            "with 'add' alone."
        )
    if width < 64:
        raise ValueError(
            f"these weights are of smp's FPN with decoder_segmentation_channels={width}, whose "
            "group norm has one channel a group; citysegzoo has two or more."
        )
    options: dict[str, object] = {
        "pyramid_width": state_dict[deepest].shape[0],
        "decoder_width": width,
        "smooth": False,
        "dropout": 0.2,
        "align_corners": True,
    }
    return _suggest("fpn_resnet", options, state_dict)


def _on_resnet(state_dict: StateDict) -> bool:
    return {"encoder.layer1.0.conv1.weight", "segmentation_head.0.weight"} <= state_dict.keys()


def _separable(state_dict: StateDict, convs: str) -> bool:
    return f"{convs}1.0.1.weight" in state_dict


def _suggest(family: str, options: dict[str, object], state_dict: StateDict) -> Suggestion:
    return suggest(
        f"{family}{resnet_depth(state_dict, 'encoder.')}",
        options,
        state_dict,
        first="encoder.conv1.weight",
        classifier="segmentation_head.0.weight",
    )
