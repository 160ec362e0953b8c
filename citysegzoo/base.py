"""The contracts that hold a model together: what an encoder and a decoder offer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

MIN_SIZE = 32
"""Pixels that both sides of an image have at least."""


class Encoder(nn.Module):
    """From an image to a pyramid of features: ``forward(x) -> list[Tensor]``, finest first.

    Images of any height and width are taken; where a stride does not divide them, a feature has
    its size rounded up or down.

    Attributes:
        channels: Channels of each feature.
        strides: Stride of each feature.
        in_channels: Channels of the image.
        pretrained_tag: Name of the ImageNet weights that fit, None where there are none.
        publisher: Who publishes them: ``"timm"`` or ``"smp"`` (segmentation-models-pytorch).
        timm_options: Arguments of ``timm.create_model`` for the network of timm's weights.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    in_channels: int = 3
    pretrained_tag: str | None = None
    publisher: Literal["timm", "smp"] = "timm"
    timm_options: Mapping[str, Any] = {}

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features of images.

        Args:
            x: ``(N, in_channels, H, W)``, floating point, preprocessed; both sides at least 32.

        Returns:
            ``(N, channels[i], h_i, w_i)`` for each stride, ``h_i`` being ``H / strides[i]`` rounded
            up or down.
        """
        raise NotImplementedError

    def load_published_weights(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load, strictly, the weights of the publisher's network of the same layers."""
        self.load_state_dict(state_dict)


class PooledFeatures(NamedTuple):
    """What an encoder that pools with indices offers beside its plain features.

    Attributes:
        features: The encoder's features, finest first; the last one is the pooled bottom.
        indices: For each pooling, finest first, the flat index of each maximum inside the map
            of the same position in ``features``, as :func:`torch.nn.functional.max_unpool2d`
            takes it.
    """

    features: list[Tensor]
    indices: list[Tensor]


class PoolingEncoder(Encoder):
    """An encoder that can keep the indices of its max poolings.

    Attributes:
        pools_with_indices: Whether it can as it was built.
    """

    pools_with_indices: bool = True

    def forward_pooled(self, x: Tensor) -> PooledFeatures:
        """The features together with the indices of every pooling."""
        raise NotImplementedError


class Decoder(nn.Module):
    """From a pyramid of features to one map: ``forward(features) -> Tensor``.

    Attributes:
        channels: Channels of the map.
        stride: Stride of the map.
        unpools: Whether ``forward`` takes :class:`PooledFeatures` rather than a list.
    """

    channels: int
    stride: int
    unpools: bool = False

    def forward(self, features: Any) -> Tensor:
        """The map from which a classifier makes logits.

        Args:
            features: What the encoder gives: a list of ``(N, channels[i], h_i, w_i)``, or, for a
                decoder that unpools, :class:`PooledFeatures`.

        Returns:
            ``(N, channels, h, w)``, of the size of the feature of this stride, where there is one.
        """
        raise NotImplementedError
