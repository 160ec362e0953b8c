"""Mix Transformers B0 to B5, the encoders of SegFormer.

Xie et al., "SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers",
NeurIPS 2021, section 3.1 and table 6; what the paper leaves open is as in its code.

Inside a stage a map lies as ``(N, H, W, C)``: linear layers and layer norms act on the last axis,
and a convolution sees the same memory in its channels-last format.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from citysegzoo.arguments import check_probability
from citysegzoo.base import Encoder
from citysegzoo.registry import register_encoder

# Widths and numbers of blocks of the four stages.
SIZES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "b0": ((32, 64, 160, 256), (2, 2, 2, 2)),
    "b1": ((64, 128, 320, 512), (2, 2, 2, 2)),
    "b2": ((64, 128, 320, 512), (3, 4, 6, 3)),
    "b3": ((64, 128, 320, 512), (3, 4, 18, 3)),
    "b4": ((64, 128, 320, 512), (3, 8, 27, 3)),
    "b5": ((64, 128, 320, 512), (3, 6, 40, 3)),
}
LICENCE = (
    "NVIDIA Source Code License for SegFormer, for research and evaluation, not for commercial use"
)
"""Of the weights that the authors publish, ImageNet's and Cityscapes'."""
_HEADS = (1, 2, 5, 8)
_REDUCTIONS = (8, 4, 2, 1)

# Of the blocks' and stages' layer norms. The two after a strided convolution, that of the
# embedding and that of the reduction, have PyTorch's 1e-5 in the paper's code.
_EPS = 1e-6


class _Linear(nn.Linear):
    """A linear layer drawn with standard deviation 0.02, bias zero.

    The paper's code truncates the draw at 100 standard deviations, which never happens.
    """

    def reset_parameters(self) -> None:
        if self.weight.is_meta:  # nothing to draw, and pretending to takes most of the build
            return
        nn.init.normal_(self.weight, std=0.02)
        nn.init.zeros_(self.bias)


class _Conv(nn.Conv2d):
    """A convolution drawn by He's scheme with the fan-out of one group, bias zero."""

    def reset_parameters(self) -> None:
        if self.weight.is_meta:
            return
        fan_out = math.prod(self.kernel_size) * self.out_channels // self.groups
        nn.init.normal_(self.weight, std=math.sqrt(2 / fan_out))
        if self.bias is not None:
            nn.init.zeros_(self.bias)


