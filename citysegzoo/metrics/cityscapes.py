"""The official pixel-level evaluation of Cityscapes.

Every number is that of ``evalPixelLevelSemanticLabeling`` in cityscapesscripts: label ids 0..33,
ground truth of ignored classes left out, and beside the IoU the iIoU, in which every instance is
weighted with the average size of its class over its own size (Cordts et al., "The Cityscapes
Dataset for Semantic Urban Scene Understanding", CVPR 2016, section 4.2).
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from citysegzoo.data.labels import CITYSCAPES_CLASSES
from citysegzoo.files import write
from citysegzoo.metrics.counting import count_pairs
from citysegzoo.metrics.scores import mean, percent, ratio

_SIZE = len(CITYSCAPES_CLASSES)
_NAMES = [label.name for label in CITYSCAPES_CLASSES]
_CATEGORIES = list(dict.fromkeys(label.category for label in CITYSCAPES_CLASSES))
_IGNORED = np.array([label.ignored for label in CITYSCAPES_CLASSES])

# Average size in pixels of an instance in the training split, as the official script has it.
# These are the classes that have instances.
_AVERAGE_SIZE = {
    "person": 3462.4756337644,
    "rider": 3930.4788056518,
    "car": 12794.0202738185,
    "truck": 27855.1264367816,
    "bus": 35732.1511111111,
    "caravan": 36771.8241758242,
    "trailer": 16926.9763313609,
    "train": 67583.7075812274,
    "motorcycle": 6298.7200839748,
    "bicycle": 4672.3249222261,
}
_AVERAGE_SIZES = np.array([_AVERAGE_SIZE.get(name, math.nan) for name in _NAMES])
_HAS_INSTANCES = ~np.isnan(_AVERAGE_SIZES)

# The category of each label as a number; 255 for what is no label and shares none.
_CATEGORY = np.full(256, 255, np.uint8)
_CATEGORY[:_SIZE] = [_CATEGORIES.index(label.category) for label in CITYSCAPES_CLASSES]

# An instance id is 1000 * label id + a number; ids up to 1000 are labels without instances.
_PER_LABEL = 1000


@dataclass(frozen=True, eq=False)
class CityscapesScores:
    """Scores of the official evaluation, in 0..1, by official name and in official order.

    A score is nan where its class or category is ignored, or occurs neither in the ground truth
    nor in the counted predictions. Without instances every iIoU is nan.

    Attributes:
        confusion: Pixels of each pair of label ids, int64 ``(34, 34)``; rows are ground truth.
        priors: Share of each class in the ground truth.
        class_iou: IoU of each of the 34 classes.
        class_iiou: Instance-weighted IoU of each class; a number for the eight with instances.
        category_iou: IoU of each of the 8 categories.
        category_iiou: Instance-weighted IoU of each; a number for ``human`` and ``vehicle``.
    """

    confusion: npt.NDArray[np.int64]
    priors: dict[str, float]
    class_iou: dict[str, float]
    class_iiou: dict[str, float]
    category_iou: dict[str, float]
    category_iiou: dict[str, float]

    @property
    def mean_class_iou(self) -> float:
        """Mean IoU over the classes that have one."""
        return mean(self.class_iou)

    @property
    def mean_class_iiou(self) -> float:
        """Mean iIoU over the classes that have one."""
        return mean(self.class_iiou)

    @property
    def mean_category_iou(self) -> float:
        """Mean IoU over the categories that have one."""
        return mean(self.category_iou)

    @property
    def mean_category_iiou(self) -> float:
        """Mean iIoU over the categories that have one."""
        return mean(self.category_iiou)

    def to_dict(self) -> dict[str, Any]:
        """The result in the structure and under the keys of the official JSON file."""
        return {
            "confMatrix": self.confusion.tolist(),
            "priors": dict(self.priors),
            "labels": {name: label for label, name in enumerate(_NAMES)},
            "classScores": dict(self.class_iou),
            "classInstScores": dict(self.class_iiou),
            "categoryScores": dict(self.category_iou),
            "categoryInstScores": dict(self.category_iiou),
            "averageScoreClasses": self.mean_class_iou,
            "averageScoreInstClasses": self.mean_class_iiou,
            "averageScoreCategories": self.mean_category_iou,
            "averageScoreInstCategories": self.mean_category_iiou,
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the official JSON file, whole or not at all; nan is written as ``NaN`` there."""
        write(path, json.dumps(self.to_dict(), sort_keys=True, indent=4))

    def table(self) -> str:
        """IoU and iIoU in percent of all evaluated classes and categories, and their means."""
        evaluated = [label.name for label in CITYSCAPES_CLASSES if not label.ignored]
        categories = [name for name in _CATEGORIES if name != "void"]
        return "\n".join(
            [
                _line("class", "IoU", "iIoU"),
                *_lines(evaluated, self.class_iou, self.class_iiou),
                _line("mean", percent(self.mean_class_iou), percent(self.mean_class_iiou)),
                "",
                _line("category", "IoU", "iIoU"),
                *_lines(categories, self.category_iou, self.category_iiou),
                _line("mean", percent(self.mean_category_iou), percent(self.mean_category_iiou)),
            ]
        )

    def __str__(self) -> str:
        return self.table()


