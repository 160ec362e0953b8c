"""Readers that turn other libraries' checkpoints into ours, key by key."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

# From torchvision's names to ours, first match wins.
_TORCHVISION_DEEPLABV3 = (
    (r"^backbone\.", "encoder."),
    (r"^classifier\.0\.convs\.4\.1\.", "decoder.pyramids.0.branches.4.conv.conv."),
    (r"^classifier\.0\.convs\.4\.2\.", "decoder.pyramids.0.branches.4.conv.norm."),
    (r"^classifier\.0\.convs\.(\d)\.0\.", r"decoder.pyramids.0.branches.\1.conv."),
    (r"^classifier\.0\.convs\.(\d)\.1\.", r"decoder.pyramids.0.branches.\1.norm."),
    (r"^classifier\.0\.project\.0\.", "decoder.project.0.conv."),
    (r"^classifier\.0\.project\.1\.", "decoder.project.0.norm."),
    (r"^classifier\.1\.", "decoder.project.2.conv."),
    (r"^classifier\.2\.", "decoder.project.2.norm."),
    (r"^classifier\.4\.", "classifier.conv."),
)


def from_torchvision_deeplabv3(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of torchvision's ``deeplabv3_resnet50`` or ``_resnet101`` under our names.

    The auxiliary classifier, which only serves training, is left out.

    Args:
        state_dict: ``state_dict()`` of torchvision's model.

    Returns:
        A state dict for ``create_model("deeplabv3_resnet50")`` or ``_resnet101``.

    Raises:
        ValueError: If a key is not one of that network's.
    """
    result = {}
    for key, value in state_dict.items():
        if key.startswith("aux_classifier."):
            continue
        for pattern, replacement in _TORCHVISION_DEEPLABV3:
            name, matches = re.subn(pattern, replacement, key)
            if matches:
                result[name] = value
                break
        else:
            raise ValueError(f"{key!r} is no weight of torchvision's DeepLabv3.")
    return result
