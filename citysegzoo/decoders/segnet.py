"""SegNet: unpool with the encoder's indices, then convolve.

Badrinarayanan, Kendall, Cipolla, "SegNet: A Deep Convolutional Encoder-Decoder Architecture for
Image Segmentation", TPAMI 39(12), 2017.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from citysegzoo.arguments import check_positives
from citysegzoo.base import Decoder, PooledFeatures
from citysegzoo.layers import Activation, ConvNormAct, exporting
from citysegzoo.registry import register_decoder


@register_decoder("segnet")
class SegNetDecoder(Decoder):
    """Mirrors an encoder that pools with indices: each pooling is undone, then convolved.

    The values return to where their maxima were, at the exact size before the pooling, odd
    sizes included. The last convolution of a stage goes to the channels of the next finer one.

    Args:
        channels: Channels of the encoder's features, finest first; the last is the pooled map.
        strides: Strides of the encoder's features.
        convs: Convolutions after each unpooling, finest first; one number holds for all.
        kernel_size: Side of their kernels.
        bias: Whether they have a bias.
        activation: ``"relu"``, or ``"none"`` as in SegNet-Basic.
    """

    unpools = True

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        *,
        convs: Sequence[int] | int = 2,
        kernel_size: int = 3,
        bias: bool = True,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        poolings = len(channels) - 1
        counts = check_positives("convs", [convs] * poolings if isinstance(convs, int) else convs)
        if len(counts) != poolings:
            raise ValueError(
                f"convs has {len(counts)} entries, but the encoder pools {poolings} times."
            )
        self.stages = nn.ModuleList()
        for i, count in enumerate(counts):
            width, finer = channels[i], channels[max(i - 1, 0)]
            widths = [width] * (count - 1) + [finer]
            self.stages.append(
                nn.Sequential(
                    *(
                        ConvNormAct(inputs, outputs, kernel_size, bias=bias, activation=activation)
                        for inputs, outputs in zip([width, *widths], widths, strict=False)
                    )
                )
            )
        self.channels = channels[0]
        self.stride = strides[0]

    def forward(self, pooled: PooledFeatures) -> Tensor:
        x = pooled.features[-1]
        for i in reversed(range(len(self.stages))):
            x = _unpool(x, pooled.indices[i], pooled.features[i].shape[-2:])
            x = self.stages[i](x)
        return x


def _unpool(x: Tensor, indices: Tensor, size: Sequence[int]) -> Tensor:
    """Put each value back to where its maximum was, zeros around it, in a map of ``size``."""
    if not exporting():
        return F.max_unpool2d(x, indices, [2, 2], output_size=tuple(size))
    # max_unpool2d compares its sizes as it goes, which no graph for every size can hold.
    height, width = size
    flat = x.new_zeros(x.shape[0], x.shape[1], height * width)
    flat = flat.scatter(2, indices.flatten(2), x.flatten(2))
    return flat.reshape(x.shape[0], x.shape[1], height, width)
