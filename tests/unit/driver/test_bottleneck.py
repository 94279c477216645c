"""Who waits for whom, against written arithmetic and a simulated pipeline."""

import math

import pytest

from tests.fakes.step_metrics import step_metrics
from unisd_rl.driver.bottleneck import BottleneckMeter, StepTimes, balance
from unisd_rl.types import PolicyVersion, Pulse


def pulse(served_s, busy_s):
    return Pulse(PolicyVersion(0, 0), served_s, busy_s)


def test_actors_that_never_rest_while_the_learner_waits_are_too_few():
    # 10 s a step, 4 of them of the learner: two actors do 20 actor-seconds, and 20 / 4 actors would do it in 4 s.
    found = balance(StepTimes(6.0, 3.0, 1.0), actors=2, idle=0.0, depth=0)
    assert (found.bound_by, found.learner_wait) == ("rollouts", 0.6)
    assert (found.actors_wanted, found.actors_suggested) == (5.0, 5)


def test_a_learner_that_never_waits_beside_idle_actors_could_do_with_fewer():
    # Eight actors, busy a quarter of 4 s: 8 actor-seconds a step, which two do.
    found = balance(StepTimes(0.0, 4.0), actors=8, idle=0.75, depth=64)
    assert (found.bound_by, found.actors_suggested) == ("learner", 2)


def test_sides_that_take_turns_are_told_as_such():
    # Staleness 0: rollouts take 3 s while the learner waits, it then takes 3 s while they are idle.
    found = balance(StepTimes(3.0, 3.0), actors=1, idle=0.5, depth=0)
    assert (found.bound_by, found.actors_suggested) == ("both", 1)


def test_without_a_word_of_the_actors_nothing_is_suggested():
    found = balance(StepTimes(1.0, 1.0), actors=1, idle=math.nan, depth=0)
    assert (found.bound_by, found.actors_suggested) == ("unknown", None)
    assert math.isnan(found.actors_wanted)


@pytest.mark.parametrize(
    "rollout_s, learn_s, actors, balanced", [(12.0, 2.0, 3, 6), (3.0, 2.0, 4, 2), (2.0, 4.0, 1, 1)]
)
def test_what_is_suggested_is_the_fewest_with_which_a_simulated_learner_never_waits(
    rollout_s, learn_s, actors, balanced
):
    """The oracle: n actors that share a step's `rollout_s` actor-seconds, one step ahead of the learner."""

    def pace(count):
        return max(rollout_s / count, learn_s)

    step_s = pace(actors)
    found = balance(StepTimes(step_s - learn_s, learn_s), actors, 1.0 - rollout_s / (actors * step_s), 0)
    assert found.actors_suggested == balanced
    assert pace(balanced) == learn_s
    assert balanced == 1 or pace(balanced - 1) > learn_s


def test_a_step_is_told_what_the_actors_did_since_the_step_before():
    meter = BottleneckMeter(ranks=1)
    first = meter.add(step_metrics(), StepTimes(0.0, 10.0), {"a": pulse(10.0, 5.0), "b": pulse(10.0, 10.0)}, depth=3)
    assert (first.actor_idle, first.actors, first.depth) == (0.25, 2, 3)
    # a was silent; c is new: 4 s of which it was busy for 1, beside 10 busy ones of b.
    second = meter.add(
        step_metrics(), StepTimes(0.0, 10.0), {"a": pulse(10.0, 5.0), "b": pulse(20.0, 20.0), "c": pulse(4.0, 1.0)}, 5
    )
    assert second.actor_idle == pytest.approx(3.0 / 14.0)
    third = meter.add(step_metrics(), StepTimes(0.0, 10.0), {"b": pulse(20.0, 20.0)}, 4)
    assert third.bound_by == "unknown"
    total = meter.total()
    assert total.actor_idle == pytest.approx(1.0 - 26.0 / 34.0)
    assert (total.actors, total.depth) == (2.0, 4.0)


