"""What the machine has."""

from __future__ import annotations

import os

import torch


def available_cores() -> int:
    """CPU cores this process may use, where the system tells; else all there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def computes_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is computed by the hardware, and not emulated."""
    if device.type == "cuda":
        # PyTorch's own question is about the current card.
        return bool(torch.version.hip) or torch.cuda.get_device_properties(device).major >= 8
    # Emulated, bf16 is slower than fp32. PyTorch has no public question for it yet.
    questions = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return device.type == "cpu" and any(getattr(torch.cpu, q, bool)() for q in questions)


def find_device(name: str | torch.device) -> torch.device:
    """The device of that name, ``"auto"`` the CUDA GPU if there is one.

    Raises:
        ValueError: If it is not there; what is, is listed.
    """
    # The driver counts cards that this PyTorch may not be able to use.
    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    there = ["cpu", *(f"cuda:{i}" for i in range(cards))]
    if torch.backends.mps.is_available():
        there.append("mps")
    if name == "auto":
        return torch.device("cuda:0" if cards else "cpu")
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise RuntimeError
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        reason = " ".join(str(error).split())
        # Such as a card that is full; what is not there needs no reason.
        known = {*there, *(one.partition(":")[0] for one in there)}
        why = f" ({reason:.200})" if str(name) in known else ""
        raise ValueError(
            f"the device {str(name)!r} cannot be used{why}; there is {', '.join(there)}."
        ) from error
    return device
