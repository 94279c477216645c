"""An evaluation's requests, assigned by hand to actors that die."""

import pytest

from actors.eval_batch import EvaluationDispatch, chat_requests
from actors.supervisor import State
from tests.fakes.hand_moved import VERSION_0, Clock, Rig
from unisd_rl.errors import RunFailed
from unisd_rl.types import PolicyVersion, Sampling

VERSION_1, VERSION_2 = PolicyVersion(0, 1), PolicyVersion(0, 2)

ASKED = tuple(range(7))


def assigned(*indices, timeout_s=50.0):
    clock = Clock()
    dispatch, rigs = EvaluationDispatch(ASKED, VERSION_0, timeout_s, clock), [Rig(index).started() for index in indices]
    dispatch.assign([rig.actor for rig in rigs])
    return dispatch, rigs, clock


def asked_of(rig):
    return [call.arguments[0] for call in rig.process.calls.get("answer", [])]


def answer(rig):
    """What was assigned last to this actor: prompt p is answered with "a" + p."""
    call = rig.process.last("answer")
    call.end([f"a{prompt}" for prompt in call.arguments[0]])


def expected():
    return [f"a{prompt}" for prompt in ASKED]


def test_prompts_are_dealt_in_turn_and_come_back_in_order():
    dispatch, (first, second), _ = assigned(0, 1)
    assert (asked_of(first), asked_of(second)) == ([[0, 2, 4, 6]], [[1, 3, 5]])
    for rig in (second, first):
        answer(rig)
        dispatch.collect()
    assert dispatch.complete
    assert dispatch.answers() == expected()


def test_what_a_dead_actor_leaves_unanswered_goes_to_the_others_once():
    dispatch, (first, second), _ = assigned(0, 1)
    answer(second)
    first.process.last("answer").break_("rollout-0 died")
    dispatch.collect()
    assert first.actor.state is State.WAITING
    assert [fault.reason for fault in first.events] == ["rollout-0 died"]
    assert dispatch.unassigned
    dispatch.assign([second.actor])
    assert asked_of(second) == [[1, 3, 5], [0, 2, 4, 6]]
    answer(second)
    dispatch.collect()
    assert dispatch.answers() == expected()


def test_a_share_whose_actor_was_replaced_meanwhile_is_dealt_again_though_the_slot_lives():
    dispatch, (only,), _ = assigned(0)
    only.actor.fail("rollout-0 did not answer")
    only.check(1.0)
    only.serve()
    dispatch.collect()
    dispatch.assign([only.actor])
    assert asked_of(only) == [list(ASKED)]  # of the new process
    answer(only)
    dispatch.collect()
    assert dispatch.answers() == expected()


def test_with_nobody_able_the_prompts_wait():
    dispatch, (only,), _ = assigned(0)
    only.process.last("answer").break_("rollout-0 died")
    dispatch.collect()
    dispatch.assign([])
    assert (dispatch.unassigned, dispatch.complete) == (True, False)


def test_an_actor_that_takes_too_long_for_its_share_is_replaced():
    dispatch, (only,), clock = assigned(0, timeout_s=50.0)
    clock.now = 50.0
    dispatch.collect()
    assert not only.events
    clock.now = 50.5
    dispatch.collect()
    assert only.events[0].reason.startswith("rollout-0 did not answer within run.step_timeout_s = 50 s")
    assert dispatch.unassigned


def test_what_nobody_has_or_will_have_the_weights_for_ends_the_evaluation():
    waited, rig = [], Rig(0).started(VERSION_0)
    dispatch = EvaluationDispatch(ASKED, VERSION_1, 50.0, Clock())
    rig.actor.update(VERSION_1)
    dispatch.advance([rig.actor], lambda: waited.append("once"))  # it is on its way to the version
    assert (waited, asked_of(rig)) == (["once"], [])
    rig.process.last("update").end(VERSION_2)
    rig.check()
    with pytest.raises(RunFailed, match=r"^rollout-0 was asked for answers of .*number=1\) but is at .*number=2\)$"):
        dispatch.advance([rig.actor], lambda: waited.append("twice"))
    assert waited == ["once", "twice"]


def test_an_actor_that_comes_to_the_version_is_assigned_what_waits():
    rig = Rig(0).started(VERSION_0)
    dispatch = EvaluationDispatch(ASKED, VERSION_1, 50.0, Clock())
    rig.actor.update(VERSION_1)
    dispatch.advance([rig.actor], lambda: None)
    rig.process.last("update").end(VERSION_1)
    rig.check()
    dispatch.advance([rig.actor], lambda: pytest.fail("somebody has the weights"))
    answer(rig)
    dispatch.advance([rig.actor], lambda: pytest.fail("all is answered"))
    assert dispatch.answers() == expected()


def test_each_chat_is_sampled_with_a_seed_of_its_own_whoever_answers():
    seeded = chat_requests(["a", "b", "c"], Sampling(0.7, 1.0, 8, seed=5))
    assert [(chat, sampling.seed) for chat, sampling in seeded] == [("a", 5), ("b", 6), ("c", 7)]
    unseeded = chat_requests(["a", "b"], Sampling(0.7, 1.0, 8))
    assert [sampling.seed for _, sampling in unseeded] == [None, None]