def cityscapes_scores(confusion: npt.ArrayLike | Tensor) -> CityscapesScores:
    """The official scores of a confusion matrix; without instances, every iIoU is nan.

    Args:
        confusion: Pixels of each pair of label ids, ``(34, 34)`` non-negative integers; rows are
            ground truth, columns predictions.

    Raises:
        TypeError: If it does not hold integers.
        ValueError: If it has another shape or negative entries.
    """
    matrix = _as_array(confusion)
    if matrix.shape != (_SIZE, _SIZE):
        raise ValueError(
            f"the confusion matrix must be {_SIZE}x{_SIZE}, a row and a column for each label id, "
            f"not of shape {matrix.shape}; train ids are no label ids."
        )
    if matrix.dtype.kind not in "iu":
        raise TypeError(
            f"the confusion matrix must hold numbers of pixels as integers, not {matrix.dtype}; "
            f"count them, do not normalise them."
        )
    if (matrix < 0).any():
        raise ValueError(
            f"the confusion matrix has entries down to {matrix.min()}; they are numbers of pixels."
        )
    return _scores(matrix.astype(np.int64), None)


class CityscapesEvaluator:
    """The official evaluation, frame by frame.

    Args:
        instances: Whether iIoU is evaluated, which needs the instance ids of every frame.
    """

    def __init__(self, *, instances: bool = True) -> None:
        self.instances = instances
        self._confusion = np.zeros((_SIZE, _SIZE), np.int64)
        self._hits = _Hits()

    def update(
        self,
        prediction: npt.NDArray[Any] | Tensor,
        target: npt.NDArray[Any] | Tensor,
        instances: npt.NDArray[Any] | Tensor | None = None,
    ) -> None:
        """Count one frame; one that is refused counts nothing.

        Args:
            prediction: Predicted label ids 0..33, ``(H, W)`` of any integer dtype.
            target: True label ids 0..33, of the same shape.
            instances: Ids as in ``*_gtFine_instanceIds.png``: 1000 times the label id plus a
                number for instances, the label id alone for all else. Not looked at by an
                evaluator without instances.

        Raises:
            TypeError: If an array does not hold integers.
            ValueError: If shapes differ, a value is no label id, an instance is of a class that
                has none, or the instances are missing.
        """
        if self.instances and instances is None:
            raise ValueError(
                "instances are missing; give the instance ids of the frame, or make the evaluator "
                "with CityscapesEvaluator(instances=False)."
            )
        predicted, true = _frame(prediction, "prediction"), _frame(target, "target")
        _check_shape(predicted, true, "prediction")
        predicted, true = _bytes(predicted, "prediction"), _bytes(true, "target")
        counts = count_pairs(predicted, true)
        _check_labels(counts.sum(axis=0), "prediction")
        _check_labels(counts.sum(axis=1), "target")
        if self.instances:
            ids = _frame(instances, "instances")
            _check_shape(ids, true, "instances")
            if ids.dtype.kind == "i" and ids.size and ids.min() < 0:
                raise ValueError(
                    f"the instances have ids down to {ids.min()}; they are not negative, and 16 "
                    f"bits hold them all only as numpy.uint16."
                )
            self._hits.add(_instance_hits(predicted, ids))
        self._confusion += counts[:_SIZE, :_SIZE]

    def merge(self, other: CityscapesEvaluator) -> None:
        """Add the counts of another evaluator, as if its frames had been counted here.

        Raises:
            TypeError: If ``other`` is no CityscapesEvaluator.
            ValueError: If only one of the two evaluates instances.
        """
        if not isinstance(other, CityscapesEvaluator):
            raise TypeError(
                f"only another CityscapesEvaluator can be merged, not {type(other).__name__}."
            )
        if self.instances != other.instances:
            raise ValueError(
                "one evaluator has instances and the other has none; make both the same."
            )
        self._confusion += other._confusion
        self._hits.add(other._hits)

    def scores(self) -> CityscapesScores:
        """The scores of all frames so far."""
        return _scores(self._confusion.copy(), self._hits if self.instances else None)


