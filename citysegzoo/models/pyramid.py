"""Networks that see a picture at several scales: FPN, PSPNet, UPerNet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

from citysegzoo.classifier import Classifier
from citysegzoo.decoders.fpn import FPNDecoder
from citysegzoo.decoders.psp import PSPDecoder
from citysegzoo.decoders.upernet import UPerNetDecoder
from citysegzoo.encoders import create_encoder
from citysegzoo.encoders.resnet import DEPTHS, ResNetEncoder
from citysegzoo.model import SegmentationModel
from citysegzoo.registry import check_mapping, register_model


def fpn(
    encoder_name: str,
    *,
    num_classes: int = 19,
    in_channels: int = 3,
    encoder_options: Mapping[str, Any] | None = None,
    pyramid_width: int = 256,
    decoder_width: int = 128,
    smooth: bool = True,
    dropout: float = 0.1,
    align_corners: bool = False,
) -> SegmentationModel:
    """The semantic branch of a Panoptic FPN (Kirillov et al., CVPR 2019) on a backbone.

    Args:
        encoder_name: Registered name of the encoder.
        num_classes: Number of classes.
        in_channels: Channels of the image.
        encoder_options: Options of the encoder.
        pyramid_width: Channels of the pyramid.
        decoder_width: Channels before the classifier, at least 2.
        smooth: Whether the levels of the pyramid go through a 3x3 convolution, which
            segmentation-models-pytorch leaves out.
        dropout: Channel dropout before the classifier.
        align_corners: Of every bilinear resize.
    """
    check_mapping("encoder_options", encoder_options)
    encoder = create_encoder(encoder_name, in_channels=in_channels, **(encoder_options or {}))
    decoder = FPNDecoder(
        encoder.channels,
        encoder.strides,
        pyramid_width=pyramid_width,
        width=decoder_width,
        smooth=smooth,
        dropout=dropout,
        align_corners=align_corners,
    )
    classifier = Classifier(decoder.channels, num_classes)
    return SegmentationModel(
        encoder, decoder, classifier, num_classes=num_classes, align_corners=align_corners
    )


def pspnet(
    depth: int,
    *,
    num_classes: int = 19,
    in_channels: int = 3,
    output_stride: Literal[8, 16, 32] = 8,
    dilate_first: bool = False,
    decoder_width: int = 512,
    bins: Sequence[int] = (1, 2, 3, 6),
    dropout: float = 0.1,
    align_corners: bool = False,
) -> SegmentationModel:
    """PSPNet (Zhao et al., CVPR 2017): a dilated ResNet and pyramid pooling.

    Args:
        depth: Depth of the ResNet.
        num_classes: Number of classes.
        in_channels: Channels of the image.
        output_stride: Stride of the deepest map: 8, 16 or 32.
        dilate_first: Whether the first block of a dilated stage has the stage's own rate, as in
            the authors' code, rather than that of the stage before, as mmsegmentation has it.
        decoder_width: Channels before the classifier.
        bins: Along a side of the map, how many areas each branch takes the means of.
        dropout: Channel dropout before the classifier.
        align_corners: Of every bilinear resize.
    """
    encoder = ResNetEncoder(
        depth, in_channels, output_stride=output_stride, dilate_first=dilate_first
    )
    decoder = PSPDecoder(
        encoder.channels,
        encoder.strides,
        width=decoder_width,
        bins=bins,
        dropout=dropout,
        align_corners=align_corners,
    )
    classifier = Classifier(decoder.channels, num_classes)
    return SegmentationModel(
        encoder, decoder, classifier, num_classes=num_classes, align_corners=align_corners
    )


def upernet(
    encoder_name: str,
    *,
    num_classes: int = 19,
    in_channels: int = 3,
    encoder_options: Mapping[str, Any] | None = None,
    decoder_width: int = 512,
    bins: Sequence[int] = (1, 2, 3, 6),
    norm_features: bool = False,
    dropout: float = 0.1,
    align_corners: bool = False,
) -> SegmentationModel:
    """UPerNet (Xiao et al., ECCV 2018): a feature pyramid and pyramid pooling on a backbone.

    Args:
        encoder_name: Registered name of the encoder.
        num_classes: Number of classes.
        in_channels: Channels of the image.
        encoder_options: Options of the encoder.
        decoder_width: Channels of every map of the decoder.
        bins: Along a side of the map, how many areas each pooling branch takes the means of.
        norm_features: Whether the features go through a layer norm first.
        dropout: Channel dropout before the classifier.
        align_corners: Of every bilinear resize.
    """
    check_mapping("encoder_options", encoder_options)
    encoder = create_encoder(encoder_name, in_channels=in_channels, **(encoder_options or {}))
    decoder = UPerNetDecoder(
        encoder.channels,
        encoder.strides,
        width=decoder_width,
        bins=bins,
        norm_features=norm_features,
        dropout=dropout,
        align_corners=align_corners,
    )
    classifier = Classifier(decoder.channels, num_classes)
    return SegmentationModel(
        encoder, decoder, classifier, num_classes=num_classes, align_corners=align_corners
    )


for _depth in DEPTHS:
    register_model(f"fpn_resnet{_depth}")(partial(fpn, f"resnet{_depth}"))
    register_model(f"pspnet_resnet{_depth}")(partial(pspnet, _depth))
    register_model(f"upernet_resnet{_depth}")(partial(upernet, f"resnet{_depth}"))
for _size in ("tiny", "small", "base"):
    register_model(f"upernet_swin_{_size}")(partial(upernet, f"swin_{_size}", norm_features=True))
