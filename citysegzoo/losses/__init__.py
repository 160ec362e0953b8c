"""Losses: exact on ignored pixels and absent classes, and several times cheaper than usual.

Each loss is a module, ``DiceLoss()(logits, target)``, and a formula on what all of them share,
``dice_loss(softmax_statistics(logits, target))``. :func:`create_loss` makes one by name, the
forms of the reports among them.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from citysegzoo.losses import reports as _reports  # noqa: F401  registers the reports' forms
from citysegzoo.losses.base import SegmentationLoss
from citysegzoo.losses.class_weights import (
    CLASS_WEIGHTS,
    enet_weights,
    inverse_frequency_weights,
    inverse_root_weights,
    log_frequency_weights,
    median_frequency_weights,
)
from citysegzoo.losses.combined import CombinedLoss
from citysegzoo.losses.cross_entropy import CrossEntropyLoss, cross_entropy_loss
from citysegzoo.losses.dice import DiceLoss, dice_loss
from citysegzoo.losses.focal import FocalLoss, focal_loss
from citysegzoo.losses.generalized_dice import GeneralizedDiceLoss, generalized_dice_loss
from citysegzoo.losses.iou import IoULoss, iou_loss
from citysegzoo.losses.lovasz import LovaszSoftmaxLoss, lovasz_softmax_loss
from citysegzoo.losses.ohem import OhemCrossEntropyLoss, ohem_cross_entropy_loss
from citysegzoo.losses.pixel_counts import PixelCounts, count_pixels
from citysegzoo.losses.statistics import SoftmaxStatistics, softmax_statistics
from citysegzoo.losses.tversky import TverskyLoss, tversky_loss
from citysegzoo.registry import LOSSES, register_loss


def create_loss(name: str, **options: Any) -> nn.Module:
    """Create a loss by name, such as ``create_loss("dice", smooth=1.0)``.

    Args:
        name: A name from :func:`list_losses`: a loss, or the form a report gave it
            (``"xiang2020_dice"``).
        **options: Options of that loss.

    Raises:
        ValueError: If there is no such loss; the message names the nearest.
        TypeError: If the loss has no such option; the message names the nearest.
    """
    return LOSSES.checked(name, options)(**options)


def list_losses() -> list[str]:
    """Names of all losses, in natural order."""
    return LOSSES.names()


__all__ = [
    "CLASS_WEIGHTS",
    "CombinedLoss",
    "CrossEntropyLoss",
    "DiceLoss",
    "FocalLoss",
    "GeneralizedDiceLoss",
    "IoULoss",
    "LovaszSoftmaxLoss",
    "OhemCrossEntropyLoss",
    "PixelCounts",
    "SegmentationLoss",
    "SoftmaxStatistics",
    "TverskyLoss",
    "count_pixels",
    "create_loss",
    "cross_entropy_loss",
    "dice_loss",
    "enet_weights",
    "focal_loss",
    "generalized_dice_loss",
    "inverse_frequency_weights",
    "inverse_root_weights",
    "iou_loss",
    "list_losses",
    "log_frequency_weights",
    "lovasz_softmax_loss",
    "median_frequency_weights",
    "ohem_cross_entropy_loss",
    "register_loss",
    "softmax_statistics",
    "tversky_loss",
]
