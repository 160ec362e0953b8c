"""Learning rates over a training run: the factor of the initial rate at every step.

A schedule has no state: the factor depends on the step alone, so a resumed run goes on as if it had
never stopped.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from citysegzoo.arguments import check_number, check_positive, check_probability


class Schedule(ABC):
    """How the learning rate changes; ``str(schedule)`` says it in words."""

    @abstractmethod
    def factor(self, step: int, *, steps_per_epoch: int, total_steps: int) -> float:
        """What the initial learning rate is multiplied by.

        Args:
            step: Optimiser steps taken before this one, from 0.
            steps_per_epoch: Steps in a pass over the training images.
            total_steps: Steps of the whole run; later ones keep the last factor.
        """


@dataclass(frozen=True)
class Constant(Schedule):
    """The initial rate throughout."""

    def factor(self, step: int, *, steps_per_epoch: int, total_steps: int) -> float:
        return 1.0

    def __str__(self) -> str:
        return "constant"


@dataclass(frozen=True)
class StepDecay(Schedule):
    """Times ``gamma`` at equal intervals.

    Attributes:
        every: Epochs between two drops.
        gamma: What each multiplies the rate by.
    """

    every: int
    gamma: float

    def __post_init__(self) -> None:
        check_positive("every of a step schedule", self.every)
        check_number("gamma of a step schedule", self.gamma, above=0)

    def factor(self, step: int, *, steps_per_epoch: int, total_steps: int) -> float:
        epoch = min(step, total_steps) // steps_per_epoch
        return float(self.gamma ** (epoch // self.every))

    def __str__(self) -> str:
        when = "after every epoch" if self.every == 1 else f"every {self.every} epochs"
        return f"times {self.gamma:g} {when}"


@dataclass(frozen=True)
class MultiStepDecay(Schedule):
    """Times ``gamma`` after each of some epochs.

    Attributes:
        milestones: Epochs after which the rate drops, counted from 1, in rising order.
        gamma: What each drop multiplies the rate by.
    """

    milestones: tuple[int, ...]
    gamma: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "milestones", tuple(self.milestones))
        for epoch in self.milestones:
            check_positive("each milestone of a multistep schedule", epoch)
        if not self.milestones or sorted(set(self.milestones)) != list(self.milestones):
            raise ValueError(
                "milestones of a multistep schedule are epochs in rising order, such as (1, 4, 8), "
                f"not {self.milestones}."
            )
        check_number("gamma of a multistep schedule", self.gamma, above=0)

    def factor(self, step: int, *, steps_per_epoch: int, total_steps: int) -> float:
        epoch = min(step, total_steps) // steps_per_epoch
        return float(self.gamma ** sum(epoch >= milestone for milestone in self.milestones))

    def __str__(self) -> str:
        *first, last = map(str, self.milestones)
        when = f"epochs {', '.join(first)} and {last}" if first else f"epoch {last}"
        return f"times {self.gamma:g} after {when}"


@dataclass(frozen=True)
class Poly(Schedule):
    """Down to zero as ``(1 - step / total) ** power`` (Liu et al. 2016, ParseNet).

    Attributes:
        power: 1 falls in a straight line.
    """

    power: float = 0.9

    def __post_init__(self) -> None:
        check_number("power of a poly schedule", self.power, above=0)

    def factor(self, step: int, *, steps_per_epoch: int, total_steps: int) -> float:
        return float((1 - min(step, total_steps) / total_steps) ** self.power)

    def __str__(self) -> str:
        return f"times (1 - i / m)^{self.power:g} at step i of m"


@dataclass(frozen=True)
class Cosine(Schedule):
    """Up in a straight line, then down along half a cosine (Loshchilov and Hutter 2017, SGDR).

    Attributes:
        warmup_epochs: How long it takes from near zero to the initial rate; parts of epochs count.
        final: Share of the initial rate that is left at the end, 0 to 1.
    """

    warmup_epochs: float = 0.0
    final: float = 0.0

    def __post_init__(self) -> None:
        check_number("warmup_epochs of a cosine schedule", self.warmup_epochs)
        check_probability("final of a cosine schedule", self.final)

    def factor(self, step: int, *, steps_per_epoch: int, total_steps: int) -> float:
        warmup = round(self.warmup_epochs * steps_per_epoch)
        if warmup and warmup >= total_steps:
            raise ValueError(
                f"a warm-up of {self.warmup_epochs:g} epochs takes {warmup} steps, but the whole "
                f"training has {total_steps}."
            )
        if step < warmup:
            return (step + 1) / warmup  # the first step must not be lost at a rate of zero
        done = (min(step, total_steps) - warmup) / (total_steps - warmup)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * done)) / 2

    def __str__(self) -> str:
        epochs = "1 epoch" if self.warmup_epochs == 1 else f"{self.warmup_epochs:g} epochs"
        warmup = f"rising for {epochs}, then " if self.warmup_epochs else ""
        end = f"{self.final:g} of the rate" if self.final else "0"
        return f"{warmup}half a cosine down to {end}"


def parse_schedule(text: str) -> Schedule:
    """Read a schedule as the command line gives it, such as ``"multistep:1,4,8:0.1"``.

    Raises:
        ValueError: If it is none, with the forms there are, or if a number in it is out of range.
    """
    name, *values = text.split(":")
    try:
        kind, parsers, required = _FORMS[name]
        if not required <= len(values) <= len(parsers):
            raise ValueError
        arguments = [parse(value) for parse, value in zip(parsers, values, strict=False)]
    except (KeyError, ValueError):
        raise ValueError(
            f"{text!r} is no schedule: one is constant, step:EPOCHS:GAMMA, "
            "multistep:EPOCH,EPOCH,...:GAMMA, poly[:POWER] or cosine[:WARMUP_EPOCHS[:FINAL]], "
            "such as multistep:1,4,8:0.1."
        ) from None
    return kind(*arguments)


def _epochs(text: str) -> tuple[int, ...]:
    return tuple(int(epoch) for epoch in text.split(","))


# Name -> the schedule, how each of its values is read, and how many must be there.
_FORMS: dict[str, tuple[Callable[..., Schedule], tuple[Callable[[str], Any], ...], int]] = {
    "constant": (Constant, (), 0),
    "step": (StepDecay, (int, float), 2),
    "multistep": (MultiStepDecay, (_epochs, float), 2),
    "poly": (Poly, (float,), 0),
    "cosine": (Cosine, (float, float), 0),
}
