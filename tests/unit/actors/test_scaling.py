"""The rule that chooses the number of rollout actors, against a model of a run."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.scaling import Observation, ScalingRule, Utilization, balanced_actors
from unisd_rl.config.rollout import AutoActors
from unisd_rl.types import PolicyVersion, Pulse

WAITING = {"wait_share": 0.5, "batches_ready": 0.0, "busy_share": 1.0}
IDLE = {"wait_share": 0.0, "batches_ready": 1.5, "busy_share": 0.3}


def rule(count=2, least=1, most=8, **settings):
    made = ScalingRule(AutoActors(min=least, max=most, **settings))
    made.set(count)
    return made


def seen(made, steps, **observation):
    """The numbers after each of so many equal steps, in which as many serve as are wanted."""
    counts = []
    for _ in range(steps):
        made.observe(Observation(**observation, serving=made.count))
        counts.append(made.count)
    return counts


def test_more_actors_come_only_after_as_many_steps_in_a_row_as_asked():
    # two actors busy all the time and half a step waited: twice as many hide behind the learner
    assert seen(rule(2, patience=3), 3, **WAITING) == [2, 2, 4]


def test_the_number_is_what_hides_behind_the_learner():
    # n b / (1 - w) = 4 * 0.9 / (1 - 0.25) = 4.8
    assert seen(rule(4, patience=1), 1, wait_share=0.25, batches_ready=0.5, busy_share=0.9) == [5]


def test_the_balance_is_the_work_over_the_time_in_which_the_learner_has_use_for_it():
    # 4 actors busy 9 s of 10 do 36 actor-seconds, and the learner works for 7.5 s of them.
    assert balanced_actors(4, 0.9, 0.25) == pytest.approx(36 / 7.5)
    assert balanced_actors(4, 0.9, 1.0) == math.inf


def test_one_step_of_another_kind_starts_the_count_anew():
    made = rule(2, patience=3)
    seen(made, 2, **WAITING)
    seen(made, 1, wait_share=0.05, batches_ready=0.0, busy_share=1.0)
    assert seen(made, 3, **WAITING) == [2, 2, 4]


def test_one_goes_at_a_time_when_the_others_have_time_to_spare():
    assert seen(rule(4, patience=2), 6, **IDLE) == [4, 3, 3, 2, 2, 1]


@pytest.mark.parametrize(
    "kept",
    [
        {"wait_share": 0.03, "batches_ready": 1.5, "busy_share": 0.3},  # the learner does wait
        {"wait_share": 0.0, "batches_ready": 0.5, "busy_share": 0.3},  # nothing lies ready
        {"wait_share": 0.0, "batches_ready": 1.5, "busy_share": 0.8},  # 2 * 0.8 > 0.9 * 1
        {"wait_share": 0.5, "batches_ready": 1.0, "busy_share": 1.0},  # a batch is there: others are not to blame
        {"wait_share": 0.5, "batches_ready": 0.0, "busy_share": 0.5},  # lockstep: n* = n
    ],
)
def test_between_the_two_conditions_nothing_changes(kept):
    assert set(seen(rule(2), 50, **kept)) == {2}


def test_steps_in_which_others_serve_than_are_wanted_do_not_count():
    made = rule(2, patience=2)
    for serving in (2, 1, 2, 3, 2):
        made.observe(Observation(**WAITING, serving=serving))
    assert made.count == 2


def test_what_a_person_says_holds_within_the_bounds_and_the_rule_goes_on_from_there():
    made = rule(2, least=2, most=4, patience=1)
    made.set(9)
    assert made.count == 4
    assert seen(made, 2, **IDLE) == [3, 2]
    made.set(0)
    assert made.count == 2


OBSERVATIONS = st.builds(
    Observation, st.floats(0.0, 1.0), st.floats(0.0, 4.0), st.floats(0.0, 1.0), serving=st.integers(0, 8)
)


@given(st.integers(1, 4), st.integers(0, 4), st.lists(OBSERVATIONS, max_size=60), st.integers(1, 4))
def test_the_number_stays_within_its_bounds_and_never_more_than_doubles(least, more, observations, patience):
    made = ScalingRule(AutoActors(min=least, max=least + more, patience=patience))
    for observation in observations:
        before = made.count
        made.observe(observation)
        assert least <= made.count <= least + more
        assert before - 1 <= made.count <= 2 * before


@given(st.floats(0.2, 6.0), st.floats(0.2, 6.0), st.integers(1, 8))
def test_a_steady_run_settles_and_no_fewer_would_do(rollout_s, learn_s, first):
    """A run whose rollouts of one step take one actor `rollout_s`, n actors rollout_s / n, beside `learn_s`."""
    made, counts = rule(first, patience=2), []
    for _ in range(60):
        each_s = rollout_s / made.count
        step_s = max(each_s, learn_s)
        hidden = each_s <= learn_s
        made.observe(
            Observation(
                wait_share=1.0 - learn_s / step_s,
                batches_ready=1.0 if hidden else 0.0,
                busy_share=each_s / step_s,
                serving=made.count,
            )
        )
        counts.append(made.count)
    assert len(set(counts[-20:])) == 1  # no swinging
    waits = max(0.0, 1.0 - learn_s / max(rollout_s / made.count, learn_s))
    assert made.count == 8 or waits <= 0.1
    if made.count > 1:  # another fewer would be busy all the time
        assert rollout_s / (made.count - 1) > 0.9 * learn_s - 1e-9


def pulse(served_s, busy_s):
    return Pulse(PolicyVersion(0, 0), served_s, busy_s)


def test_busy_shares_are_of_the_time_since_the_last_look():
    shares = Utilization()
    assert shares.newest([]) == 1.0
    assert math.isnan(shares.total())
    assert shares.update({"a": pulse(10.0, 5.0), "b": pulse(4.0, 1.0)}) == pytest.approx(6.0 / 14.0)
    assert shares.newest(["a", "b"]) == pytest.approx((0.5 + 0.25) / 2)
    assert shares.update({"a": pulse(20.0, 15.0), "b": pulse(4.0, 1.0)}) == 1.0  # b has said nothing since
    assert shares.newest(["a", "b"]) == pytest.approx((1.0 + 0.25) / 2)
    assert shares.update({"a": pulse(30.0, 15.0)}) == 0.0  # b is gone
    assert shares.newest(["a"]) == 0.0
    assert shares.total() == pytest.approx(16.0 / 34.0)
