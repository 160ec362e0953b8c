"""How long a model takes to build, beside torchvision, in one run.

    python tests/benchmarks/bench_build.py

Each pair is timed in turn, A B A B ..., after one round that does not count.
"""

import statistics
import time
from collections.abc import Callable

import torch
from torchvision.models.segmentation import deeplabv3_resnet101

import citysegzoo


def ours() -> None:
    """DeepLabv3 on ResNet-101, drawn at random."""
    citysegzoo.create_model("deeplabv3_resnet101")


def theirs() -> None:
    """The same network, by torchvision."""
    deeplabv3_resnet101(weights=None, weights_backbone=None, num_classes=19)


def ours_on_meta() -> None:
    """The same network without memory."""
    with torch.device("meta"):
        citysegzoo.create_model("deeplabv3_resnet101")


def seconds(build: Callable[[], None]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    build()
    return time.perf_counter() - start


def measure(rounds: int = 7) -> dict[str, list[float]]:
    """Seconds of every build, in the same order for each."""
    builds = {"citysegzoo": ours, "torchvision": theirs, "citysegzoo on meta": ours_on_meta}
    times: dict[str, list[float]] = {name: [] for name in builds}
    for i in range(rounds + 1):
        for name, build in builds.items():
            taken = seconds(build)
            if i:
                times[name].append(taken)
    return times


def main() -> None:
    """Measure and print the table."""
    times = measure()
    for name, taken in times.items():
        median, best, worst = statistics.median(taken), min(taken), max(taken)
        print(f"{name:20} {1e3 * median:7.1f} ms  ({1e3 * best:.1f} to {1e3 * worst:.1f})")
    ratios = [a / b for a, b in zip(times["citysegzoo"], times["torchvision"], strict=True)]
    print(f"citysegzoo / torchvision, median of the rounds: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
