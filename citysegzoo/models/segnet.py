"""SegNet with VGG-16's encoder, and SegNet-Basic."""

from __future__ import annotations

from citysegzoo.classifier import Classifier
from citysegzoo.decoders.segnet import SegNetDecoder
from citysegzoo.encoders.plain import PooledConvEncoder
from citysegzoo.encoders.vgg import VGGEncoder
from citysegzoo.model import SegmentationModel
from citysegzoo.registry import register_model


@register_model("segnet_vgg16")
def segnet_vgg16(
    *, num_classes: int = 19, in_channels: int = 3, norm_logits: bool = False
) -> SegmentationModel:
    """SegNet: VGG-16 with batch norm, mirrored by unpooling and convolutions.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the image.
        norm_logits: Whether the last convolution is followed by batch norm and ReLU like all
            others (the code that mei2019 used).
    """
    encoder = VGGEncoder(16, True, in_channels)
    # The classifier is the second convolution of the finest stage.
    decoder = SegNetDecoder(encoder.channels, encoder.strides, convs=(1, 2, 3, 3, 3))
    classifier = Classifier(decoder.channels, num_classes, kernel_size=3, norm_logits=norm_logits)
    return SegmentationModel(encoder, decoder, classifier, num_classes=num_classes)


@register_model("segnet_basic")
def segnet_basic(
    *, num_classes: int = 19, in_channels: int = 3, width: int = 64
) -> SegmentationModel:
    """SegNet-Basic: four flat levels of 7x7 convolutions, no activation on the way up.

    As the SegNet paper and the prose of mei2019 (section 4.1) describe it: a classifier without
    bias, no biases before batch norm.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the image.
        width: Channels of every level.
    """
    encoder = PooledConvEncoder(
        in_channels,
        widths=(width,) * 4,
        convs_per_stage=1,
        kernel_size=7,
        bias=False,
        pool_last=True,
    )
    decoder = SegNetDecoder(
        encoder.channels,
        encoder.strides,
        convs=1,
        kernel_size=7,
        bias=False,
        activation="none",
    )
    classifier = Classifier(decoder.channels, num_classes, bias=False)
    return SegmentationModel(encoder, decoder, classifier, num_classes=num_classes)
