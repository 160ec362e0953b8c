"""Plain convolutional encoders: stride-2 blocks, and blocks of convolutions with max pooling."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from citysegzoo.arguments import check_positive, check_positives
from citysegzoo.base import Encoder, PooledFeatures, PoolingEncoder
from citysegzoo.layers import Activation, ConvNormAct
from citysegzoo.registry import register_encoder


@register_encoder("strided_conv")
class StridedConvEncoder(Encoder):
    """Stride-2 convolutions, each with batch norm and activation: the classic small FCN encoder.

    Args:
        in_channels: Channels of the image.
        widths: Channels of each stage; stage i has stride ``2 ** (i + 1)``.
        norm: Whether each convolution is followed by batch norm.
        activation: ``"relu"``, ``"prelu"`` or ``"none"``.
        extra_convs: Further stride-1 convolutions after the last stage, of its width.
    """

    def __init__(
        self,
        in_channels: int = 3,
        *,
        widths: Sequence[int] = (32, 64, 128, 256, 512),
        norm: bool = True,
        activation: Activation = "relu",
        extra_convs: int = 0,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.channels = check_positives("widths", widths)
        self.strides = tuple(2 ** (i + 1) for i in range(len(self.channels)))
        check_positive("extra_convs", extra_convs, least=0)
        self.stages = nn.ModuleList()
        inputs = in_channels
        for width in self.channels:
            conv = ConvNormAct(inputs, width, 3, stride=2, norm=norm, activation=activation)
            self.stages.append(conv)
            inputs = width
        self.extra = nn.Sequential(
            *(
                ConvNormAct(inputs, inputs, norm=norm, activation=activation)
                for _ in range(extra_convs)
            )
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return [*features[:-1], self.extra(x)]


@register_encoder("pooled_conv")
class PooledConvEncoder(PoolingEncoder):
    """Blocks of convolutions with 2x2 max pooling between them: the U-Net and SegNet-Basic encoder.

    The features are the maps before each pooling, at strides 1, 2, 4, ...

    Args:
        in_channels: Channels of the image.
        widths: Channels of each block.
        convs_per_stage: Convolutions in a block.
        kernel_size: Side of their kernels.
        bias: Whether they have a bias.
        norm: Whether they are followed by batch norm.
        first_norm: Whether the very first one is too (xiang2020's is not).
        activation: ``"relu"``, ``"prelu"`` or ``"none"``.
        pool_last: Whether the last block is pooled too, which adds the pooled map as one more
            feature. A decoder that unpools needs it.
    """

    def __init__(
        self,
        in_channels: int = 3,
        *,
        widths: Sequence[int] = (64, 128, 256, 512, 1024),
        convs_per_stage: int = 2,
        kernel_size: int = 3,
        bias: bool = True,
        norm: bool = True,
        first_norm: bool = True,
        activation: Activation = "relu",
        pool_last: bool = False,
    ) -> None:
        super().__init__()
        widths = check_positives("widths", widths)
        self.in_channels = in_channels
        check_positive("convs_per_stage", convs_per_stage)
        self.pools_with_indices = pool_last
        self.channels = widths + widths[-1:] if pool_last else widths
        self.strides = tuple(2**i for i in range(len(self.channels)))
        self.stages = nn.ModuleList()
        channels = in_channels
        for i, width in enumerate(widths):
            stage = nn.Sequential()
            for j in range(convs_per_stage):
                with_norm = norm and (first_norm or i + j > 0)
                stage.append(
                    ConvNormAct(
                        channels,
                        width,
                        kernel_size,
                        bias=bias,
                        norm=with_norm,
                        activation=activation,
                    )
                )
                channels = width
            self.stages.append(stage)

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for i, stage in enumerate(self.stages):
            x = stage(x if i == 0 else F.max_pool2d(x, 2))
            features.append(x)
        if self.pools_with_indices:
            features.append(F.max_pool2d(x, 2))
        return features

    def forward_pooled(self, x: Tensor) -> PooledFeatures:
        """The features together with the indices of every pooling; needs ``pool_last=True``."""
        features, indices = [], []
        for stage in self.stages:
            features.append(stage(x))
            x, index = F.max_pool2d(features[-1], 2, return_indices=True)
            indices.append(index)
        return PooledFeatures([*features, x], indices)
