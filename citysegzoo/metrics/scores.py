"""Every score that follows from a confusion matrix."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Absent = Literal["skip", "zero"]


@dataclass(frozen=True, eq=False)
class SegmentationScores:
    """Scores of one confusion matrix over a data set.

    With TP, FP and FN the true positive, false positive and false negative pixels of a class. A
    score whose denominator is 0 is nan, and means leave it out: a class that is neither in the
    ground truth nor predicted has no IoU. (A class that is predicted but nowhere true has 0.) All
    scores are shares, 0 to 1.

    Args:
        matrix: int64 ``(C, C)``, rows ground truth, columns prediction.
        classes: Name of each class.
        categories: Category of each class, or nothing.
        void_predictions: ``(C,)``, how often each class was predicted on ignored pixels; they
            count as false positives where given, as xiang2020 has it, and nowhere else.
        ignored: The ignored label; if it is a class, that class has no scores.
        absent: ``"skip"`` leaves classes that are neither true nor predicted out of means;
            ``"zero"`` gives them 0. The ignored class is in no mean.
    """

    matrix: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    categories: tuple[str, ...] = ()
    void_predictions: npt.NDArray[np.int64] | None = None
    ignored: int | None = None
    absent: Absent = "skip"

    @cached_property
    def class_iou(self) -> dict[str, float]:
        """TP / (TP + FP + FN) of each class, the Jaccard index."""
        return self._by_class(self._hits, self._true + self._predicted - self._hits)

    @cached_property
    def class_dice(self) -> dict[str, float]:
        """2 TP / (2 TP + FP + FN) of each class: Dice, which is F1."""
        return self._by_class(2 * self._hits, self._true + self._predicted)

    @cached_property
    def class_precision(self) -> dict[str, float]:
        """TP / (TP + FP) of each class: what of its predictions is right."""
        return self._by_class(self._hits, self._predicted)

    @cached_property
    def class_recall(self) -> dict[str, float]:
        """TP / (TP + FN) of each class, its accuracy: what of it is found."""
        return self._by_class(self._hits, self._true)

    @property
    def mean_iou(self) -> float:
        """Mean of :attr:`class_iou`."""
        return mean(self.class_iou)

    @property
    def mean_dice(self) -> float:
        """Mean of :attr:`class_dice`."""
        return mean(self.class_dice)

    @property
    def mean_precision(self) -> float:
        """Mean of :attr:`class_precision`."""
        return mean(self.class_precision)

    @property
    def mean_recall(self) -> float:
        """Mean of :attr:`class_recall`, also called mean (class) accuracy."""
        return mean(self.class_recall)

    @property
    def pixel_accuracy(self) -> float:
        """Share of the pixels that count which are right."""
        return ratio(self._hits.sum(), self._true.sum())

    @property
    def frequency_weighted_iou(self) -> float:
        """Mean of :attr:`class_iou` weighted with the pixels of each class."""
        iou = np.nan_to_num(np.array(list(self.class_iou.values())))
        return ratio(float(iou @ self._true), self._true.sum())

    @cached_property
    def category_iou(self) -> dict[str, float]:
        """IoU of each category, confusions within it not counting; empty without categories.

        A category without an evaluated class (void) has none.
        """
        names = list(dict.fromkeys(self.categories))
        member = np.array([[c == name for c in self.categories] for name in names], dtype=np.int64)
        if not names:
            return {}
        hits = np.einsum("kt,tp,kp->k", member, self.matrix, member)
        union = member @ self._true + member @ self._predicted - hits
        evaluated = np.arange(len(self.classes)) != self.ignored
        counted = (member @ evaluated > 0).tolist()
        return {
            name: self._ratio(h, u) if c else float("nan")
            for name, h, u, c in zip(names, hits, union, counted, strict=True)
        }

    @property
    def mean_category_iou(self) -> float:
        """Mean of :attr:`category_iou`."""
        return mean(self.category_iou)

    def to_dict(self) -> dict[str, Any]:
        """All scores and the matrix, as numbers, names and lists that JSON can hold.

        nan is None, which JSON knows.
        """
        scalars = ["mean_iou", "pixel_accuracy", "frequency_weighted_iou"]
        scalars += ["mean_dice", "mean_precision", "mean_recall"]
        by_class = ["class_iou", "class_dice", "class_precision", "class_recall"]
        if self.categories:
            scalars.append("mean_category_iou")
            by_class.append("category_iou")
        return {
            **{name: _json(getattr(self, name)) for name in scalars},
            **{
                name: {key: _json(value) for key, value in getattr(self, name).items()}
                for name in by_class
            },
            "classes": list(self.classes),
            "matrix": self.matrix.tolist(),
        }

    def table(self) -> str:
        """The scores of each class and their means, in percent, as lines of text."""
        width = max(map(len, (*self.classes, *self.categories, "pixel accuracy")))
        lines = [_row("class", width, "IoU", "Dice", "precision", "recall", "pixels")]
        for i, name in enumerate(self.classes):
            scores = (self.class_iou, self.class_dice, self.class_precision, self.class_recall)
            cells = (percent(by_class[name]) for by_class in scores)
            lines.append(_row(name, width, *cells, f"{self._true[i]:,}"))
        means = (self.mean_iou, self.mean_dice, self.mean_precision, self.mean_recall)
        lines.append(_row("mean", width, *map(percent, means), f"{self._true.sum():,}"))
        if self.categories:
            lines += ["", _row("category", width, "IoU")]
            lines += [_row(name, width, percent(iou)) for name, iou in self.category_iou.items()]
            lines.append(_row("mean", width, percent(self.mean_category_iou)))
        lines += [
            "",
            _row("pixel accuracy", width, percent(self.pixel_accuracy)),
            _row("weighted IoU", width, percent(self.frequency_weighted_iou)),
        ]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()

    @cached_property
    def _hits(self) -> npt.NDArray[np.int64]:
        return self.matrix.diagonal()

    @cached_property
    def _true(self) -> npt.NDArray[np.int64]:
        return np.asarray(self.matrix.sum(1))

    @cached_property
    def _predicted(self) -> npt.NDArray[np.int64]:
        predicted = np.asarray(self.matrix.sum(0))
        return predicted if self.void_predictions is None else predicted + self.void_predictions

    def _by_class(
        self, part: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]
    ) -> dict[str, float]:
        scores = {
            name: self._ratio(a, b) for name, a, b in zip(self.classes, part, whole, strict=True)
        }
        if self.ignored is not None and 0 <= self.ignored < len(self.classes):
            scores[self.classes[self.ignored]] = float("nan")
        return scores

    def _ratio(self, part: Any, whole: Any) -> float:
        return 0.0 if self.absent == "zero" and not whole else ratio(part, whole)


def ratio(part: Any, whole: Any) -> float:
    """``part / whole``, nan where there is no whole."""
    return float(part) / float(whole) if whole else float("nan")


def mean(scores: dict[str, float]) -> float:
    """Of those that are not nan; nan if all are."""
    values = [score for score in scores.values() if score == score]
    return sum(values) / len(values) if values else float("nan")


def _json(value: float) -> float | None:
    return value if value == value else None


def percent(share: float) -> str:
    """In words, "-" for nan."""
    return f"{100 * share:.2f}" if share == share else "-"


def _row(name: str, width: int, *cells: str) -> str:
    return f"{name:<{width}}" + "".join(f"  {cell:>9}" for cell in cells)
