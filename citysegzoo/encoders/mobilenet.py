"""MobileNetV3: narrow blocks that widen inside, some gated by the mean of their map.

Howard et al., "Searching for MobileNetV3", ICCV 2019, tables 1 and 2. Layers are named as in
torchvision, so that its weights load key by key.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from citysegzoo.arguments import check_choice, check_flag, check_positive
from citysegzoo.base import Encoder
from citysegzoo.layers import BatchNorm2d, KaimingConv2d
from citysegzoo.registry import register_encoder

Size = Literal["large", "small"]
Activation = type[nn.ReLU | nn.Hardswish]

# Kernel, channels inside, channels out, gated, activation, stride of each block.
_BLOCKS: dict[Size, tuple[tuple[int, int, int, bool, Activation, int], ...]] = {
    "large": (
        (3, 16, 16, False, nn.ReLU, 1),
        (3, 64, 24, False, nn.ReLU, 2),
        (3, 72, 24, False, nn.ReLU, 1),
        (5, 72, 40, True, nn.ReLU, 2),
        (5, 120, 40, True, nn.ReLU, 1),
        (5, 120, 40, True, nn.ReLU, 1),
        (3, 240, 80, False, nn.Hardswish, 2),
        (3, 200, 80, False, nn.Hardswish, 1),
        (3, 184, 80, False, nn.Hardswish, 1),
        (3, 184, 80, False, nn.Hardswish, 1),
        (3, 480, 112, True, nn.Hardswish, 1),
        (3, 672, 112, True, nn.Hardswish, 1),
        (5, 672, 160, True, nn.Hardswish, 2),
        (5, 960, 160, True, nn.Hardswish, 1),
        (5, 960, 160, True, nn.Hardswish, 1),
    ),
    "small": (
        (3, 16, 16, True, nn.ReLU, 2),
        (3, 72, 24, False, nn.ReLU, 2),
        (3, 88, 24, False, nn.ReLU, 1),
        (5, 96, 40, True, nn.Hardswish, 2),
        (5, 240, 40, True, nn.Hardswish, 1),
        (5, 240, 40, True, nn.Hardswish, 1),
        (5, 120, 48, True, nn.Hardswish, 1),
        (5, 144, 48, True, nn.Hardswish, 1),
        (5, 288, 96, True, nn.Hardswish, 2),
        (5, 576, 96, True, nn.Hardswish, 1),
        (5, 576, 96, True, nn.Hardswish, 1),
    ),
}
_TAGS: dict[Size, str] = {
    "large": "mobilenetv3_large_100.ra_in1k",
    "small": "mobilenetv3_small_100.lamb_in1k",
}
_HEAD = ("conv_head.", "classifier.")  # of timm's, after the mean
_EPS, _TIMM_EPS = 1e-3, 1e-5


class ConvNorm(nn.Sequential):
    """A convolution that keeps the size, batch norm, and an activation unless it is None."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        activation: Activation | None,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
    ) -> None:
        pad = kernel // 2 * dilation
        super().__init__(
            KaimingConv2d(
                in_channels, out_channels, kernel, stride, pad, dilation, groups, bias=False
            ),
            BatchNorm2d(out_channels, eps=_EPS, momentum=0.01),
        )
        if activation is not None:
            self.append(activation(inplace=True))


