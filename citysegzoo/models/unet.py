"""U-Nets: a plain encoder with skips, and the same decoder on pretrained backbones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

from citysegzoo.classifier import Classifier
from citysegzoo.decoders.unet import UNetDecoder, Up
from citysegzoo.decoders.unet_aspp import UNetASPPDecoder
from citysegzoo.encoders import create_encoder
from citysegzoo.encoders.plain import PooledConvEncoder
from citysegzoo.encoders.resnet import DEPTHS
from citysegzoo.layers import Init, initialise
from citysegzoo.model import SegmentationModel
from citysegzoo.registry import check_mapping, register_model


@register_model("unet")
def unet(
    *,
    num_classes: int = 19,
    in_channels: int = 3,
    widths: Sequence[int] = (64, 128, 256, 512, 1024),
    decoder_widths: Sequence[int] | None = None,
    norm: bool = True,
    first_norm: bool = True,
    up: Up = "transposed",
    up_width: Literal["narrow", "keep"] = "narrow",
    up_kernel_size: int = 3,
    up_norm: bool = True,
    align_corners: bool = False,
    skip_first: bool = True,
    init: Init | None = None,
) -> SegmentationModel:
    """The U-Net of Ronneberger et al. (MICCAI 2015) with padded convolutions and batch norm.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the image.
        widths: Channels of each level of the encoder, full resolution first.
        decoder_widths: Channels of each level of the decoder, deepest first; None mirrors the
            encoder.
        norm: Whether the convolutions have batch norm.
        first_norm: Whether the very first one has.
        up: ``"transposed"`` convolutions, ``"bilinear"`` resize and a convolution, or
            ``"nearest"``, which repeats pixels.
        up_width: Whether going up ``"narrow"``s to the level's width or ``"keep"``s the channels.
        up_kernel_size: Kernel of the convolution after a bilinear resize.
        up_norm: Whether that convolution has batch norm and ReLU.
        align_corners: Of the bilinear resize.
        skip_first: Concatenate (skip, enlarged) rather than (enlarged, skip).
        init: Scheme of the convolution weights, see :func:`citysegzoo.layers.initialise`.
    """
    encoder = PooledConvEncoder(in_channels, widths=widths, norm=norm, first_norm=first_norm)
    decoder = UNetDecoder(
        encoder.channels,
        encoder.strides,
        widths=decoder_widths,
        up=up,
        up_width=up_width,
        up_kernel_size=up_kernel_size,
        up_norm=up_norm,
        align_corners=align_corners,
        skip_first=skip_first,
        norm=norm,
    )
    classifier = Classifier(decoder.channels, num_classes)
    model = SegmentationModel(encoder, decoder, classifier, num_classes=num_classes)
    initialise(model, init)
    return model


def unet_on(
    encoder_name: str,
    *,
    num_classes: int = 19,
    in_channels: int = 3,
    encoder_options: Mapping[str, Any] | None = None,
    decoder_widths: Sequence[int] | None = None,
    norm: bool = True,
    dropout: float = 0.0,
    bottom_convs: int = 0,
    extra_widths: Sequence[int] = (),
    up: Up = "transposed",
    skip_first: bool = True,
    bias: bool = True,
    classifier_kernel_size: int = 1,
    working_size: Sequence[int] | None = None,
) -> SegmentationModel:
    """A U-Net decoder on the features of a backbone.

    Args:
        encoder_name: Registered name of the encoder.
        num_classes: Number of classes.
        in_channels: Channels of the image.
        encoder_options: Options of the encoder, such as ``{"width": 32}`` of a ResNet.
        decoder_widths: Channels of each step up, deepest first; None takes those of the skips.
        norm: Whether the decoder has batch norm; without it the convolution of a bilinear step up
            goes without ReLU too.
        dropout: Channel dropout after each of the decoder's fusing convolutions.
        bottom_convs: Convolutions on the deepest feature before the first step up.
        extra_widths: Channels of further doublings past the finest skip.
        up: ``"transposed"`` convolutions, ``"bilinear"`` resize and a convolution, or
            ``"nearest"``, which repeats pixels.
        skip_first: Concatenate (skip, enlarged) rather than (enlarged, skip).
        bias: Whether the decoder's fusing convolutions have a bias.
        classifier_kernel_size: Kernel of the classifier, odd.
        working_size: (H, W) at which the network works whatever the image's size, see
            :class:`~citysegzoo.model.SegmentationModel`.
    """
    check_mapping("encoder_options", encoder_options)
    encoder = create_encoder(encoder_name, in_channels=in_channels, **(encoder_options or {}))
    decoder = UNetDecoder(
        encoder.channels,
        encoder.strides,
        widths=decoder_widths,
        norm=norm,
        up_norm=norm,
        dropout=dropout,
        bottom_convs=bottom_convs,
        extra_widths=extra_widths,
        up=up,
        skip_first=skip_first,
        bias=bias,
    )
    return SegmentationModel(
        encoder,
        decoder,
        Classifier(decoder.channels, num_classes, kernel_size=classifier_kernel_size),
        num_classes=num_classes,
        working_size=working_size,
    )


for _size in ("tiny", "small", "base"):
    register_model(f"unet_swin_{_size}")(partial(unet_on, f"swin_{_size}"))
    register_model(f"unet_swinv2_{_size}")(partial(unet_on, f"swinv2_{_size}"))
for _depth in DEPTHS:
    # Of the skips, ResNet-18 and 34 have 256, 128, 64 and 64 channels, the deeper ones up to four
    # times as many; smp takes these widths for all of them.
    register_model(f"unet_resnet{_depth}")(
        partial(unet_on, f"resnet{_depth}", decoder_widths=(256, 128, 64, 32))
    )
register_model("unet_vgg16_bn")(partial(unet_on, "vgg16_bn"))


@register_model("unet_aspp")
def unet_aspp(
    *,
    num_classes: int = 19,
    in_channels: int = 3,
    widths: Sequence[int] = (64, 128, 256, 512, 1024),
    first_norm: bool = True,
    up: Literal["transposed", "bilinear"] = "bilinear",
    aspp_rates: Sequence[int] = (6, 12, 18),
    aspp_width: int = 128,
    final_width: int | None = None,
    align_corners: bool = False,
    bias: bool = False,
    bare_first_branch: bool = False,
    norm_logits: bool = False,
) -> SegmentationModel:
    """A U-Net whose last two fusing blocks are ASPPs (xiang2020, section 3.4).

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the image.
        widths: Channels of each level, full resolution first.
        first_norm: Whether the very first convolution has batch norm.
        up: ``"transposed"`` convolutions or ``"bilinear"`` resize and a convolution.
        aspp_rates: Atrous rates of both ASPPs.
        aspp_width: Channels of each branch of the first.
        final_width: Channels of each branch of the final one; None takes ``num_classes``.
        align_corners: Of every bilinear resize.
        bias: Whether the ASPP convolutions have a bias.
        bare_first_branch: Whether their 1x1 branch goes without batch norm and ReLU.
        norm_logits: Whether the logits pass batch norm and ReLU.
    """
    encoder = PooledConvEncoder(in_channels, widths=widths, first_norm=first_norm)
    decoder = UNetASPPDecoder(
        encoder.channels,
        encoder.strides,
        aspp_rates=aspp_rates,
        aspp_width=aspp_width,
        final_width=num_classes if final_width is None else final_width,
        up=up,
        align_corners=align_corners,
        bias=bias,
        bare_first_branch=bare_first_branch,
    )
    classifier = Classifier(decoder.channels, num_classes, norm_logits=norm_logits)
    return SegmentationModel(
        encoder, decoder, classifier, num_classes=num_classes, align_corners=align_corners
    )
