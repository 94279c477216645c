"""What a group does without any process: the rest is in tests/integration."""

from contextlib import nullcontext
from pathlib import Path

import pytest

from actors import group
from actors.group import OutageTimer, RolloutGroup, print_event
from actors.process import PendingCall, asked_together
from actors.rollout_actor import ActorSpec
from actors.supervisor import ActorSupervisor, State
from tests.fakes.hand_moved import VERSION_0, Clock, HandCall, HandProcess, Rig, pulse
from unisd_rl.cluster import ray_runtime
from unisd_rl.cluster.cores import CorePlan
from unisd_rl.cluster.runtime import using
from unisd_rl.config import Config
from unisd_rl.config.load import load_recipe
from unisd_rl.errors import RunFailed, UserError
from unisd_rl.transport.weights.store import StoreClient
from unisd_rl.types import Failure, PolicyVersion, Recovery

VERSION_1 = PolicyVersion(0, 1)


def test_before_its_start_a_group_that_is_looked_after_starts_nothing():
    config = Config.model_validate({"objective": {"divergence": {}}})
    group = RolloutGroup(
        ActorSpec(config, Path("model"), Path("run"), None, StoreClient(handle=None)), CorePlan((), ())
    )
    group.check()  # the learner's group calls it while it waits for its ranks
    assert (group.serving, group.handles, group.counts().states) == (0, (), ())


def test_an_actor_that_was_begun_goes_on_starting_while_the_learner_is_waited_for_and_is_no_second_one(monkeypatch):
    processes = []

    def begin(name, cores, spec):
        processes.append(HandProcess(name))
        return processes[-1]

    monkeypatch.setattr(group, "ActorProcess", begin)
    monkeypatch.setattr(group, "asked_together", nullcontext)  # these say themselves that they have ended
    config = load_recipe("unisd_star", {})
    actors = RolloutGroup(ActorSpec(config, Path("model"), Path("run"), None, StoreClient(None)), CorePlan((), ()))
    monkeypatch.setattr(actors._retired, "check", lambda: None)
    actors.begin()
    processes[0].placed.end()
    actors.check()  # as the learner's group does while it waits for its ranks
    processes[0].last("start").end(VERSION_0)
    actors.start(1.0)
    assert (len(processes), actors.serving) == (1, 1)


class Unplaced:
    """An actor that no node has room for."""

    state, awaited, calls, process = State.PLACING, (), (), None

    def check(self):
        pass

    close = drain = check


def test_actors_without_a_place_are_waited_for_in_words_and_not_for_ever(monkeypatch, capsys):
    config = load_recipe(["unisd_star", "cluster"], {"run": {"cluster_timeout_s": 0.2}, "rollout": {"actors": 2}})
    monkeypatch.setattr(ray_runtime.RAY, "free", lambda bundle: {"CPU": 3.0, "rollout": 1.0})
    monkeypatch.setattr(group, "_POLL_S", 0.001)
    monkeypatch.setattr(group, "_QUIET_S", 0.1)
    actors = RolloutGroup(ActorSpec(config, Path("model"), Path("run"), None, StoreClient(None)), CorePlan((), ()))
    actors._supervisors = [Unplaced(), Unplaced()]
    with pytest.raises(UserError, match=r"only 0 of 2 rollout actors found a place within 0\.2 s"):
        actors._wait_for_placement()
    told = "waiting up to 0.2 s for places of 2 rollout actors, 1 CPU, 1 rollout each\n"
    assert capsys.readouterr().err == told, "said once"


class Sleeper:
    """A serving actor that falls asleep at the second look at it, or never."""

    name, state, awaited, calls, pulse, applied = "rollout-0", State.SERVING, (), (), None, None

    def __init__(self, sleeps=True):
        self.process, self.called, self.reference = self, [], None
        self._sleeps, self._looks = sleeps, 0

    def call(self, method):
        self.called.append(method.__name__)
        return self

    def done(self):
        return self._sleeps and self._looks > 1

    def check(self):
        self._looks += 1


def with_one(actor, monkeypatch):
    monkeypatch.setattr(group, "wait", lambda references, timeout_s: None)
    config = load_recipe("unisd_star", {"run": {"placement": "colocated"}})
    actors = RolloutGroup(ActorSpec(config, Path("model"), Path("run"), None, StoreClient(None)), CorePlan((), ()))
    actors._supervisors = [actor]
    return actors


def test_the_learners_turn_begins_when_the_actor_sleeps_and_it_is_woken_after_it(monkeypatch):
    actor, waited = Sleeper(), []
    actors = with_one(actor, monkeypatch)
    with actors.asleep(10.0, lambda: waited.append(1)):
        assert (actor.called, len(waited)) == (["sleep"], 2)
        with actors.leases_paused():  # an evaluation in the learner's turn
            assert actor.called == ["sleep"]
        assert actors._desired.leases_paused, "one that joins now leases nothing"
    assert actor.called == ["sleep", "resume_leases"]
    assert not actors._desired.leases_paused


