"""Lite reduced ASPP: the deepest feature, gated by its mean, beside a finer one.

Howard et al., "Searching for MobileNetV3", ICCV 2019, section 6.4; as torchvision has it, whose
gate takes the mean of the whole map and not of large areas.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from citysegzoo.arguments import check_positive
from citysegzoo.base import Decoder
from citysegzoo.decoders.deeplabv3plus import low_level
from citysegzoo.layers import ConvNormAct, resize
from citysegzoo.registry import register_decoder


@register_decoder("lraspp")
class LRASPPDecoder(Decoder):
    """The deepest feature, narrowed and gated, enlarged to a finer one and joined with it.

    The paper classifies both maps and adds up the logits, which is what a 1x1 classifier of the
    joined maps computes.

    Args:
        channels: Channels of the encoder's features, finest first.
        strides: Strides of the encoder's features.
        width: Channels that the deepest feature is brought down to.
        low_level_stride: Stride of the finer feature; the nearest finer one is taken where the
            encoder has none of that stride, or else its finest.
        align_corners: Of the bilinear resize.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        *,
        width: int = 128,
        low_level_stride: int = 8,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        check_positive("the decoder's width", width)
        self.low_level = low_level(strides, low_level_stride)
        self.align_corners = align_corners
        self.conv = ConvNormAct(channels[-1], width, 1, bias=False)
        self.gate = nn.Conv2d(channels[-1], width, 1, bias=False)
        self.channels = width + channels[self.low_level]
        self.stride = strides[self.low_level]

    def forward(self, features: list[Tensor]) -> Tensor:
        finer, deepest = features[self.low_level], features[-1]
        gate = self.gate(deepest.mean((2, 3), keepdim=True)).sigmoid()
        x = self.conv(deepest) * gate
        x = resize(x, finer.shape[-2:], align_corners=self.align_corners)
        return torch.cat([x, finer], dim=1)
