"""All rollout actors of a run, as the driver sees them: supervised, served by one queue and one store.

```
start -> broadcast(version 0) -> run -> { broadcast(version) | answers | scale | check } ... -> close
```

The group owns a slot for each actor (`actors.supervisor`); `check`, called about once a second in every wait of the
driver, moves all of them on and never waits itself. What fails is told, replaced after a back-off under a new name, and
told again when it serves; the others go on meanwhile. Broadcasts go out in the background, one call an actor, so a
stuck actor does not hold the others up.

Only the first start is strict: what the cluster lacks then is the user's error, and an engine that starts on no actor
is a failure of the run. Afterwards the run goes on with those that serve, and fails when none has for
`run.cluster_timeout_s` + `run.start_timeout_s`.

Names of rollout actors that are not coming back, until the queue has confirmed each.

Whether nobody has served for too long.

When rollout actors cannot go on: one sentence that says who, why, and what helps.
"""

import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError

from actors.eval_batch import EvaluationDispatch
from actors.process import ActorProcess, PendingCall
from actors.report import ActorReport, Pulse
from actors.rollout_actor import Chat, ChatAnswer
from actors.scale_requests import ActorCounts
from actors.scaling import Observation, TargetActorCount, Utilization
from actors.supervisor import ActorSupervisor, DesiredState, State
from unisd_rl.cluster.cores import CorePlan
from unisd_rl.cluster.logs import log_path
from unisd_rl.cluster.resources import rollout_bundle
from unisd_rl.cluster.waiting import wait
from unisd_rl.config import Config
from unisd_rl.errors import RunFailed, UserError
from unisd_rl.transport.weights.manifest import label
from unisd_rl.transport.weights.store import StoreClient
from unisd_rl.types import Event, Failure, OnWait, PolicyVersion, Report, Sampling, no_op


def refuse_if_all_fail_alike(slots: Sequence[ActorSupervisor]) -> None:
    """An engine that starts nowhere, for one reason, will not start at the second attempt either: RunFailed."""
    failures = {re.sub(r"rollout-[\d.]*\d", "rollout", slot.failure or "") for slot in slots}
    if len(failures) == 1 and (failure := slots[0].failure) is not None:
        raise RunFailed(failure)


def refuse_unless_some_follow(slots: Sequence[ActorSupervisor], version: PolicyVersion) -> None:
    """RunFailed where nobody is at `version`, or on the way to it."""
    for slot in slots:
        if slot.state in (State.WAITING, State.PLACING, State.STARTING) or slot.updating:
            return
    serving = [slot for slot in slots if slot.state is State.SERVING]
    if serving and not any(slot.applied == version for slot in serving):
        raise RunFailed(f"{serving[0].name} was asked for answers of {version} but is at {serving[0].applied}")


def too_late(slot: ActorSupervisor, task: str, timeout_s: float, run_dir: Path) -> RunFailed:
    """The error of a slot whose process did not do its `task` within `timeout_s` seconds."""
    log = log_path(run_dir, slot.name)
    return RunFailed(f"waited {timeout_s:g} s for {slot.name} to {task}; its log is {log}")


def too_few_places(
    each: Mapping[str, float], free: Mapping[str, float], placed: int, count: int, waited_s: float
) -> str:
    """Only `placed` of `count` actors found room for what `each` asks for in a cluster with so much `free`."""
    wants = ", ".join(f"{amount:g} {name}" for name, amount in each.items())
    there = ", ".join(f"{free.get(name, 0.0):g} {name}" for name in each)
    return (
        f"only {placed} of {count} rollout actors found a place within {waited_s:g} s: each asks one node for {wants}, "
        f"and the cluster has {there} left; add nodes, or lower rollout.actors"
    )


