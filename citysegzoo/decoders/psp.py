"""Pyramid pooling: means of areas of several sizes beside the deepest feature.

Zhao, Shi, Qi, Wang, Jia, "Pyramid Scene Parsing Network", CVPR 2017, section 3.2; what fuses is a
3x3 convolution, as in their code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from citysegzoo.arguments import check_positive, check_positives, check_probability
from citysegzoo.base import Decoder
from citysegzoo.layers import ConvNormAct, pool_to, resize
from citysegzoo.registry import register_decoder


class PyramidPooling(nn.Module):
    """A map beside its means over grids of areas, each through a 1x1 convolution, fused.

    Args:
        in_channels: Channels of the map.
        width: Channels of the result.
        branch_width: Channels of each grid's branch; None divides those of the map among them.
        bins: For each grid how many areas lie along a side.
        kernel_size: Kernel of the convolution that fuses.
        dropout: Channel dropout after it.
        align_corners: Of the resize that spreads the means over the map.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        *,
        branch_width: int | None = None,
        bins: Sequence[int],
        kernel_size: int = 3,
        dropout: float = 0.0,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.bins = check_positives("bins", bins)
        self.align_corners = align_corners
        if branch_width is None:
            branch_width = max(1, in_channels // len(self.bins))
        self.branches = nn.ModuleList(
            ConvNormAct(in_channels, branch_width, 1, bias=False) for _ in self.bins
        )
        inputs = in_channels + len(self.bins) * branch_width
        self.fuse = ConvNormAct(inputs, width, kernel_size, bias=False, dropout=dropout)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        means = [
            resize(branch(pool_to(x, areas)), size, align_corners=self.align_corners)
            for areas, branch in zip(self.bins, self.branches, strict=True)
        ]
        return self.fuse(torch.cat([x, *means], dim=1))


@register_decoder("psp")
class PSPDecoder(Decoder):
    """Pyramid pooling of the deepest feature, whose branches have as many channels together.

    Args:
        channels: Channels of the encoder's features, finest first.
        strides: Strides of the encoder's features.
        width: Channels of the result.
        bins: Along a side of the map, how many areas each branch takes the means of.
        kernel_size: Kernel of the convolution that fuses map and branches.
        dropout: Channel dropout of the result.
        align_corners: Of the bilinear resize of the means.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        *,
        width: int = 512,
        bins: Sequence[int] = (1, 2, 3, 6),
        kernel_size: int = 3,
        dropout: float = 0.1,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.channels = check_positive("the decoder's width", width)
        self.stride = strides[-1]
        self.pool = PyramidPooling(
            channels[-1],
            width,
            bins=bins,
            kernel_size=kernel_size,
            dropout=check_probability("dropout", dropout),
            align_corners=align_corners,
        )

    def forward(self, features: list[Tensor]) -> Tensor:
        return self.pool(features[-1])
