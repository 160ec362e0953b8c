"""DeepLabv3, DeepLabv3+ and plain ASPP heads on dilated backbones."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

from citysegzoo.classifier import Classifier
from citysegzoo.decoders.aspp import ASPPDecoder
from citysegzoo.decoders.deeplabv3plus import DeepLabV3PlusDecoder
from citysegzoo.encoders.mobilenet import MobileNetV3Encoder, Size
from citysegzoo.encoders.resnet import DEPTHS, ResNetEncoder
from citysegzoo.layers import Init, initialise
from citysegzoo.model import SegmentationModel
from citysegzoo.registry import register_model

Stride = Literal[8, 16, 32]


def default_rates(output_stride: Stride) -> tuple[int, int, int]:
    """(6, 12, 18) at output stride 16, doubled at 8: the same reach in pixels (section 3.3)."""
    base = 96 // output_stride
    return base, 2 * base, 3 * base


def deeplabv3(
    depth: int,
    *,
    num_classes: int = 19,
    in_channels: int = 3,
    output_stride: Stride = 8,
    aspp_rates: Sequence[int] | None = None,
    aspp_width: int = 256,
    aspp_kernel_size: int = 3,
    image_pooling: bool = True,
    refine: bool = True,
    dropout: float = 0.5,
    align_corners: bool = False,
    encoder_bn_momentum: float = 0.1,
    aspp_bn_momentum: float = 0.1,
    dilate_first: bool = False,
    separable: bool = False,
    init: Init | None = None,
) -> SegmentationModel:
    """DeepLabv3 (Chen et al., 2017): a dilated ResNet and ASPP; by default torchvision's network.

    Args:
        depth: Depth of the ResNet.
        num_classes: Number of classes.
        in_channels: Channels of the image.
        output_stride: Stride of the deepest map: 8, 16 or 32.
        aspp_rates: Atrous rates, any number of them; None takes (6, 12, 18) at output stride 16
            and twice that at 8.
        aspp_width: Channels of each branch and of the projection.
        aspp_kernel_size: Kernel of the atrous branches.
        image_pooling: Whether the mean of the map is a branch.
        refine: Whether a 3x3 convolution follows the projection.
        dropout: Dropout after the projection.
        align_corners: Of every bilinear resize.
        encoder_bn_momentum: Momentum of the ResNet's batch-norm statistics.
        aspp_bn_momentum: Momentum of the ASPP's.
        dilate_first: Whether the first block of a dilated stage has the stage's own rate
            (segmentation-models-pytorch) rather than that of the stage before.
        separable: Whether the atrous convolutions and the 3x3 one are depthwise separable.
        init: Scheme of the weights after the ResNet, see :func:`citysegzoo.layers.initialise`.
    """
    encoder = ResNetEncoder(
        depth,
        in_channels,
        output_stride=output_stride,
        bn_momentum=encoder_bn_momentum,
        dilate_first=dilate_first,
    )
    decoder = ASPPDecoder(
        encoder.channels,
        encoder.strides,
        aspp_rates=default_rates(output_stride) if aspp_rates is None else aspp_rates,
        aspp_width=aspp_width,
        aspp_kernel_size=aspp_kernel_size,
        image_pooling=image_pooling,
        dropout=dropout,
        refine=refine,
        align_corners=align_corners,
        bn_momentum=aspp_bn_momentum,
        separable=separable,
    )
    classifier = Classifier(decoder.channels, num_classes)
    initialise(decoder, init)
    initialise(classifier, init)
    return SegmentationModel(
        encoder, decoder, classifier, num_classes=num_classes, align_corners=align_corners
    )


def deeplabv3_mobilenet(
    size: Size,
    *,
    num_classes: int = 19,
    in_channels: int = 3,
    output_stride: Stride = 16,
    aspp_rates: Sequence[int] | None = None,
    aspp_width: int = 256,
    dropout: float = 0.5,
    align_corners: bool = False,
) -> SegmentationModel:
    """DeepLabv3 on a dilated MobileNetV3: by default torchvision's network.

    Args:
        size: Size of the MobileNetV3: ``"large"`` or ``"small"``.
        num_classes: Number of classes.
        in_channels: Channels of the image.
        output_stride: Stride of the deepest map: 8, 16 or 32.
        aspp_rates: Atrous rates, any number of them; None takes torchvision's (12, 24, 36) at
            output stride 16, and those of the same reach in pixels at another.
        aspp_width: Channels of each branch and of the projection.
        dropout: Dropout after the projection.
        align_corners: Of every bilinear resize.
    """
    encoder = MobileNetV3Encoder(size, in_channels, output_stride=output_stride)
    doubled = [2 * rate for rate in default_rates(output_stride)]
    decoder = ASPPDecoder(
        encoder.channels,
        encoder.strides,
        aspp_rates=doubled if aspp_rates is None else aspp_rates,
        aspp_width=aspp_width,
        dropout=dropout,
        refine=True,
        align_corners=align_corners,
    )
    classifier = Classifier(decoder.channels, num_classes)
    return SegmentationModel(
        encoder, decoder, classifier, num_classes=num_classes, align_corners=align_corners
    )


def deeplabv3plus(
    depth: int,
    *,
    num_classes: int = 19,
    in_channels: int = 3,
    output_stride: Stride = 16,
    aspp_rates: Sequence[int] | None = None,
    aspp_width: int = 256,
    image_pooling: bool = True,
    low_level_width: int = 48,
    dropout: float = 0.5,
    dilate_first: bool = False,
    refine_first: bool = False,
    separable: bool = False,
    align_corners: bool = False,
) -> SegmentationModel:
    """DeepLabv3+ (Chen et al., ECCV 2018): ASPP refined with the stride-4 map.

    Args:
        depth: Depth of the ResNet.
        num_classes: Number of classes.
        in_channels: Channels of the image.
        output_stride: Stride of the deepest map: 8, 16 or 32.
        aspp_rates: Atrous rates; None takes (6, 12, 18) at output stride 16, twice that at 8.
        aspp_width: Channels of each branch and of the decoder.
        image_pooling: Whether the mean of the map is a branch.
        low_level_width: Channels the stride-4 map is brought down to.
        dropout: Dropout after the projection of the ASPP.
        dilate_first: Whether the first block of a dilated stage has the stage's own rate
            (segmentation-models-pytorch) rather than that of the stage before.
        refine_first: Whether the first of the two 3x3 convolutions comes before the join, on the
            ASPP's map alone (segmentation-models-pytorch).
        separable: Whether the atrous and 3x3 convolutions are depthwise separable.
        align_corners: Of every bilinear resize.
    """
    encoder = ResNetEncoder(
        depth, in_channels, output_stride=output_stride, dilate_first=dilate_first
    )
    decoder = DeepLabV3PlusDecoder(
        encoder.channels,
        encoder.strides,
        aspp_rates=default_rates(output_stride) if aspp_rates is None else aspp_rates,
        aspp_width=aspp_width,
        image_pooling=image_pooling,
        low_level_width=low_level_width,
        dropout=dropout,
        refine_first=refine_first,
        separable=separable,
        align_corners=align_corners,
    )
    classifier = Classifier(decoder.channels, num_classes)
    return SegmentationModel(
        encoder, decoder, classifier, num_classes=num_classes, align_corners=align_corners
    )


def aspp_resnet(
    depth: int,
    *,
    num_classes: int = 19,
    in_channels: int = 3,
    output_stride: Stride = 16,
    aspp_rates: Sequence[int] = (6, 12, 18),
    aspp_width: int = 256,
    aspp_kernel_size: int = 3,
    image_pooling: bool = True,
    levels: int = 1,
    bias: bool = False,
    bare_first_branch: bool = False,
    norm_logits: bool = False,
    align_corners: bool = False,
) -> SegmentationModel:
    """A ResNet and ASPP whose branches go straight to the classifier (xiang2020, section 3.4).

    Args:
        depth: Depth of the ResNet.
        num_classes: Number of classes.
        in_channels: Channels of the image.
        output_stride: Stride of the deepest map: 8, 16 or 32.
        aspp_rates: Atrous rates, any number of them.
        aspp_width: Channels of each branch.
        aspp_kernel_size: Kernel of the atrous branches.
        image_pooling: Whether the mean of the map is a branch.
        levels: How many of the deepest maps get an ASPP and a classifier of their own; the
            logits are added up.
        bias: Whether the ASPP convolutions have a bias.
        bare_first_branch: Whether the 1x1 branch goes without batch norm and ReLU.
        norm_logits: Whether the logits pass batch norm and ReLU.
        align_corners: Of every bilinear resize.
    """
    encoder = ResNetEncoder(depth, in_channels, output_stride=output_stride)
    decoder = ASPPDecoder(
        encoder.channels,
        encoder.strides,
        aspp_rates=aspp_rates,
        aspp_width=aspp_width,
        aspp_kernel_size=aspp_kernel_size,
        image_pooling=image_pooling,
        levels=levels,
        project=False,
        bias=bias,
        bare_first_branch=bare_first_branch,
        align_corners=align_corners,
    )
    classifier = Classifier(decoder.channels, num_classes, norm_logits=norm_logits, levels=levels)
    return SegmentationModel(
        encoder, decoder, classifier, num_classes=num_classes, align_corners=align_corners
    )


for _depth in DEPTHS:
    register_model(f"deeplabv3_resnet{_depth}")(partial(deeplabv3, _depth))
    register_model(f"deeplabv3plus_resnet{_depth}")(partial(deeplabv3plus, _depth))
    register_model(f"aspp_resnet{_depth}")(partial(aspp_resnet, _depth))
register_model("deeplabv3_mobilenet_v3_large")(partial(deeplabv3_mobilenet, "large"))
