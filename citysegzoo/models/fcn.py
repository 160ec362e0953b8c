"""Fully convolutional networks without skips: transposed convolutions up, or a dilated ResNet."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

from torch import nn

from citysegzoo.classifier import Classifier
from citysegzoo.decoders.fcn_head import FCNHeadDecoder
from citysegzoo.decoders.transposed import TransposedDecoder
from citysegzoo.encoders.plain import PooledConvEncoder, StridedConvEncoder
from citysegzoo.encoders.resnet import DEPTHS, ResNetEncoder
from citysegzoo.layers import Activation, Init, initialise
from citysegzoo.model import SegmentationModel
from citysegzoo.registry import register_model


@register_model("fcn")
def fcn(
    *,
    num_classes: int = 19,
    in_channels: int = 3,
    widths: Sequence[int] = (32, 64, 128, 256, 512),
    pooling: bool = False,
    norm: bool = True,
    activation: Activation = "relu",
    extra_convs: int = 0,
    decoder_widths: Sequence[int] | None = None,
    up_kernel_size: Literal[2, 3] = 3,
    decoder_norm: bool = True,
    decoder_activation: Activation = "relu",
    transposed_classifier: bool = False,
    init: Init | None = None,
) -> SegmentationModel:
    """A small FCN: stride-2 convolutions down, transposed convolutions up.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the image.
        widths: Channels of each halving of the encoder.
        pooling: Whether a stage is a convolution and max pooling rather than a stride-2
            convolution.
        norm: Whether the encoder has batch norm.
        activation: Activation of the encoder.
        extra_convs: Further stride-1 convolutions at the end of a stride-2 encoder.
        decoder_widths: Channels of each doubling of the decoder; None goes from 512 down to 32.
        up_kernel_size: Kernel of the transposed convolutions, 2 or 3.
        decoder_norm: Whether the decoder has batch norm.
        decoder_activation: Activation of the decoder.
        transposed_classifier: Whether the classifier is one more doubling rather than a 1x1
            convolution.
        init: Scheme of the convolution weights, see :func:`citysegzoo.layers.initialise`.
    """
    encoder: PooledConvEncoder | StridedConvEncoder
    if pooling:
        if extra_convs:
            raise ValueError(
                "extra_convs belongs to the stride-2 encoder; leave it 0 with pooling."
            )
        encoder = PooledConvEncoder(
            in_channels,
            widths=widths,
            convs_per_stage=1,
            norm=norm,
            activation=activation,
            pool_last=True,
        )
    else:
        encoder = StridedConvEncoder(
            in_channels, widths=widths, norm=norm, activation=activation, extra_convs=extra_convs
        )
    decoder = TransposedDecoder(
        encoder.channels,
        encoder.strides,
        widths=decoder_widths,
        kernel_size=up_kernel_size,
        norm=decoder_norm,
        activation=decoder_activation,
    )
    if transposed_classifier and decoder.stride < 2:
        raise ValueError(
            "transposed_classifier is one more doubling, and the decoder has reached full size; "
            "give decoder_widths one number fewer."
        )
    classifier = (
        nn.ConvTranspose2d(decoder.channels, num_classes, 2, stride=2)
        if transposed_classifier
        else Classifier(decoder.channels, num_classes)
    )
    model = SegmentationModel(encoder, decoder, classifier, num_classes=num_classes)
    initialise(model, init)
    return model


def fcn_resnet(
    depth: int,
    *,
    num_classes: int = 19,
    in_channels: int = 3,
    output_stride: Literal[8, 16, 32] = 32,
    decoder_widths: Sequence[int] | None = None,
    freeze_encoder: bool = False,
    init: Init | None = None,
) -> SegmentationModel:
    """A ResNet with the transposed-convolution decoder of the small FCN.

    Args:
        depth: Depth of the ResNet.
        num_classes: Number of classes.
        in_channels: Channels of the image.
        output_stride: Stride of the ResNet's deepest map.
        decoder_widths: Channels of each doubling of the decoder; None goes from 512 down to 32.
        freeze_encoder: Whether the ResNet stays as it is, batch-norm statistics included.
        init: Scheme of the decoder's weights, see :func:`citysegzoo.layers.initialise`.
    """
    encoder = ResNetEncoder(depth, in_channels, output_stride=output_stride)
    decoder = TransposedDecoder(encoder.channels, encoder.strides, widths=decoder_widths)
    classifier = Classifier(decoder.channels, num_classes)
    model = SegmentationModel(encoder, decoder, classifier, num_classes=num_classes)
    initialise(decoder, init)
    initialise(classifier, init)
    return model.freeze_encoder() if freeze_encoder else model


def fcn_dilated_resnet(
    depth: int,
    *,
    num_classes: int = 19,
    in_channels: int = 3,
    output_stride: Literal[8, 16, 32] = 8,
    width: int | None = None,
    dropout: float = 0.1,
) -> SegmentationModel:
    """A dilated ResNet, one 3x3 convolution and the classifier: torchvision's FCN.

    Args:
        depth: Depth of the ResNet.
        num_classes: Number of classes.
        in_channels: Channels of the image.
        output_stride: Stride of the ResNet's deepest map.
        width: Channels of the convolution; None takes a quarter of the deepest map's.
        dropout: Dropout after it.
    """
    encoder = ResNetEncoder(depth, in_channels, output_stride=output_stride)
    decoder = FCNHeadDecoder(encoder.channels, encoder.strides, width=width, dropout=dropout)
    classifier = Classifier(decoder.channels, num_classes)
    return SegmentationModel(encoder, decoder, classifier, num_classes=num_classes)


for _depth in DEPTHS:
    register_model(f"fcn_resnet{_depth}")(partial(fcn_resnet, _depth))
    register_model(f"fcn_dilated_resnet{_depth}")(partial(fcn_dilated_resnet, _depth))
