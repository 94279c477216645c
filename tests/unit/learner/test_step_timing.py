import pytest
import torch

from learner.batch import Inputs
from learner.step_report import PARTS, Stopwatch

NONE = torch.empty(0, dtype=torch.long)


def test_the_time_of_shared_passes_is_divided_by_tokens_read():
    watch = Stopwatch()
    with watch.measure_views():
        watch.count("primary", 10)
        watch.count("auxiliary", 30)
    seconds = watch.seconds
    assert seconds["primary"] > 0
    assert seconds["auxiliary"] / seconds["primary"] == pytest.approx(3)
    assert all(seconds[part] == 0 for part in PARTS if part not in ("primary", "auxiliary"))


def test_without_tokens_no_view_took_time():
    watch = Stopwatch()
    with watch.measure_views():
        pass
    assert set(watch.seconds.values()) == {0.0}


def test_padding_is_counted_as_computed():
    watch = Stopwatch()
    watch.passed(Inputs(torch.zeros(2, 5, dtype=torch.long), None, NONE, NONE, NONE, 7))
    watch.passed(Inputs(torch.zeros(1, 4, dtype=torch.long), None, NONE, NONE, NONE, 4))
    assert (watch.forwards, watch.computed) == (2, 14)
