"""Schedules against torch's own schedulers, stepped alongside over whole runs."""

import math
import subprocess
import sys

import pytest
import torch
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LinearLR,
    MultiStepLR,
    PolynomialLR,
    SequentialLR,
    StepLR,
)

from citysegzoo.training.schedules import (
    Constant,
    Cosine,
    MultiStepDecay,
    Poly,
    StepDecay,
    parse_schedule,
)

EPOCHS, STEPS_PER_EPOCH = 12, 7
TOTAL = EPOCHS * STEPS_PER_EPOCH


def factors(schedule, steps=TOTAL):
    run = {"steps_per_epoch": STEPS_PER_EPOCH, "total_steps": TOTAL}
    return [schedule.factor(step, **run) for step in range(steps)]


def oracle(scheduler, *, per_epoch=False):
    """The learning rate of every step of a run that starts at 1."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = scheduler(optimizer)
    rates = []
    for step in range(1, TOTAL + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if not per_epoch or step % STEPS_PER_EPOCH == 0:
            scheduler.step()
    return rates


def test_constant():
    assert factors(Constant()) == [1.0] * TOTAL


@pytest.mark.parametrize(("every", "gamma"), [(1, 0.1), (5, 0.2), (10, math.sqrt(0.1)), (99, 0.5)])
def test_step_decay(every, gamma):
    expected = oracle(lambda o: StepLR(o, every, gamma), per_epoch=True)
    assert factors(StepDecay(every, gamma)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("milestones", [(1, 4, 8), (3,), (11, 12, 40)])
def test_multi_step_decay(milestones):
    expected = oracle(lambda o: MultiStepLR(o, milestones, 0.1), per_epoch=True)
    assert factors(MultiStepDecay(milestones, 0.1)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("power", [0.9, 1.0, 2.0])
def test_poly(power):
    expected = oracle(lambda o: PolynomialLR(o, TOTAL, power))
    assert factors(Poly(power)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("final", [0.0, 0.01, 1.0])
def test_cosine(final):
    expected = oracle(lambda o: CosineAnnealingLR(o, TOTAL, final))
    assert factors(Cosine(final=final)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step:UserWarning")
@pytest.mark.parametrize(("epochs", "steps"), [(1, 7), (3, 21), (0.5, 4), (1.2, 8)])
def test_cosine_after_warm_up(epochs, steps):
    def scheduler(optimizer):
        rise = LinearLR(optimizer, 1 / steps, 1.0, steps - 1)
        fall = CosineAnnealingLR(optimizer, TOTAL - steps, 0.05)
        return SequentialLR(optimizer, [rise, fall], [steps])

    found = factors(Cosine(epochs, 0.05))
    assert found == pytest.approx(oracle(scheduler), rel=1e-9)
    assert found[0] == 1 / steps  # the first step is not lost
    assert found.index(1.0) == steps - 1


@pytest.mark.parametrize(
    "schedule",
    [StepDecay(5, 0.1), MultiStepDecay((1, 12), 0.1), Poly(), Cosine(), Cosine(2, 0.1)],
    ids=str,
)
def test_after_the_end_nothing_changes(schedule):
    *_, last, after, later = factors(schedule, TOTAL + 3)
    assert last == after == later
    end = {Poly(): 0.0, Cosine(): 0.0, Cosine(2, 0.1): 0.1}
    assert last == pytest.approx(end.get(schedule, last), abs=1e-15)


def test_warm_up_longer_than_the_training():
    with pytest.raises(ValueError, match="of 12 epochs takes 84 steps.* training has 84"):
        factors(Cosine(12))
    assert factors(Cosine(11))[-1] > 0


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (Constant(), "constant"),
        (StepDecay(1, 0.1), "times 0.1 after every epoch"),
        (StepDecay(10, math.sqrt(0.1)), "times 0.316228 every 10 epochs"),
        (MultiStepDecay((1, 4, 8), 0.1), "times 0.1 after epochs 1, 4 and 8"),
        (MultiStepDecay((30,), 0.1), "times 0.1 after epoch 30"),
        (Poly(), "times (1 - i / m)^0.9 at step i of m"),
        (Cosine(), "half a cosine down to 0"),
        (Cosine(5, 0.01), "rising for 5 epochs, then half a cosine down to 0.01 of the rate"),
        (Cosine(1), "rising for 1 epoch, then half a cosine down to 0"),
    ],
)
def test_words(schedule, words):
    assert str(schedule) == words


@pytest.mark.parametrize(
    ("text", "schedule"),
    [
        ("constant", Constant()),
        ("step:10:0.2", StepDecay(10, 0.2)),
        ("multistep:1,4,8:0.1", MultiStepDecay((1, 4, 8), 0.1)),
        ("multistep:30:0.1", MultiStepDecay((30,), 0.1)),
        ("poly", Poly(0.9)),
        ("poly:0.9", Poly(0.9)),
        ("poly:2", Poly(2)),
        ("cosine", Cosine()),
        ("cosine:5", Cosine(5)),
        ("cosine:0.5:0.01", Cosine(0.5, 0.01)),
    ],
)
def test_parse(text, schedule):
    assert parse_schedule(text) == schedule


@pytest.mark.parametrize(
    "text",
    [
        *("", "linear", "Poly", "constant:1", "poly:", "poly:fast", "poly:1:2", "cosine:1:0:0"),
        *("step", "step:10", "step:1.5:0.1", "step:a:0.1", "multistep:1,4", "multistep::0.1"),
    ],
)
def test_what_is_no_schedule_is_told_the_forms(text):
    with pytest.raises(ValueError, match="is no schedule") as refused:
        parse_schedule(text)
    message = str(refused.value)
    assert message.startswith(repr(text))
    for form in ("constant", "step:", "multistep:", "poly", "cosine", "multistep:1,4,8:0.1."):
        assert form in message


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: StepDecay(0, 0.1), "every of a step schedule .* at least 1, not 0"),
        (lambda: StepDecay(1.5, 0.1), "every of a step schedule .* not 1.5"),
        (lambda: StepDecay(True, 0.1), "every of a step schedule .* not True"),
        (lambda: StepDecay(1, 0.0), "gamma of a step schedule .* above 0, not 0.0"),
        (lambda: StepDecay(1, math.nan), "gamma of a step schedule .* not nan"),
        (lambda: StepDecay(1, "0.1"), "gamma of a step schedule .* not '0.1'"),
        (lambda: MultiStepDecay((), 0.1), "rising order"),
        (lambda: MultiStepDecay((4, 1), 0.1), "rising order.*not \\(4, 1\\)"),
        (lambda: MultiStepDecay((4, 4), 0.1), "rising order"),
        (lambda: MultiStepDecay((0, 4), 0.1), "each milestone .* at least 1, not 0"),
        (lambda: MultiStepDecay((1,), -1), "gamma of a multistep schedule .* not -1"),
        (lambda: Poly(0), "power of a poly schedule .* above 0"),
        (lambda: Poly(math.inf), "power of a poly schedule .* not inf"),
        (lambda: Cosine(-1), "warmup_epochs of a cosine schedule .* not -1"),
        (lambda: Cosine(final=1.5), "final of a cosine schedule .* from 0 to 1, not 1.5"),
        (lambda: parse_schedule("step:0:0.1"), "every of a step schedule"),
        (lambda: parse_schedule("poly:nan"), "power of a poly schedule"),
    ],
)
def test_numbers_out_of_range(make, told):
    with pytest.raises((TypeError, ValueError), match=told) as refused:
        make()
    assert str(refused.value).endswith(".")


def test_milestones_of_any_kind_are_equal():
    assert MultiStepDecay([1, 4], 0.1) == MultiStepDecay((1, 4), 0.1)


def test_schedules_need_no_torch():
    code = "import sys, citysegzoo.training.schedules; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
