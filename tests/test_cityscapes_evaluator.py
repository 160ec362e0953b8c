"""The evaluator against the official script of Cityscapes, number by number."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from citysegzoo.data.labels import CITYSCAPES_34, CITYSCAPES_CLASSES
from citysegzoo.metrics.cityscapes import CityscapesEvaluator, CityscapesScores, cityscapes_scores

pytest.importorskip("cityscapesscripts")

from cityscapes_frames import draw_frame, largest_difference, official, predict, write_frames

SIZE = (96, 192)
Frame = tuple[np.ndarray, np.ndarray, np.ndarray]


def frames(count: int = 4, seed: int = 0) -> list[Frame]:
    """Predictions, label ids and instance ids."""
    random = np.random.default_rng(seed)
    drawn = [draw_frame(random, SIZE) for _ in range(count)]
    return [(predict(random, labels), labels, ids) for labels, ids in drawn]


def evaluated(given: list[Frame], *, instances: bool = True) -> CityscapesScores:
    evaluator = CityscapesEvaluator(instances=instances)
    for frame in given:
        evaluator.update(*frame)
    return evaluator.scores()


def official_of(given: list[Frame], folder: Path, **options) -> dict:
    """What the official script makes of the frames, written as PNGs."""
    files = []
    for i, (prediction, labels, ids) in enumerate(given):
        names = [f"a_0_{i}_{end}.png" for end in ("pred", "gtFine_labelIds", "gtFine_instanceIds")]
        files.append([folder / name for name in names])
        for file, array in zip(files[-1], (prediction, labels, ids), strict=True):
            Image.fromarray(array).save(file)
    return official([f[0] for f in files], [f[1] for f in files], **options)


def assert_same(ours: dict, theirs: dict) -> None:
    assert set(ours) == set(theirs)
    difference, where = largest_difference({key: ours[key] for key in theirs}, theirs)
    assert difference <= 1e-12, where


@pytest.mark.parametrize("seed", range(4))
def test_every_number_is_the_official_one(seed: int, tmp_path: Path) -> None:
    given = frames(seed=seed)
    scores = evaluated(given)
    assert_same(scores.to_dict(), official_of(given, tmp_path))
    assert list(scores.class_iou) == list(scores.class_iiou) == list(CITYSCAPES_34.classes)
    assert len(scores.category_iou) == len(scores.category_iiou) == 8
    assert sum(not math.isnan(score) for score in scores.class_iiou.values()) >= 5


def test_the_drawn_frames_have_what_is_to_be_tested() -> None:
    _, labels, ids = (np.stack(arrays) for arrays in zip(*frames(), strict=True))
    sizes = [
        size for frame in ids for size in np.unique(frame[frame > 1000], return_counts=True)[1]
    ]
    assert min(sizes) == 1
    assert {24, 26, 29, 30} <= set(np.unique(ids[ids > 1000] // 1000))
    assert {1, 2, 3, 5, 6} <= set(np.unique(labels))
    assert (ids == 26).any(), "a group, which is no instance"


@pytest.mark.parametrize("seed", range(3))
def test_noise(seed: int, tmp_path: Path) -> None:
    """Any label anywhere, instances that disagree with the labels, instances of ignored labels."""
    random = np.random.default_rng(seed)
    given = []
    for _ in range(3):
        prediction, labels = random.integers(0, 34, (2, 40, 50), dtype=np.uint8)
        label = random.choice([3, 5, 9, 18, *range(24, 34)], (40, 50))
        ids = np.where(random.random((40, 50)) < 0.5, 1000 * label, 0)
        given.append((prediction, labels, (ids + random.integers(0, 3, ids.shape)).astype("u2")))
    assert_same(evaluated(given).to_dict(), official_of(given, tmp_path))


@pytest.mark.parametrize("what", ["perfect", "all void", "no instances", "only caravans", "wrong"])
def test_what_is_absent(what: str, tmp_path: Path) -> None:
    prediction, labels, ids = frames(1)[0]
    if what == "perfect":
        prediction = labels
    elif what == "all void":
        labels = np.full_like(labels, 4)
        ids = labels.astype(np.uint16)
    elif what == "no instances":
        ids = labels.astype(np.uint16)
    elif what == "only caravans":
        ids = np.where(ids // 1000 == 29, ids, 0).astype(np.uint16)
    else:
        prediction = np.full_like(prediction, 29)
    given = [(prediction, labels, ids)]
    assert_same(evaluated(given).to_dict(), official_of(given, tmp_path))


def test_the_edges_of_instance_ids(tmp_path: Path) -> None:
    """Id 1000 is none; 26999 and 27000 are of different classes; 33999 is the last."""
    ids = np.array([[999, 1000, 1001, 24000], [26999, 27000, 33999, 33]], np.uint16)
    labels = np.array([[7, 7, 1, 24], [26, 27, 33, 33]], np.uint8)
    prediction = np.array([[7, 7, 26, 25], [26, 26, 33, 24]], np.uint8)
    given = [(prediction, labels, ids)]
    assert_same(evaluated(given).to_dict(), official_of(given, tmp_path))


def test_the_official_file(tmp_path: Path) -> None:
    predictions, truths = write_frames(tmp_path, 2, SIZE)
    theirs = tmp_path / "theirs.json"
    pairs = sorted(truths.rglob("*_labelIds.png")), sorted(predictions.iterdir())
    official(pairs[1], pairs[0], file=theirs)
    evaluator = CityscapesEvaluator()
    for truth, prediction in zip(*pairs, strict=True):
        instances = truth.with_name(truth.name.replace("labelIds", "instanceIds"))
        evaluator.update(*(np.asarray(Image.open(f)) for f in (prediction, truth, instances)))
    scores = evaluator.scores()
    scores.save(tmp_path / "ours.json")
    ours, theirs = (tmp_path / "ours.json").read_text(), theirs.read_text()
    assert_same(json.loads(ours), json.loads(theirs))
    assert ours.splitlines()[:3] == theirs.splitlines()[:3]
    assert [line.split(":")[0] for line in ours.splitlines() if ":" in line] == [
        line.split(":")[0] for line in theirs.splitlines() if ":" in line
    ]


def test_a_matrix_alone_has_no_iiou(tmp_path: Path) -> None:
    given = frames()
    with_instances = evaluated(given)
    for scores in (
        evaluated(given, instances=False),
        cityscapes_scores(with_instances.confusion),
        cityscapes_scores(with_instances.confusion.astype(np.uint64)),
        cityscapes_scores(with_instances.confusion.tolist()),
        cityscapes_scores(torch.from_numpy(with_instances.confusion)),
    ):
        assert scores.class_iou == pytest.approx(with_instances.class_iou, abs=0, nan_ok=True)
        assert scores.category_iou == pytest.approx(with_instances.category_iou, abs=0, nan_ok=True)
        assert scores.priors == with_instances.priors
        for iiou in (scores.class_iiou, scores.category_iiou):
            assert all(map(math.isnan, iiou.values()))
        assert math.isnan(scores.mean_class_iiou)
        assert math.isnan(scores.mean_category_iiou)
    theirs = official_of(given, tmp_path, instances=False)
    ours = scores.to_dict()
    # Of instances that were not looked at, the official script says 0.
    for key in [key for key in theirs if "Inst" in key]:
        del ours[key], theirs[key]
    assert_same(ours, theirs)


def test_nothing_evaluated() -> None:
    scores = CityscapesEvaluator().scores()
    assert all(map(math.isnan, (*scores.class_iou.values(), *scores.priors.values())))
    assert math.isnan(scores.mean_class_iou)
    assert {line.split()[-1] for line in scores.table().splitlines() if line} == {"-", "iIoU"}


def test_any_order_and_merge() -> None:
    given = frames()
    whole = evaluated(given)
    first, second = CityscapesEvaluator(), CityscapesEvaluator()
    for i, frame in enumerate(given):
        (second if i % 2 else first).update(*frame)
    second.merge(first)
    assert largest_difference(second.scores().to_dict(), whole.to_dict())[0] <= 1e-12
    assert largest_difference(evaluated(given[::-1]).to_dict(), whole.to_dict())[0] <= 1e-12


def test_scores_are_a_copy() -> None:
    evaluator = CityscapesEvaluator()
    evaluator.update(*frames(1)[0])
    scores = evaluator.scores()
    before = scores.confusion.sum()
    evaluator.update(*frames(1)[0])
    assert scores.confusion.sum() == before


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16", "int32", "int64", "uint64"])
def test_every_integer_dtype(dtype: str) -> None:
    prediction, labels, ids = frames(1)[0]
    whole = evaluated([(prediction, labels, ids)])
    evaluator = CityscapesEvaluator()
    wide = ids if dtype in ("uint8", "int8", "int16") else ids.astype(dtype)
    evaluator.update(prediction.astype(dtype), labels.astype(dtype)[:], wide)
    assert largest_difference(evaluator.scores().to_dict(), whole.to_dict())[0] == 0


def test_tensors_and_views() -> None:
    prediction, labels, ids = frames(1)[0]
    whole = evaluated([(prediction, labels, ids)]).to_dict()
    as_tensors = tuple(torch.from_numpy(a.astype(np.int32)) for a in (prediction, labels, ids))
    views = (np.asfortranarray(prediction), labels[::-1][::-1], np.repeat(ids, 2, axis=1)[:, ::2])
    for given in (as_tensors, views):
        assert largest_difference(evaluated([given]).to_dict(), whole)[0] == 0


def test_instances_of_8_bits_are_none(tmp_path: Path) -> None:
    prediction, labels, _ = frames(1)[0]
    given = [(prediction, labels, labels)]
    assert_same(evaluated(given).to_dict(), official_of(given, tmp_path))


def test_table() -> None:
    scores = evaluated(frames())
    lines = str(scores).splitlines()
    assert len(lines) == 1 + 19 + 1 + 1 + 1 + 7 + 1
    car = next(line for line in lines if line.startswith("car "))
    iou, iiou = 100 * scores.class_iou["car"], 100 * scores.class_iiou["car"]
    assert car.split() == ["car", f"{iou:.2f}", f"{iiou:.2f}"]
    assert iou != iiou
    assert not any(line.startswith(("void", "caravan")) for line in lines)


def test_the_table_of_classes_is_the_official_one() -> None:
    from cityscapesscripts.helpers.labels import labels

    published = [label for label in labels if label.id >= 0]
    assert [label.id for label in published] == list(range(34))
    for ours, theirs in zip(CITYSCAPES_CLASSES, published, strict=True):
        assert ours == (theirs.name, theirs.trainId, theirs.category, theirs.color)
        assert ours.ignored == theirs.ignoreInEval


ROADS = np.full((4, 6), 7, np.uint8)
CARS = np.full((4, 6), 26001, np.uint16)


def with_pixel(array: np.ndarray, value: int, dtype: type | None = None) -> np.ndarray:
    changed = array.astype(dtype or array.dtype)
    changed[1, 1] = value
    return changed


@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        ((ROADS[:2], ROADS, CARS), ValueError, r"prediction is of shape \(2, 6\) but the target"),
        ((ROADS, ROADS, CARS[:2]), ValueError, r"instances are of shape \(2, 6\) but the target"),
        ((ROADS[0], ROADS[0], CARS[0]), ValueError, r"one frame \(H, W\), not of shape \(6,\)"),
        ((ROADS[None], ROADS[None], CARS[None]), ValueError, "one frame"),
        ((with_pixel(ROADS, 34), ROADS, CARS), ValueError, "prediction has 1 pixel of value 34,"),
        ((ROADS + 248, ROADS, CARS), ValueError, "prediction has 24 pixels of value 255"),
        ((ROADS, with_pixel(ROADS, 255), CARS), ValueError, "target has 1 pixel of value 255"),
        ((with_pixel(ROADS, -1, int), ROADS, CARS), ValueError, "1 pixel of value -1, .* 0..33"),
        ((ROADS, with_pixel(ROADS, 7 + 256, int), CARS), ValueError, "1 pixel of value 263"),
        (
            (with_pixel(with_pixel(ROADS, 99)[::-1], 98), ROADS, CARS),
            ValueError,
            "1 pixel of value 98, 1 pixel of value 99, which are no label id",
        ),
        ((ROADS / 1, ROADS, CARS), TypeError, "prediction must hold ids as integers, not float64"),
        ((ROADS, ROADS == 7, CARS), TypeError, "target must hold ids as integers, not bool"),
        ((ROADS, ROADS, CARS / 1), TypeError, "instances must hold ids as integers"),
        ((torch.zeros(4, 6), ROADS, CARS), TypeError, "not float32"),
        ((ROADS, ROADS), ValueError, r"instances are missing; .*instances=False"),
        ((ROADS, ROADS, with_pixel(CARS, 7001)), ValueError, "label id 7 .*7001.*'road'.* no inst"),
        ((ROADS, ROADS, with_pixel(CARS, 34000)), ValueError, "1 pixel of label id 34 .* no label"),
        ((ROADS, ROADS, with_pixel(CARS, 10**6, int)), ValueError, "1 pixel of label id 1000"),
        ((ROADS, ROADS, with_pixel(CARS, -9, int)), ValueError, "ids down to -9"),
    ],
)
def test_bad_frames_count_nothing(arrays: tuple, error: type[Exception], message: str) -> None:
    evaluator = CityscapesEvaluator()
    with pytest.raises(error, match=message) as raised:
        evaluator.update(*arrays)
    assert "\n" not in str(raised.value)
    assert str(raised.value).endswith(".")
    assert not evaluator.scores().confusion.any()


@pytest.mark.parametrize(
    ("matrix", "error", "message"),
    [
        (np.zeros((19, 19), int), ValueError, r"34x34, .* not of shape \(19, 19\)"),
        (np.zeros((34, 34)), TypeError, "as integers, not float64"),
        (torch.zeros(34, 34), TypeError, "as integers, not float32"),
        (np.full((34, 34), -2), ValueError, "entries down to -2"),
    ],
)
def test_bad_matrices(matrix, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        cityscapes_scores(matrix)


def test_bad_merges() -> None:
    evaluator = CityscapesEvaluator()
    with pytest.raises(ValueError, match="one evaluator has instances"):
        evaluator.merge(CityscapesEvaluator(instances=False))
    with pytest.raises(TypeError, match="only another CityscapesEvaluator .* not ndarray"):
        evaluator.merge(np.zeros((34, 34), int))


def test_a_failed_save_leaves_the_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="its folder does not exist"):
        CityscapesEvaluator().scores().save(tmp_path / "no" / "result.json")
