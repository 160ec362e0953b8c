"""How long a model takes to build, beside torchvision, in one run.

    python tests/benchmarks/bench_build.py

Each pair is timed in turn, A B A B ..., each right after one of its own that does not count.
"""

import torch
from torchvision.models.segmentation import deeplabv3_resnet101

import citysegzoo
from citysegzoo.benchmark import in_turn, print_times, ratio


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


def measure(rounds: int = 7) -> dict[str, list[float]]:
    """Seconds of every build, in the same order for each."""
    builds = {"citysegzoo": ours, "torchvision": theirs, "citysegzoo on meta": ours_on_meta}
    return in_turn(builds, rounds)[0]


def main() -> None:
    """Measure and print the table."""
    times = measure()
    print_times(times)
    share = ratio(times, "citysegzoo", "torchvision")
    print(f"citysegzoo / torchvision, median of the rounds: {share:.2f}")


if __name__ == "__main__":
    main()
