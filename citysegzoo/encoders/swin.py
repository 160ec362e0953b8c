"""Swin Transformers, version 1 and 2, for images of any size.

Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", ICCV 2021,
and "Swin Transformer V2: Scaling Up Capacity and Resolution", CVPR 2022, as timm builds them.
"""

from __future__ import annotations

from functools import partial

from citysegzoo.arguments import check_probability
from citysegzoo.encoders.timm import TimmEncoder
from citysegzoo.registry import register_encoder


class SwinEncoder(TimmEncoder):
    """The four stages of a Swin Transformer, at strides 4, 8, 16 and 32.

    Windows keep their published size and every second block shifts them at every stage and
    image size. (timm's default fixes windows and shifts when the model is built, for images of
    224 or 256 pixels, where the last stage is one window and never shifts.)

    Args:
        timm_name: The timm model whose layers and weights these are.
        in_channels: Channels of the image.
        drop_path_rate: Stochastic depth of the deepest block in training.
    """

    def __init__(
        self, timm_name: str, in_channels: int = 3, *, drop_path_rate: float = 0.1
    ) -> None:
        super().__init__(
            timm_name,
            in_channels,
            timm_options={
                "feature_cls": "getter",  # NCHW features
                "dynamic_img_size": True,
                "always_partition": True,
                "drop_path_rate": check_probability("drop_path_rate", drop_path_rate),
            },
        )


_TIMM_NAMES = {
    "swin_tiny": "swin_tiny_patch4_window7_224",
    "swin_small": "swin_small_patch4_window7_224",
    "swin_base": "swin_base_patch4_window7_224",
    "swin_large": "swin_large_patch4_window7_224",
    "swinv2_tiny": "swinv2_tiny_window8_256",
    "swinv2_small": "swinv2_small_window8_256",
    "swinv2_base": "swinv2_base_window8_256",
    "swinv2_large": "swinv2_large_window12_192",
}
for _name, _timm_name in _TIMM_NAMES.items():
    register_encoder(_name)(partial(SwinEncoder, _timm_name))
