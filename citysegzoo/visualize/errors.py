"""Where predictions are wrong: in which classes, in which images, how near to a boundary."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from citysegzoo.ahead import read_ahead
from citysegzoo.arguments import check_positive
from citysegzoo.data.labels import CITYSCAPES_34, CITYSCAPES_CLASSES, LabelSet, known_name
from citysegzoo.files import files_below
from citysegzoo.hardware import available_cores
from citysegzoo.images import SUFFIXES
from citysegzoo.metrics.cityscapes import CityscapesEvaluator, CityscapesScores, cityscapes_scores
from citysegzoo.metrics.folders import FramePair, Pairing, count_pair, read_pair, warn_of_train_ids
from citysegzoo.metrics.scores import SegmentationScores

REACH = 16
"""Distances to a boundary are told apart up to this many pixels."""

Counts = npt.NDArray[np.int64]

# Windows on an image and on its pixels to the right, below and along both diagonals.
_ALL, _BUT_LAST, _BUT_FIRST = slice(None), slice(None, -1), slice(1, None)
_NEIGHBOURS = (
    ((_ALL, _BUT_LAST), (_ALL, _BUT_FIRST)),
    ((_BUT_LAST, _ALL), (_BUT_FIRST, _ALL)),
    ((_BUT_LAST, _BUT_LAST), (_BUT_FIRST, _BUT_FIRST)),
    ((_BUT_LAST, _BUT_FIRST), (_BUT_FIRST, _BUT_LAST)),
)


class Confusion(NamedTuple):
    """Pixels of one class predicted as another."""

    true: str
    predicted: str
    pixels: int


class FrameErrors(NamedTuple):
    """One image's score: its mean IoU over the classes it has or was given, 0..1."""

    pair: FramePair
    mean_iou: float


@dataclass(frozen=True, eq=False)
class Errors:
    """What is wrong with predictions. Only pixels whose ground truth is evaluated count.

    Attributes:
        labels: The classes.
        scores: Those of ``citysegzoo evaluate``, without instances.
        confusion: int64 ``(C, C)``: pixels of each true class (row) by predicted class.
        frames: Number of images.
        worst: The images of least mean IoU, worst first.
        pixels: int64 ``(REACH + 1,)``: pixels at distance 1, 2, ... of a boundary of the ground
            truth, and last those farther than ``REACH``; see :func:`boundary_distance`.
        wrong: How many of these are wrong.
    """

    labels: LabelSet
    scores: CityscapesScores | SegmentationScores
    confusion: Counts
    frames: int
    worst: tuple[FrameErrors, ...]
    pixels: Counts
    wrong: Counts

    @property
    def class_iou(self) -> dict[str, float]:
        """IoU of each class, 0..1; nan for those that do not count or do not occur."""
        return self.scores.class_iou

    @property
    def mean_iou(self) -> float:
        """Mean IoU over the classes that have one."""
        return _mean_iou(self.scores)

    @property
    def pixel_accuracy(self) -> float:
        """Share of right pixels, nan where none counts."""
        total = int(self.pixels.sum())
        return 1 - int(self.wrong.sum()) / total if total else float("nan")

    def confusions(self, count: int) -> list[Confusion]:
        """The pairs of classes that cost most pixels, most first."""
        wrong = self.confusion - np.diag(self.confusion.diagonal())
        order = np.argsort(-wrong, axis=None, kind="stable")[:count]
        names = self.labels.classes
        rows, columns = np.unravel_index(order, wrong.shape)
        return [
            Confusion(names[t], names[p], int(wrong[t, p]))
            for t, p in zip(rows.tolist(), columns.tolist(), strict=True)
            if wrong[t, p]
        ]

    def near(self, distance: int) -> float:
        """Share of the wrong pixels that are within a distance of a boundary, nan without any."""
        total = int(self.wrong.sum())
        return int(self.wrong[:distance].sum()) / total if total else float("nan")


def find_errors(
    pairing: Pairing,
    *,
    labels: LabelSet,
    worst: int = 8,
    progress: bool = False,
    workers: int | None = None,
) -> Errors:
    """Count what is wrong, image by image; memory does not depend on how many there are.

    Args:
        pairing: The files, as :func:`citysegzoo.metrics.folders.pair_files` finds them.
        labels: Their label set.
        worst: How many of the worst images to name.
        progress: Whether to show a progress bar, if standard error is a terminal.
        workers: Threads; by default one for each core.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If sizes differ, pixel values are no classes, or ``worst`` is negative.
    """
    from tqdm import tqdm

    if worst < 0:
        raise ValueError(f"worst is a number of images, 0 or more, not {worst}.")
    workers = available_cores() if workers is None else check_positive("workers", workers)
    confusion = np.zeros((len(labels), len(labels)), np.int64)
    distances = np.zeros((2, REACH + 1), np.int64)
    found: list[FrameErrors] = []
    jobs = read_ahead(
        pairing.pairs, lambda pair: _frame(pair, labels), ahead=2 * workers, workers=workers
    )
    with (
        closing(jobs) as counting,
        tqdm(total=len(pairing.pairs), unit="frame", disable=None if progress else True) as bar,
    ):
        for pair, counted in counting:
            matrix, by_distance, mean_iou = counted.result()
            confusion += matrix
            distances += by_distance
            if mean_iou == mean_iou:  # a frame without a pixel that counts has none
                found = sorted([*found, FrameErrors(pair, mean_iou)], key=lambda one: one.mean_iou)
                del found[worst:]
            bar.update()
    scores: CityscapesScores | SegmentationScores
    if known_name(labels) == CITYSCAPES_34.name:
        scores = cityscapes_scores(confusion)
        warn_of_train_ids(scores)
    else:
        scores = SegmentationScores(
            confusion, labels.classes, labels.categories, ignored=labels.ignore_index
        )
    return Errors(
        labels=labels,
        scores=scores,
        confusion=confusion * counted_classes(labels)[:, None],
        frames=len(pairing.pairs),
        worst=tuple(found),
        pixels=distances[0],
        wrong=distances[1],
    )


