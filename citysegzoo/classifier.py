"""The last layer: from a decoder's map to one logit per class."""

from __future__ import annotations

from torch import Tensor, nn

from citysegzoo.arguments import check_positive
from citysegzoo.layers import BatchNorm2d


class Classifier(nn.Module):
    """A convolution to ``num_classes`` channels.

    Args:
        in_channels: Channels of the decoder's map.
        num_classes: Number of classes.
        kernel_size: Side of the kernel, odd.
        bias: Whether the convolution has a bias.
        norm_logits: Whether the logits pass batch norm and ReLU, so that none is negative, as
            in mei2019's SegNet and xiang2020's ASPP networks.
        levels: The map is this many maps side by side, each with a classifier of its own whose
            logits are added up (xiang2020's "Ours").
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        kernel_size: int = 1,
        bias: bool = True,
        norm_logits: bool = False,
        levels: int = 1,
    ) -> None:
        super().__init__()
        if check_positive("classifier_kernel_size", kernel_size) % 2 == 0:
            raise ValueError(
                f"classifier_kernel_size is odd, so that the map keeps its size, not {kernel_size}."
            )
        self.levels = levels
        self.conv = nn.Conv2d(
            in_channels,
            levels * num_classes,
            kernel_size,
            padding=kernel_size // 2,
            groups=levels,
            bias=bias,
        )
        self.norm = (
            nn.Sequential(BatchNorm2d(levels * num_classes), nn.ReLU()) if norm_logits else None
        )

    def forward(self, x: Tensor) -> Tensor:
        logits = self.conv(x)
        if self.norm is not None:
            logits = self.norm(logits)
        if self.levels > 1:
            logits = logits.unflatten(1, (self.levels, -1)).sum(1)
        return logits
