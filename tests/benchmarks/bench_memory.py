"""Peak memory that segmenting one photograph adds, per megapixel, and how long it takes.

    python tests/benchmarks/bench_memory.py
    python tests/benchmarks/bench_memory.py --size 10000 20000 --tile 1024

The photograph is noise; with --tile it is a memory map, of which tiles alone are read.
"""

import argparse
import resource
import tempfile
import time

import numpy as np
import numpy.typing as npt

import citysegzoo
from citysegzoo.inference import Segmenter


def peak() -> float:
    """Largest memory this process has held, in GB (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def draw(pixels: npt.NDArray[np.uint8]) -> None:
    """Noise, a few rows at a time."""
    generator = np.random.default_rng(0)
    for rows in np.array_split(pixels, max(1, len(pixels) // 64)):
        rows[:] = generator.integers(0, 256, rows.shape, dtype=np.uint8)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 2048), metavar=("H", "W"))
    parser.add_argument("--tile", type=int)
    parser.add_argument("--precision", choices=("auto", "fp32"), default="auto")
    args = parser.parse_args()
    model = citysegzoo.create_model(citysegzoo.DEFAULT_MODEL, pretrained=True)
    segmenter = Segmenter(model, tile=args.tile, precision=args.precision, device="cpu")
    segmenter(np.zeros((64, 64, 3), np.uint8))
    shape = (*args.size, 3)
    with tempfile.NamedTemporaryFile() as file:
        mapped = np.memmap(file.name, np.uint8, "w+", shape=shape)
        draw(mapped)
        mapped.flush()
        pixels = np.memmap(file.name, np.uint8, "r", shape=shape) if args.tile else mapped.copy()
        del mapped
        before, start = peak(), time.perf_counter()
        segmenter(pixels)
        seconds, added = time.perf_counter() - start, peak() - before
    megapixels = args.size[0] * args.size[1] / 1e6
    print(f"{added:.2f} GB more, {added / megapixels:.3f} GB per megapixel; {seconds:.1f} s")


if __name__ == "__main__":
    main()
