"""From photographs to label maps."""

from citysegzoo.images import Image, find_images, read_image
from citysegzoo.inference.segmentation import Segmentation, segment
from citysegzoo.inference.segmenter import Segmenter
from citysegzoo.inference.stream import Failure

__all__ = ["Failure", "Image", "Segmentation", "Segmenter", "find_images", "read_image", "segment"]
