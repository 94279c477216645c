import math

import pytest
import torch
from transformers import TrainingArguments, get_cosine_schedule_with_warmup

from learner.schedule import learning_rate


def rates(steps, warmup_fraction):
    return [learning_rate(step, steps, 2.0, warmup_fraction) for step in range(steps)]


def test_a_linear_warm_up_reaches_the_peak_and_a_cosine_follows():
    expected = [1.0, 2.0, *(1.0 + math.cos(math.pi * step / 8) for step in range(8))]
    assert rates(10, 0.2) == pytest.approx(expected)


def test_without_a_warm_up_the_first_step_has_the_peak():
    assert rates(4, 0.0) == pytest.approx([2.0, 1.0 + math.sqrt(0.5), 1.0, 1.0 - math.sqrt(0.5)])


def test_every_step_of_a_run_moves():
    assert all(rate > 0 for steps in (1, 2, 3, 40) for warmup in (0.0, 0.1, 1.0) for rate in rates(steps, warmup))


@pytest.mark.parametrize("steps", [1, 3, 7, 15, 40, 101])
@pytest.mark.parametrize("warmup_fraction", [0.0, 0.1, 0.25, 1.0])
def test_a_warm_up_from_zero_is_transformers_own(steps, warmup_fraction):
    """Its trainer rounds the steps of a warm-up up, and its schedule takes the first of them at rate 0."""
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    warmup = TrainingArguments(warmup_steps=warmup_fraction).get_warmup_steps(steps) if warmup_fraction < 1.0 else steps
    schedule, expected = get_cosine_schedule_with_warmup(optimiser, warmup, steps), []
    for _ in range(steps):
        expected += schedule.get_last_lr()
        optimiser.step()
        schedule.step()
    found = [learning_rate(step, steps, 2.0, warmup_fraction, from_zero=True) for step in range(steps)]
    assert found == pytest.approx(expected)
    assert warmup_fraction == 0.0 or found[0] == 0.0


def test_the_two_warm_ups_part_by_a_step():
    """15 steps of which a tenth warms up: 2 here, at half the peak and at the peak; there 2 of rate 0 and of half."""
    ours, theirs = ([learning_rate(step, 15, 2.0, 0.1, from_zero) for step in range(3)] for from_zero in (False, True))
    assert ours == pytest.approx([1.0, 2.0, 2.0])
    assert theirs == pytest.approx([0.0, 1.0, 2.0])
