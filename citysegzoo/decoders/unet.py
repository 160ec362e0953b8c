"""U-Net skips: upsample, join the encoder's map of the same stride, fuse with two convolutions.

Ronneberger, Fischer, Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation",
MICCAI 2015; here with padded convolutions, as in all reports.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from citysegzoo.arguments import check_choice, check_positive, check_positives
from citysegzoo.base import Decoder
from citysegzoo.layers import ConvNormAct, fit, resize
from citysegzoo.registry import register_decoder

Up = Literal["transposed", "bilinear", "nearest"]


class UpBlock(nn.Module):
    """One step up: enlarge ``x``, concatenate the skip, fuse both.

    Args:
        in_channels: Channels of the map from below.
        skip_channels: Channels of the skip; 0 where there is none.
        width: Channels of the result.
        factor: Ratio of the strides below and here.
        up: ``"transposed"`` (kernel and stride of that factor), ``"bilinear"`` (resize, then
            a convolution) or ``"nearest"`` (pixels repeated, no convolution).
        up_channels: Channels of the enlarged map; ``in_channels`` with ``"nearest"``.
        up_kernel_size: Kernel of the convolution after a bilinear resize.
        up_norm: Whether that convolution has batch norm and ReLU.
        align_corners: Of the bilinear resize.
        skip_first: Whether the skip comes before the enlarged map in the concatenation.
        norm: Whether the fusing convolutions have batch norm.
        dropout: Channel dropout after each fusing convolution.
        bias: Whether the fusing convolutions have a bias.
    """

    def __init__(
        self,
        in_channels: int,
        skip_channels: int,
        width: int,
        *,
        factor: int,
        up: Up,
        up_channels: int,
        up_kernel_size: int,
        up_norm: bool,
        align_corners: bool,
        skip_first: bool,
        norm: bool,
        dropout: float,
        bias: bool,
    ) -> None:
        super().__init__()
        check_choice("up", up, get_args(Up))
        self.up: nn.Module
        if up == "transposed":
            self.up = nn.ConvTranspose2d(in_channels, up_channels, factor, stride=factor)
        elif up == "nearest":
            self.up = nn.Upsample(scale_factor=factor)
        else:
            self.up = ConvNormAct(
                in_channels,
                up_channels,
                up_kernel_size,
                norm=up_norm,
                activation="relu" if up_norm else "none",
            )
        self.mode = up
        self.factor = factor
        self.align_corners = align_corners
        self.skip_first = skip_first
        self.fuse: nn.Module = nn.Sequential(
            ConvNormAct(up_channels + skip_channels, width, bias=bias, norm=norm, dropout=dropout),
            ConvNormAct(width, width, bias=bias, norm=norm, dropout=dropout),
        )

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        size = [self.factor * n for n in x.shape[-2:]] if skip is None else skip.shape[-2:]
        if self.mode == "bilinear":
            x = self.up(resize(x, size, align_corners=self.align_corners))
        else:
            x = fit(self.up(x), size)
        if skip is not None:
            x = torch.cat([skip, x] if self.skip_first else [x, skip], dim=1)
        return self.fuse(x)


@register_decoder("unet")
class UNetDecoder(Decoder):
    """The expanding path of a U-Net on the features of any encoder.

    Args:
        channels: Channels of the encoder's features, finest first.
        strides: Strides of the encoder's features.
        widths: Channels after each step up, deepest first, one for each skip. None takes the
            channels of the skips.
        up: How a step enlarges: ``"transposed"`` convolution, ``"bilinear"`` resize followed by a
            convolution, or ``"nearest"``, which repeats pixels without any convolution.
        up_width: ``"narrow"``: the enlarged map has the step's width; ``"keep"``: it keeps the
            channels from below, as it always does with ``"nearest"``.
        up_kernel_size: Kernel of the convolution after a bilinear resize.
        up_norm: Whether that convolution has batch norm and ReLU.
        align_corners: Of the bilinear resize.
        skip_first: Concatenate (skip, enlarged) rather than (enlarged, skip).
        norm: Whether the fusing convolutions have batch norm.
        dropout: Channel dropout after each fusing convolution.
        bottom_convs: Convolutions on the deepest feature before the first step.
        extra_widths: Further steps without a skip, each doubling the resolution, with their
            channels. For encoders whose finest feature is not at full resolution.
        bias: Whether the fusing convolutions have a bias.

    Raises:
        ValueError: If the encoder gives fewer than two features, or the number of widths does
            not match its skips.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        *,
        widths: Sequence[int] | None = None,
        up: Up = "transposed",
        up_width: Literal["narrow", "keep"] = "narrow",
        up_kernel_size: int = 3,
        up_norm: bool = True,
        align_corners: bool = False,
        skip_first: bool = True,
        norm: bool = True,
        dropout: float = 0.0,
        bottom_convs: int = 0,
        extra_widths: Sequence[int] = (),
        bias: bool = True,
    ) -> None:
        super().__init__()
        if len(channels) < 2:
            raise ValueError(
                "the unet decoder needs an encoder with at least two features to skip."
            )
        check_positive("bottom_convs", bottom_convs, least=0)
        check_choice("up_width", up_width, ("narrow", "keep"))
        if up != "bilinear" and (align_corners or up_kernel_size != 3):
            raise ValueError(
                f"align_corners and up_kernel_size are of up='bilinear', and up is {up!r}; leave "
                "them out."
            )
        skips = len(channels) - 1
        widths = check_positives(
            "the decoder's widths", channels[-2::-1] if widths is None else widths
        )
        if len(widths) != skips:
            raise ValueError(
                f"the decoder has {len(widths)} widths, but this encoder gives {skips} skips."
            )
        extra = check_positives("extra_widths", extra_widths) if extra_widths else ()
        bottom = channels[-1]
        self.bottom = nn.Sequential(
            *(
                ConvNormAct(bottom, bottom, bias=bias, norm=norm, dropout=dropout)
                for _ in range(bottom_convs)
            )
        )
        self.blocks = nn.ModuleList()
        x = bottom
        for i, width in enumerate((*widths, *extra)):
            self.blocks.append(
                UpBlock(
                    x,
                    channels[-2 - i] if i < skips else 0,
                    width,
                    factor=strides[-1 - i] // strides[-2 - i] if i < skips else 2,
                    up=up,
                    up_channels=x if up_width == "keep" or up == "nearest" else width,
                    up_kernel_size=up_kernel_size,
                    up_norm=up_norm,
                    align_corners=align_corners,
                    skip_first=skip_first,
                    norm=norm,
                    dropout=dropout,
                    bias=bias,
                )
            )
            x = width
        self.channels = x
        if strides[0] % (1 << len(extra)):
            raise ValueError(
                f"extra_widths has {len(extra)} doublings, but the encoder's finest feature is at "
                f"stride {strides[0]}."
            )
        self.stride = strides[0] >> len(extra)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = self.bottom(features[-1])
        skips = features[-2::-1]
        for i, block in enumerate(self.blocks):
            x = block(x, skips[i] if i < len(skips) else None)
        return x
