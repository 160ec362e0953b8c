"""The confusion matrix: everything else is read off it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from citysegzoo.arguments import check_choice, check_ignore_index, check_positive
from citysegzoo.data.labels import LabelSet, find_label_set, numbered_labels
from citysegzoo.files import write
from citysegzoo.lead import leading_classes
from citysegzoo.metrics.counting import count_pairs
from citysegzoo.metrics.scores import Absent, SegmentationScores

Labels = Tensor | npt.NDArray[Any]
"""Label maps, or logits, as tensor or array."""


_NONE = 1 << 62  # larger than any label


class ConfusionMatrix:
    """Counts of every pair of true and predicted class, over as many images as are shown.

    One matrix over a data set is what Cityscapes and most papers score; a mean of scores of
    single images is another thing (:class:`~citysegzoo.metrics.PerImageScores`). Counts are exact
    int64 and stay on their device; on an accelerator no update waits for it, and wrong labels are
    reported by the next call that reads the counts.

    Args:
        num_classes: Number of classes C; labels are 0 to C - 1.
        ignore_index: Label of the pixels that do not count, or None if all do.
        device: Where to count.

    Attributes:
        counts: int64 ``(C + 1, C)``: a row for each true class, a column for each predicted one;
            the last row counts what was predicted on ignored pixels.
    """

    def __init__(
        self,
        num_classes: int,
        ignore_index: int | None = 255,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        self.num_classes = check_positive("num_classes", num_classes)
        self.ignore_index = check_ignore_index(ignore_index)
        if ignore_index == 255 and num_classes > 255:
            raise ValueError(
                f"ignore_index is 255, which is one of {num_classes} classes; set it to None or -1."
            )
        with torch.inference_mode(False):  # else it could be counted in that mode alone
            self.counts = torch.zeros(
                num_classes + 1, num_classes, dtype=torch.int64, device=device
            )
            # Wrong labels met where looking would mean to wait: number, the least, the largest.
            self._wrong = torch.zeros(3, dtype=torch.int64, device=self.counts.device)
        self.reset()

    def update(self, prediction: Labels, target: Labels) -> None:
        """Count the pixels of an image or a batch.

        Args:
            prediction: Predicted labels of any integer dtype and of the target's shape, or logits
                ``(N, C, H, W)`` or ``(C, H, W)``, whose largest counts.
            target: True labels ``(N, H, W)`` or ``(H, W)``, any integer dtype.

        Raises:
            TypeError: If the target is not made of integers.
            ValueError: If shapes do not match, a label that counts is not 0 to C - 1, or logits on
                the CPU hold NaN.
        """
        prediction, target = self._checked(prediction, target)
        if not target.numel():
            return
        if self.counts.device.type != "cpu":
            self._count_anywhere(prediction, target)
        elif not self._count_bytes(prediction, target):
            before, known = self.counts.clone(), self._wrong.clone()
            self._count_anywhere(prediction, target)
            if self._wrong[0] > known[0]:
                self.counts.copy_(before)
                self._wrong.copy_(known)
                raise _wrong_labels(prediction, target, self.num_classes, self.ignore_index)

    def merge(self, other: ConfusionMatrix) -> None:
        """Add the counts of another matrix of as many classes and the same ignored label."""
        if not isinstance(other, ConfusionMatrix):
            raise TypeError(f"only another ConfusionMatrix can be merged, not {other!r:.50}.")
        mine, theirs = ((m.num_classes, m.ignore_index) for m in (self, other))
        if mine != theirs:
            raise ValueError(
                f"a matrix of {theirs[0]} classes with ignore_index {theirs[1]} cannot be added to "
                f"one of {mine[0]} classes with ignore_index {mine[1]}."
            )
        self.counts += other.counts.to(self.counts.device)
        wrong = other._wrong.to(self._wrong.device)
        self._note_wrong(wrong[0], wrong[1], wrong[2])

    def all_reduce(self, group: Any = None) -> None:
        """Add up the counts of all processes of a torch.distributed group, in every one.

        Once, after the last update: the sum is what each process has from then on. A group that
        talks by NCCL needs a matrix on a GPU: ``ConfusionMatrix(..., device="cuda")``.
        """
        import torch.distributed as dist

        dist.all_reduce(self.counts, group=group)
        dist.all_reduce(self._wrong[0], group=group)
        dist.all_reduce(self._wrong[1], op=dist.ReduceOp.MIN, group=group)
        dist.all_reduce(self._wrong[2], op=dist.ReduceOp.MAX, group=group)

    def reset(self) -> None:
        """Forget everything counted."""
        self.counts.zero_()
        self._wrong.copy_(torch.tensor([0, _NONE, -_NONE], device="cpu"))

    @property
    def matrix(self) -> Tensor:
        """int64 ``(C, C)`` on the CPU, a copy: rows ground truth, columns prediction.

        Raises:
            ValueError: If labels that count were not 0 to C - 1.
        """
        self._raise_wrong()
        return self.counts[:-1].to("cpu", copy=True)

    def scores(
        self,
        labels: LabelSet | str | None = None,
        *,
        void_as_false_positive: bool = False,
        absent: Absent = "skip",
    ) -> SegmentationScores:
        """The scores so far. A class that is ignored has none.

        Args:
            labels: Names and categories of the classes, as a label set or its name; numbered if
                not given.
            void_as_false_positive: Whether what is predicted on ignored pixels counts as false
                positive, as in xiang2020's code; it does not in the official evaluation.
            absent: ``"skip"`` leaves classes that are neither true nor predicted out of means;
                ``"zero"`` counts them as 0. The ignored class is in no mean.

        Raises:
            ValueError: If the label set has another number of classes, or wrong labels were met.
        """
        labels = numbered_labels(self.num_classes) if labels is None else find_label_set(labels)
        if len(labels) != self.num_classes:
            raise ValueError(
                f"the label set {labels.name!r} has {len(labels)} classes and the matrix "
                f"{self.num_classes}."
            )
        check_choice("absent", absent, ("skip", "zero"))
        void = self.counts[-1].to("cpu", copy=True).numpy() if void_as_false_positive else None
        return SegmentationScores(
            matrix=self.matrix.numpy(),
            classes=labels.classes,
            categories=labels.categories,
            void_predictions=void,
            ignored=self.ignore_index,
            absent=absent,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the counts to a JSON file."""
        self._raise_wrong()
        content = {
            "num_classes": self.num_classes,
            "ignore_index": self.ignore_index,
            "counts": self.counts.tolist(),
        }
        write(path, json.dumps(content))

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, device: torch.device | str = "cpu"
    ) -> ConfusionMatrix:
        """Read what :meth:`save` wrote.

        Raises:
            OSError: If the file cannot be read.
            ValueError: If it is no such file.
        """
        try:
            stored = json.loads(Path(path).read_text())
            num_classes = check_positive("num_classes", stored["num_classes"])
            counts = torch.tensor(stored["counts"])
            if counts.shape != (num_classes + 1, num_classes) or counts.dtype != torch.int64:
                raise ValueError("counts of another shape")
            if (counts < 0).any():
                raise ValueError("negative counts")
            matrix = cls(num_classes, stored["ignore_index"], device=device)
        except (ValueError, TypeError, KeyError, OverflowError, RuntimeError) as error:
            raise ValueError(
                f"{os.fspath(path)} holds no saved confusion matrix ({error}); "
                "ConfusionMatrix.save writes one."
            ) from error
        matrix.counts.copy_(counts)
        return matrix

    def __repr__(self) -> str:
        return (
            f"ConfusionMatrix({self.num_classes}, ignore_index={self.ignore_index}, "
            f"pixels={int(self.counts[:-1].sum()):,})"
        )

    def _checked(self, prediction: Labels, target: Labels) -> tuple[Tensor, Tensor]:
        prediction, target = _tensor("prediction", prediction), _tensor("target", target)
        if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
            raise TypeError(f"target must hold integer labels, not {target.dtype}.")
        shapes = f"prediction is {tuple(prediction.shape)} and target {tuple(target.shape)}"
        if prediction.is_floating_point():
            wanted = (*target.shape[:-2], self.num_classes, *target.shape[-2:])
            if target.ndim not in (2, 3) or prediction.shape != wanted:
                raise ValueError(
                    f"floating-point predictions are logits (N, {self.num_classes}, H, W) for a "
                    f"target (N, H, W), but {shapes}; labels must be integers."
                )
            batch = prediction if prediction.ndim == 4 else prediction[None]
            prediction = leading_classes(batch, refuse_nan=True).view(target.shape)
        elif prediction.is_complex() or prediction.dtype == torch.bool:
            raise TypeError(f"prediction must hold labels or logits, not {prediction.dtype}.")
        if prediction.shape != target.shape:
            raise ValueError(f"prediction and target must have the same shape, but {shapes}.")
        return prediction.to(self.counts.device), target.to(self.counts.device)

    def _count_bytes(self, prediction: Tensor, target: Tensor) -> bool:
        """Count in one table of all pairs of bytes, if the labels are such; return whether."""
        classes, void, true = self.num_classes, self.ignore_index, target
        if void is not None and not 0 <= void <= 255:
            limits = torch.iinfo(target.dtype)
            if not limits.min <= void <= limits.max:
                void = None  # no pixel can have it
            elif classes > 255 or (target.long() == 255).any():
                return False
            else:  # such as -1: its pixels take 255, which is free
                true = target.long().masked_fill(target.long() == void, 255)
                void = 255
        p, t = _bytes(prediction), _bytes(true)
        if p is None or t is None or classes > 256:
            return False
        table = count_pairs(p, t)
        counts = np.zeros((classes + 1, classes), np.int64)
        counts[:-1] = table[:classes, :classes]
        in_void = 0
        if void is not None:
            counts[-1], in_void = table[void, :classes], table[void].sum()
            if void < classes:
                counts[void] = 0
        if counts[:-1].sum() + in_void != t.size:
            raise _wrong_labels(prediction, target, classes, self.ignore_index)
        self.counts += torch.from_numpy(counts)
        return True

    def _count_anywhere(self, prediction: Tensor, target: Tensor) -> None:
        """Count labels of any value on any device, without waiting for it."""
        classes = self.num_classes
        p, t = prediction.flatten().long(), target.flatten().long()
        counts = torch.ones_like(t, dtype=torch.bool)
        if self.ignore_index is not None:
            counts = t != self.ignore_index
        wrong_p, wrong_t = (p < 0) | (p >= classes), counts & ((t < 0) | (t >= classes))
        wrong = wrong_t | (counts & wrong_p)
        values = torch.where(wrong_t, t, p)
        self._note_wrong(
            wrong.sum(),
            values.where(wrong, _NONE).amin(),
            values.where(wrong, -_NONE).amax(),
        )
        cells = t.where(counts, classes) * classes + p
        # One cell more, for the pixels that go nowhere.
        cells = cells.where(~(wrong_p | wrong_t), self.counts.numel())
        table = torch.zeros(self.counts.numel() + 1, dtype=torch.int64, device=t.device)
        table.scatter_add_(0, cells, torch.ones_like(cells))
        self.counts += table[:-1].view_as(self.counts)

    def _note_wrong(self, number: Tensor | int, low: Tensor | int, high: Tensor | int) -> None:
        self._wrong[0] += number
        self._wrong[1].clamp_(max=low)
        self._wrong[2].clamp_(min=high)

    def _raise_wrong(self) -> None:
        number, low, high = self._wrong.tolist()
        if number:
            found = f"labelled {low}" if low == high else f"labelled {low} to {high}"
            raise ValueError(
                f"{number} pixels that count were {found}, but the matrix is of "
                f"{self.num_classes} classes, 0 to {self.num_classes - 1}; map such labels first."
            )


