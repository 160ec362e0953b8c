"""Model builders, and the zoo's own variants of them."""

from citysegzoo.models import deeplab, fcn, lraspp, pyramid, segformer, segnet, unet
from citysegzoo.registry import register_model
from citysegzoo.variant import Variant

OWN_VARIANTS = (
    Variant(
        "unet",
        "small",
        summary="A U-Net a quarter as wide, quick on a CPU; weights come with the package.",
        options={"widths": (16, 32, 64, 128, 256)},
    ),
    Variant(
        "unet_resnet18",
        "street",
        summary="A U-Net on a ResNet-18 three quarters as wide: the default, with bundled weights.",
        options={"encoder_options": {"width": 48}, "decoder_widths": (192, 96, 64, 48)},
    ),
)

__all__ = [
    "OWN_VARIANTS",
    "deeplab",
    "fcn",
    "lraspp",
    "pyramid",
    "register_model",
    "segformer",
    "segnet",
    "unet",
]
