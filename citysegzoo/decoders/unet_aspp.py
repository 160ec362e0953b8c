"""U-Net with ASPP in place of its last two fusing blocks (xiang2020, section 3.4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

from citysegzoo.arguments import check_choice, check_positive
from citysegzoo.decoders.aspp import ASPP
from citysegzoo.decoders.unet import UNetDecoder
from citysegzoo.layers import ConvNormAct
from citysegzoo.registry import register_decoder


@register_decoder("unet_aspp")
class UNetASPPDecoder(UNetDecoder):
    """A U-Net decoder whose last two steps see several atrous rates.

    The step before the last fuses its skip with an ASPP; the last one hands on its skip and
    enlarged map through a final ASPP, whose branches are the result.

    Args:
        channels: Channels of the encoder's features, finest first.
        strides: Strides of the encoder's features.
        widths: Channels after each step up, as for the U-Net decoder.
        aspp_rates: Atrous rates of both ASPPs.
        aspp_width: Channels of each branch of the first.
        final_width: Channels of each branch of the final one.
        up: How a step enlarges, as for the U-Net decoder.
        align_corners: Of every bilinear resize.
        bias: Whether the ASPP convolutions have a bias.
        bare_first_branch: Whether their 1x1 branch goes without batch norm and ReLU.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        *,
        widths: Sequence[int] | None = None,
        aspp_rates: Sequence[int] = (6, 12, 18),
        aspp_width: int = 128,
        final_width: int = 32,
        up: Literal["transposed", "bilinear"] = "bilinear",
        align_corners: bool = False,
        bias: bool = False,
        bare_first_branch: bool = False,
    ) -> None:
        check_choice("up of unet_aspp", up, ("transposed", "bilinear"))
        resized = align_corners and up == "bilinear"
        super().__init__(channels, strides, widths=widths, up=up, align_corners=resized)
        check_positive("final_width", final_width)
        if len(self.blocks) < 2:
            raise ValueError("the unet_aspp decoder needs an encoder with at least three features.")

        def pyramid(inputs: int, width: int) -> ASPP:
            return ASPP(
                inputs,
                width,
                rates=aspp_rates,
                bias=bias,
                bare_first_branch=bare_first_branch,
                align_corners=align_corners,
            )

        widths = channels[-2::-1] if widths is None else widths
        middle = pyramid(channels[1] + widths[-2], aspp_width)
        project = ConvNormAct(middle.channels, widths[-2], 1, bias=bias)
        final = pyramid(channels[0] + widths[-1], final_width)
        self.blocks[-2].fuse = nn.Sequential(middle, project)
        self.blocks[-1].fuse = final
        self.channels = final.channels