def test_an_actor_that_never_falls_asleep_ends_the_wait_in_words_and_goes_on(monkeypatch):
    actor = Sleeper(sleeps=False)
    told = r"waited 0\.01 s for rollout-0 to complete what it holds before the learner's turn \(run\.step_timeout_s\)"
    with pytest.raises(RunFailed, match=told), with_one(actor, monkeypatch).asleep(0.01):
        raise AssertionError("its turn never comes")
    assert actor.called == ["sleep", "resume_leases"]


SHARED = {"run": {"placement": "colocated"}, "rollout": {"gpus_per_actor": 0.5}, "learner": {"gpus_per_rank": 0.5}}


class Looked:
    """A group of one hand-moved actor on a shared GPU; at each wait the next of `looks` is called with its process."""

    def __init__(self, monkeypatch, looks):
        monkeypatch.setattr(group, "ActorProcess", self._begin)
        monkeypatch.setattr(group, "asked_together", nullcontext)
        self.processes, self._looks = [], list(looks)
        settings = {**SHARED, "faults": {"backoff_s": 1e-3}}
        spec = ActorSpec(load_recipe("unisd_star", settings), Path("model"), Path("run"), None, StoreClient(None))
        self.actors = RolloutGroup(spec, CorePlan((), ()), lambda event: None)
        monkeypatch.setattr(self.actors._retired, "check", lambda: None)
        monkeypatch.setattr(self.actors._retired, "retire", lambda name: None)
        monkeypatch.setattr(self.actors, "_wait", lambda *_: self.look())
        self.actors.begin()
        self.actors._desired.first_start = False

    def _begin(self, name, cores, spec):
        self.processes.append(HandProcess(name))
        self.processes[-1].placed.end()
        return self.processes[-1]

    def look(self):
        if self._looks:
            self._looks.pop(0)(self.processes[-1])

    def serve(self):
        self.actors.check()
        self.processes[-1].last("start").end(VERSION_0)
        self.actors.run()


def ending(method, value=None):
    return lambda process: process.last(method).end(value)


def test_on_a_shared_gpu_the_turn_begins_once_what_was_held_is_committed_and_the_memory_is_given_back(monkeypatch):
    rig = Looked(monkeypatch, [ending("sleep"), ending("free_gpu")])
    rig.serve()
    with rig.actors.asleep(10.0, lambda: None):
        assert [list(process.calls) for process in rig.processes] == [["start", "run", "sleep", "free_gpu"]]
    assert list(rig.processes[0].calls)[-1] == "resume_leases"


def test_an_engine_that_is_starting_on_a_shared_gpu_is_waited_for_and_sleeps_too(monkeypatch):
    rig = Looked(monkeypatch, [ending("start", VERSION_0), lambda process: None, ending("free_gpu")])
    rig.actors.check()
    rig.actors._desired.running = True
    with rig.actors.asleep(10.0, lambda: None):
        assert list(rig.processes[0].calls) == ["start", "pause_leases", "run", "free_gpu"]


def test_an_actor_that_does_not_give_its_memory_back_is_replaced_and_none_starts_beside_the_learner(monkeypatch):
    rig = Looked(monkeypatch, [ending("sleep"), lambda process: process.last("free_gpu").break_("it did not sleep")])
    rig.serve()
    with rig.actors.asleep(10.0, lambda: None):
        assert rig.processes[0].killed
        while len(rig.processes) == 1:
            rig.actors.check_beside_learner()
        for _ in range(3):
            rig.actors.check_beside_learner()
        assert rig.processes[1].calls == {}, "it has its place, and the learner has the memory"
        rig.actors.check()  # the learner is done: its version is waited for
        assert list(rig.processes[1].calls) == ["start"]


def test_nobody_serves_for_too_long_only_while_one_might_start(monkeypatch):
    rig = Looked(monkeypatch, [])
    clock = Clock()
    rig.actors._outage = OutageTimer(10.0, clock)
    for clock.now in (0.0, 5.0, 50.0):
        rig.actors.check_beside_learner()
    rig.actors.check()
    clock.now = 61.0
    with pytest.raises(RunFailed, match="no rollout actor has served for 10 s"):
        rig.actors.check()


def test_a_group_of_no_run_says_what_breaks_and_what_works_again(capsys):
    print_event(Failure("rollout-1", "rollout-1 died", 1, 1.0))
    print_event(Recovery("rollout-1", 3.0))
    assert capsys.readouterr().err == "rollout-1: rollout-1 died\nrollout-1: works again\n"


def test_nobody_serves_for_too_long_only_if_nobody_is_found_all_the_time():
    clock = Clock()
    absence, found = OutageTimer(10.0, clock), []
    for clock.now, serving in ((0, 1), (500, 0), (509, 0), (510, 1), (511, 0), (521, 0), (521.5, 0)):
        found.append(absence.exceeded(serving))
    assert found == [False] * 6 + [True]