def test_the_whole_run_adds_up_its_steps():
    meter = BottleneckMeter(ranks=2)
    step = step_metrics({"primary": 1.0, "gradient": 2.0}, 0.5, staleness=1.0, tokens=30)
    meter.add(step, StepTimes(6.0, 3.0, 1.0), {"a": pulse(10.0, 10.0)}, depth=0)
    later = step_metrics({"primary": 1.0, "gradient": 2.0}, 0.5, staleness=0.0, tokens=10)
    meter.add(later, StepTimes(6.0, 3.0, 1.0), {"a": pulse(20.0, 20.0)}, depth=8)
    nobody = step_metrics({}, 0.0, staleness=math.nan, tokens=1000)
    meter.add(nobody, StepTimes(6.0, 3.0, 1.0), {"a": pulse(30.0, 30.0)}, depth=1)
    total = meter.total()
    assert (total.bound_by, total.learner_wait, total.actor_idle) == ("rollouts", 0.6, 0.0)
    assert (total.actors_suggested, total.actors_per_rank) == (3, 1.25)
    assert (total.wait_s, total.learn_s, total.publish_s, total.update_s) == (18.0, 9.0, 3.0, 1.0)
    assert dict(total.read_s) == {"primary": 2.0, "auxiliary": 0, "negative": 0, "divergence": 0, "gradient": 4.0}
    assert (total.staleness, total.depth) == (0.75, 3.0)
    told = "rollouts are the bottleneck: learner idle 60%, actors idle 0%; suggested actors: 3 (1.2 per learner rank)"
    assert total.describe() == told


def test_colocated_sleep_is_no_waiting_and_the_number_of_actors_stays():
    # A turn of 6 s with a prompt in flight for 5.4 of them, one of 3 s, and 1 s of publishing.
    meter = BottleneckMeter(ranks=1, colocated=True)
    step = meter.add(step_metrics(), StepTimes(6.0, 3.0, 1.0), {"a": pulse(6.0, 5.4)}, depth=0)
    assert step.actor_idle == pytest.approx(0.1)
    assert step.learner_wait == pytest.approx(0.06)
    assert step.actors_wanted == 1
    total = meter.total()
    assert (total.bound_by, total.actors_suggested, total.colocated_gain) == ("both", 1, None)
    shares = "generating 60%, learning 30%, publishing 10% of the time"
    assert total.describe() == f"generation and learning took turns: {shares}"


@pytest.mark.parametrize(
    ("wait_s", "learn_s", "busy_s", "lockstep", "gain"),
    [
        (0.0, 8.0, 2.0, False, 1.6),  # the learner is slower: 8 s apart, (8 + 2) / 2 in turns
        (6.0, 2.0, 8.0, False, 1.6),  # the actor is
        (0.0, 8.0, 8.0, False, 1.0),
        (3.0, 5.0, 3.0, True, 2.0),  # apart they took turns too, with half the cores each
    ],
)
def test_the_gain_of_turns_is_what_two_sides_with_twice_the_cores_would_need(wait_s, learn_s, busy_s, lockstep, gain):
    meter = BottleneckMeter(ranks=1, may_be_colocated=True, lockstep=lockstep)
    meter.add(step_metrics(), StepTimes(wait_s, learn_s), {"a": pulse(8.0, busy_s)}, depth=0)
    total = meter.total()
    assert total.colocated_gain == pytest.approx(gain)
    told = f"; with the set-up `colocated` up to {gain:.1f} times as fast"
    assert total.describe().endswith(told) == (gain > 1.1)


def test_turns_are_suggested_only_where_they_can_be_taken():
    meter = BottleneckMeter(ranks=1)
    meter.add(step_metrics(), StepTimes(0.0, 8.0), {"a": pulse(8.0, 2.0)}, depth=0)
    assert meter.total().colocated_gain is None
    assert "colocated" not in meter.total().describe()


def test_before_the_first_step_there_is_nothing_to_tell():
    assert BottleneckMeter(ranks=1).total() is None
