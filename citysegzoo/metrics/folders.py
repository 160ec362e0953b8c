"""Evaluating folders of label images."""

from __future__ import annotations

import os
import warnings
from bisect import bisect_left
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from citysegzoo.ahead import read_ahead
from citysegzoo.arguments import check_positive
from citysegzoo.data.cityscapes import LABELS as CITYSCAPES_LABELS
from citysegzoo.data.labels import (
    CITYSCAPES_19,
    CITYSCAPES_34,
    LABEL_SETS,
    LabelSet,
    find_label_set,
    known_name,
)
from citysegzoo.files import files_below
from citysegzoo.hardware import available_cores
from citysegzoo.images import LABEL_SUFFIXES, read_ids
from citysegzoo.metrics.cityscapes import CityscapesEvaluator, CityscapesScores
from citysegzoo.metrics.confusion import ConfusionMatrix
from citysegzoo.metrics.scores import SegmentationScores

_ENDINGS = {
    CITYSCAPES_34.name: "_gtFine_labelIds.png",
    CITYSCAPES_19.name: "_gtFine_labelTrainIds.png",
}
_INSTANCES = "_gtFine_instanceIds.png"

# The class of each label id, of the label sets that are derived from those where they are not there
# themselves.
_DERIVED = {
    labels.name: np.array([values[i] for i in range(len(CITYSCAPES_34))], np.uint8)
    for labels, values in CITYSCAPES_LABELS.values()
    if labels is not CITYSCAPES_34
}


class FramePair(NamedTuple):
    """The files of one frame."""

    prediction: Path
    ground_truth: Path


@dataclass(frozen=True)
class Pairing:
    """Which prediction belongs to which ground truth.

    Attributes:
        pairs: One for each ground-truth file, in the order of their names.
        unused: Predictions that belong to none; they are not evaluated.
    """

    pairs: tuple[FramePair, ...]
    unused: tuple[Path, ...] = field(default=(), repr=False)


def labels_of(ground_truth: str | os.PathLike[str]) -> LabelSet | None:
    """The label set that the names of Cityscapes' files tell, label ids first; None for others.

    Args:
        ground_truth: A folder searched at any depth, or one file.

    Raises:
        OSError: If the path does not exist or a folder cannot be read.
    """
    files = _files(Path(ground_truth))
    for labels in (CITYSCAPES_34, CITYSCAPES_19):
        if any(file.name.endswith(_ENDINGS[labels.name]) and _frame_name(file) for file in files):
            return labels
    return None


def labels_for(
    ground_truth: str | os.PathLike[str], labels: LabelSet | str | None = None
) -> LabelSet:
    """A label set, by itself, by name or, if it is None, by the names of Cityscapes' files.

    Raises:
        OSError: As :func:`labels_of`.
        ValueError: If there is none of that name, or the files' names do not tell.
    """
    found = labels_of(ground_truth) if labels is None else find_label_set(labels)
    if found is None:
        raise ValueError(
            f"the names in {ground_truth} do not say what its values are; give labels (--labels), "
            f"one of {', '.join(LABEL_SETS)}."
        )
    return found


