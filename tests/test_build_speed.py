"""Building is fast: under 60 ms without memory, and no slower than torchvision with it."""

import bench_build

from citysegzoo.benchmark import ratio


def test_build_times() -> None:
    times = bench_build.measure(rounds=5)
    assert min(times["citysegzoo on meta"]) < 0.060
    assert ratio(times, "citysegzoo", "torchvision") <= 1.0
