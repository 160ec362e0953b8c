"""The confusion matrix and its scores against torchmetrics, smp, sklearn-free definitions."""

import itertools
import json
import math
import multiprocessing
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from citysegzoo.data import CAMVID_11, CITYSCAPES_19, CITYSCAPES_34, LabelSet
from citysegzoo.metrics import ConfusionMatrix, PerImageScores, cityscapes_scores
from citysegzoo.metrics.counting import count_pairs

NAN = float("nan")


def maps(
    classes: int = 19,
    shape: tuple[int, ...] = (2, 24, 40),
    *,
    void: int | None = 255,
    seed: int = 0,
    block: int = 1,
) -> tuple[Tensor, Tensor]:
    """Predicted and true labels, in blocks; a third of the truth wrong, some ignored."""
    generator = torch.Generator().manual_seed(seed)
    coarse = (*shape[:-2], -(-shape[-2] // block), -(-shape[-1] // block))
    target = torch.randint(0, classes, coarse, generator=generator)
    other = torch.randint(0, classes, coarse, generator=generator)
    prediction = target.where(torch.rand(coarse, generator=generator) < 0.7, other)
    if void is not None:
        target[torch.rand(coarse, generator=generator) < 0.1] = void
    large = (
        x.repeat_interleave(block, -2).repeat_interleave(block, -1) for x in (prediction, target)
    )
    prediction, target = (x[..., : shape[-2], : shape[-1]].contiguous() for x in large)
    return prediction, target


def naive(prediction: Tensor, target: Tensor, classes: int, void: int | None) -> Tensor:
    """Counts of each pair, one comparison after the other."""
    counts = torch.zeros(classes + 1, classes, dtype=torch.int64)
    for t, p in itertools.product([*range(classes), void], range(classes)):
        row = classes if t == void else t
        if t is not None:
            counts[row, p] = ((target == t) & (prediction == p)).sum()
    return counts


@pytest.mark.parametrize("block", [1, 3, 16])
@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 64, 1000])
def test_count_pairs(block: int, size: int) -> None:
    rng = np.random.default_rng(size)
    p, t = (np.repeat(rng.integers(0, 256, size), block)[:size].astype(np.uint8) for _ in "pt")
    expected = np.zeros((256, 256), np.int64)
    np.add.at(expected, (t, p), 1)
    assert np.array_equal(count_pairs(p, t), expected)
    grid = np.repeat(p[:, None], 6, 1)[:, ::2]  # not contiguous
    assert np.array_equal(count_pairs(grid, np.repeat(t[:, None], 3, 1)), 3 * expected)


