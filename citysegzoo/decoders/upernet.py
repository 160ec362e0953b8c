"""UPerNet: a feature pyramid on top of pyramid pooling, all levels fused.

Xiao, Liu, Zhou, Jiang, Sun, "Unified Perceptual Parsing for Scene Understanding", ECCV 2018,
section 3.1; as mmsegmentation and the Swin Transformer's authors build it. (The code of its own
authors enlarges the pooled means before their convolution rather than after it.)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from citysegzoo.arguments import check_positive, check_probability
from citysegzoo.base import Decoder
from citysegzoo.decoders.fpn import first_level
from citysegzoo.decoders.psp import PyramidPooling
from citysegzoo.layers import ConvNormAct, resize
from citysegzoo.registry import register_decoder


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of every pixel of ``(N, C, H, W)``."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@register_decoder("upernet")
class UPerNetDecoder(Decoder):
    """Pyramid pooling of the deepest feature, added to each finer one on the way up; all fused.

    Args:
        channels: Channels of the encoder's features, finest first.
        strides: Strides of the encoder's features.
        width: Channels of every map.
        bins: Along a side of the map, how many areas each pooling branch takes the means of.
        finest_stride: Features of a smaller stride are not used; the deepest always is.
        norm_features: Whether the features go through a layer norm first, which those of a Swin
            Transformer need (Liu et al., ICCV 2021).
        dropout: Channel dropout of the result.
        align_corners: Of every bilinear resize.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        *,
        width: int = 512,
        bins: Sequence[int] = (1, 2, 3, 6),
        finest_stride: int = 4,
        norm_features: bool = False,
        dropout: float = 0.1,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        check_positive("the decoder's width", width)
        check_probability("dropout", dropout)
        self.first = first_level(strides, finest_stride)
        self.align_corners = align_corners
        channels = channels[self.first :]
        self.norms = nn.ModuleList(
            ChannelNorm(inputs) if norm_features else nn.Identity() for inputs in channels
        )
        self.pool = PyramidPooling(
            channels[-1], width, branch_width=width, bins=bins, align_corners=align_corners
        )
        self.laterals = nn.ModuleList(
            ConvNormAct(inputs, width, 1, bias=False) for inputs in channels[:-1]
        )
        self.smooth = nn.ModuleList(ConvNormAct(width, width, bias=False) for _ in self.laterals)
        self.fuse = ConvNormAct(len(channels) * width, width, bias=False, dropout=dropout)
        self.channels = width
        self.stride = strides[self.first]

    def forward(self, features: list[Tensor]) -> Tensor:
        features = features[self.first :]
        *finer, deepest = [
            norm(feature) for norm, feature in zip(self.norms, features, strict=True)
        ]
        size = features[0].shape[-2:]
        x = self.pool(deepest)
        maps = [self._resize(x, size)]
        for i in reversed(range(len(finer))):
            x = self.laterals[i](finer[i]) + self._resize(x, finer[i].shape[-2:])
            maps.append(self._resize(self.smooth[i](x), size))
        return self.fuse(torch.cat(maps[::-1], dim=1))  # finest first, as published weights are

    def _resize(self, x: Tensor, size: Sequence[int]) -> Tensor:
        return resize(x, size, align_corners=self.align_corners)
