"""Atrous spatial pyramid pooling, alone or as the decoder of DeepLabv3.

Chen, Papandreou, Schroff, Adam, "Rethinking Atrous Convolution for Semantic Image Segmentation",
2017, section 3.3.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from citysegzoo.arguments import check_positive, check_positives, check_probability
from citysegzoo.base import Decoder
from citysegzoo.layers import ConvNormAct, resize
from citysegzoo.registry import register_decoder


class ImagePooling(nn.Module):
    """The mean of the whole map, through a 1x1 convolution, spread over the map again."""

    def __init__(self, conv: ConvNormAct, *, align_corners: bool) -> None:
        super().__init__()
        self.conv = conv
        self.align_corners = align_corners

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.conv(x.mean((2, 3), keepdim=True))
        return resize(pooled, x.shape[-2:], align_corners=self.align_corners)


class ASPP(nn.Module):
    """Parallel branches that see the map at several atrous rates, concatenated.

    A 1x1 convolution, one ``kernel_size`` convolution for each rate, and the mean of the whole
    map; each with batch norm and ReLU. In training, a single image's mean has one value per
    channel and is normalised with the running statistics, see
    :class:`citysegzoo.layers.BatchNorm2d`.

    Args:
        in_channels: Channels of the map.
        width: Channels of each branch.
        rates: Atrous rates, as many as wanted.
        kernel_size: Kernel of the atrous branches.
        image_pooling: Whether there is a branch for the mean of the whole map.
        bias: Whether the convolutions have a bias.
        bare_first_branch: Whether the 1x1 branch goes without batch norm and ReLU (xiang2020).
        align_corners: Of the resize that spreads the mean.
        bn_momentum: Momentum of the batch-norm statistics.
        separable: Whether the atrous convolutions are depthwise separable.
    """

    def __init__(
        self,
        in_channels: int,
        width: int = 256,
        *,
        rates: Sequence[int] = (6, 12, 18),
        kernel_size: int = 3,
        image_pooling: bool = True,
        bias: bool = False,
        bare_first_branch: bool = False,
        align_corners: bool = False,
        bn_momentum: float = 0.1,
        separable: bool = False,
    ) -> None:
        super().__init__()
        rates = check_positives("aspp_rates", rates)
        check_positive("aspp_width", width)
        check_positive("aspp_kernel_size", kernel_size)
        check_probability("aspp_bn_momentum", bn_momentum)

        def branch(
            kernel: int, rate: int = 1, *, bare: bool = False, separable: bool = False
        ) -> ConvNormAct:
            return ConvNormAct(
                in_channels,
                width,
                kernel,
                dilation=rate,
                bias=bias,
                norm=not bare,
                norm_momentum=bn_momentum,
                activation="none" if bare else "relu",
                separable=separable,
            )

        self.branches = nn.ModuleList([branch(1, bare=bare_first_branch)])
        self.branches.extend(branch(kernel_size, rate, separable=separable) for rate in rates)
        if image_pooling:
            self.branches.append(ImagePooling(branch(1), align_corners=align_corners))
        self.channels = width * len(self.branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


@register_decoder("aspp")
class ASPPDecoder(Decoder):
    """ASPP on the deepest features, projected (DeepLabv3) or left as it is.

    Args:
        channels: Channels of the encoder's features, finest first.
        strides: Strides of the encoder's features.
        aspp_rates: Atrous rates.
        aspp_width: Channels of each branch.
        aspp_kernel_size: Kernel of the atrous branches; they are padded by
            ``(kernel_size - 1) * rate / 2`` so that the map keeps its size.
        image_pooling: Whether the mean of the map is a branch.
        levels: How many of the deepest features get an ASPP of their own; the maps are
            concatenated at the size of the finest of them.
        project: Whether a 1x1 convolution brings the branches down to ``aspp_width``.
        dropout: Dropout after the projection.
        refine: Whether a 3x3 convolution follows the projection (torchvision's DeepLabv3).
        bias: Whether the convolutions have a bias.
        bare_first_branch: Whether the 1x1 branch goes without batch norm and ReLU.
        align_corners: Of every bilinear resize.
        bn_momentum: Momentum of the batch-norm statistics.
        separable: Whether the atrous convolutions and the 3x3 one are depthwise separable.
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
        levels: int = 1,
        project: bool = True,
        dropout: float = 0.0,
        refine: bool = False,
        bias: bool = False,
        bare_first_branch: bool = False,
        align_corners: bool = False,
        bn_momentum: float = 0.1,
        separable: bool = False,
    ) -> None:
        super().__init__()
        if check_positive("levels", levels) > len(channels):
            raise ValueError(f"levels is {levels}, but the encoder gives {len(channels)} features.")
        if check_probability("dropout", dropout) and not project:
            raise ValueError("dropout follows the projection, which project=False leaves out.")
        self.levels = levels
        self.align_corners = align_corners
        pyramids = [
            ASPP(
                inputs,
                aspp_width,
                rates=aspp_rates,
                kernel_size=aspp_kernel_size,
                image_pooling=image_pooling,
                bias=bias,
                bare_first_branch=bare_first_branch,
                align_corners=align_corners,
                bn_momentum=bn_momentum,
                separable=separable,
            )
            for inputs in channels[-levels:]
        ]
        self.pyramids = nn.ModuleList(pyramids)
        self.channels = sum(pyramid.channels for pyramid in pyramids)
        self.project = nn.Sequential()
        if project:
            self.project.append(
                ConvNormAct(self.channels, aspp_width, 1, bias=bias, norm_momentum=bn_momentum)
            )
            self.project.append(nn.Dropout(dropout))
            self.channels = aspp_width
        if refine:
            self.project.append(
                ConvNormAct(
                    self.channels,
                    aspp_width,
                    bias=bias,
                    norm_momentum=bn_momentum,
                    separable=separable,
                )
            )
            self.channels = aspp_width
        self.stride = strides[-levels]

    def forward(self, features: list[Tensor]) -> Tensor:
        features = features[-self.levels :]
        size = features[0].shape[-2:]
        maps = [
            resize(pyramid(feature), size, align_corners=self.align_corners)
            for pyramid, feature in zip(self.pyramids, features, strict=True)
        ]
        return self.project(torch.cat(maps, dim=1))