def counted_classes(labels: LabelSet) -> npt.NDArray[np.bool_]:
    """Which classes ``(C,)`` are evaluated: all that are not ignored."""
    if known_name(labels) == CITYSCAPES_34.name:
        return np.array([not label.ignored for label in CITYSCAPES_CLASSES])
    return np.arange(len(labels)) != labels.ignore_index


def counted_pixels(truth: npt.NDArray[Any], labels: LabelSet) -> npt.NDArray[np.bool_]:
    """Where the ground truth ``(H, W)`` is evaluated."""
    return np.isin(truth, np.flatnonzero(counted_classes(labels)))


def boundary_distance(truth: npt.NDArray[Any], reach: int = REACH) -> npt.NDArray[np.uint8]:
    """How far every pixel is from the nearest one of another label.

    The distance is Chebyshev's, the larger of the differences in rows and columns: a pixel is
    within d of a boundary if the square of side 2d + 1 around it holds another label. Every change
    of the label counts, also to ignored pixels; the edge of the image does not.

    Args:
        truth: Label map ``(H, W)``.
        reach: The largest distance told apart, at most 254.

    Returns:
        uint8 ``(H, W)``: 1 to ``reach``, and ``reach + 1`` for all that is farther.
    """
    # A pixel at distance d is d - 1 from one at distance 1, so growing those by a pixel each time
    # gives the distances exactly.
    near = np.zeros(truth.shape, bool)
    for here, there in _NEIGHBOURS:
        changed = truth[here] != truth[there]
        near[here] |= changed
        near[there] |= changed
    distance = np.full(truth.shape, reach + 1, np.uint8)
    for step in range(reach):
        if step:
            near = _grown(near)
        distance -= near
    return distance


def _grown(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """A mask with the eight neighbours of its pixels: first to the sides, then up and down."""
    wide = mask.copy()
    wide[:, 1:] |= mask[:, :-1]
    wide[:, :-1] |= mask[:, 1:]
    grown = wide.copy()
    grown[1:] |= wide[:-1]
    grown[:-1] |= wide[1:]
    return grown


def _frame(pair: FramePair, labels: LabelSet) -> tuple[Counts, Counts, float]:
    """Confusion matrix, pixels and wrong pixels by distance, and mean IoU of one image."""
    prediction, truth = read_pair(pair, labels)
    # Counted as always, so that scores, and what is refused, are the same.
    counter = count_pair(pair, labels, prediction, truth)
    scores = (
        counter.scores() if isinstance(counter, CityscapesEvaluator) else counter.scores(labels)
    )
    matrix = scores.confusion if isinstance(scores, CityscapesScores) else scores.matrix
    counted = counted_pixels(truth, labels)
    distance = boundary_distance(truth)
    by_distance = [
        np.bincount(distance[mask], minlength=REACH + 2)[1:]
        for mask in (counted, counted & (prediction != truth))
    ]
    return matrix, np.array(by_distance), _mean_iou(scores)


def _mean_iou(scores: CityscapesScores | SegmentationScores) -> float:
    return scores.mean_class_iou if isinstance(scores, CityscapesScores) else scores.mean_iou


def find_photos(folder: Path, pairing: Pairing) -> dict[Path, Path]:
    """The photograph of each ground truth, by the ground truth's path.

    It has the ground truth's stem, or for Cityscapes ``<city>_<sequence>_<frame>`` with or without
    ``_leftImg8bit``. Of several, it is in a folder of the same name.

    Args:
        folder: Searched at any depth; or the photograph of the only pair.
        pairing: The files.

    Raises:
        OSError: If the folder does not exist.
        ValueError: If a ground truth has no photograph, or several.
    """
    truths = [pair.ground_truth for pair in pairing.pairs]
    if not folder.exists():
        raise FileNotFoundError(f"{folder} does not exist; check the path.")
    if folder.is_file() and len(truths) == 1:
        return {truths[0]: folder}
    by_stem: dict[str, list[Path]] = {}
    for file in files_below(folder):
        if file.suffix.lower() in SUFFIXES:
            by_stem.setdefault(file.stem.removesuffix("_leftImg8bit"), []).append(file)
    photos = {}
    for truth in truths:
        stem = truth.stem.partition("_gtFine_")[0]
        matches = by_stem.get(stem, [])
        if len(matches) > 1:  # as in a/1.png and b/1.png
            matches = [m for m in matches if m.parent.name == truth.parent.name] or matches
        if len(matches) != 1:
            found = f"{len(matches)} photographs" if matches else "no photograph"
            raise ValueError(
                f"{truth.name} has {found} named {stem} in {folder}; it needs one, or leave "
                f"--images out."
            )
        photos[truth] = matches[0]
    return photos
