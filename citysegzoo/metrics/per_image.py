"""Means of scores of single images, which some reports print."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from citysegzoo.arguments import check_choice
from citysegzoo.layers import check_class_weights
from citysegzoo.metrics.confusion import ConfusionMatrix, Labels
from citysegzoo.metrics.scores import Absent


class PerImageScores:
    """The mean over images of each image's own mean IoU, as fixman2024 and others print it.

    It is not the Cityscapes score: every image counts as much, however few pixels a class has in
    it, and what becomes of the classes that are not there decides more than the predictions do.
    The metrics of fixman2024 are ``PerImageScores(34, ignore_index=0, absent="zero")``, which a
    perfect prediction of k classes scores k / 34, and the same with ``class_weights``, called
    InstanceIoU there.

    Args:
        num_classes: Number of classes C; labels are 0 to C - 1.
        ignore_index: Label of the pixels that do not count, or None if all do.
        absent: ``"skip"`` leaves classes that are neither true nor predicted in an image out of its
            mean; ``"zero"`` counts them as 0.
        class_weights: ``(C,)`` factors on true positives and false negatives, or None.
    """

    def __init__(
        self,
        num_classes: int,
        ignore_index: int | None = 255,
        *,
        absent: Absent = "skip",
        class_weights: Tensor | Sequence[float] | None = None,
    ) -> None:
        self._one = ConfusionMatrix(num_classes, ignore_index)
        self.absent: Absent = check_choice("absent", absent, ("skip", "zero"))
        self.class_weights = torch.ones(num_classes, dtype=torch.float64, device="cpu")
        if class_weights is not None:
            weights = check_class_weights(class_weights)
            if len(weights) != num_classes:
                raise ValueError(
                    f"class_weights has {len(weights)} numbers, but there are {num_classes} "
                    "classes; give one weight for each."
                )
            self.class_weights = weights.to("cpu", torch.float64, copy=True)
        self._counted = torch.arange(num_classes, device="cpu") != self._one.ignore_index
        self.image_iou: list[float] = []

    def update(self, prediction: Labels, target: Labels) -> None:
        """Score the images of a batch ``(N, H, W)`` or one ``(H, W)``; see ConfusionMatrix."""
        prediction, target = self._one._checked(prediction, target)
        if target.ndim == 2:
            prediction, target = prediction[None], target[None]
        found_iou = []
        for predicted, true in zip(prediction, target, strict=True):
            self._one.reset()
            self._one.update(predicted, true)
            matrix = self._one.matrix.double()
            hits = matrix.diagonal()
            found, missed = hits * self.class_weights, (matrix.sum(1) - hits) * self.class_weights
            union = found + missed + matrix.sum(0) - hits
            iou = found / union
            # An ignored class has no score of its own; with "zero" it counts as one that is absent.
            counted = (union > 0) & self._counted
            iou = iou.nan_to_num(0.0) if self.absent == "zero" else iou[counted]
            found_iou.append(iou.mean().item())
        self.image_iou += found_iou  # all of the batch or, if a label was wrong, nothing

    def merge(self, other: PerImageScores) -> None:
        """Add the images of another one of the same settings."""
        if not isinstance(other, PerImageScores):
            raise TypeError(f"only other PerImageScores can be merged, not {other!r:.50}.")
        mine, theirs = (
            (one._one.num_classes, one._one.ignore_index, one.absent, one.class_weights.tolist())
            for one in (self, other)
        )
        if mine != theirs:
            raise ValueError(
                "PerImageScores of other classes, ignore_index, absent or class_weights cannot be "
                "merged: their scores are not of the same kind."
            )
        self.image_iou += other.image_iou

    def reset(self) -> None:
        """Forget all images."""
        self.image_iou.clear()

    @property
    def mean_iou(self) -> float:
        """Mean over the images.

        With ``absent="skip"`` an image that is all void has no score and is left out; with
        ``"zero"`` it counts as 0.
        """
        values = [value for value in self.image_iou if value == value]
        return sum(values) / len(values) if values else float("nan")