class _Hits:
    """Weighted pixels of instances: of each class, and of each category of classes with them."""

    def __init__(self) -> None:
        # First row: pixels predicted right (true positives); second: the others.
        self.classes = np.zeros((2, _SIZE))
        self.categories = np.zeros((2, len(_CATEGORIES)))

    def add(self, other: _Hits) -> None:
        self.classes += other.classes
        self.categories += other.categories


def _instance_hits(prediction: npt.NDArray[np.uint8], ids: npt.NDArray[Any]) -> _Hits:
    """Weighted pixels of one frame."""
    flat = ids.ravel()
    if flat.itemsize == 1:  # no instance at all; but 8 bits do not hold the 1000 of below
        flat = flat.astype(np.int16)
    places = np.flatnonzero(flat > _PER_LABEL)
    flat, predicted = flat[places], prediction.ravel()[places]
    labels = flat // _PER_LABEL
    _check_instances(flat, labels)
    labels = labels.astype(np.uint8)  # below 34 by now
    # 2 for the right class, 1 for another class of the right category, 0 for the rest.
    hit = (_CATEGORY[predicted] == _CATEGORY[labels]).astype(np.intp) + (predicted == labels)
    pixels = np.bincount(flat.astype(np.intp) * 3 + hit, minlength=_SIZE * _PER_LABEL * 3)
    pixels = pixels.reshape(-1, 3)
    found = np.flatnonzero(pixels.any(axis=1))
    pixels, labels = pixels[found], found // _PER_LABEL
    kept = ~_IGNORED[labels]
    pixels, labels = pixels[kept], labels[kept]

    result = _Hits()
    size = pixels.sum(axis=1)
    weight = _AVERAGE_SIZES[labels] / size
    for index, hits, weighted in (
        (labels, pixels[:, 2], result.classes),
        (_CATEGORY[labels], pixels[:, 1] + pixels[:, 2], result.categories),
    ):
        for row, count in enumerate((hits, size - hits)):
            weighted[row] = np.bincount(index, count * weight, weighted.shape[1])
    return result


def _scores(confusion: npt.NDArray[np.int64], hits: _Hits | None) -> CityscapesScores:
    counted = confusion[~_IGNORED].sum(axis=0)  # predictions where the ground truth is evaluated
    total = int(confusion.sum())
    class_iou, class_iiou = dict.fromkeys(_NAMES, math.nan), dict.fromkeys(_NAMES, math.nan)
    for label in np.flatnonzero(~_IGNORED):
        right = int(confusion[label, label])
        wrong = int(counted[label]) - right
        class_iou[_NAMES[label]] = ratio(right, wrong + int(confusion[label].sum()))
        if hits and _HAS_INSTANCES[label]:
            weighted, missed = hits.classes[:, label].tolist()
            class_iiou[_NAMES[label]] = ratio(weighted, weighted + wrong + missed)

    category_iou = dict.fromkeys(_CATEGORIES, math.nan)
    category_iiou = dict.fromkeys(_CATEGORIES, math.nan)
    for i, name in enumerate(_CATEGORIES):
        members = _CATEGORY[:_SIZE] == i
        evaluated = members & ~_IGNORED
        if not evaluated.any():
            continue
        elsewhere = confusion[~members & ~_IGNORED]
        rows = confusion[evaluated]
        category_iou[name] = ratio(
            int(rows[:, evaluated].sum()), int(rows.sum() + elsewhere[:, evaluated].sum())
        )
        if hits and _HAS_INSTANCES[members].all():
            # Unlike above, predictions of the ignored members (caravan, trailer) count here.
            wrong = int(elsewhere[:, members].sum())
            weighted, missed = hits.categories[:, i].tolist()
            category_iiou[name] = ratio(weighted, weighted + wrong + missed)
    priors = [ratio(int(row.sum()), total) for row in confusion]
    return CityscapesScores(
        confusion=confusion,
        priors=dict(zip(_NAMES, priors, strict=True)),
        class_iou=class_iou,
        class_iiou=class_iiou,
        category_iou=category_iou,
        category_iiou=category_iiou,
    )


