import time
from itertools import pairwise

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


def test_spans_say_when_each_part_was_and_add_up_to_its_seconds():
    timer, before_s = StepTimer(), time.time()
    with timer.measure_views():
        timer.count_tokens("primary", 10)
        timer.count_tokens("auxiliary", 30)
    for _ in range(2):
        with timer.measure("gradient"):
            pass
    assert [part for part, _, _ in timer.spans] == ["primary", "auxiliary", "gradient", "gradient"]
    for (_, started_s, seconds), (_, next_s, _) in pairwise(timer.spans):
        assert started_s + seconds <= next_s + 1e-5
    assert before_s - 0.1 <= timer.spans[0][1] <= time.time()
    for part in ("primary", "auxiliary", "gradient"):
        assert sum(span[2] for span in timer.spans if span[0] == part) == pytest.approx(timer.seconds[part])
