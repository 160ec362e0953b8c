"""Metrics: one exact confusion matrix, what follows from it, and the official evaluation."""

from citysegzoo.metrics.cityscapes import CityscapesEvaluator, CityscapesScores, cityscapes_scores
from citysegzoo.metrics.confusion import ConfusionMatrix
from citysegzoo.metrics.folders import evaluate_folders
from citysegzoo.metrics.per_image import PerImageScores
from citysegzoo.metrics.scores import SegmentationScores

__all__ = [
    "CityscapesEvaluator",
    "CityscapesScores",
    "ConfusionMatrix",
    "PerImageScores",
    "SegmentationScores",
    "cityscapes_scores",
    "evaluate_folders",
]
