"""From photographs to label maps."""

from citysegzoo.inference.images import Image, find_images, read_image
from citysegzoo.inference.segmentation import Segmentation, segment

__all__ = ["Image", "Segmentation", "find_images", "read_image", "segment"]
