"""Building is fast: under 60 ms without memory, and no slower than torchvision with it."""

import bench_build
import pytest

from citysegzoo.benchmark import in_turn, ratio


def test_build_times_without_memory() -> None:
    times, _ = in_turn({"on meta": bench_build.ours_on_meta}, rounds=5)
    assert min(times["on meta"]) < 0.060


@pytest.mark.slow
def test_build_times() -> None:
    times = bench_build.measure(rounds=5)
    assert min(times["citysegzoo on meta"]) < 0.060
    assert ratio(times, "citysegzoo", "torchvision") <= 1.0
