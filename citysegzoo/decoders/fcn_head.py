"""The head of torchvision's FCN: one convolution on the deepest feature, nothing climbed back."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from citysegzoo.arguments import check_positive, check_probability
from citysegzoo.base import Decoder
from citysegzoo.layers import ConvNormAct
from citysegzoo.registry import register_decoder


@register_decoder("fcn_head")
class FCNHeadDecoder(Decoder):
    """A 3x3 convolution with batch norm and ReLU on the deepest feature, then dropout.

    Args:
        channels: Channels of the encoder's features, finest first.
        strides: Strides of the encoder's features.
        width: Channels of the result; None takes a quarter of the deepest feature's.
        dropout: Dropout after the convolution.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        *,
        width: int | None = None,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.channels = check_positive(
            "width", max(1, channels[-1] // 4) if width is None else width
        )
        self.stride = strides[-1]
        self.conv = ConvNormAct(channels[-1], self.channels, bias=False)
        self.drop = nn.Dropout(check_probability("dropout", dropout))

    def forward(self, features: list[Tensor]) -> Tensor:
        return self.drop(self.conv(features[-1]))