def pair_files(
    predictions: str | os.PathLike[str],
    ground_truth: str | os.PathLike[str],
    labels: LabelSet,
) -> Pairing:
    """Find the prediction of every ground-truth file, in folders searched at any depth.

    Where the ground truth is named as Cityscapes names it (``*_gtFine_labelIds.png`` for 34
    classes, ``*_gtFine_labelTrainIds.png`` for 19), only such files count, and a prediction is
    what its official script takes: any PNG whose name begins with ``<city>_<sequence>_<frame>``.
    Where there are label ids alone, train ids and categories are derived from them.
    Elsewhere it has the stem of the ground truth, or that and ``_labels``, as ``citysegzoo
    segment`` writes it; its sub-folder counts only where two ground truths share a stem.

    Args:
        predictions: A folder, or one file.
        ground_truth: A folder, or one file; two files belong together whatever their names.
        labels: The label set of both.

    Raises:
        OSError: If a path does not exist or there is nothing in a folder.
        ValueError: If a ground truth has no prediction or several.
    """
    predictions, ground_truth = Path(predictions), Path(ground_truth)
    truths = _truths(ground_truth, labels)
    if predictions.is_file() and ground_truth.is_file():
        return Pairing((FramePair(predictions, ground_truth),))
    found = _files(predictions)
    if not found:
        raise _empty(predictions)
    if _is_official(truths[0], labels):
        candidates = _by_frame(truths, found)
    else:
        root = ground_truth if ground_truth.is_dir() else ground_truth.parent
        its_root = predictions if predictions.is_dir() else predictions.parent
        candidates = _by_stem(truths, root, found, its_root)

    missing = [(file, name) for file, (name, matches) in candidates.items() if not matches]
    if missing:
        file, name = missing[0]
        raise ValueError(
            f"{len(missing)} of {len(truths)} ground-truth files have no prediction in "
            f"{predictions}, such as {file.name}; it needs a file named {name}."
        )
    for file, (name, matches) in candidates.items():
        if len(matches) > 1:
            rest = f" and {len(matches) - 2} more" if len(matches) > 2 else ""
            raise ValueError(
                f"{file.name} has {len(matches)} predictions named {name}, {matches[0]}, "
                f"{matches[1]}{rest}; keep one of them in {predictions}."
            )
    pairs = tuple(FramePair(matches[0], file) for file, (_, matches) in candidates.items())
    used = {pair.prediction for pair in pairs}
    return Pairing(pairs, tuple(file for file in found if file not in used))


def find_instances(pairing: Pairing, labels: LabelSet, instances: bool | None = None) -> bool:
    """Whether iIoU can be scored: whether instance ids are beside every ground truth, or none.

    Args:
        pairing: The files.
        labels: Their label set; only label ids, ``CITYSCAPES_34``, have instances.
        instances: What was asked for; by default, what is there.

    Raises:
        FileNotFoundError: If some files are missing, or all of those asked for.
        ValueError: If instances are asked for where the label set has none.
    """
    if known_name(labels) != CITYSCAPES_34.name:
        if instances:
            raise ValueError(
                f"instances are evaluated for {CITYSCAPES_34.name} only, not for {labels.name}; "
                f"leave them out."
            )
        return False
    if instances is False:
        return False
    files = [_instance_file(pair.ground_truth) for pair in pairing.pairs]
    missing = [file for file in files if not file.is_file()]
    if missing and (instances or len(missing) < len(files)):
        raise FileNotFoundError(
            f"{len(missing)} of {len(files)} ground-truth files have no instance ids beside them, "
            f"such as {missing[0]}; add them, or evaluate without instances."
        )
    return not missing


def evaluate_folders(
    predictions: str | os.PathLike[str],
    ground_truth: str | os.PathLike[str],
    *,
    labels: LabelSet | str | None = None,
    progress: bool = False,
    workers: int | None = None,
    instances: bool | None = None,
) -> CityscapesScores | SegmentationScores:
    """Score a folder of predictions against a folder of ground truth.

    The scores are the same, to the last bit, whatever the number of workers.

    Args:
        predictions: Folder of label images, or one of them; see :func:`pair_files`.
        ground_truth: Folder of label images, or one of them.
        labels: What the pixel values of the predictions are, as a label set or its name; None
            goes by the names of Cityscapes' files. ``CITYSCAPES_34`` means label ids and the
            official protocol; any other set, one confusion matrix of its classes.
        progress: Whether to show a progress bar, if standard error is a terminal.
        workers: Threads that decode and count; by default one for each core.
        instances: For ``CITYSCAPES_34``, whether to evaluate iIoU with the
            ``*_gtFine_instanceIds.png`` beside the ground truth; by default if they are there.

    Returns:
        :class:`CityscapesScores` for ``CITYSCAPES_34``, else :class:`SegmentationScores`.

    Raises:
        OSError: If a file cannot be read, or is missing.
        ValueError: If files do not pair, sizes differ, or pixel values are no classes.
    """
    labels = labels_for(ground_truth, labels)
    pairing = pair_files(predictions, ground_truth, labels)
    scores = _evaluated(pairing, labels, progress, workers, instances)
    warn_of_train_ids(scores)
    return scores


