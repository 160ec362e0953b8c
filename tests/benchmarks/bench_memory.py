"""Peak memory that segmenting one photograph adds, per megapixel.

python tests/benchmarks/bench_memory.py
"""

import resource

import numpy as np

import citysegzoo

HEIGHT, WIDTH = 1024, 2048


def peak() -> float:
    """Largest memory this process has held, in GB (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    """Measure and print."""
    model = citysegzoo.create_model(citysegzoo.DEFAULT_MODEL, pretrained=True)
    model.segment(np.zeros((64, 64, 3), np.uint8))
    before = peak()
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    model.segment(noise)
    print(f"{(peak() - before) / (HEIGHT * WIDTH / 1e6):.2f} GB per megapixel")


if __name__ == "__main__":
    main()
