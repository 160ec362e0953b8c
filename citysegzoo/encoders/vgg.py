"""VGG: stacks of 3x3 convolutions with max pooling.

Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition",
ICLR 2015, table 1. Layers are named as in torchvision and timm, so that published weights load
key by key.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from citysegzoo.base import PooledFeatures, PoolingEncoder
from citysegzoo.layers import BatchNorm2d, KaimingConv2d
from citysegzoo.registry import register_encoder

_WIDTHS = (64, 128, 256, 512, 512)
_CONVS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


class VGGEncoder(PoolingEncoder):
    """The convolutional part of a VGG network.

    The features are the five maps before each pooling (strides 1 to 16) and the last pooled map
    (stride 32).

    Args:
        depth: 11, 13, 16 or 19.
        batch_norm: Whether each convolution is followed by batch norm.
        in_channels: Channels of the image.
    """

    def __init__(self, depth: int, batch_norm: bool, in_channels: int = 3) -> None:
        super().__init__()
        self.pretrained_tag = f"vgg{depth}{'_bn' if batch_norm else ''}.tv_in1k"
        self.timm_options = {"in_chans": in_channels}
        self.in_channels = in_channels
        self.channels = (*_WIDTHS, _WIDTHS[-1])
        self.strides = (1, 2, 4, 8, 16, 32)
        self.features = nn.Sequential()
        channels = in_channels
        for width, convs in zip(_WIDTHS, _CONVS[depth], strict=True):
            for _ in range(convs):
                self.features.append(KaimingConv2d(channels, width, 3, padding=1))
                if batch_norm:
                    self.features.append(BatchNorm2d(width))
                self.features.append(nn.ReLU(inplace=True))
                channels = width
            self.features.append(nn.MaxPool2d(2))

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                features.append(x)
            x = layer(x)
        return [*features, x]

    def forward_pooled(self, x: Tensor) -> PooledFeatures:
        """The features together with the indices of every pooling."""
        features, indices = [], []
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                features.append(x)
                x, index = F.max_pool2d(x, 2, return_indices=True)
                indices.append(index)
            else:
                x = layer(x)
        return PooledFeatures([*features, x], indices)

    def load_published_weights(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load the convolutions of timm's (and torchvision's) VGG of this depth.

        Weights of the network without batch norm fit one with it too: the convolutions are
        taken in order and the batch norms stay fresh, as mei2019's SegNet was started.
        """
        own = self.state_dict()
        state = {k: v for k, v in state_dict.items() if k.startswith("features.")}
        if len(state) < len(own):
            convs = [k for k, v in own.items() if v.ndim == 4]
            names = [k.replace(".weight", part) for k in convs for part in (".weight", ".bias")]
            state = {**own, **dict(zip(names, state.values(), strict=True))}
        self.load_state_dict(state)


for _depth in _CONVS:
    register_encoder(f"vgg{_depth}")(partial(VGGEncoder, _depth, False))
    register_encoder(f"vgg{_depth}_bn")(partial(VGGEncoder, _depth, True))