def evaluate_pairs(
    pairing: Pairing,
    *,
    labels: LabelSet,
    progress: bool = False,
    workers: int | None = None,
    instances: bool | None = None,
) -> CityscapesScores | SegmentationScores:
    """Score the pairs of :func:`pair_files`; all else is as for :func:`evaluate_folders`."""
    scores = _evaluated(pairing, labels, progress, workers, instances)
    warn_of_train_ids(scores)
    return scores


def _evaluated(
    pairing: Pairing,
    labels: LabelSet,
    progress: bool,
    workers: int | None,
    instances: bool | None,
) -> CityscapesScores | SegmentationScores:
    from tqdm import tqdm

    workers = available_cores() if workers is None else check_positive("workers", workers)
    with_instances = find_instances(pairing, labels, instances)

    # Frames are counted one by one and added in their order: which thread took which then
    # makes no difference to sums of floats.
    total = _counter(labels, with_instances)
    jobs = read_ahead(
        pairing.pairs,
        lambda pair: _count(pair, labels, with_instances),
        ahead=2 * workers,
        workers=workers,
    )
    with (
        closing(jobs) as counting,
        tqdm(total=len(pairing.pairs), unit="frame", disable=None if progress else True) as bar,
    ):
        for _, counted in counting:
            total.merge(counted.result())
            bar.update()
    return total.scores() if isinstance(total, CityscapesEvaluator) else total.scores(labels=labels)


def warn_of_train_ids(scores: CityscapesScores | SegmentationScores) -> None:
    """Warn, at the caller's caller, where predictions scored as label ids look like train ids."""
    if not isinstance(scores, CityscapesScores):
        return
    predicted, true = scores.confusion.sum(0), scores.confusion.sum(1)
    last = len(CITYSCAPES_19)
    # Nobody predicts the ego vehicle and neither vegetation nor cars.
    if predicted[1:7].any() and not predicted[last:].any() and true[last:].any():
        warnings.warn(
            f"the predictions are 0 to {last - 1} only, as train ids are, and were scored as label "
            "ids; of train ids give labels='cityscapes19' (--labels cityscapes19).",
            stacklevel=3,
        )


def _counter(labels: LabelSet, instances: bool) -> Any:
    if known_name(labels) == CITYSCAPES_34.name:
        return CityscapesEvaluator(instances=instances)
    return ConfusionMatrix(len(labels), ignore_index=labels.ignore_index)


def _count(
    pair: FramePair, labels: LabelSet, instances: bool
) -> CityscapesEvaluator | ConfusionMatrix:
    """One frame, read and counted."""
    arrays = list(read_pair(pair, labels))
    if instances:
        file = _instance_file(pair.ground_truth)
        arrays.append(read_ids(file))
        _check_size(file, arrays[2], pair.ground_truth, arrays[1])
    return count_pair(pair, labels, *arrays)