class Gate(nn.Module):
    """Squeeze and excitation: every channel times what two small layers make of all means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # The authors' rule: a quarter, as a multiple of 8 that takes a tenth off at most.
        quarter = channels // 4
        width = max(8, (quarter + 4) // 8 * 8)
        width += 8 if width < 0.9 * quarter else 0
        self.fc1 = KaimingConv2d(channels, width, 1)
        self.fc2 = KaimingConv2d(width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        means = x.mean((2, 3), keepdim=True)
        return x * F.hardsigmoid(self.fc2(F.relu(self.fc1(means))))


class InvertedResidual(nn.Module):
    """Widened by a 1x1 convolution, each channel convolved by itself, narrowed by a 1x1 one."""

    def __init__(
        self,
        inputs: int,
        inside: int,
        outputs: int,
        kernel: int,
        activation: Activation,
        *,
        gated: bool,
        stride: int,
        dilation: int,
        shortcut: bool,
    ) -> None:
        super().__init__()
        self.shortcut = shortcut
        self.block = nn.Sequential()
        if inside != inputs:
            self.block.append(ConvNorm(inputs, inside, 1, activation))
        self.block.append(
            ConvNorm(
                inside, inside, kernel, activation, stride=stride, dilation=dilation, groups=inside
            )
        )
        if gated:
            self.block.append(Gate(inside))
        self.block.append(ConvNorm(inside, outputs, 1, None))

    def forward(self, x: Tensor) -> Tensor:
        out = self.block(x)
        return x + out if self.shortcut else out


class MobileNetV3Encoder(Encoder):
    """MobileNetV3 without its pooling and classifier.

    The features have strides 2, 4, 8, 16 and 32; the last is that of the 1x1 convolution at the
    end. Where ``output_stride`` is below 32, blocks that would halve the map dilate instead, and
    those after them, as torchvision has it.

    Args:
        size: ``"large"`` or ``"small"``.
        in_channels: Channels of the image.
        output_stride: Stride of the deepest feature: 8, 16 or 32.
        reduced_tail: Whether the blocks from stride 32 on are half as wide, as the paper has it for
            segmentation (section 6.4). There are ImageNet weights for the whole one only.
        early_features: Whether the features are taken after the first block of each stride, as
            torchvision does for its LR-ASPP, rather than after the last; the deepest always is the
            end.
    """

    def __init__(
        self,
        size: Size,
        in_channels: int = 3,
        *,
        output_stride: Literal[8, 16, 32] = 32,
        reduced_tail: bool = False,
        early_features: bool = False,
    ) -> None:
        super().__init__()
        check_choice("the size of a MobileNetV3", size, tuple(_BLOCKS))
        check_positive("in_channels", in_channels)
        check_flag("reduced_tail", reduced_tail)
        check_flag("early_features", early_features)
        if check_positive("output_stride", output_stride) not in (8, 16, 32):
            raise ValueError(
                f"output_stride of a MobileNetV3 is 8, 16 or 32, not {output_stride!r}."
            )
        self.pretrained_tag = None if reduced_tail else _TAGS[size]
        self.timm_options = {"in_chans": in_channels}
        self.in_channels = in_channels
        self.layers = nn.Sequential(ConvNorm(in_channels, 16, 3, nn.Hardswish, stride=2))
        widths, firsts = [16], [0]  # channels after every layer; where each stride begins
        dilation = 1
        for kernel, inside, outputs, gated, activation, step in _BLOCKS[size]:
            inputs, stride = widths[-1], step
            if step == 2:
                firsts.append(len(self.layers))
                if 2 ** len(firsts) > output_stride:
                    stride, dilation = 1, 2 * dilation
            if reduced_tail and len(firsts) == 5:
                inside, outputs = 6 * inputs, outputs // 2
            self.layers.append(
                InvertedResidual(
                    inputs,
                    inside,
                    outputs,
                    kernel,
                    activation,
                    gated=gated,
                    stride=stride,
                    dilation=dilation,
                    shortcut=step == 1 and inputs == outputs,
                )
            )
            widths.append(outputs)
        self.layers.append(ConvNorm(widths[-1], 6 * widths[-1], 1, nn.Hardswish))
        widths.append(6 * widths[-1])
        taken = firsts[:-1] if early_features else [first - 1 for first in firsts[1:]]
        self.taken = (*taken, len(self.layers) - 1)
        self.channels = tuple(widths[i] for i in self.taken)
        self.strides = tuple(min(stride, output_stride) for stride in (2, 4, 8, 16, 32))

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i in self.taken:
                features.append(x)
        return features

    def load_published_weights(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load the weights of timm's MobileNetV3 of this size, without its head.

        timm's layers come in the same order. Its batch norms add another epsilon to the variance:
        their factors are changed so that the results, in evaluation, are the same.
        """
        theirs = [v for k, v in state_dict.items() if not k.startswith(_HEAD)]
        state = dict(zip(self.state_dict(), theirs, strict=True))
        for name, variance in list(state.items()):
            layer, _, value = name.rpartition(".")
            if value == "running_var":
                factor = ((variance + _EPS) / (variance + _TIMM_EPS)).sqrt()
                state[f"{layer}.weight"] = state[f"{layer}.weight"] * factor
        self.load_state_dict(state)


for _size in _BLOCKS:
    register_encoder(f"mobilenet_v3_{_size}")(partial(MobileNetV3Encoder, _size))
