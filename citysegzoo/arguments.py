"""What arguments must be, in one sentence each; imports nothing, so that all may use it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import TypeVar

Choice = TypeVar("Choice", bound=str)


def check_positive(name: str, value: object, *, least: int = 1) -> int:
    """``value`` as an int of at least ``least``, or one sentence saying what ``name`` must be."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number of at least {least}, not {value!r}.")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}.")
    return int(value)


def check_ignore_index(value: object) -> int | None:
    """``value`` as an int, or None; one sentence if it is neither."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"ignore_index must be a whole number or None, not {value!r}.")
    return int(value)


def check_flag(name: str, value: object) -> bool:
    """``value`` if it is True or False: a text such as "no" would count as true."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} is True or False, not {value!r}.")
    return value


def check_number(
    name: str, value: object, *, least: float = 0.0, above: float | None = None
) -> float:
    """``value`` as a finite float, of at least ``least`` or above ``above``, or one sentence."""
    bound = f"of at least {least:g}" if above is None else f"above {above:g}"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number {bound}, not {value!r}.")
    number = float(value)
    large_enough = number >= least if above is None else number > above
    if not (large_enough and number < float("inf")):
        raise ValueError(f"{name} must be a finite number {bound}, not {value!r}.")
    return number


def check_positives(name: str, values: object) -> tuple[int, ...]:
    """``values`` as a non-empty tuple of ints of at least 1."""
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise TypeError(
            f"{name} must be a sequence of whole numbers such as (6, 12, 18), not {values!r}."
        )
    numbers = tuple(check_positive(f"each of {name}", value) for value in values)
    if not numbers:
        raise ValueError(f"{name} is empty; give at least one whole number.")
    return numbers


def check_probability(name: str, value: object) -> float:
    """``value`` as a float in 0..1, or one sentence saying what ``name`` must be."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number from 0 to 1, not {value!r}.")
    number = float(value)
    if not 0 <= number <= 1:
        raise ValueError(f"{name} must be from 0 to 1, not {value}.")
    return number


def check_choice(name: str, value: Choice, choices: Sequence[str]) -> Choice:
    """``value`` if it is one of ``choices``."""
    if value not in choices:
        listed = ", ".join(map(repr, choices[:-1]))
        raise ValueError(f"{name} is {listed} or {choices[-1]!r}, not {value!r}.")
    return value


def check_size(name: str, value: Sequence[int], *, least: int) -> tuple[int, int]:
    """``value`` as (H, W), both at least ``least``."""
    size = check_positives(name, value)
    if len(size) != 2 or min(size) < least:
        raise ValueError(f"{name} is (H, W), both at least {least}, not {tuple(value)!r}.")
    return size[0], size[1]
