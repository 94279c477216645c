"""A wait looks after the others, and ends with what they raise."""

import time

import pytest

from unisd_rl.cluster.waiting import pause, wait


def test_a_pause_looks_after_the_others_and_lasts_as_long_as_asked():
    looks, began_s = [], time.monotonic()
    pause(0.05, lambda: looks.append(time.monotonic()))
    assert looks
    assert time.monotonic() - began_s >= 0.05


def test_what_the_callback_raises_ends_the_wait():
    def learner_died():
        raise ConnectionError("the learner died")

    with pytest.raises(ConnectionError, match="the learner died"):
        pause(0.01, learner_died)


def test_a_wait_for_no_calls_ends_with_none():
    assert wait((), 0.0) == []
