"""How long one frame takes to get into the confusion matrix, beside the peers, in one run.

    python tests/benchmarks/bench_confusion.py

One 1024x2048 frame of uint8 labels, 19 classes, 5 % ignored, labels checked: once a scene of
areas, once random labels. Peers that need other dtypes get their labels converted beforehand. Says
whether the counts agree.
"""

import argparse
import os

import numpy as np
import numpy.typing as npt
import torch

from citysegzoo.benchmark import in_turn, print_times, ratio
from citysegzoo.metrics import ConfusionMatrix

Frame = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]


def areas(height: int = 1024, width: int = 2048) -> Frame:
    """Labels in 120 areas with ragged borders; predictions with shifted borders and wrong spots."""
    rng = np.random.default_rng(0)
    centres = rng.integers(0, (height, width), (120, 2))
    classes = rng.integers(0, 19, 120)
    y, x = np.mgrid[0:height:2, 0:width:2]
    distance = [np.hypot(y - cy, x - cx) for cy, cx in centres]
    target = classes[np.argmin(distance, 0)].repeat(2, 0).repeat(2, 1).astype(np.uint8)
    prediction = np.roll(target, 3, 1)
    spots = (rng.random((height // 16, width // 16)) < 0.1).repeat(16, 0).repeat(16, 1)
    prediction[spots] = rng.integers(0, 19)
    target[-int(0.05 * height) :] = 255
    return prediction, target


def noise(height: int = 1024, width: int = 2048) -> Frame:
    """Random labels and predictions: the worst case."""
    rng = np.random.default_rng(0)
    target = rng.integers(0, 19, (height, width)).astype(np.uint8)
    prediction = rng.integers(0, 19, (height, width)).astype(np.uint8)
    target[rng.random((height, width)) < 0.05] = 255
    return prediction, target


def measure(frame: Frame, rounds: int) -> tuple[dict[str, list[float]], bool]:
    """Seconds of every counter, and whether all counted the same."""
    import segmentation_models_pytorch as smp
    from torchmetrics.classification import MulticlassConfusionMatrix

    prediction, target = frame
    p, t = (torch.from_numpy(x).long() for x in frame)
    negative = t.where(t != 255, -1)[None]  # smp ignores only negative labels
    ours = ConfusionMatrix(19)
    theirs = MulticlassConfusionMatrix(19, ignore_index=255)
    trusting = MulticlassConfusionMatrix(19, ignore_index=255, validate_args=False)

    def masked() -> npt.NDArray[np.int64]:
        keep = target != 255
        return np.bincount(target[keep].astype(np.int64) * 19 + prediction[keep], minlength=361)

    runs = {
        "citysegzoo": lambda: ours.update(prediction, target),
        "citysegzoo, int64": lambda: ours.update(p, t),
        "torchmetrics": lambda: theirs.update(p, t),
        "torchmetrics, unvalidated": lambda: trusting.update(p, t),
        "smp get_stats": lambda: smp.metrics.get_stats(
            p[None], negative, mode="multiclass", num_classes=19, ignore_index=-1
        ),
        "numpy mask + bincount": masked,
    }
    times, results = in_turn(runs, rounds)
    ours.reset()
    theirs.reset()
    ours.update(prediction, target)
    theirs.update(p, t)
    counts = results["numpy mask + bincount"].reshape(19, 19)
    agree = np.array_equal(ours.matrix.numpy(), counts)
    trusting.reset()
    trusting.update(p, t)
    ours.reset()
    ours.update(p, t)
    others = (ours.matrix, theirs.compute(), trusting.compute())
    agree = agree and all(np.array_equal(other.numpy(), counts) for other in others)
    hits = results["smp get_stats"][0]  # of each class; it counts no pairs
    return times, agree and np.array_equal(hits[0].numpy(), counts.diagonal())


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    print(f"one 1024x2048 frame, torch {torch.__version__}, {os.cpu_count()} cores")
    for name, frame in (("areas", areas()), ("random labels", noise())):
        times, agree = measure(frame, args.rounds)
        print(f"\n{name}: {'all count the same' if agree else 'COUNTS DIFFER'}")
        print_times(times)
        for peer in ("torchmetrics", "torchmetrics, unvalidated", "smp get_stats"):
            print(f"{ratio(times, peer, 'citysegzoo'):6.1f} times faster than {peer}")


if __name__ == "__main__":
    main()