def test_weights_are_asked_of_all_at_once_and_one_that_never_applies_them_is_replaced_and_waited_for_by_nobody(
    monkeypatch,
):
    rigs = [Rig(index).started() for index in range(3)]
    stuck, *others = [rig.process for rig in rigs]
    waited = []

    def wait(references, timeout_s):
        waited.append(timeout_s)
        for process in others:
            process.last("update").end(VERSION_1)

    monkeypatch.setattr(group, "wait", wait)
    monkeypatch.setattr(HandCall, "reference", None, raising=False)
    monkeypatch.setattr(group, "asked_together", nullcontext)  # these say themselves that they have ended
    config = load_recipe("unisd_star", {"rollout": {"actors": 3}})
    actors = RolloutGroup(ActorSpec(config, Path("model"), Path("run"), None, StoreClient(None)), CorePlan((), ()))
    actors._supervisors, actors._desired = [rig.actor for rig in rigs], rigs[0].desired
    actors.broadcast(VERSION_1)
    assert not waited, "a broadcast waits for nobody"
    assert [process.last("update").arguments for process in (stuck, *others)] == [(VERSION_1,)] * 3
    actors.wait_for(VERSION_1, timeout_s=0.001)
    assert [rig.actor.applied for rig in rigs[1:]] == [VERSION_1] * 2
    assert stuck.killed
    assert not any(process.killed for process in others)
    assert ("rollout-0 did not apply" in rigs[0].events[0].reason, rigs[0].retired) == (True, ["rollout-0"])
    actors.wait_for(VERSION_1, timeout_s=0.001)  # while it is away, those that serve are enough


class CountingRuntime:
    """Answers are there when their calls' references are `ended`; counts how often it is asked."""

    unreachable = lost = ()
    separate = True

    def __init__(self):
        self.waits, self.ended, self.slept_s = 0, set(), 0.0

    def wait(self, calls, timeout_s, count=1):
        self.waits += 1
        return [call for call in calls if call in self.ended][:count]

    def get(self, call, timeout_s):
        return call.answer

    def sleep(self, seconds):
        self.slept_s += seconds


class Reference:
    """Of a call whose answer is given beforehand."""

    def __init__(self, answer):
        self.answer = answer


class CountedProcess(HandProcess):
    """Its calls are `PendingCall`s that end all at once."""

    def __init__(self, name, carrier):
        super().__init__(name)
        self._carrier, self.made = carrier, []
        self.placed = self._pending(None)

    def _pending(self, answer):
        self.made.append(Reference(answer))
        return PendingCall(self.made[-1], self.name, self.log)

    def call(self, method, *arguments):
        return self._pending({"start": VERSION_0, "ping": pulse(VERSION_1), "update": VERSION_1}.get(method.__name__))

    def end_all(self):
        self._carrier.ended.update(self.made)


@pytest.mark.parametrize("count", [1, 40])
def test_one_look_at_any_number_of_actors_asks_once_and_misses_nothing(count):
    carrier, clock, processes, events = CountingRuntime(), Clock(), [], []
    config = load_recipe("unisd_star", {"rollout": {"actors": count}})
    actors = RolloutGroup(ActorSpec(config, Path("model"), Path("run"), None, StoreClient(None)), CorePlan((), ()))

    def begin(name):
        processes.append(CountedProcess(name, carrier))
        return processes[-1]

    def looked():
        before = carrier.waits
        actors.check()
        return carrier.waits - before

    actors._supervisors = [
        ActorSupervisor(index, config, actors._desired, begin, lambda name: None, events.append, clock)
        for index in range(count)
    ]
    with using(carrier):
        actors._adjust_count()
        assert looked() == 1
        for state in (State.STARTING, State.SERVING):  # placed; started
            for process in processes:
                process.end_all()
            assert looked() == 1
            assert [actor.state for actor in actors._supervisors] == [state] * count
        clock.now += config.faults.ping_s
        actors.check()
        actors.broadcast(VERSION_1)
        assert looked() == 1
        for process in processes:
            process.end_all()
        assert looked() == 1
        assert (list(actors.pulses.values()), actors.serving) == ([pulse(VERSION_1)] * count, count)
        assert {actor.applied for actor in actors._supervisors} == {VERSION_1}
    assert not events


def test_calls_that_were_asked_together_say_so_within_the_block_and_ask_for_themselves_after_it():
    carrier = CountingRuntime()
    early, late = calls = [PendingCall(Reference(None), "rollout-0", Path("log")) for _ in range(2)]
    with using(carrier):
        carrier.ended.add(early.reference)
        with asked_together(calls):
            carrier.ended.add(late.reference)
            assert [call.done() for call in calls] == [True, False]
            assert carrier.waits == 1
        assert [call.done() for call in calls] == [True, True], "what has ended since is seen without another look"
        assert carrier.waits == 2, "that one has ended need not be asked again"
