"""The semantic branch of a feature pyramid network.

Kirillov, Girshick, He, Dollar, "Panoptic Feature Pyramid Networks", CVPR 2019, section 3.1; the
pyramid is that of Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, zip_longest

from torch import Tensor, nn

from citysegzoo.arguments import check_positive, check_probability
from citysegzoo.base import Decoder
from citysegzoo.layers import fit, resize
from citysegzoo.registry import register_decoder


def first_level(strides: Sequence[int], finest_stride: int) -> int:
    """The finest feature of at least a stride, or the deepest where all are finer."""
    check_positive("finest_stride", finest_stride)
    coarse = (i for i, stride in enumerate(strides) if stride >= finest_stride)
    return next(coarse, len(strides) - 1)


class ConvGroupNorm(nn.Sequential):
    """A 3x3 convolution, group norm and ReLU.

    There are 32 groups, or as many as divide the channels into groups of two or more: one value
    has no variance.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        most = min(32, out_channels // 2)
        groups = next(n for n in range(most, 0, -1) if out_channels % n == 0)
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
            nn.GroupNorm(groups, out_channels),
            nn.ReLU(inplace=True),
        )


class Climb(nn.Module):
    """A level's way to the finest: a convolution before each resize, or one alone.

    Args:
        in_channels: Channels of the level.
        width: Channels of the result.
        targets: The finer levels whose size is taken, one after the other; empty for the finest.
        align_corners: Of the bilinear resizes.
    """

    def __init__(
        self, in_channels: int, width: int, targets: Sequence[int], *, align_corners: bool
    ) -> None:
        super().__init__()
        self.targets = targets
        self.align_corners = align_corners
        widths = [in_channels] + max(1, len(targets)) * [width]
        self.convs = nn.ModuleList(ConvGroupNorm(*pair) for pair in pairwise(widths))

    def forward(self, x: Tensor, sizes: Sequence[Sequence[int]]) -> Tensor:
        for conv, target in zip_longest(self.convs, self.targets):
            x = conv(x)
            if target is not None:  # the finest level's one convolution has no target
                x = resize(x, sizes[target], align_corners=self.align_corners)
        return x


@register_decoder("fpn")
class FPNDecoder(Decoder):
    """A feature pyramid, each level of which climbs to the finest one; there they are added up.

    The pyramid: every feature through a 1x1 convolution, with the level below, its pixels
    repeated, added, and then through a 3x3 one. A level climbs by a 3x3 convolution, group norm,
    ReLU and a bilinear resize for each finer stride; the finest has the convolution alone.

    Args:
        channels: Channels of the encoder's features, finest first.
        strides: Strides of the encoder's features.
        pyramid_width: Channels of the pyramid.
        width: Channels of the result, at least 2.
        smooth: Whether the levels of the pyramid go through a 3x3 convolution, which
            segmentation-models-pytorch leaves out.
        finest_stride: Features of a smaller stride are not used; the deepest always is.
        dropout: Channel dropout of the result.
        align_corners: Of every bilinear resize.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        *,
        pyramid_width: int = 256,
        width: int = 128,
        smooth: bool = True,
        finest_stride: int = 4,
        dropout: float = 0.1,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        check_positive("pyramid_width", pyramid_width)
        check_positive("the decoder's width", width, least=2)
        self.first = first_level(strides, finest_stride)
        strides = strides[self.first :]
        steps = [below // here for here, below in pairwise(strides)]
        self.laterals = nn.ModuleList(
            nn.Conv2d(inputs, pyramid_width, 1) for inputs in channels[self.first :]
        )
        self.ups = nn.ModuleList(nn.Upsample(scale_factor=step) for step in steps)
        self.smooth = nn.ModuleList(
            nn.Conv2d(pyramid_width, pyramid_width, 3, padding=1) if smooth else nn.Identity()
            for _ in strides
        )
        self.climbs = nn.ModuleList()
        for level in range(len(strides)):  # no step between features of one stride
            targets = [here for here in reversed(range(level)) if steps[here] > 1]
            self.climbs.append(Climb(pyramid_width, width, targets, align_corners=align_corners))
        self.drop = nn.Dropout2d(check_probability("dropout", dropout))
        self.channels = width
        self.stride = strides[0]

    def forward(self, features: list[Tensor]) -> Tensor:
        features = features[self.first :]
        sizes = [feature.shape[-2:] for feature in features]
        levels = [
            lateral(feature) for lateral, feature in zip(self.laterals, features, strict=True)
        ]
        for i in reversed(range(len(self.ups))):
            levels[i] = levels[i] + fit(self.ups[i](levels[i + 1]), sizes[i])
        x, *others = [
            climb(smooth(level), sizes)
            for level, smooth, climb in zip(levels, self.smooth, self.climbs, strict=True)
        ]
        for other in others:
            x = x + other
        return self.drop(x)
