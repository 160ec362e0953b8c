"""Building is fast: under 60 ms without memory, and no slower than torchvision with it."""

import importlib.util
import statistics
from pathlib import Path


def test_build_times() -> None:
    path = Path(__file__).parent / "benchmarks" / "bench_build.py"
    spec = importlib.util.spec_from_file_location("bench_build", path)
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    times = bench.measure(rounds=5)
    assert min(times["citysegzoo on meta"]) < 0.060
    ratios = [a / b for a, b in zip(times["citysegzoo"], times["torchvision"], strict=True)]
    assert statistics.median(ratios) <= 1.0
