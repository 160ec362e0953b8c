"""Training."""

# Nothing but schedules may be imported here: the recipes of the reports hold them, and all that
# trains stands on the reports.
from citysegzoo.training.schedules import (
    Constant,
    Cosine,
    MultiStepDecay,
    Poly,
    Schedule,
    StepDecay,
    parse_schedule,
)

__all__ = [
    "Constant",
    "Cosine",
    "MultiStepDecay",
    "Poly",
    "Schedule",
    "StepDecay",
    "parse_schedule",
]
