"""The decoder of SegFormer: linear layers alone.

Xie et al., "SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers",
NeurIPS 2021, section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from citysegzoo.arguments import check_positive
from citysegzoo.base import Decoder
from citysegzoo.layers import ConvNormAct, initialise, resize
from citysegzoo.registry import register_decoder


@register_decoder("all_mlp")
class AllMLPDecoder(Decoder):
    """Every feature through a linear layer, enlarged to the finest, concatenated and fused.

    A linear layer over channels is a 1x1 convolution here. As in the paper's code, batch norm and
    ReLU follow the fusing one, and its weights are drawn by He's scheme (normal, fan-out).

    Args:
        channels: Channels of the encoder's features, finest first.
        strides: Strides of the encoder's features.
        width: Channels each feature is brought to, and of the result.
        dropout: Channel dropout of the result.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        *,
        width: int = 256,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        check_positive("the decoder's width", width)
        self.linears = nn.ModuleList(nn.Conv2d(inputs, width, 1) for inputs in channels)
        self.fuse = ConvNormAct(len(channels) * width, width, 1, bias=False, dropout=dropout)
        initialise(self.fuse, "kaiming_normal")
        self.channels = width
        self.stride = strides[0]

    def forward(self, features: list[Tensor]) -> Tensor:
        size = features[0].shape[-2:]
        maps = [
            resize(linear(feature), size)
            for linear, feature in zip(self.linears, features, strict=True)
        ]
        return self.fuse(torch.cat(maps[::-1], dim=1))  # deepest first, as published weights are
