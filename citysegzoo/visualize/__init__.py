"""Pictures of label maps: palette images, overlays, contact sheets, reports of errors."""

from citysegzoo.visualize.curves import draw_curves
from citysegzoo.visualize.pictures import Labels, class_shares, label_image, overlay
from citysegzoo.visualize.sheet import common_labels, contact_sheet, disagreement

__all__ = [
    "Labels",
    "class_shares",
    "common_labels",
    "contact_sheet",
    "disagreement",
    "draw_curves",
    "label_image",
    "overlay",
]
