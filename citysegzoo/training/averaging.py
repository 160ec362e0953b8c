"""Averaged weights: what is evaluated and kept is a moving average of what is trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


def averaging(decay: float) -> Callable[[Any, Any, Tensor | int], None]:
    """How :class:`torch.optim.swa_utils.AveragedModel` averages: exponentially, soon at first.

    The decay of the n-th step is the lesser of ``decay`` and (1 + n) / (10 + n), as in
    TensorFlow's ``ExponentialMovingAverage``, so that the first, untrained weights are soon
    forgotten and short runs have an average worth keeping.

    Args:
        decay: Share of the average that stays at each step, such as 0.999.

    Raises:
        ValueError: If it is not between 0 and 1.
    """
    if not 0 <= decay < 1:
        raise ValueError(f"the decay of averaged weights is from 0 to below 1, not {decay}.")

    def update(averaged: Any, current: Any, steps: Tensor | int) -> None:
        if not averaged[0].is_floating_point():  # such as positions in a window: no average of them
            for mine, its in zip(averaged, current, strict=True):
                mine.copy_(its)
            return
        n = float(steps)
        ema = get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))  # type: ignore[no-untyped-call]
        ema(averaged, current, steps)

    return update
