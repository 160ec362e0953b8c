"""Encoders: from an image to a pyramid of features, finest first.

An encoder is a module with ``forward(x) -> list[Tensor]`` and two attributes, ``channels`` and
``strides``, that describe the list. It takes images of any size.
"""

from __future__ import annotations

from typing import Any

from citysegzoo.arguments import check_positive
from citysegzoo.base import Encoder, PooledFeatures
from citysegzoo.encoders.mit import MiTEncoder
from citysegzoo.encoders.mobilenet import MobileNetV3Encoder
from citysegzoo.encoders.plain import PooledConvEncoder, StridedConvEncoder
from citysegzoo.encoders.resnet import ResNetEncoder
from citysegzoo.encoders.swin import SwinEncoder
from citysegzoo.encoders.timm import TimmEncoder
from citysegzoo.encoders.vgg import VGGEncoder
from citysegzoo.registry import ENCODERS, check_name, check_options, register_encoder

__all__ = [
    "Encoder",
    "MiTEncoder",
    "MobileNetV3Encoder",
    "PooledConvEncoder",
    "PooledFeatures",
    "ResNetEncoder",
    "StridedConvEncoder",
    "SwinEncoder",
    "TimmEncoder",
    "VGGEncoder",
    "create_encoder",
    "list_encoders",
    "register_encoder",
]


def list_encoders(pattern: str | None = None) -> list[str]:
    """Names of the registered encoders; beside them ``timm/<name>`` builds any timm backbone.

    Args:
        pattern: Shell-style pattern the names must match, such as ``"resnet*"``.
    """
    return ENCODERS.names(pattern)


def create_encoder(name: str, *, in_channels: int = 3, **options: Any) -> Encoder:
    """Build an encoder.

    Args:
        name: A name of :func:`list_encoders`, or ``timm/`` and the name of a timm backbone.
        in_channels: Channels of the image.
        **options: Options of that encoder.

    Raises:
        ValueError: If there is no such encoder.
        TypeError: If it has no such option.
    """
    check_name("encoder", name)
    check_positive("in_channels", in_channels)
    if name.startswith("timm/"):
        check_options(f"encoder {name!r}", TimmEncoder, options, beside=("in_channels",))
        return TimmEncoder(name.removeprefix("timm/"), in_channels, **options)
    return ENCODERS.checked(name, options, beside=("in_channels",))(in_channels, **options)
