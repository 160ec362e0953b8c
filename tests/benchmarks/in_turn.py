"""Timing several things in turn, so that what else the machine does falls on all alike."""

import statistics
import time
from collections.abc import Callable
from typing import Any


def in_turn(
    runs: dict[str, Callable[[], Any]], rounds: int
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds of every run, and its last result.

    The runs take turns, A B A B ..., each time with one before it that does not count, so that
    none is measured in the memory that another one left behind.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    results = {}
    for _ in range(rounds):
        for name, run in runs.items():
            run()
            start = time.perf_counter()
            results[name] = run()
            times[name].append(time.perf_counter() - start)
    return times, results


def ratio(times: dict[str, list[float]], slow: str, fast: str) -> float:
    """How many times longer ``slow`` takes than ``fast``: median over the rounds."""
    return statistics.median(a / b for a, b in zip(times[slow], times[fast], strict=True))


def print_times(times: dict[str, list[float]]) -> None:
    """Median, least and most of every run, in milliseconds."""
    width = max(map(len, times))
    for name, taken in times.items():
        median, best, worst = statistics.median(taken), min(taken), max(taken)
        print(f"{name:{width}} {1e3 * median:8.2f} ms  ({1e3 * best:.2f} to {1e3 * worst:.2f})")
