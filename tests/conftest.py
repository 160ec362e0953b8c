"""What holds for the process of the tests, and for those that they start."""

import os
import signal

# A shell's jobs in the background ignore Ctrl-C and hand that down; here it is to be tried.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# One thread for each process of ``pytest -n``, so that they do not wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # of what the tests start

    import torch

    torch.set_num_threads(1)
