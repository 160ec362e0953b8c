"""Transposed convolutions: the decoder of the fully convolutional networks of three reports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from citysegzoo.arguments import check_positives
from citysegzoo.base import Decoder
from citysegzoo.layers import Activation, BatchNorm2d, fit, make_activation
from citysegzoo.registry import register_decoder


@register_decoder("transposed")
class TransposedDecoder(Decoder):
    """Doubles the resolution of the deepest feature, step by step, without skips.

    Where the encoder has a feature of the stride just reached, the map takes that feature's
    size, so that odd sizes stay aligned; on sizes that divide by the stride this is exactly a
    factor of two.

    Args:
        channels: Channels of the encoder's features, finest first.
        strides: Strides of the encoder's features.
        widths: Channels after each doubling. None goes from 512 (or the deepest feature's
            channels, if fewer) down to full resolution, halving, not under 32.
        kernel_size: 3 (stride 2, padding 1, output padding 1) or 2 (stride 2).
        norm: Whether each step is followed by batch norm.
        activation: ``"relu"``, ``"prelu"`` or ``"none"``, last in each step.

    Raises:
        ValueError: If ``widths`` asks for more doublings than the encoder halved.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        *,
        widths: Sequence[int] | None = None,
        kernel_size: Literal[2, 3] = 3,
        norm: bool = True,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        if kernel_size not in (2, 3):
            raise ValueError(
                f"the kernel of the transposed decoder is of size 2 or 3, not {kernel_size!r}."
            )
        halvings = strides[-1].bit_length() - 1
        if strides[-1] != 1 << halvings:
            raise ValueError(
                f"the transposed decoder doubles; a stride of {strides[-1]} is no power of two."
            )
        if widths is None:
            widest = min(512, channels[-1])
            widths = [max(min(32, widest), widest >> i) for i in range(halvings)]
        widths = check_positives("the decoder's widths", widths)
        if len(widths) > halvings:
            raise ValueError(
                f"the decoder has {len(widths)} widths, each a doubling, but an encoder of stride "
                f"{strides[-1]} allows at most {halvings}."
            )
        padding = kernel_size - 2
        self.steps = nn.ModuleList()
        for inputs, width in zip((channels[-1], *widths), widths, strict=False):
            step = nn.Sequential(
                nn.ConvTranspose2d(
                    inputs, width, kernel_size, stride=2, padding=padding, output_padding=padding
                )
            )
            if norm:
                step.append(BatchNorm2d(width))
            if activation != "none":
                step.append(make_activation(activation))
            self.steps.append(step)
        self.channels = widths[-1]
        self.stride = strides[-1] >> len(widths)
        # Position of the encoder feature whose size each step takes, where there is one.
        reached = [strides[-1] >> (i + 1) for i in range(len(widths))]
        self.targets = [strides.index(s) if s in strides else None for s in reached]

    def forward(self, features: list[Tensor]) -> Tensor:
        x = features[-1]
        for step, target in zip(self.steps, self.targets, strict=True):
            x = step(x)
            if target is not None:
                x = fit(x, features[target].shape[-2:])
        return x
