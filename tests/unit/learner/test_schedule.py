import math

import pytest

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
