"""The few building blocks that encoders, decoders and heads share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from citysegzoo.arguments import check_positive, check_probability

Activation = Literal["relu", "prelu", "none"]
Init = Literal["kaiming_normal", "xavier_uniform"]


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that also trains where a batch holds a single value per channel.

    That happens for one image whose map is 1x1: the image-pooling branch of ASPP or of pyramid
    pooling at batch one, or the deepest stage of a 32x32 crop. One value has no variance, so it
    is normalised with the running statistics, as in evaluation, and leaves them as they are.
    Everywhere else this is :class:`torch.nn.BatchNorm2d` to the bit.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.shape[0] * x.shape[2] * x.shape[3] == 1:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(x)


class KaimingConv2d(nn.Conv2d):
    """A convolution drawn once, by He's scheme (normal, fan-out), biases zero.

    The scheme of torchvision's ResNet and VGG. (Drawing by PyTorch's default first and again
    afterwards is what makes building those slow.)
    """

    def reset_parameters(self) -> None:
        if self.weight.is_meta:  # nothing to draw, and pretending to takes most of the build
            return
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class SeparableConv2d(nn.Sequential):
    """A convolution of each channel by itself, without bias, and a 1x1 convolution that mixes them.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Side of the square kernel.
        stride: Step of the kernel.
        padding: Zeros on each side.
        dilation: Atrous rate.
        bias: Whether the 1x1 convolution has a bias.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(
            nn.Conv2d(
                in_channels,
                in_channels,
                kernel_size,
                stride=stride,
                padding=padding,
                dilation=dilation,
                groups=in_channels,
                bias=False,
            ),
            nn.Conv2d(in_channels, out_channels, 1, bias=bias),
        )


class ConvNormAct(nn.Sequential):
    """Convolution, then optionally batch norm, activation and channel dropout.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Side of the square kernel.
        stride: Step of the kernel.
        dilation: Atrous rate. The padding is ``(kernel_size - 1) * dilation / 2`` on each
            side (mei2019, section 5.5), so that stride 1 keeps the size; where that is no whole
            number the odd row and column go to the bottom and right.
        bias: Whether the convolution has a bias.
        norm: Whether batch norm follows.
        norm_momentum: Momentum of the running statistics.
        activation: ``"relu"``, ``"prelu"`` (one shared slope) or ``"none"``.
        dropout: Probability of zeroing a whole channel after the activation.
        separable: Whether the convolution is a depthwise one followed by a 1x1 one.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        dilation: int = 1,
        bias: bool = True,
        norm: bool = True,
        norm_momentum: float = 0.1,
        activation: Activation = "relu",
        dropout: float = 0.0,
        separable: bool = False,
    ) -> None:
        super().__init__()
        pad = (check_positive("kernel_size", kernel_size) - 1) * dilation
        if pad % 2:
            self.pad = nn.ZeroPad2d((0, 1, 0, 1))
        conv = SeparableConv2d if separable else nn.Conv2d
        self.conv = conv(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=pad // 2,
            dilation=dilation,
            bias=bias,
        )
        if norm:
            self.norm = BatchNorm2d(out_channels, momentum=norm_momentum)
        if activation != "none":
            self.act = make_activation(activation)
        if check_probability("dropout", dropout) > 0:
            self.drop = nn.Dropout2d(dropout)


def make_activation(name: Activation) -> nn.Module:
    """The activation module of that name."""
    if name == "relu":
        return nn.ReLU(inplace=True)
    if name == "prelu":
        return nn.PReLU()
    raise ValueError(f"activation is 'relu', 'prelu' or 'none', not {name!r}.")


def resize(x: Tensor, size: Sequence[int], *, align_corners: bool = False) -> Tensor:
    """Bilinear resize of ``(N, C, h, w)`` to ``size`` (H, W); nothing to do when it fits."""
    if not exporting() and x.shape[-2:] == torch.Size(size):
        return x
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=align_corners)


def resize_smoothly(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear with antialiasing, as :func:`torchvision.transforms.functional.resize` does it."""
    if not exporting() and tuple(x.shape[-2:]) == tuple(size):
        return x
    if tracing():
        return resize_by_matrices(x, size)
    lacks = x.device.type == "cpu" and x.dtype in (torch.bfloat16, torch.float16)  # a kernel
    wide = x.float() if lacks else x
    return F.interpolate(wide, tuple(size), mode="bilinear", antialias=True).to(x.dtype)