DTYPES = [torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.int64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("void", [None, 255, 0, 7, -1, -100, 1000])
@pytest.mark.parametrize("block", [1, 16])
def test_counts_are_exact(dtype: torch.dtype, void: int | None, block: int) -> None:
    """Every dtype, ignored label and kind of scene, as tensor and array, here and there."""
    limits = torch.iinfo(dtype)
    if void is not None and not limits.min <= void <= limits.max:
        pytest.skip("no such label in this dtype")
    prediction, target = maps(void=void, block=block)
    expected = naive(prediction, target, 19, void)
    for convert in (lambda x: x, lambda x: x.numpy()):
        matrix = ConfusionMatrix(19, void)
        matrix.update(convert(prediction.to(dtype)), convert(target.to(dtype)))
        assert torch.equal(matrix.counts, expected)
        assert matrix.matrix.sum() == (target.numel() if void is None else (target != void).sum())
    elsewhere = ConfusionMatrix(19, void)  # what accelerators run
    elsewhere._count_anywhere(prediction.to(dtype), target.to(dtype))
    assert torch.equal(elsewhere.counts, expected)


@pytest.mark.parametrize("void", [-1, -100, 5000])
@pytest.mark.parametrize("classes", [255, 256, 257, 1000])
def test_many_classes(classes: int, void: int) -> None:
    for ignored in (void, None):
        prediction, target = maps(classes, void=ignored)
        matrix = ConfusionMatrix(classes, void)
        matrix.update(prediction, target)
        keep = target != void
        expected = torch.zeros(classes, classes, dtype=torch.int64)
        expected.index_put_((target[keep], prediction[keep]), torch.tensor(1), accumulate=True)
        assert torch.equal(matrix.matrix, expected)


def test_logits_are_predictions() -> None:
    prediction, target = maps()
    logits = F.one_hot(prediction, 19).movedim(-1, 1).float() + 0.5 * torch.rand(2, 19, 24, 40)
    matrix, of_logits, single = (ConfusionMatrix(19) for _ in range(3))
    matrix.update(prediction, target)
    of_logits.update(logits, target)
    assert torch.equal(of_logits.counts, matrix.counts)
    for x, t in zip(logits, target, strict=True):
        single.update(x.half(), t)
    assert torch.equal(single.counts, matrix.counts)


def test_equals_torchmetrics() -> None:
    """Where torchmetrics is right: its absent classes are nan too once told to ignore them."""
    classification = pytest.importorskip("torchmetrics.classification")
    prediction, target = maps(19)
    matrix = ConfusionMatrix(19)
    matrix.update(prediction, target)
    theirs = classification.MulticlassConfusionMatrix(19, ignore_index=255)
    theirs.update(prediction, target)
    assert torch.equal(theirs.compute(), matrix.matrix)
    scores = matrix.scores()
    for metric, found in (
        (classification.MulticlassJaccardIndex, scores.class_iou),
        (classification.MulticlassF1Score, scores.class_dice),
        (classification.MulticlassPrecision, scores.class_precision),
        (classification.MulticlassRecall, scores.class_recall),
    ):
        expected = metric(19, average="none", ignore_index=255)(prediction, target)
        assert list(found.values()) == pytest.approx(expected.tolist(), abs=1e-6)
    micro = classification.MulticlassAccuracy(19, average="micro", ignore_index=255)
    assert scores.pixel_accuracy == pytest.approx(micro(prediction, target).item(), abs=1e-6)
    weighted = classification.MulticlassJaccardIndex(19, average="weighted", ignore_index=255)
    expected = weighted(prediction, target).item()
    assert scores.frequency_weighted_iou == pytest.approx(expected, abs=1e-6)


def test_equals_smp() -> None:
    """smp's micro scores and its per-class counts, from which macro scores are its own affair.

    (Its macro IoU counts absent classes as 1.)
    """
    smp = pytest.importorskip("segmentation_models_pytorch")
    prediction, target = maps(void=-1)
    tp, fp, fn, _ = (
        part.sum(0)
        for part in smp.metrics.get_stats(
            prediction, target, mode="multiclass", num_classes=19, ignore_index=-1
        )
    )
    matrix = ConfusionMatrix(19, -1)
    matrix.update(prediction, target)
    scores = matrix.scores()
    assert list(scores.class_iou.values()) == pytest.approx((tp / (tp + fp + fn)).tolist())
    micro = smp.metrics.recall(tp, fp, fn, fn, reduction="micro")
    assert scores.pixel_accuracy == pytest.approx(micro.item())


def test_scores_by_hand() -> None:
    """Three classes, one absent: 4 pixels of class 0, 2 of class 1, one void."""
    matrix = ConfusionMatrix(4)
    matrix.update(torch.tensor([[0, 0, 0, 1, 1, 3, 0]]), torch.tensor([[0, 0, 0, 0, 1, 1, 255]]))
    scores = matrix.scores()
    names = [f"class_{i}" for i in range(4)]
    assert scores.class_iou == pytest.approx(
        dict(zip(names, [3 / 4, 1 / 3, NAN, 0.0], strict=True)), nan_ok=True
    )
    assert scores.class_dice == pytest.approx(
        dict(zip(names, [6 / 7, 1 / 2, NAN, 0.0], strict=True)), nan_ok=True
    )
    assert scores.class_precision == pytest.approx(
        dict(zip(names, [1.0, 1 / 2, NAN, 0.0], strict=True)), nan_ok=True
    )
    assert scores.class_recall == pytest.approx(
        dict(zip(names, [3 / 4, 1 / 2, NAN, NAN], strict=True)), nan_ok=True
    )
    assert scores.mean_iou == pytest.approx((3 / 4 + 1 / 3) / 3)
    assert scores.mean_recall == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert scores.pixel_accuracy == pytest.approx(4 / 6)
    assert scores.frequency_weighted_iou == pytest.approx((4 * 3 / 4 + 2 / 3) / 6)
    # xiang2020: the void pixel predicted as class 0 is its false positive.
    void = matrix.scores(void_as_false_positive=True)
    assert void.class_iou["class_0"] == pytest.approx(3 / 5)
    assert void.pixel_accuracy == scores.pixel_accuracy
    # fixman2024: the absent class counts as 0.
    zero = matrix.scores(absent="zero")
    assert zero.class_iou["class_2"] == 0.0
    assert zero.mean_iou == pytest.approx((3 / 4 + 1 / 3) / 4)


def test_categories_are_the_official_ones() -> None:
    """From 19 train ids: the same as from label ids, where nothing ignored is predicted."""
    prediction, target = maps(19)
    matrix = ConfusionMatrix(19)
    matrix.update(prediction, target)
    scores = matrix.scores(CITYSCAPES_19)
    ids = torch.tensor([CITYSCAPES_34.classes.index(name) for name in CITYSCAPES_19.classes])
    of_ids = ConfusionMatrix(34, None)
    of_ids.update(ids[prediction], torch.where(target == 255, 0, ids[target % 19]))
    official = cityscapes_scores(of_ids.matrix)
    for name, iou in scores.class_iou.items():
        assert iou == pytest.approx(official.class_iou[name], abs=1e-12)
    for name, iou in scores.category_iou.items():
        assert iou == pytest.approx(official.category_iou[name], abs=1e-12)
    assert scores.mean_category_iou == pytest.approx(official.mean_category_iou, abs=1e-12)
    # stevens2020's own metrics: all 34 ids are classes, void ones included.
    assert of_ids.scores(CITYSCAPES_34).class_iou["unlabeled"] == 0.0


def test_nothing_counted() -> None:
    scores = ConfusionMatrix(3).scores()
    assert all(np.isnan(list(scores.class_iou.values())))
    assert np.isnan([scores.mean_iou, scores.pixel_accuracy, scores.frequency_weighted_iou]).all()
    assert scores.category_iou == {}
    json.dumps(scores.to_dict(), allow_nan=False)
    assert "-" in scores.table()
    void = ConfusionMatrix(3)
    void.update(torch.zeros(4, 4).long(), torch.full((4, 4), 255))
    assert np.isnan(void.scores().mean_iou)
    void.update(torch.zeros(0, 4, 4).long(), torch.zeros(0, 4, 4).long())


def test_table_and_dict() -> None:
    prediction, target = maps(11, void=11)
    matrix = ConfusionMatrix(11, 11)
    matrix.update(prediction, target)
    scores = matrix.scores(CAMVID_11)
    table = str(scores)
    assert len({len(line) for line in table.splitlines()[:13]}) == 1
    assert f"{100 * scores.class_iou['sky']:.2f}" in table.splitlines()[1]
    found = scores.to_dict()
    assert found["mean_iou"] == scores.mean_iou
    assert found["class_iou"]["car"] == scores.class_iou["car"]
    assert "category_iou" not in found
    assert found["matrix"] == matrix.matrix.tolist()
    json.dumps(found, allow_nan=False)


@hypothesis.settings(max_examples=40, deadline=None)
@given(
    classes=st.integers(1, 30),
    height=st.integers(1, 9),
    width=st.integers(1, 20),
    block=st.sampled_from([1, 8]),
    seed=st.integers(0, 10_000),
)
def test_order_and_grouping_change_nothing(
    classes: int, height: int, width: int, block: int, seed: int
) -> None:
    prediction, target = maps(classes, (3, height, width), seed=seed, block=block)
    whole = ConfusionMatrix(classes)
    whole.update(prediction, target)
    order = torch.randperm(target.numel(), generator=torch.Generator().manual_seed(seed))
    permuted = ConfusionMatrix(classes)
    permuted.update(prediction.flatten()[order], target.flatten()[order])
    assert torch.equal(permuted.counts, whole.counts)
    merged, streamed = ConfusionMatrix(classes), ConfusionMatrix(classes)
    for p, t in zip(prediction, target, strict=True):
        part = ConfusionMatrix(classes)
        part.update(p.to(torch.uint8), t.to(torch.uint8))
        merged.merge(part)
        streamed.update(p, t)
    assert torch.equal(merged.counts, whole.counts)
    assert torch.equal(streamed.counts, whole.counts)
    assert torch.equal(whole.counts, naive(prediction, target, classes, 255))


def test_saves_and_loads(tmp_path: Path) -> None:
    matrix = ConfusionMatrix(19)
    matrix.update(*maps())
    matrix.save(tmp_path / "matrix.json")
    again = ConfusionMatrix.load(tmp_path / "matrix.json")
    assert torch.equal(again.counts, matrix.counts)
    assert again.ignore_index == 255
    again.update(*maps(seed=1))
    assert again.matrix.sum() > matrix.matrix.sum()
    again.reset()
    assert again.counts.sum() == 0
    for text in (
        "",
        "{}",
        "[1]",
        "[" * 100_000,
        json.dumps({"num_classes": 2, "ignore_index": 1, "counts": [1]}),
        json.dumps({"num_classes": 10**9, "ignore_index": None, "counts": [1]}),
        json.dumps({"num_classes": 1, "ignore_index": None, "counts": [[10**30], [0]]}),
    ):
        (tmp_path / "broken.json").write_text(text)
        with pytest.raises(ValueError, match="holds no saved confusion matrix"):
            ConfusionMatrix.load(tmp_path / "broken.json")
    with pytest.raises(FileNotFoundError):
        ConfusionMatrix.load(tmp_path / "none.json")


def _process(rank: int, folder: str) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    matrix = ConfusionMatrix(19)
    matrix.update(*maps(seed=rank))
    matrix.all_reduce()
    matrix.save(f"{folder}/{rank}.json")
    dist.destroy_process_group()


@pytest.mark.slow
def test_all_reduce(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_process, args=(i, str(tmp_path))) for i in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    expected = ConfusionMatrix(19)
    for seed in range(2):
        expected.update(*maps(seed=seed))
    for rank in range(2):
        assert torch.equal(ConfusionMatrix.load(tmp_path / f"{rank}.json").counts, expected.counts)


def test_an_ignored_class_has_no_score() -> None:
    matrix = ConfusionMatrix(4, 0)
    matrix.update(torch.tensor([0, 1, 2, 3]), torch.tensor([1, 1, 2, 3]))
    scores = matrix.scores()
    assert np.isnan(scores.class_iou["class_0"])
    assert scores.mean_iou == pytest.approx((0.5 + 1 + 1) / 3)
    assert scores.pixel_accuracy == 0.75


def test_wrong_labels_are_named() -> None:
    prediction, target = maps(4, (8, 8))
    target[0, :3] = 9
    prediction[target == 255] = 200  # does not matter there
    matrix = ConfusionMatrix(4)
    with pytest.raises(ValueError, match="3 pixels are labelled 9 in the target, but .* 0 to 3"):
        matrix.update(prediction, target)
    prediction[1, 1], target[1, 1] = 77, 2
    with pytest.raises(ValueError, match="1 pixel is labelled 77 in the prediction"):
        matrix.update(prediction.to(torch.uint8), target.to(torch.uint8))
    with pytest.raises(ValueError, match="42 in the target, .*-1 is ignored.*or to ignore_index"):
        ConfusionMatrix(19, -1).update(torch.zeros(2, 2).long(), torch.full((2, 2), 42))
    with pytest.raises(ValueError, match="in the prediction, .*map such labels to a class[.]"):
        ConfusionMatrix(19).update(torch.full((2, 2), 255), torch.zeros(2, 2).long())
    with pytest.raises(ValueError, match="labelled -5 in the target"):
        matrix.update(prediction, target.where(target != 9, -5))
    with pytest.raises(ValueError, match="labelled 255 in the target.*no label is ignored"):
        ConfusionMatrix(4, None).update(torch.zeros(2, 2).long(), torch.full((2, 2), 255))
    assert matrix.counts.sum() == 0  # nothing half counted
    # Where looking would mean to wait, the next reader learns of it.
    matrix._count_anywhere(prediction, target)
    with pytest.raises(ValueError, match="4 pixels that count were labelled 9 to 77"):
        matrix.scores()
    other = ConfusionMatrix(4)
    other.merge(matrix)
    with pytest.raises(ValueError, match="4 pixels that count"):
        _ = other.matrix
    other.reset()
    assert other.matrix.sum() == 0


def test_wrong_labels_met_before_are_not_forgotten() -> None:
    matrix = ConfusionMatrix(4)
    matrix._count_anywhere(torch.full((2, 2), 7), torch.zeros(2, 2).long())  # as on a GPU
    void = torch.full((2, 2), 255)
    matrix.update(torch.full((2, 2), -1), void)  # right: what is predicted there does not matter
    with pytest.raises(ValueError, match="1 pixel is labelled 9 in the target"):
        matrix.update(torch.full((2, 2), -1), torch.tensor([[9, 255], [255, 255]]))
    with pytest.raises(ValueError, match="4 pixels that count were labelled 7"):
        matrix.scores()


def test_scores_stay_as_they_were() -> None:
    matrix = ConfusionMatrix(4)
    matrix.update(*maps(4))
    for void in (False, True):
        scores, counts = matrix.scores(void_as_false_positive=void), matrix.matrix
        expected = matrix.scores(void_as_false_positive=void).to_dict()
        known = counts.clone()
        for change in (lambda: matrix.update(*maps(4, seed=1)), matrix.reset):
            change()
            assert scores.to_dict() == expected
            assert torch.equal(counts, known)
        matrix.update(*maps(4))
    weights = torch.ones(4, dtype=torch.float64)
    images = PerImageScores(4, class_weights=weights)
    weights.mul_(5)
    assert images.class_weights.tolist() == [1] * 4


def test_modes_of_torch_do_not_matter() -> None:
    expected = ConfusionMatrix(4)
    expected.update(*maps(4))
    with torch.inference_mode():
        made_there = ConfusionMatrix(4)
        made_there.update(*maps(4, seed=1))
        made_there.reset()
    pair = maps(4)
    made_there.update(*pair)
    made_there._count_anywhere(pair[0], pair[1].clamp(max=3))
    made_there.reset()
    made_there.update(*pair)
    assert torch.equal(made_there.counts, expected.counts)
    alone = PerImageScores(4)
    alone.update(*pair)
    with torch.device("meta"):
        elsewhere = PerImageScores(4)
        elsewhere.update(*pair)
        assert elsewhere.mean_iou == alone.mean_iou


BAD: list[tuple[Any, Any, type[Exception], str]] = [
    (torch.zeros(2, 2).long(), torch.zeros(2, 3).long(), ValueError, "same shape"),
    (torch.zeros(2, 2).long(), torch.zeros(2, 2), TypeError, "integer labels, not torch.float32"),
    (torch.zeros(2, 2), torch.zeros(2, 2).long(), ValueError, "labels must be integers"),
    (torch.zeros(1, 5, 2, 2), torch.zeros(1, 2, 2).long(), ValueError, r"logits \(N, 4, H, W\)"),
    (torch.zeros(2, 2).bool(), torch.zeros(2, 2).long(), TypeError, "labels or logits"),
    ([[0]], torch.zeros(1, 1).long(), TypeError, "prediction must be a tensor or an array"),
]


@pytest.mark.parametrize(("prediction", "target", "error", "message"), BAD)
def test_bad_input(prediction: Any, target: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ConfusionMatrix(4).update(prediction, target)


def test_bad_options() -> None:
    with pytest.raises(ValueError, match="num_classes must be"):
        ConfusionMatrix(0)
    with pytest.raises(TypeError, match="ignore_index must be a whole number or None"):
        ConfusionMatrix(4, 1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'cityscapes19' has 19 classes and the matrix 4"):
        ConfusionMatrix(4).scores(CITYSCAPES_19)
    with pytest.raises(ValueError, match="absent is 'skip' or 'zero'"):
        ConfusionMatrix(4).scores(absent="nan")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cannot be added"):
        ConfusionMatrix(4).merge(ConfusionMatrix(4, 0))
    with pytest.raises(TypeError, match="only another ConfusionMatrix can be merged"):
        ConfusionMatrix(4).merge(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="did you mean 'cityscapes19'"):
        ConfusionMatrix(19).scores("cityscape19")
    assert "road" in ConfusionMatrix(19).scores("cityscapes19").class_iou
    with pytest.raises(ValueError, match="255, which is one of 300 classes"):
        ConfusionMatrix(300)
    with pytest.raises(ValueError, match="give one weight for each"):
        PerImageScores(4, class_weights=[1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="class 1 has nan"):
        PerImageScores(2, class_weights=[1.0, NAN])


def fixman2024_iou_score(prediction: Tensor, target: Tensor, weights: Tensor | None) -> float:
    """The report's IoUScore and InstanceIoUScore, from what the dossier tells of their code."""
    valid = target != 0
    p = F.one_hot(prediction, 34) * valid[..., None]
    t = F.one_hot(target, 34) * valid[..., None]
    tp, fp, fn = ((x.sum((1, 2)).double()) for x in (p * t, p * (1 - t), (1 - p) * t))
    if weights is not None:
        tp, fn = tp * weights, fn * weights
    union = tp + fp + fn
    return torch.where(union > 0, tp / union.clamp(min=1e-12), 0.0).mean().item()


@pytest.mark.parametrize("weighted", [False, True])
def test_per_image_scores_of_fixman2024(weighted: bool) -> None:
    prediction, target = maps(34, (4, 12, 16), void=None, block=4)
    weights = torch.rand(34, dtype=torch.float64) * 10 if weighted else None
    scores = PerImageScores(34, 0, absent="zero", class_weights=weights)
    scores.update(prediction[:3], target[:3])
    scores.update(prediction[3], target[3])
    expected = fixman2024_iou_score(prediction, target, weights)
    assert scores.mean_iou == pytest.approx(expected, abs=1e-12)
    with pytest.raises(ValueError, match="labelled 99 in the target"):
        scores.update(prediction[:2], torch.stack((target[0], torch.full_like(target[1], 99))))
    assert len(scores.image_iou) == 4  # nothing half counted
    merged = PerImageScores(34, 0, absent="zero", class_weights=weights)
    merged.merge(scores)
    assert merged.mean_iou == scores.mean_iou
    for other in (
        PerImageScores(34, 0, class_weights=weights),
        PerImageScores(34, 0, absent="zero", class_weights=[2.0] * 34),
        PerImageScores(34, absent="zero", class_weights=weights),
        PerImageScores(35, 0, absent="zero"),
    ):
        with pytest.raises(ValueError, match="not of the same kind"):
            merged.merge(other)
    merged.reset()
    assert np.isnan(merged.mean_iou)
    perfect = PerImageScores(34, 0, absent="zero")
    two = torch.tensor([[5, 5], [9, 9]])
    perfect.update(two, two)
    assert 100 * perfect.mean_iou == pytest.approx(5.88, abs=0.005)


def test_per_image_scores_of_torchmetrics() -> None:
    """Its MeanIoU of one image. (Of several it pools classes: an image of more counts more.)"""
    segmentation = pytest.importorskip("torchmetrics.segmentation")
    prediction, target = maps(6, (5, 12, 16), void=None, block=4)
    scores = PerImageScores(6, None)
    scores.update(prediction, target)
    for p, t, found in zip(prediction, target, scores.image_iou, strict=True):
        theirs = segmentation.MeanIoU(6, input_format="index", per_class=False)
        assert found == pytest.approx(theirs(p[None], t[None]).item(), abs=1e-6)
    assert scores.mean_iou == pytest.approx(sum(scores.image_iou) / 5)
    assert np.isnan(PerImageScores(6).mean_iou)


def test_an_ignored_class_has_no_score_anywhere() -> None:
    """Label sets may count "unlabeled" among their classes and leave it out all the same."""
    truth, predicted = torch.tensor([[1, 1, 1, 2, 0]]), torch.tensor([[0, 1, 1, 2, 1]])
    confusion = ConfusionMatrix(3, ignore_index=0)
    confusion.update(predicted, truth)
    names = LabelSet(
        "few", ("unlabeled", "road", "sky"), ((0, 0, 0), (9, 9, 9), (8, 8, 8)), ignore_index=0,
        categories=("void", "flat", "sky"),
    )  # fmt: skip
    scores = confusion.scores(names)
    each = PerImageScores(3, ignore_index=0)
    each.update(predicted, truth)
    assert scores.mean_iou == each.mean_iou == pytest.approx((2 / 3 + 1) / 2)
    for absent in ("skip", "zero"):
        scores = confusion.scores(names, absent=absent)
        assert math.isnan(scores.category_iou["void"])
        assert scores.mean_category_iou == pytest.approx((2 / 3 + 1) / 2)


def test_logits_that_are_no_numbers_earn_nothing() -> None:
    confusion = ConfusionMatrix(3)
    logits = torch.randn(1, 3, 4, 4)
    logits[0, 2, 1, 1] = float("nan")
    with pytest.raises(ValueError, match="the logits hold NaN"):
        confusion.update(logits, torch.zeros(1, 4, 4, dtype=torch.long))
    assert confusion.counts.sum() == 0
