"""The decoder of DeepLabv3+: ASPP refined with a low-level feature.

Chen et al., "Encoder-Decoder with Atrous Separable Convolution for Semantic Image
Segmentation", ECCV 2018, section 3.1; here with plain 3x3 convolutions unless told otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from citysegzoo.arguments import check_positive
from citysegzoo.base import Decoder
from citysegzoo.decoders.aspp import ASPPDecoder
from citysegzoo.layers import ConvNormAct, resize
from citysegzoo.registry import register_decoder


def low_level(strides: Sequence[int], low_level_stride: int) -> int:
    """The feature of a stride, or else the nearest finer one, or else the finest.

    Not the deepest one, which the deep branch starts from, and of several of one stride the first.
    """
    check_positive("low_level_stride", low_level_stride)
    if len(strides) < 2:
        raise ValueError(
            "this decoder joins the deepest feature with a finer one, but the encoder gives one "
            "feature alone; take another of the two."
        )
    finer = [stride for stride in strides[:-1] if stride <= low_level_stride]
    return list(strides).index(finer[-1]) if finer else 0


@register_decoder("deeplabv3plus")
class DeepLabV3PlusDecoder(Decoder):
    """ASPP, enlarged to a fine feature, joined with it, and refined by two 3x3 convolutions.

    Args:
        channels: Channels of the encoder's features, finest first.
        strides: Strides of the encoder's features.
        aspp_rates: Atrous rates.
        aspp_width: Channels of each branch and of the result.
        aspp_kernel_size: Kernel of the atrous branches.
        image_pooling: Whether the mean of the map is a branch.
        low_level_stride: Stride of the low-level feature; the nearest finer one is taken where
            the encoder has none of that stride, or else its finest.
        low_level_width: Channels the low-level feature is brought down to.
        dropout: Dropout after the projection of the ASPP.
        refine_first: Whether the first of the two 3x3 convolutions comes before the join, on the
            ASPP's map alone (segmentation-models-pytorch).
        separable: Whether the atrous and 3x3 convolutions are depthwise separable.
        align_corners: Of every bilinear resize.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        *,
        aspp_rates: Sequence[int] = (6, 12, 18),
        aspp_width: int = 256,
        aspp_kernel_size: int = 3,
        image_pooling: bool = True,
        low_level_stride: int = 4,
        low_level_width: int = 48,
        dropout: float = 0.5,
        refine_first: bool = False,
        separable: bool = False,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        check_positive("low_level_width", low_level_width)
        self.low_level = low_level(strides, low_level_stride)
        self.aspp = ASPPDecoder(
            channels,
            strides,
            aspp_rates=aspp_rates,
            aspp_width=aspp_width,
            aspp_kernel_size=aspp_kernel_size,
            image_pooling=image_pooling,
            dropout=dropout,
            refine=refine_first,
            separable=separable,
            align_corners=align_corners,
        )
        self.align_corners = align_corners
        self.reduce = ConvNormAct(channels[self.low_level], low_level_width, 1, bias=False)
        inputs = aspp_width + low_level_width
        self.refine = nn.Sequential(
            ConvNormAct(inputs, aspp_width, bias=False, separable=separable)
        )
        if not refine_first:
            self.refine.append(ConvNormAct(aspp_width, aspp_width, bias=False, separable=separable))
        self.channels = aspp_width
        self.stride = strides[self.low_level]

    def forward(self, features: list[Tensor]) -> Tensor:
        low_level = self.reduce(features[self.low_level])
        size = low_level.shape[-2:]
        coarse = resize(self.aspp(features), size, align_corners=self.align_corners)
        return self.refine(torch.cat([coarse, low_level], dim=1))
