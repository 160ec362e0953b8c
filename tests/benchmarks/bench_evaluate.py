"""How long the official evaluation of a folder takes, beside cityscapesscripts, in one run.

    python tests/benchmarks/bench_evaluate.py

Draws frames of 1024x2048 with instances (seeded) into a temporary folder and evaluates them in
turn, A B A B ..., each right after one of its own that does not count: reading the PNGs, confusion
matrix, categories and iIoU. Says whether all numbers of the two agree. cityscapesscripts runs as
pip installs it, in Python; its optional Cython extension is not built.
"""

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from citysegzoo.benchmark import in_turn, ratio
from citysegzoo.data.labels import CITYSCAPES_34
from citysegzoo.metrics.folders import evaluate_folders, pair_files

sys.path.insert(0, str(Path(__file__).parent.parent))
from cityscapes_frames import largest_difference, official, write_frames


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--instances", type=int, default=20, help="in each frame")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        predictions, truths = write_frames(
            Path(folder), args.frames, (1024, 2048), instances=args.instances
        )
        pairs = pair_files(predictions, truths, CITYSCAPES_34).pairs

        def ours(workers: int | None = None) -> dict[str, Any]:
            scores = evaluate_folders(predictions, truths, labels=CITYSCAPES_34, workers=workers)
            return scores.to_dict()

        def theirs() -> dict[str, Any]:
            return official([pair.prediction for pair in pairs], [pair[1] for pair in pairs])

        runs = {"citysegzoo": ours, "cityscapesscripts": theirs, "one worker": lambda: ours(1)}
        times, results = in_turn(runs, args.rounds)

    print(f"{args.frames} frames of 1024x2048, {args.instances} instances, {os.cpu_count()} cores")
    for name, taken in times.items():
        rates = sorted(args.frames / seconds for seconds in taken)
        print(
            f"{name:18} {statistics.median(rates):6.1f} images/s  ({rates[0]:.1f}, {rates[-1]:.1f})"
        )
    for name in ("citysegzoo", "one worker"):
        faster = ratio(times, "cityscapesscripts", name)
        print(f"{name} / cityscapesscripts, median of the rounds: {faster:.2f}")
    expected = results["cityscapesscripts"]
    mine = {key: results["citysegzoo"][key] for key in expected}
    difference, where = largest_difference(mine, expected)
    agree = "all numbers agree" if difference <= 1e-12 else "NUMBERS DIFFER"
    print(f"{agree}: largest difference {difference:.1e} ({where})")


if __name__ == "__main__":
    main()
