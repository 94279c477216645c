"""The life of a supervised actor, moved by hand: no Ray, no time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.supervisor import State
from tests.fakes.hand_moved import VERSION_0, Rig, counted, pulse
from unisd_rl.errors import PermanentFailure, RunFailed, UserError
from unisd_rl.types import Failure, PolicyVersion, Recovery

VERSION_1 = PolicyVersion(0, 1)


def test_a_slot_asks_for_a_place_then_starts_then_serves():
    rig = Rig()
    rig.actor.open()
    rig.check()
    assert (rig.actor.state, rig.process.calls) == (State.PLACING, {})
    rig.process.placed.end()
    rig.check()
    assert rig.actor.state is State.STARTING
    rig.check()
    rig.process.last("start").end(VERSION_0)
    rig.check()
    assert (rig.actor.state, rig.actor.applied) == (State.SERVING, VERSION_0)
    assert rig.events == []


def test_nothing_is_ever_waited_for():
    rig = Rig()
    rig.actor.open()
    for second in range(1000):  # HandCall asserts that no result is asked for before its end
        rig.check(float(second))
    assert rig.actor.state is State.PLACING  # a wish for a node may take as long as it takes


def test_the_queue_is_served_once_that_is_ordered_also_by_one_that_joins_later():
    rig = Rig().started()
    assert "run" not in rig.process.calls
    rig.desired.running = True
    rig.check()
    rig.check()
    assert len(rig.process.calls["run"]) == 1


def test_one_that_joins_during_an_evaluation_leases_nothing():
    rig = Rig()
    rig.desired.running = rig.desired.leases_paused = True
    rig.started()
    assert len(rig.process.calls["run"]) == 1
    assert not rig.process.leasing


def test_one_that_joins_is_asked_for_the_newest_version():
    rig = Rig()
    rig.desired.version = VERSION_1
    rig.started(VERSION_0)
    assert rig.process.last("update").arguments == (VERSION_1,)
    assert rig.actor.updating
    rig.process.last("update").end(VERSION_1)
    rig.check()
    assert (rig.actor.applied, rig.actor.updating) == (VERSION_1, False)


def broken_call(method):
    def break_it(rig):
        rig.process.last(method).break_("rollout-2 died; its log is rollout-2.log")
        rig.check()

    return break_it


def silent(rig):
    rig.check(5.0)
    rig.check(65.0)
    assert rig.actor.state is State.SERVING
    rig.check(65.5)


def overdue(rig):
    rig.actor.update(VERSION_1)
    rig.check(30.0)
    assert rig.actor.state is State.SERVING
    rig.check(30.5)


FAILURES = {
    "killed": (broken_call("run"), "rollout-2 died"),
    "hung": (silent, "rollout-2 did not answer for faults.silent_s = 60 s"),
    "update_overdue": (overdue, r"rollout-2 did not apply 0:1 within weights.timeout_s = 30 s"),
}


@pytest.mark.parametrize(("breaks", "told"), FAILURES.values(), ids=FAILURES)
def test_whatever_breaks_is_told_ended_retired_and_replaced_after_the_back_off(breaks, told):
    rig = Rig()
    rig.desired.running = True
    rig.started()
    breaks(rig)
    (fault,) = rig.events
    assert isinstance(fault, Failure)
    assert (fault.component, fault.restart, fault.wait_s) == ("rollout-2", 1, 1.0)
    assert fault.reason.startswith(told)
    assert "rollout-2.log" in fault.reason
    assert rig.processes[0].killed
    assert rig.retired == ["rollout-2"]
    assert rig.actor.process is None
    broken_s = rig.clock.now
    rig.check(broken_s + 0.9)
    assert rig.actor.state is State.WAITING
    rig.check(broken_s + 1.0)
    assert (rig.actor.state, rig.process.name) == (State.PLACING, "rollout-2.1")
    rig.clock.now = broken_s + 7.0
    rig.serve(VERSION_1)
    assert rig.events[1:] == [Recovery("rollout-2", 7.0)]
    assert len(rig.process.calls["run"]) == 1


def test_a_start_that_fails_or_takes_too_long_is_tried_again_with_a_longer_wait():
    rig = Rig()
    rig.actor.open()
    rig.process.placed.end()
    rig.check()
    rig.process.last("start").break_("rollout-2 stopped: no model")
    rig.check()
    rig.check(1.0)
    rig.process.placed.end()
    rig.check()
    rig.check(101.5)
    assert [(event.restart, event.wait_s) for event in rig.events] == [(1, 1.0), (2, 2.0)]
    assert rig.events[0].reason == "rollout-2 stopped: no model"
    assert rig.events[1].reason.startswith("rollout-2.1 did not start its engine within run.start_timeout_s = 100 s")
    rig.check(103.5)
    rig.serve()
    assert rig.events[2:] == [Recovery("rollout-2", 103.5)]


def test_one_failure_more_than_allowed_ends_the_run_and_leaves_nothing_behind():
    rig = Rig(max_restarts=1).started()
    rig.desired.running = True
    rig.check()
    broken_call("run")(rig)
    rig.check(1.0)
    rig.serve()
    rig.process.last("run").break_("rollout-2.1 died")
    with pytest.raises(RunFailed, match=r"rollout-2 failed 2 times .*max_restarts = 1.*: rollout-2\.1 died"):
        rig.check()
    assert all(process.killed for process in rig.processes)
    assert rig.retired == ["rollout-2", "rollout-2.1"]


def test_an_actor_that_answers_its_pings_lives_however_seldom_the_driver_looks():
    rig = Rig().started()
    rig.check(5.0)
    rig.process.last("ping").end(pulse())
    rig.check(5000.0)
    assert (rig.actor.state, rig.actor.pulse) == (State.SERVING, pulse())
    rig.check(5001.0)
    assert len(rig.process.calls["ping"]) == 2


def test_a_drained_actor_completes_what_it_holds_and_goes_for_good():
    rig = Rig()
    rig.desired.running = True
    rig.started()
    rig.actor.drain()
    assert (rig.actor.state, rig.process.last("drain").arguments) == (State.DRAINING, (40.0,))
    rig.process.last("run").end()  # it serves no more, which is no failure now
    rig.check(39.0)
    assert not rig.process.killed
    rig.process.last("drain").end(counted())
    rig.check()
    assert (rig.actor.state, rig.actor.drained_reports) == (State.VACANT, [counted()])
    assert rig.process.killed
    assert rig.retired == ["rollout-2"]
    rig.check(1000.0)
    assert (len(rig.processes), rig.events) == (1, [])


def test_a_slot_that_is_opened_again_fills_with_another_name():
    rig = Rig().started()
    rig.actor.drain()
    rig.process.last("drain").end(counted())
    rig.check()
    rig.actor.open()
    assert rig.process.name == "rollout-2.1"


@pytest.mark.parametrize("ends", [lambda call: call.break_("rollout-2 died"), None], ids=["died", "too_long"])
def test_one_that_breaks_while_it_leaves_is_told_and_not_replaced(ends):
    rig = Rig(max_restarts=0).started()
    rig.actor.drain()
    if ends:
        ends(rig.process.last("drain"))
    rig.check(101.0)
    (fault,) = rig.events
    assert fault.reason.endswith("it was leaving, and what it held is issued again")
    assert (rig.actor.state, rig.retired) == (State.VACANT, ["rollout-2"])


def test_what_does_not_serve_yet_leaves_at_once():
    rig = Rig()
    rig.actor.open()
    rig.actor.drain()
    assert (rig.actor.state, rig.process.killed) == (State.VACANT, True)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["place", "start", "fail", "update", "applied", "pong", "drain", "drained", "open", "wait"]),
        st.floats(0.0, 200.0),
    ),
    max_size=40,
)


@given(STEPS)
def test_at_any_moment_at_most_one_process_lives_and_every_ended_one_is_retired_once(steps):
    rig = Rig(max_restarts=1000, window_s=10.0)
    rig.desired.running = True
    rig.actor.open()
    for act, seconds in steps:
        act_on(rig, act)
        rig.check(rig.clock.now + seconds)
        alive = [process.name for process in rig.processes if not process.killed]
        assert len(alive) <= 1
        assert (rig.actor.process.name if rig.actor.process else None) == (alive[0] if alive else None)
        assert (rig.actor.process is None) == (rig.actor.state in (State.VACANT, State.WAITING))
        assert rig.retired == [process.name for process in rig.processes if process.killed]
    assert len({process.name for process in rig.processes}) == len(rig.processes)


def act_on(rig, act):
    """What may happen from outside at this moment; nothing, if it may not."""
    actor, process = rig.actor, rig.process
    if act == "place" and actor.state is State.PLACING:
        process.placed.end()
    elif act == "start" and actor.state is State.STARTING:
        process.last("start").end(VERSION_0)
    elif act == "fail" and actor.process is not None and process.calls:
        next(iter(process.calls.values()))[-1].break_("broke")
    elif act == "update":
        actor.update(VERSION_1)
    elif act == "applied" and actor.updating:
        process.last("update").end(VERSION_1)
    elif act == "pong" and actor.process is not None and "ping" in process.calls:
        process.last("ping").end(pulse())
    elif act == "drain" and actor.state is not State.VACANT:
        actor.drain()
    elif act == "drained" and actor.state is State.DRAINING:
        process.last("drain").end(counted())
    elif act == "open" and actor.state is State.VACANT:
        actor.open()


def start_fails(rig, what, permanent=None):
    rig.process.placed.end()
    rig.check()
    rig.process.last("start").break_(what, permanent)
    rig.check()


def first_start():
    rig = Rig()
    rig.desired.first_start = True
    rig.actor.open()
    return rig


def test_at_the_first_start_the_same_cause_twice_ends_the_run_with_the_cause_and_no_word_of_another_try():
    rig = first_start()
    start_fails(rig, "rollout-2 stopped: vLLM does not start: KeyError: 'a' at 0x7f01; its log is logs/rollout-2.log")
    assert [(event.restart, event.wait_s) for event in rig.events] == [(1, 1.0)]
    rig.check(1.0)
    with pytest.raises(RunFailed, match=r"rollout-2\.1 stopped: vLLM does not start: KeyError: 'a'"):
        start_fails(
            rig, "rollout-2.1 stopped: vLLM does not start: KeyError: 'a' at 0x7f02; its log is logs/rollout-2.1.log"
        )
    assert len(rig.events) == 1
    assert all(process.killed for process in rig.processes)


def test_at_the_first_start_another_cause_is_another_try():
    rig = first_start()
    start_fails(rig, "rollout-2 stopped: the port is taken")
    rig.check(1.0)
    start_fails(rig, "rollout-2.1 died")
    rig.check(3.0)
    rig.serve()
    assert [type(event) for event in rig.events] == [Failure, Failure, Recovery]


def test_at_the_first_start_what_is_certain_to_come_again_gets_no_other_try():
    rig = first_start()
    with pytest.raises(RunFailed, match=r"^rollout-2 stopped: no such model$"):
        start_fails(rig, "rollout-2 stopped: no such model", permanent=PermanentFailure)
    assert rig.events == []
    assert rig.process.killed


def test_at_the_first_start_a_wrong_input_that_an_actor_finds_ends_the_command_as_one_with_no_other_try():
    rig = first_start()
    with pytest.raises(UserError, match=r"^no chat template$"):
        start_fails(rig, "no chat template", permanent=UserError)
    assert rig.events == []


def test_in_mid_run_a_machine_on_which_no_engine_starts_ends_nothing():
    rig = Rig()
    rig.actor.open()
    start_fails(rig, "rollout-2 stopped: no compiler", permanent=PermanentFailure)
    rig.check(1.0)
    start_fails(rig, "rollout-2.1 stopped: no compiler", permanent=PermanentFailure)
    assert [event.restart for event in rig.events] == [1, 2]


def test_in_mid_run_what_the_model_cannot_compute_is_not_tried_again():
    rig = Rig()
    rig.desired.running = True
    rig.started()
    rig.process.last("run").break_("rollout-2 stopped: IndexError: index out of range", permanent=PermanentFailure)
    with pytest.raises(RunFailed, match="index out of range"):
        rig.check()
    assert rig.events == []


def serves_and_dies(rig, times, apart_s):
    for _ in range(times):
        rig.process.placed.end()
        rig.check()
        rig.process.last("start").end(rig.desired.version)
        rig.check(rig.clock.now + apart_s)
        rig.process.last("run").break_("rollout-2 stopped: an update that is no number")
        rig.check()
        rig.check(rig.clock.now + 60.0)


def test_one_that_dies_again_and_again_without_a_step_in_between_ends_the_run_however_long_each_life_takes():
    rig = Rig(max_restarts=3)
    rig.desired.running, rig.desired.version = True, VERSION_0
    rig.actor.open()
    serves_and_dies(rig, 3, apart_s=2 * rig.config.faults.window_s)
    rig.desired.version = VERSION_1  # a step: it is forgiven
    serves_and_dies(rig, 3, apart_s=2 * rig.config.faults.window_s)
    with pytest.raises(RunFailed, match=r"rollout-2 failed 4 times and never got beyond step 1 .*no number"):
        serves_and_dies(rig, 1, apart_s=2 * rig.config.faults.window_s)