def read_pair(pair: FramePair, labels: LabelSet) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Prediction and ground truth ``(H, W)``, as ids of the label set."""
    prediction, truth = read_ids(pair.prediction), read_ids(pair.ground_truth)
    _check_size(pair.prediction, prediction, pair.ground_truth, truth)
    name = known_name(labels)
    if name in _DERIVED and pair.ground_truth.name.endswith(_ENDINGS[CITYSCAPES_34.name]):
        if truth.size and not 0 <= truth.min() <= truth.max() < len(CITYSCAPES_34):
            raise ValueError(
                f"{pair.ground_truth} has values from {truth.min()} to {truth.max()}; label ids "
                f"are 0 to {len(CITYSCAPES_34) - 1}."
            )
        truth = _DERIVED[name][truth]
    return prediction, truth


def count_pair(
    pair: FramePair, labels: LabelSet, *arrays: npt.NDArray[Any]
) -> CityscapesEvaluator | ConfusionMatrix:
    """One frame counted: prediction, ground truth and, with instances, theirs."""
    counter: CityscapesEvaluator | ConfusionMatrix = _counter(labels, len(arrays) == 3)
    try:
        counter.update(*arrays)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{pair.prediction} against {pair.ground_truth}: {error}") from error
    return counter


def _check_size(
    file: Path, array: npt.NDArray[Any], truth_file: Path, truth: npt.NDArray[Any]
) -> None:
    if array.shape != truth.shape:
        (height, width), (true_height, true_width) = array.shape, truth.shape
        raise ValueError(
            f"{file} is {width}x{height} but its ground truth is {true_width}x{true_height} "
            f"({truth_file}); evaluate at the size of the ground truth."
        )


def _instance_file(truth: Path) -> Path:
    """Where the official script looks for the instance ids; elsewhere than Cityscapes, nowhere."""
    ending = _ENDINGS[CITYSCAPES_34.name]
    if truth.name.endswith(ending):
        return truth.with_name(truth.name.removesuffix(ending) + _INSTANCES)
    return truth.with_name(truth.stem + _INSTANCES)


def _truths(path: Path, labels: LabelSet) -> list[Path]:
    """The ground-truth files: those of Cityscapes where there are any, else all label images."""
    files = _files(path)
    if path.is_file():
        return files
    for known in _endings(labels):
        official = [file for file in files if file.name.endswith(known) and _frame_name(file)]
        if official:
            return official
    if not files:
        raise _empty(path)
    if any(file.name.endswith((*_ENDINGS.values(), _INSTANCES)) for file in files):
        name = known_name(labels) or f"one's own {labels.name}"
        ending = _ENDINGS.get(name)
        raise FileNotFoundError(
            f"the folder {path} holds ground truth of Cityscapes but no *{ending}; make them with "
            f"cityscapesscripts, or evaluate another label set than {labels.name}."
            if ending
            else f"the folder {path} holds ground truth of Cityscapes, not of {name}; "
            f"evaluate {' or '.join(_ENDINGS)}."
        )
    return files


def _empty(folder: Path) -> FileNotFoundError:
    return FileNotFoundError(
        f"the folder {folder} holds no label image; it needs files ending in "
        f"{', '.join(LABEL_SUFFIXES)}."
    )


def _endings(labels: LabelSet) -> list[str]:
    """What official ground truth of a label set ends in: its own, or label ids to derive it of."""
    name = known_name(labels)
    names = [name, *([CITYSCAPES_34.name] if name in _DERIVED else [])]
    return [_ENDINGS[name] for name in names if name in _ENDINGS]


def _is_official(file: Path, labels: LabelSet) -> bool:
    return file.name.endswith(tuple(_endings(labels))) and _frame_name(file) is not None


def _frame_name(file: Path) -> str | None:
    """``<city>_<sequence>_<frame>`` of a ground-truth file, None where it is not named so."""
    *frame, _, _ = parts = file.name.split("_")  # a city's name may have such a line as well
    return "_".join(frame) if len(frame) >= 3 and all(parts) else None


def _files(path: Path) -> list[Path]:
    """A file itself; the label images in a folder, at any depth, by name; hidden ones excepted."""
    if path.is_file():
        return [path]
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; check the path.")
    return [file for file in files_below(path) if file.name.lower().endswith(LABEL_SUFFIXES)]


# Each ground truth, what its prediction may be called, and the predictions called so.
_Candidates = dict[Path, tuple[str, list[Path]]]


def _by_frame(truths: list[Path], found: list[Path]) -> _Candidates:
    found = sorted((file for file in found if file.suffix == ".png"), key=lambda file: file.name)
    names = [file.name for file in found]
    candidates = {}
    for truth in truths:
        prefix = _frame_name(truth) or ""
        end = start = bisect_left(names, prefix)
        while end < len(names) and names[end].startswith(prefix):
            end += 1
        candidates[truth] = (f"{prefix}*.png", found[start:end])
    return candidates


def _by_stem(truths: list[Path], root: Path, found: list[Path], its_root: Path) -> _Candidates:
    unique = len({truth.stem for truth in truths}) == len(truths)

    def key(file: Path, root: Path) -> str:
        return file.stem if unique else str(file.relative_to(root).with_suffix(""))

    by_key: dict[str, list[Path]] = {}
    for file in found:
        by_key.setdefault(key(file, its_root), []).append(file)
    candidates = {}
    for truth in truths:
        name = key(truth, root)
        matches = by_key.get(name, []) + by_key.get(f"{name}_labels", [])
        candidates[truth] = (f"{name}.png or {name}_labels.png", matches)
    return candidates
