"""Decoders: from a pyramid of features to one map.

A decoder is a module built from the encoder's ``channels`` and ``strides``, with
``forward(features) -> Tensor`` and the ``channels`` and ``stride`` of that map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from citysegzoo.base import Decoder
from citysegzoo.decoders.all_mlp import AllMLPDecoder
from citysegzoo.decoders.aspp import ASPPDecoder
from citysegzoo.decoders.deeplabv3plus import DeepLabV3PlusDecoder
from citysegzoo.decoders.fcn_head import FCNHeadDecoder
from citysegzoo.decoders.fpn import FPNDecoder
from citysegzoo.decoders.lraspp import LRASPPDecoder
from citysegzoo.decoders.psp import PSPDecoder
from citysegzoo.decoders.segnet import SegNetDecoder
from citysegzoo.decoders.transposed import TransposedDecoder
from citysegzoo.decoders.unet import UNetDecoder
from citysegzoo.decoders.unet_aspp import UNetASPPDecoder
from citysegzoo.decoders.upernet import UPerNetDecoder
from citysegzoo.registry import DECODERS, register_decoder

__all__ = [
    "ASPPDecoder",
    "AllMLPDecoder",
    "Decoder",
    "DeepLabV3PlusDecoder",
    "FCNHeadDecoder",
    "FPNDecoder",
    "LRASPPDecoder",
    "PSPDecoder",
    "SegNetDecoder",
    "TransposedDecoder",
    "UNetASPPDecoder",
    "UNetDecoder",
    "UPerNetDecoder",
    "create_decoder",
    "list_decoders",
    "register_decoder",
]


def list_decoders(pattern: str | None = None) -> list[str]:
    """Names of the registered decoders.

    Args:
        pattern: Shell-style pattern the names must match, such as ``"unet*"``.
    """
    return DECODERS.names(pattern)


def create_decoder(
    name: str, channels: Sequence[int], strides: Sequence[int], **options: Any
) -> Decoder:
    """Build a decoder for an encoder's features.

    Args:
        name: A name of :func:`list_decoders`.
        channels: ``channels`` of the encoder.
        strides: ``strides`` of the encoder.
        **options: Options of that decoder.

    Raises:
        ValueError: If there is no such decoder, or the features don't suit it.
        TypeError: If it has no such option.
    """
    return DECODERS.checked(name, options)(tuple(channels), tuple(strides), **options)