def _as_array(values: Any) -> npt.NDArray[Any]:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _frame(values: Any, what: str) -> npt.NDArray[Any]:
    """An array of integers ``(H, W)``, or an error that says what it is instead."""
    array = _as_array(values)
    if array.dtype.kind not in "iu":
        raise TypeError(
            f"the {what} must hold ids as integers, not {array.dtype}; if its values are ids, "
            f"use .astype(numpy.int32)."
        )
    if array.ndim != 2:
        raise ValueError(
            f"the {what} must be one frame (H, W), not of shape {array.shape}; give frames one by "
            f"one, without a channel axis."
        )
    return array


def _check_shape(array: npt.NDArray[Any], target: npt.NDArray[Any], what: str) -> None:
    if array.shape != target.shape:
        raise ValueError(
            f"the {what} {'are' if what == 'instances' else 'is'} of shape {array.shape} but the "
            f"target of shape {target.shape}; bring both to the size of the target."
        )


def _bytes(array: npt.NDArray[Any], what: str) -> npt.NDArray[np.uint8]:
    if array.dtype != np.uint8 and array.size:
        wrong = array[(array < 0) | (array > 255)]
        if wrong.size:
            raise _no_label(*np.unique(wrong, return_counts=True), what)
    return array.astype(np.uint8, copy=False)


def _check_labels(pixels: npt.NDArray[np.int64], what: str) -> None:
    """Pixels of each value 0..255."""
    wrong = np.flatnonzero(pixels[_SIZE:]) + _SIZE
    if wrong.size:
        raise _no_label(wrong, pixels[wrong], what)


def _no_label(values: npt.NDArray[Any], pixels: npt.NDArray[Any], what: str) -> ValueError:
    found = [
        f"{_pixels(number)} of value {value}"
        for value, number in zip(values[:3].tolist(), pixels[:3].tolist(), strict=True)
    ]
    found += ["..."] * (len(values) > 3)
    return ValueError(
        f"the {what} has {', '.join(found)}, which {'is' if len(values) == 1 else 'are'} no label "
        f"id; use ids 0..{_SIZE - 1}, such as 0 for unlabeled."
    )


def _check_instances(ids: npt.NDArray[Any], labels: npt.NDArray[Any]) -> None:
    """Refuse ids (above 1000) whose label has no instances or is none at all.

    Of labels that are ignored, all are passed over, as the official script does.
    """
    if not ids.size or (labels.min() >= np.argmax(_HAS_INSTANCES) and labels.max() < _SIZE):
        return
    for label in np.unique(labels).tolist():
        if label >= _SIZE or not (_HAS_INSTANCES[label] or _IGNORED[label]):
            wrong = ids[labels == label]
            name = f"{_NAMES[label]!r}, which has no instances" if label < _SIZE else "no label"
            raise ValueError(
                f"the instances have {_pixels(wrong.size)} of label id {label} (such as instance "
                f"{wrong[0]}), {name}; use the *_instanceIds.png of the dataset."
            )


def _pixels(number: int) -> str:
    return "1 pixel" if number == 1 else f"{number} pixels"


def _line(name: str, iou: str, iiou: str) -> str:
    return f"{name:<14}  {iou:>9}  {iiou:>9}"


def _lines(names: list[str], iou: dict[str, float], iiou: dict[str, float]) -> list[str]:
    return [_line(name, percent(iou[name]), percent(iiou[name])) for name in names]
