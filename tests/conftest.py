"""One thread for each process of ``pytest -n``, so that they do not wait for each other."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # of what the tests start

    import torch

    torch.set_num_threads(1)