class OutageTimer:
    """Looked at now and then. The time counts from the first look that finds nobody: what happened before it, while
    nobody looked, is not known. `clock` returns seconds."""

    def __init__(self, limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit_s, self._clock = limit_s, clock
        self._since_s: float | None = None

    def exceeded(self, serving: int) -> bool:
        """Whether `serving` has been 0 at every look for more than `limit_s` seconds."""
        if serving:
            self._since_s = None
            return False
        now = self._clock()
        if self._since_s is None:
            self._since_s = now
        return now > self._since_s + self.limit_s


class RetiredActors:
    """Tells the queue, where there is one. One that was away when it was told is told again."""

    def __init__(self, queue: ActorHandle | None) -> None:
        self._queue = queue
        self._calls: dict[str, ray.ObjectRef[None]] = {}

    def retire(self, name: str) -> None:
        """Tell the queue that `name` needs no prompts any more, and what it held is free; returns at once."""
        if self._queue is not None:
            self._calls[name] = self._queue.retire.remote(name)

    def check(self) -> None:
        """Look at what was answered meanwhile. Raises what the queue refused a retirement with."""
        for name, call in tuple(self._calls.items()):
            if not ray.wait([call], timeout=0)[0]:
                continue
            try:
                ray.get(call, timeout=0)
                del self._calls[name]
            except RayActorError:
                self.retire(name)


_CALL_TIMEOUT_S = 60.0  # for calls that only ask
_CLOSE_TIMEOUT_S = 20.0
_POLL_S = 1.0  # how often a wait looks at what goes on in the background


def print_event(event: Event) -> None:
    """One line on standard error: the report of a group that belongs to no run."""
    print(f"{event.component}: {event.reason if isinstance(event, Failure) else 'works again'}", file=sys.stderr)


class RolloutGroup:
    """As many rollout actors as are wanted; see the module's drawing. For one thread, the driver's."""

    def __init__(
        self,
        config: Config,
        plan: CorePlan,
        model_path: Path,
        run_dir: Path,
        queue: ActorHandle | None,
        store: StoreClient,
        report: Report = print_event,
        demand: TargetActorCount | None = None,
    ) -> None:
        """Nothing is started yet. Without a queue the actors only answer; `run` is then a mistake. Without a demand the
        number of actors changes by `scale` only."""
        self._config, self._plan, self._model_path = config, plan, model_path
        self._run_dir, self._queue, self._store, self._report = run_dir, queue, store, report
        self._orders = DesiredState()
        self._slots: list[ActorSupervisor] = []
        self._retirements = RetiredActors(queue)
        self._demand = demand
        self._count = config.rollout.actors_at_start
        self._started = False
        self._busy = Utilization()
        # Nobody may serve for as long as a new actor may take to find a place and to start.
        self._outage = OutageTimer(config.run.cluster_timeout_s + config.run.start_timeout_s)

    @property
    def handles(self) -> tuple[ActorHandle, ...]:
        """The Ray actors that serve, in order: whom a `TrainerEnginePublisher` sends to."""
        return tuple(process.handle for process in self._processes())

    @property
    def serving(self) -> int:
        """Actors that serve."""
        return len(self._serving())

    def start(self, timeout_s: float) -> None:
        """Place all actors and start their engines, side by side.

        Raises:
            UserError: the cluster does not offer what an actor asks for within `run.cluster_timeout_s`.
            RunFailed: no engine starts, or not all do within `timeout_s` seconds.
        """
        self._adjust()
        self._wait_for_places()
        deadline_s = time.monotonic() + timeout_s
        while late := [slot for slot in self._slots if slot.state is not State.SERVING]:
            refuse_if_all_fail_alike(self._slots)
            if time.monotonic() > deadline_s:
                raise too_late(late[0], "start its engine (run.start_timeout_s)", timeout_s, self._run_dir)
            self._wait([call for slot in late for call in slot.awaited], _POLL_S)
            self.check()
        self._started = True

    def run(self) -> None:
        """Let the actors serve the queue, in the background, until `close`."""
        self._orders.running = True
        self.check()

    def broadcast(self, version: PolicyVersion) -> None:
        """Ask every actor to apply the weights of `version` when they are in the store; returns at once."""
        self._orders.version = version
        for slot in self._slots:
            slot.update(version)

    def wait_for(self, version: PolicyVersion, timeout_s: float, on_wait: OnWait = no_op) -> None:
        """Return when every actor that serves has applied `version` or a later one, and at least one does.

        One that has not after `timeout_s` seconds is replaced, and not waited for. Meanwhile `on_wait` is called about
        once a second, to look after those that the weights come from; what it raises ends the wait.

        Raises:
            RunFailed: no actor has it after `timeout_s` seconds, or after the longer time that a new one may need.
        """
        asked_s = dict[str, float]()
        last_s = time.monotonic() + timeout_s + self._outage.limit_s
        while True:
            self.check()
            on_wait()
            late = [slot for slot in self._serving() if not _has(slot, version)]
            if self.serving and not late:
                return
            now = time.monotonic()
            overdue = [slot for slot in late if now > asked_s.setdefault(slot.name, now) + timeout_s]
            if now > last_s or (overdue and len(overdue) == self.serving):
                raise too_late((overdue or self._slots)[0], f"apply {label(version)}", timeout_s, self._run_dir)
            for slot in overdue:
                slot.fail(f"{slot.name} did not apply {label(version)} within {timeout_s:g} s")
            self._wait([call for slot in self._slots for call in slot.awaited], min(_POLL_S, timeout_s))

    def answers(
        self,
        prompts: Sequence[Chat],
        sampling: Sampling,
        version: PolicyVersion,
        on_wait: OnWait = no_op,
    ) -> list[ChatAnswer]:
        """Everything about the answer to each chat, in order, all by `version`; the queue is not served meanwhile.

        The chats are dealt to the actors in turn, with leases paused on all of them until all have answered; those of
        one that dies are dealt again. Chat i is sampled with `sampling.seed` + i, whoever answers it. `on_wait` is
        called as in `wait_for`, but only while nobody is there who has the weights.

        Raises:
            RunFailed: no actor is at `version`, and none will be.
        """
        asked = [(chat, _seeded(sampling, index)) for index, chat in enumerate(prompts)]
        shares = EvaluationDispatch(asked, version, self._config.run.step_timeout_s)
        with self.leases_paused():
            while not shares.complete:
                self.check()
                shares.collect()
                shares.assign([slot for slot in self._serving() if slot.applied == version])
                if shares.unassigned:
                    on_wait()
                    refuse_unless_some_follow(self._slots, version)
                if not shares.complete:
                    self._wait([*shares.awaited, *(call for slot in self._slots for call in slot.awaited)], _POLL_S)
        return shares.answers()

    @contextmanager
    def leases_paused(self) -> Iterator[None]:
        """Within this block no actor leases prompts, and none is drained: what it answers is one evaluation. Blocks may
        lie within each other."""
        if self._orders.examining:
            yield
            return
        self._orders.examining = True
        for process in self._processes():
            process.pause_leases()
        try:
            yield
        finally:
            self._orders.examining = False
            for process in self._processes():
                process.resume_leases()

    @property
    def pulses(self) -> dict[str, Pulse]:
        """What each serving actor answered last when it was pinged, by its name. Asks nobody."""
        return {slot.name: slot.pulse for slot in self._serving() if slot.pulse is not None}

    def reports(self) -> tuple[ActorReport, ...]:
        """What each actor counted, in order: of those that serve, and of those that were drained.

        What one counted that died went with it.
        """
        calls = [process.report() for process in self._processes()]
        if calls:
            ray.wait([call.reference for call in calls], num_returns=len(calls), timeout=_CALL_TIMEOUT_S)
        drained_reports = [report for slot in self._slots for report in slot.drained_reports]
        return (*drained_reports, *(call.result() for call in calls if call.succeeded()))

    def scale(self, count: int) -> None:
        """From now on so many actors. Those that are too many, the last ones, lease nothing more, complete what they
        have in flight (within `rollout.lease_s`; the rest is issued again) and give their places back."""
        assert count >= 1, f"{count} actors: a run needs at least one"
        self._count = count

    def check(self) -> None:
        """Move everything on that goes on in the background: failures, restarts, updates, actors that come and go.
        Nothing, before `start` and after `close`.

        Raises:
            RunFailed: an actor failed more often than `faults.max_restarts`, or none has served for too long.
        """
        if not self._slots:
            return
        for slot in self._slots:
            slot.check()
        if self._started and self._demand is not None:
            self._count = self._demand.count()
        if not self._orders.examining:
            self._adjust()
        if self._demand is not None:
            self._demand.report(self.status())
        self._retirements.check()
        self._refuse_unless_some_serve()

    def status(self) -> ActorCounts:
        """How many actors there shall be, and where each stands."""
        slots = (f"{slot.name}: {slot.state}" for slot in self._slots if slot.state is not State.VACANT)
        return ActorCounts(self._count, self.serving, tuple(slots))

    def observe(self, wait_share: float, batches_ready: float) -> None:
        """Take a step of the learner into account, where the number of actors follows it; see `Observation`."""
        if self._demand is not None:
            busy_share = self._busy.mean({slot.name: slot.pulse for slot in self._serving() if slot.pulse})
            self._demand.observe(Observation(wait_share, batches_ready, busy_share, self.serving))

    def close(self) -> None:
        """End all actors and give their places back. Whatever is left of one is killed."""
        closing = [slot.process.close() for slot in self._slots if slot.process is not None]
        calls = [call.reference for call in closing if call is not None]
        if calls:
            ray.wait(calls, num_returns=len(calls), timeout=_CLOSE_TIMEOUT_S)
        for slot in self._slots:
            slot.close()
        self._slots = []

    def _serving(self) -> list[ActorSupervisor]:
        return [slot for slot in self._slots if slot.state is State.SERVING]

    def _processes(self) -> list[ActorProcess]:
        return [slot.process for slot in self._serving() if slot.process is not None]

    def _adjust(self) -> None:
        """As many slots in use as there shall be actors: the first free ones are opened, the last ones drained."""
        used = [slot for slot in self._slots if slot.state not in (State.VACANT, State.DRAINING)]
        for slot in used[self._count :]:
            slot.drain()  # the last ones: cores are shared by those beyond the plan
        free = [slot for slot in self._slots if slot.state is State.VACANT]
        for _ in range(self._count - len(used)):
            slot = free.pop(0) if free else self._new_slot()
            slot.open()

    def _new_slot(self) -> ActorSupervisor:
        index = len(self._slots)
        cores = self._plan.of_actor(index)

        def begin(name: str) -> ActorProcess:
            queue, store = self._queue, self._store
            return ActorProcess(name, self._config, cores, self._model_path, self._run_dir, queue, store)

        self._slots.append(
            ActorSupervisor(index, self._config, self._orders, begin, self._retirements.retire, self._report)
        )
        return self._slots[-1]

    def _wait(self, calls: Sequence[PendingCall], timeout_s: float) -> None:
        """Return when one of these calls has ended, or after `timeout_s` seconds."""
        wait([call.reference for call in calls], timeout_s)

    def _wait_for_places(self) -> None:
        deadline_s = time.monotonic() + self._config.run.cluster_timeout_s
        while True:
            self.check()
            waiting = [slot for slot in self._slots if slot.state is State.PLACING]
            if not waiting:
                return
            if time.monotonic() > deadline_s:
                placed, waited_s = self._count - len(waiting), self._config.run.cluster_timeout_s
                each, free = rollout_bundle(self._config), ray.available_resources()
                text = too_few_places(each, free, placed, self._count, waited_s)
                self.close()
                raise UserError(text)
            left_s = max(0.0, deadline_s - time.monotonic())
            self._wait([call for slot in waiting for call in slot.awaited], min(_POLL_S, left_s))

    def _refuse_unless_some_serve(self) -> None:
        if self._outage.exceeded(self.serving):
            states = "; ".join(f"{slot.part}: {slot.failure or slot.state}" for slot in self._slots)
            raise RunFailed(
                f"no rollout actor has served for {self._outage.limit_s:g} s (run.cluster_timeout_s + "
                f"run.start_timeout_s): {states}"
            )


def _has(slot: ActorSupervisor, version: PolicyVersion) -> bool:
    return slot.applied is not None and slot.applied >= version


def _seeded(sampling: Sampling, index: int) -> Sampling:
    return sampling if sampling.seed is None else replace(sampling, seed=sampling.seed + index)