def _convolve(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A convolution of ``(N, H, W, C)``."""
    return conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class DropPath(nn.Module):
    """Stochastic depth: in training, zeroes ``(N, H, W, C)`` for whole images, scales the rest."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        return x * F.dropout(x.new_ones(x.shape[0], 1, 1, 1), self.rate)


class Attention(nn.Module):
    """Self-attention whose keys and values come from a map ``reduction`` times as small.

    Args:
        width: Channels of the map.
        heads: Number of heads.
        reduction: Kernel and stride of the convolution before keys and values; 1 goes without.
        dropout: Dropout of the result.
    """

    def __init__(self, width: int, heads: int, reduction: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query = _Linear(width, width)
        self.reduce = _Conv(width, width, reduction, reduction) if reduction > 1 else None
        self.reduce_norm = nn.LayerNorm(width) if reduction > 1 else None
        self.key = _Linear(width, width)
        self.value = _Linear(width, width)
        self.project = _Linear(width, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        small = x
        if self.reduce is not None and self.reduce_norm is not None:
            small = self.reduce_norm(_convolve(self.reduce, x))
        query = self._split(self.query(x))
        key, value = self._split(self.key(small)), self._split(self.value(small))
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.drop(self.project(mixed.transpose(1, 2).reshape(x.shape)))

    def _split(self, x: Tensor) -> Tensor:
        """From ``(N, H, W, C)`` to ``(N, heads, H * W, C / heads)``."""
        n, height, width, channels = x.shape
        return x.reshape(n, height * width, self.heads, channels // self.heads).transpose(1, 2)


class MixFFN(nn.Module):
    """Two linear layers with a depthwise 3x3 convolution between them.

    Its zero padding is what tells the network where in the image it is: there are no position
    embeddings (section 3.1).
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        hidden = 4 * width
        self.expand = _Linear(width, hidden)
        self.depthwise = _Conv(hidden, hidden, 3, padding=1, groups=hidden)
        self.contract = _Linear(hidden, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(_convolve(self.depthwise, self.expand(x)))
        return self.drop(self.contract(self.drop(x)))


class Block(nn.Module):
    """Attention and Mix-FFN, each normalised first and added to what came in."""

    def __init__(
        self, width: int, heads: int, reduction: int, *, drop_path: float, dropout: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=_EPS)
        self.attention = Attention(width, heads, reduction, dropout)
        self.norm2 = nn.LayerNorm(width, eps=_EPS)
        self.ffn = MixFFN(width, dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attention(self.norm1(x)))
        return x + self.drop_path(self.ffn(self.norm2(x)))


class Stage(nn.Module):
    """Overlapping patches embedded by a strided convolution, then blocks of one width.

    Args:
        inputs: Channels of the map that comes in.
        width: Channels of the stage.
        stride: Stride of the embedding; its kernel is ``2 * stride - 1``.
        heads: Heads of the attention.
        reduction: How many times smaller the map of keys and values is, along each side.
        drop_paths: Stochastic depth of each block.
        dropout: Dropout inside the blocks.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        *,
        stride: int,
        heads: int,
        reduction: int,
        drop_paths: Sequence[float],
        dropout: float,
    ) -> None:
        super().__init__()
        kernel = 2 * stride - 1
        self.embed = _Conv(inputs, width, kernel, stride, kernel // 2)
        self.embed_norm = nn.LayerNorm(width)
        self.blocks = nn.Sequential(
            *(
                Block(width, heads, reduction, drop_path=drop_path, dropout=dropout)
                for drop_path in drop_paths
            )
        )
        self.norm = nn.LayerNorm(width, eps=_EPS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed_norm(self.embed(x).permute(0, 2, 3, 1))
        return self.norm(self.blocks(x)).permute(0, 3, 1, 2)


class MiTEncoder(Encoder):
    """The four stages of a Mix Transformer, at strides 4, 8, 16 and 32.

    Where a stride does not divide the image, a feature has its size rounded up.

    Its ImageNet weights are the paper's, as segmentation-models-pytorch publishes them.

    Args:
        size: ``"b0"`` to ``"b5"``.
        in_channels: Channels of the image.
        drop_path_rate: Stochastic depth of the deepest block in training; it grows to that
            linearly from 0 at the first block.
        dropout: Dropout after the attention and both linear layers of the Mix-FFN.
    """

    publisher = "smp"

    def __init__(
        self,
        size: str,
        in_channels: int = 3,
        *,
        drop_path_rate: float = 0.1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_probability("drop_path_rate", drop_path_rate)
        check_probability("the encoder's dropout", dropout)
        self.pretrained_tag = f"mit_{size}.imagenet"
        self.in_channels = in_channels
        self.channels, depths = SIZES[size]
        self.strides = (4, 8, 16, 32)
        self.stages = nn.ModuleList()
        inputs, first, last = in_channels, 0, sum(depths) - 1
        for i, (width, depth) in enumerate(zip(self.channels, depths, strict=True)):
            self.stages.append(
                Stage(
                    inputs,
                    width,
                    stride=2 if i else 4,
                    heads=_HEADS[i],
                    reduction=_REDUCTIONS[i],
                    drop_paths=[drop_path_rate * (first + j) / last for j in range(depth)],
                    dropout=dropout,
                )
            )
            inputs, first = width, first + depth

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


for _size in SIZES:
    register_encoder(f"mit_{_size}")(partial(MiTEncoder, _size))
