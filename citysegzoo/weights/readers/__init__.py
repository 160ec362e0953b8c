"""Readers that turn other libraries' checkpoints into ours, key by key.

A :class:`Layout` is one way of naming the weights of a network. :func:`detect_layout` tells it by
the keys, :func:`convert_state_dict` gives the weights our names::

    state = read_state_dict("deeplabv3_resnet101_coco.pth")
    name, options, num_classes = detect_layout(state).model(state)
    model = create_model(name, num_classes=num_classes, **options)
    load_weights(model, convert_state_dict(state), source="torchvision")
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from citysegzoo.data.preprocessing import UNIT_RANGE, Preprocessing
from citysegzoo.registry import suggestion
from citysegzoo.weights.readers import (
    chenxi116,
    pytorch_unet,
    segformer,
    smp,
    smp_segformer,
    torchvision,
)
from citysegzoo.weights.readers._common import StateDict, Suggestion
from citysegzoo.weights.readers.chenxi116 import from_chenxi116_deeplabv3
from citysegzoo.weights.readers.files import read_state_dict
from citysegzoo.weights.readers.pytorch_unet import from_pytorch_unet
from citysegzoo.weights.readers.segformer import from_transformers_segformer, segformer_variant
from citysegzoo.weights.readers.smp import (
    from_smp_deeplabv3,
    from_smp_deeplabv3plus,
    from_smp_fpn,
    from_smp_unet,
)
from citysegzoo.weights.readers.smp_segformer import from_smp_segformer
from citysegzoo.weights.readers.torchvision import (
    from_torchvision_deeplabv3,
    from_torchvision_deeplabv3_mobilenet,
    from_torchvision_fcn,
    from_torchvision_lraspp,
)

__all__ = [
    "LAYOUTS",
    "Layout",
    "Suggestion",
    "convert_state_dict",
    "detect_layout",
    "from_chenxi116_deeplabv3",
    "from_pytorch_unet",
    "from_smp_deeplabv3",
    "from_smp_deeplabv3plus",
    "from_smp_fpn",
    "from_smp_segformer",
    "from_smp_unet",
    "from_torchvision_deeplabv3",
    "from_torchvision_deeplabv3_mobilenet",
    "from_torchvision_fcn",
    "from_torchvision_lraspp",
    "from_transformers_segformer",
    "read_state_dict",
    "segformer_variant",
]


@dataclass(frozen=True)
class Layout:
    """One way of naming the weights of a network.

    Attributes:
        name: What it is called.
        description: What it is of, in a line.
        matches: Whether a state dict is of this layout, by its keys.
        model: The zoo's network for a state dict of this layout.
        convert: From a state dict of this layout to one of ours, strictly, key by key.
        preprocessing: Of its code, where the name of the model does not always say it.
        ignored: Beginnings of keys that are no part of the network, which are left out.
    """

    name: str
    description: str
    matches: Callable[[StateDict], bool]
    model: Callable[[StateDict], Suggestion]
    convert: Callable[[StateDict], dict[str, Tensor]]
    preprocessing: Preprocessing | None = None
    ignored: tuple[str, ...] = ()


def _is_ours(state_dict: StateDict) -> bool:
    parts = {key.partition(".")[0] for key in state_dict}
    return {"encoder", "classifier"} <= parts <= {"encoder", "decoder", "classifier"}


def _suggest_ours(state_dict: StateDict) -> Suggestion:
    raise ValueError(
        "weights under citysegzoo's own names do not say which of its networks they are of; name "
        "the model they were trained as."
    )


LAYOUTS: tuple[Layout, ...] = (
    Layout("citysegzoo", "citysegzoo's own names", _is_ours, _suggest_ours, dict),
    Layout(
        "torchvision_deeplabv3",
        "torchvision's deeplabv3_resnet50 and _resnet101",
        torchvision.matches_deeplabv3,
        torchvision.suggest_deeplabv3,
        from_torchvision_deeplabv3,
        ignored=torchvision.IGNORED,
    ),
    Layout(
        "torchvision_deeplabv3_mobilenet",
        "torchvision's DeepLabv3 on a MobileNetV3",
        torchvision.matches_deeplabv3_mobilenet,
        torchvision.suggest_deeplabv3_mobilenet,
        from_torchvision_deeplabv3_mobilenet,
        ignored=torchvision.IGNORED,
    ),
    Layout(
        "torchvision_lraspp",
        "torchvision's LR-ASPP on a MobileNetV3",
        torchvision.matches_lraspp,
        torchvision.suggest_lraspp,
        from_torchvision_lraspp,
    ),
    Layout(
        "torchvision_fcn",
        "torchvision's fcn_resnet50 and _resnet101",
        torchvision.matches_fcn,
        torchvision.suggest_fcn,
        from_torchvision_fcn,
        ignored=torchvision.IGNORED,
    ),
    Layout(
        "smp_deeplabv3",
        "segmentation-models-pytorch's DeepLabV3 on a ResNet",
        smp.matches_deeplabv3,
        smp.suggest_deeplabv3,
        from_smp_deeplabv3,
        ignored=smp.IGNORED,
    ),
    Layout(
        "smp_deeplabv3plus",
        "segmentation-models-pytorch's DeepLabV3Plus on a ResNet",
        smp.matches_deeplabv3plus,
        smp.suggest_deeplabv3plus,
        from_smp_deeplabv3plus,
        ignored=smp.IGNORED,
    ),
    Layout(
        "smp_unet",
        "segmentation-models-pytorch's Unet on a ResNet",
        smp.matches_unet,
        smp.suggest_unet,
        from_smp_unet,
        ignored=smp.IGNORED,
    ),
    Layout(
        "smp_fpn",
        "segmentation-models-pytorch's FPN on a ResNet",
        smp.matches_fpn,
        smp.suggest_fpn,
        from_smp_fpn,
        ignored=smp.IGNORED,
    ),
    Layout(
        "smp_segformer",
        "segmentation-models-pytorch's Segformer on a Mix Transformer",
        smp_segformer.matches_segformer,
        smp_segformer.suggest_segformer,
        from_smp_segformer,
        ignored=smp.IGNORED,
    ),
    Layout(
        "pytorch_unet",
        "stevens2020's U-Net",
        pytorch_unet.matches,
        pytorch_unet.suggest_unet,
        from_pytorch_unet,
        UNIT_RANGE,
    ),
    Layout(
        "chenxi116_deeplabv3",
        "the DeepLabv3 that mei2019 built on",
        chenxi116.matches,
        chenxi116.suggest_deeplabv3,
        from_chenxi116_deeplabv3,
    ),
    Layout(
        "transformers_segformer",
        "transformers' SegformerForSemanticSegmentation",
        segformer.matches_segformer,
        segformer.suggest_segformer,
        from_transformers_segformer,
    ),
)
"""Every layout that is read."""


def detect_layout(state_dict: StateDict) -> Layout:
    """The layout of a state dict, told by its keys.

    Raises:
        ValueError: If none or several match, with the first keys and the layouts there are.
    """
    found = [layout for layout in LAYOUTS if layout.matches(state_dict)]
    if len(found) == 1:
        return found[0]
    keys = ", ".join(list(state_dict)[:3]) + (", ..." if len(state_dict) > 3 else "")
    matched = f"both {' and '.join(layout.name for layout in found)}" if found else "no layout"
    raise ValueError(
        f"the keys of these weights ({keys or 'there are none'}) are of {matched}; the layouts "
        f"known are {', '.join(layout.name for layout in LAYOUTS)}."
    )


def convert_state_dict(
    state_dict: StateDict, *, layout: str | Layout | None = None
) -> dict[str, Tensor]:
    """Weights of a published network under our names.

    Args:
        state_dict: The weights, as :func:`read_state_dict` gives them.
        layout: Their layout or its name; None tells it by the keys.

    Returns:
        A state dict for the network that the layout's ``model`` suggests.

    Raises:
        ValueError: If there is no such layout, or a key is not one of it.
    """
    if layout is None:
        layout = detect_layout(state_dict)
    elif not isinstance(layout, Layout):
        layout = _find(layout)
    return layout.convert(state_dict)


def _find(name: str) -> Layout:
    for layout in LAYOUTS:
        if layout.name == name:
            return layout
    names = [layout.name for layout in LAYOUTS]
    hint = suggestion(name, names) or f"; the layouts known are {', '.join(names)}"
    raise ValueError(f"there is no layout {name!r}{hint}.")
