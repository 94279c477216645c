import pytest
import torch

from learner.batch import Inputs
from learner.step_timer import StepTimer
from unisd_rl.metrics import READ_PARTS

NONE = torch.empty(0, dtype=torch.long)


def test_the_time_of_shared_passes_is_divided_by_tokens_read():
    timer = StepTimer()
    with timer.measure_views():
        timer.count_tokens("primary", 10)
        timer.count_tokens("auxiliary", 30)
    seconds = timer.seconds
    assert seconds["primary"] > 0
    assert seconds["auxiliary"] / seconds["primary"] == pytest.approx(3)
    assert all(seconds[part] == 0 for part in (*READ_PARTS, "update") if part not in ("primary", "auxiliary"))


def test_without_tokens_no_view_took_time():
    timer = StepTimer()
    with timer.measure_views():
        pass
    assert set(timer.seconds.values()) == {0.0}


def test_padding_is_counted_as_computed():
    timer = StepTimer()
    timer.count_pass(Inputs(torch.zeros(2, 5, dtype=torch.long), None, NONE, NONE, NONE, (4, 3)))
    timer.count_pass(Inputs(torch.zeros(1, 4, dtype=torch.long), None, NONE, NONE, NONE, (4,)))
    assert (timer.forward_passes, timer.positions) == (2, 14)