def resize_by_matrices(x: Tensor, size: Sequence[int]) -> Tensor:
    """The antialiased bilinear resize as two matrix products, which ONNX has.

    ONNX has an antialiased resize too, but that of onnxruntime differs by 1e-3.
    """
    rows = _resize_matrix(x.shape[-2], size[0], x.device)
    columns = _resize_matrix(x.shape[-1], size[1], x.device)
    return rows @ x @ columns.T


def _resize_matrix(inputs: int, outputs: int, device: torch.device) -> Tensor:
    """``(outputs, inputs)``: triangles of one input pixel, wider where the image gets smaller."""
    places = torch.arange(inputs, dtype=torch.float32, device=device) + 0.5
    step = torch.as_tensor(inputs, dtype=torch.float32, device=device) / outputs
    centers = (torch.arange(outputs, dtype=torch.float32, device=device) + 0.5) * step
    distance = (places - centers[:, None]).abs() / step.clamp(min=1)
    weights = (1 - distance).clamp(min=0)
    return weights / weights.sum(1, keepdim=True)


def pool_to(x: Tensor, side: int) -> Tensor:
    """Means of ``side`` by ``side`` areas that overlap by at most a pixel: adaptive pooling."""
    if torch.onnx.is_in_onnx_export():  # ONNX has none for open sizes, but matrix products
        rows, columns = (_pooling_matrix(length, side, x) for length in x.shape[-2:])
        return rows @ x @ columns.T
    return F.adaptive_avg_pool2d(x, side)


def _pooling_matrix(inputs: int, outputs: int, like: Tensor) -> Tensor:
    """``(outputs, inputs)``: means from floor(i * inputs / outputs) on, the next one rounded up."""
    cuts = torch.arange(outputs + 1, device=like.device) * inputs
    first = cuts[:-1, None].div(outputs, rounding_mode="floor")
    last = (cuts[1:, None] + outputs - 1).div(outputs, rounding_mode="floor")
    places = torch.arange(inputs, device=like.device)
    weights = ((places >= first) & (places < last)).to(like.dtype)
    return weights / weights.sum(1, keepdim=True)


def exporting() -> bool:
    """Whether a graph is being recorded that must hold for every size, not this one alone.

    What depends on the size is then done always, also where it happens to change nothing.
    """
    compiling = torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()
    return compiling or tracing()


def tracing() -> bool:
    """Whether a graph is being recorded by TorchScript, as for ONNX."""
    recording: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return recording


def fit(x: Tensor, size: Sequence[int]) -> Tensor:
    """Crop or repeat the last row and column, so that ``x`` has exactly ``size`` (H, W).

    A transposed convolution makes an even size where the skip's may be odd: one row or column
    more (the encoder rounded up) or less (it rounded down). The rest stays pixel for pixel.
    """
    height, width = size
    x = x[..., :height, :width]
    bottom, right = height - x.shape[-2], width - x.shape[-1]
    if not exporting() and not bottom and not right:
        return x
    return F.pad(x, (0, right, 0, bottom), mode="replicate")


def initialise(module: nn.Module, scheme: Init | None) -> None:
    """Redraw the convolution weights of ``module`` by a report's scheme.

    Args:
        module: The module whose convolutions are drawn anew, in place.
        scheme: ``"kaiming_normal"`` (fan-out, ReLU; transposed convolutions and biases keep
            PyTorch's defaults, as stevens2020 and mei2019 have it), ``"xavier_uniform"`` (all
            convolutions, biases zero, as chen2020 has it), or None to leave PyTorch's defaults.
    """
    if scheme is None:
        return
    if scheme not in ("kaiming_normal", "xavier_uniform"):
        raise ValueError(f"init is 'kaiming_normal', 'xavier_uniform' or None, not {scheme!r}.")
    for part in module.modules():
        if scheme == "kaiming_normal" and isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
        elif scheme == "xavier_uniform" and isinstance(part, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def check_class_weights(weights: Tensor | Sequence[float]) -> Tensor:
    """Class weights as a floating-point vector, or one sentence saying what is wrong with them."""
    try:
        vector = torch.as_tensor(weights).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"class_weights must be one number for each class, not {weights!r:.60}."
        ) from error
    if not vector.is_floating_point():
        vector = vector.float()
    if vector.ndim != 1 or not len(vector):
        raise ValueError(
            f"class_weights must be a vector, one number for each class, "
            f"not of shape {tuple(vector.shape)}."
        )
    wrong = ~(vector.isfinite() & (vector >= 0))
    if wrong.any():
        index = int(wrong.nonzero()[0])
        raise ValueError(
            f"class_weights must be finite and at least 0, but class {index} has "
            f"{vector[index].item()}."
        )
    return vector