def _tensor(what: str, values: Labels) -> Tensor:
    if isinstance(values, np.ndarray):
        if values.dtype.kind not in "iufb":
            raise TypeError(f"{what} must hold labels or logits, not {values.dtype}.")
        if values.dtype.byteorder not in ("=", "|"):
            values = values.astype(values.dtype.newbyteorder("="))
        return torch.from_numpy(np.ascontiguousarray(values))
    if not isinstance(values, Tensor):
        raise TypeError(f"{what} must be a tensor or an array, not {type(values).__name__}.")
    return values.detach()


def _bytes(labels: Tensor) -> npt.NDArray[np.uint8] | None:
    """The labels as uint8, or None if one is no byte."""
    if labels.dtype != torch.uint8:
        low, high = labels.long().aminmax()
        if low < 0 or high > 255:
            return None
        labels = labels.to(torch.uint8)
    return labels.numpy()


def _wrong_labels(prediction: Tensor, target: Tensor, classes: int, void: int | None) -> ValueError:
    """The error that says which labels are wrong, how often and where."""
    counts = torch.ones_like(target, dtype=torch.bool) if void is None else target.long() != void
    found, where = [], set()
    for what, labels in (("target", target), ("prediction", prediction)):
        labels = labels[counts].long()
        values, numbers = np.unique(
            labels[(labels < 0) | (labels >= classes)].numpy(), return_counts=True
        )
        for value, number in zip(values[:3], numbers, strict=False):
            pixels = "1 pixel is" if number == 1 else f"{number} pixels are"
            found.append(f"{pixels} labelled {value} in the {what}")
            where.add(what)
    ignored = "no label is ignored" if void is None else f"{void} is ignored"
    return ValueError(
        f"{', '.join(found)}, but the matrix is of {classes} classes, 0 to {classes - 1} "
        f"({ignored}); map such labels to a class{' or to ignore_index' * (where == {'target'})}."
    )
