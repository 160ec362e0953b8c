"""LR-ASPP, the network for phones: MobileNetV3 and very little after it."""

from __future__ import annotations

from functools import partial
from typing import Literal

from citysegzoo.classifier import Classifier
from citysegzoo.decoders.lraspp import LRASPPDecoder
from citysegzoo.encoders.mobilenet import MobileNetV3Encoder, Size
from citysegzoo.model import SegmentationModel
from citysegzoo.registry import register_model


def lraspp(
    size: Size,
    *,
    num_classes: int = 19,
    in_channels: int = 3,
    output_stride: Literal[8, 16, 32] = 16,
    reduced_tail: bool = False,
    early_features: bool = True,
    decoder_width: int = 128,
    align_corners: bool = False,
) -> SegmentationModel:
    """LR-ASPP (Howard et al., ICCV 2019) on a dilated MobileNetV3; by default torchvision's.

    Args:
        size: Size of the MobileNetV3: ``"large"`` or ``"small"``.
        num_classes: Number of classes.
        in_channels: Channels of the image.
        output_stride: Stride of the deepest map: 8, 16 or 32.
        reduced_tail: Whether the last blocks are half as wide, as in the paper.
        early_features: Whether the finer map is that after the first block of its stride, rather
            than after the last.
        decoder_width: Channels that the deepest map is brought down to.
        align_corners: Of every bilinear resize.
    """
    encoder = MobileNetV3Encoder(
        size,
        in_channels,
        output_stride=output_stride,
        reduced_tail=reduced_tail,
        early_features=early_features,
    )
    decoder = LRASPPDecoder(
        encoder.channels, encoder.strides, width=decoder_width, align_corners=align_corners
    )
    classifier = Classifier(decoder.channels, num_classes)
    return SegmentationModel(
        encoder, decoder, classifier, num_classes=num_classes, align_corners=align_corners
    )


for _size in ("large", "small"):
    register_model(f"lraspp_mobilenet_v3_{_size}")(partial(lraspp, _size))
