"""Residual networks, with the last stages dilated where a finer map is asked for.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, table 1; stride in the 3x3
convolution of the bottleneck. Layers are named as in torchvision and timm, so that published
weights load key by key.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from citysegzoo.arguments import check_flag, check_positive, check_probability
from citysegzoo.base import Encoder
from citysegzoo.layers import BatchNorm2d, KaimingConv2d
from citysegzoo.registry import register_encoder

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
"""Blocks of each stage by depth: basic ones to 34, bottlenecks from 50 on."""

DEPTHS = tuple(BLOCKS)
"""The depths there are."""


class _Conv(KaimingConv2d):
    """A convolution without bias whose padding keeps the size."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, dilation: int = 1
    ) -> None:
        pad = dilation * (kernel // 2)
        super().__init__(
            in_channels, out_channels, kernel, stride, pad, dilation=dilation, bias=False
        )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut (ResNet-18 and -34)."""

    expansion = 1

    def __init__(
        self, inputs: int, width: int, stride: int, dilation: int, next_dilation: int
    ) -> None:
        super().__init__()
        self.conv1 = _Conv(inputs, width, 3, stride, dilation)
        self.bn1 = BatchNorm2d(width)
        self.conv2 = _Conv(width, width, 3, 1, next_dilation)
        self.bn2 = BatchNorm2d(width)
        self.downsample = _shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return F.relu(out, inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around a shortcut (ResNet-50 and deeper)."""

    expansion = 4

    def __init__(
        self, inputs: int, width: int, stride: int, dilation: int, next_dilation: int
    ) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1 = _Conv(inputs, width, 1)
        self.bn1 = BatchNorm2d(width)
        self.conv2 = _Conv(width, width, 3, stride, dilation)
        self.bn2 = BatchNorm2d(width)
        self.conv3 = _Conv(width, outputs, 1)
        self.bn3 = BatchNorm2d(outputs)
        self.downsample = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        return F.relu(out, inplace=True)


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(_Conv(inputs, outputs, 1, stride), BatchNorm2d(outputs))


class ResNetEncoder(Encoder):
    """A ResNet without its pooling and classifier.

    The features are the stem (stride 2) and the four stages. Where ``output_stride`` is below
    32 a stage keeps its input's size and dilates instead, its first block still with the rate of
    the stage before, as torchvision's ``replace_stride_with_dilation`` and timm's
    ``output_stride`` have it, or already with its own, as segmentation-models-pytorch has it.

    Args:
        depth: 18, 34, 50, 101 or 152.
        in_channels: Channels of the image.
        output_stride: Stride of the deepest feature: 8, 16 or 32.
        bn_momentum: Momentum of the batch-norm statistics.
        dilate_first: Whether the first block of a dilated stage has the stage's own rate rather
            than that of the stage before.
        width: Channels of the stem; the stages have 1, 2, 4 and 8 times as many (times 4 from
            ResNet-50 on). There are ImageNet weights for 64 only.
    """

    def __init__(
        self,
        depth: int,
        in_channels: int = 3,
        *,
        output_stride: Literal[8, 16, 32] = 32,
        bn_momentum: float = 0.1,
        dilate_first: bool = False,
        width: int = 64,
    ) -> None:
        super().__init__()
        if depth not in DEPTHS:
            raise ValueError(f"the depth of a ResNet is 18, 34, 50, 101 or 152, not {depth!r}.")
        check_positive("in_channels", in_channels)
        check_flag("dilate_first", dilate_first)
        if check_positive("output_stride", output_stride) not in (8, 16, 32):
            raise ValueError(f"output_stride of a ResNet is 8, 16 or 32, not {output_stride!r}.")
        check_probability("the encoder's bn_momentum", bn_momentum)
        check_positive("the encoder's width", width)
        block = BasicBlock if depth < 50 else Bottleneck
        self.pretrained_tag = f"resnet{depth}.tv_in1k" if width == 64 else None
        self.timm_options = {"in_chans": in_channels}
        self.in_channels = in_channels
        widths = [width << i for i in range(4)]
        self.channels = (width, *(block.expansion * stage_width for stage_width in widths))
        self.strides = tuple(min(stride, output_stride) for stride in (2, 4, 8, 16, 32))
        self.conv1 = _Conv(in_channels, width, 7, 2)
        self.bn1 = BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        stages = []
        inputs, dilation = width, 1
        for i, (count, stage_width) in enumerate(zip(BLOCKS[depth], widths, strict=True)):
            stride = self.strides[i + 1] // self.strides[i] if i else 1
            next_dilation = dilation if i == 0 or stride == 2 else 2 * dilation
            first_dilation = next_dilation if dilate_first else dilation
            stage = nn.Sequential(block(inputs, stage_width, stride, first_dilation, next_dilation))
            inputs = block.expansion * stage_width
            for _ in range(count - 1):
                stage.append(block(inputs, stage_width, 1, next_dilation, next_dilation))
            stages.append(stage)
            dilation = next_dilation
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        for module in self.modules():
            if isinstance(module, BatchNorm2d):
                module.momentum = bn_momentum

    def forward(self, x: Tensor) -> list[Tensor]:
        stem = F.relu(self.bn1(self.conv1(x)), inplace=True)
        layer1 = self.layer1(self.maxpool(stem))
        layer2 = self.layer2(layer1)
        layer3 = self.layer3(layer2)
        layer4 = self.layer4(layer3)
        return [stem, layer1, layer2, layer3, layer4]

    def load_published_weights(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load the weights of timm's (and torchvision's) ResNet of this depth, without its head."""
        self.load_state_dict({k: v for k, v in state_dict.items() if not k.startswith("fc.")})


for _depth in DEPTHS:
    register_encoder(f"resnet{_depth}")(partial(ResNetEncoder, _depth))
