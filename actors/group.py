"""The rollout actors of a run as the driver sees them: supervised, served by one queue and one weight store.

```
[begin ->] start -> broadcast(version 0) -> run -> { broadcast(version) | answers | scale | check } ... -> close
```

Each has an `ActorSupervisor`; `check`, called about once a second in every wait of the driver, moves all of them on and
never waits itself. What fails is reported, replaced after a back-off under a new name, and reported again when it
serves; the others go on meanwhile. Broadcasts go out in the background, one call an actor, so a stuck actor does not
hold the others up.

Only the first start is strict: what the cluster lacks then is the user's error, and an engine that does not start at
the second attempt either is a failure of the run. Afterwards the run goes on with those that serve, and fails when none
has for `run.cluster_timeout_s` + `run.start_timeout_s`.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from actors.eval_batch import EvaluationDispatch, chat_requests
from actors.process import ActorFailed, ActorProcess, PendingCall, asked_together
from actors.rollout_actor import ActorSpec, Chat, ChatAnswer, ChatRequest, ChoiceRequest, RolloutActor
from actors.scale_requests import ActorCounts
from actors.scaling import Observation, TargetActorCount
from actors.supervisor import ActorSupervisor, DesiredState, State
from unisd_rl.cluster.cores import CorePlan
from unisd_rl.cluster.processes import Handle
from unisd_rl.cluster.resources import describe_amounts, rollout_bundle
from unisd_rl.cluster.runtime import runtime
from unisd_rl.cluster.waiting import wait, wait_until
from unisd_rl.errors import RunFailed, UserError
from unisd_rl.storage.logs import log_path
from unisd_rl.terminal import say
from unisd_rl.transport.rollouts.actor_client import RetiredActors
from unisd_rl.transport.weights.manifest import label
from unisd_rl.types import ActorReport, Event, Failure, OnWait, PolicyVersion, Pulse, Report, Sampling, no_op

_CALL_TIMEOUT_S = 60.0  # for calls that only ask
_CLOSE_TIMEOUT_S = 20.0
_QUIET_S = 3.0  # how long places are looked for before the console says so: Ray needs a moment to give them
_SPREAD_S = 1e-4  # an actor: what looking at it once costs, about
_POLL_S = 1.0  # how often a wait looks at what goes on in the background


class OutageTimer:
    """How long nobody has served. It counts from the first look that finds nobody: what happened before it, while
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


def print_event(event: Event) -> None:
    """One line on standard error: the report of a group that belongs to no run, which fails and recovers only."""
    say(f"{event.component}: {event.reason if isinstance(event, Failure) else 'works again'}")


class RolloutGroup:
    """As many rollout actors as are wanted; see the module's drawing. For one thread, the driver's."""

    def __init__(
        self, spec: ActorSpec, plan: CorePlan, report: Report = print_event, target: TargetActorCount | None = None
    ) -> None:
        """Nothing is started yet. Without a target the number of actors changes by `scale` only."""
        self._spec, self._plan, self._report, self._target = spec, plan, report, target
        self._desired = DesiredState()
        self._supervisors: list[ActorSupervisor] = []
        self._retired = RetiredActors(spec.queue)
        self._shares_gpu = spec.config.turns_on_gpu
        self._count = spec.config.rollout.actors_at_start
        # Nobody may serve for as long as a new actor may take to find a place and to start.
        self._outage = OutageTimer(spec.config.run.cluster_timeout_s + spec.config.run.start_timeout_s)

    @property
    def handles(self) -> tuple[Handle, ...]:
        """The processes that serve, in order: whom a `TrainerEnginePublisher` sends to."""
        return tuple(process.handle for process in self._processes())

    @property
    def serving(self) -> int:
        """Actors that serve."""
        return len(self._serving())

    @property
    def pulses(self) -> dict[str, Pulse]:
        """What each serving actor answered last when it was pinged, by its name. Asks nobody."""
        return {actor.name: actor.pulse for actor in self._serving() if actor.pulse is not None}

    def begin(self) -> None:
        """Let all actors look for places and start their engines in the background; `check` and `start` go on with it.
        A failure is raised there."""
        self._adjust_count()

    def start(self, timeout_s: float) -> None:
        """Place all actors and start their engines, side by side, unless `begin` did; returns when all serve.

        Raises:
            UserError: the cluster does not offer what an actor asks for within `run.cluster_timeout_s`.
            RunFailed: an engine fails twice of the same, or of what is certain to come again, or not all start within
                `timeout_s` seconds.
        """
        self.begin()
        self._wait_for_placement()
        deadline_s = time.monotonic() + timeout_s
        while late := [actor for actor in self._supervisors if actor.state is not State.SERVING]:
            if time.monotonic() > deadline_s:
                raise self._too_late(late[0], "start its engine (run.start_timeout_s)", timeout_s)
            self._wait(_POLL_S)
            self.check()
        self._desired.first_start = False

    def run(self) -> None:
        """Let the actors serve the queue, in the background, until `close`."""
        self._desired.running = True
        self.check()

    def broadcast(self, version: PolicyVersion) -> None:
        """Ask every actor to apply the weights of `version` when they are in the store; returns at once."""
        self._desired.version = version
        for actor in self._supervisors:
            actor.update(version)

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
            late = [actor for actor in self._serving() if actor.applied is None or actor.applied < version]
            if self.serving and not late:
                return
            now = time.monotonic()
            overdue = [actor for actor in late if now > asked_s.setdefault(actor.name, now) + timeout_s]
            if now > last_s or (overdue and len(overdue) == self.serving):
                raise self._too_late((overdue or self._supervisors)[0], f"apply {label(version)}", timeout_s)
            for actor in overdue:
                actor.fail(f"{actor.name} did not apply {label(version)} within {timeout_s:g} s")
            self._wait(min(_POLL_S, timeout_s))

    def answers(
        self, chats: Sequence[Chat], sampling: Sampling, version: PolicyVersion, on_wait: OnWait = no_op
    ) -> list[ChatAnswer]:
        """Everything about the answer to each chat, in order, all by `version`; the queue is not served meanwhile.

        The chats are assigned to the actors in turn, with leases paused on all of them until all have answered; those
        of one that dies are assigned again. Chat i is sampled with `sampling.seed` + i, whoever answers it. `on_wait`
        is called as in `wait_for`, but only while nobody is there who has the weights.

        Raises:
            RunFailed: no actor is at `version`, and none will be.
        """
        return self._answers(chat_requests(chats, sampling), version, on_wait)

    def choices(self, requests: Sequence[ChoiceRequest], version: PolicyVersion, on_wait: OnWait = no_op) -> list[str]:
        """Of each request the likeliest text, in order, all by `version`; otherwise as `answers`."""
        return [answer.text for answer in self._answers(requests, version, on_wait)]

    def _answers(
        self, requests: Sequence[ChatRequest | ChoiceRequest], version: PolicyVersion, on_wait: OnWait
    ) -> list[ChatAnswer]:
        dispatch = EvaluationDispatch(requests, version, self._spec.config.run.step_timeout_s)
        with self.leases_paused():
            while not dispatch.complete:
                self.check()
                dispatch.advance(self._supervisors, on_wait)
                if not dispatch.complete:
                    self._wait(_POLL_S, dispatch.awaited)
        return dispatch.answers()

    @contextmanager
    def leases_paused(self) -> Iterator[None]:
        """Within this block no actor leases prompts, and none is drained: what it answers is one evaluation. Blocks may
        lie within each other."""
        if self._desired.leases_paused:
            yield
            return
        with self._leases_ended_by(RolloutActor.pause_leases):
            yield

    @contextmanager
    def asleep(self, timeout_s: float, on_wait: OnWait = no_op) -> Iterator[None]:
        """As `leases_paused`, and the block begins when all that the actors held is committed: nothing is in flight in
        it, and no lease is held. `on_wait` is called about once a second until then; what it raises ends the wait. On a
        GPU that both sides share no engine holds memory or is starting either.

        Raises:
            RunFailed: that took longer than `timeout_s` seconds. What an actor held that failed is leased by others
                later.
        """
        deadline_s = time.monotonic() + timeout_s
        with self._leases_ended_by(RolloutActor.sleep) as calls:
            while (pending := [call for call in calls if not call.done()]) or self._starts_on_shared_gpu():
                self._check_deadline(deadline_s, "complete what it holds before the learner's turn", timeout_s)
                self.check()
                on_wait()
                self._wait(min(_POLL_S, timeout_s), pending)
            if self._shares_gpu:
                self._free_gpu(deadline_s, timeout_s)
            yield

    def _free_gpu(self, deadline_s: float, timeout_s: float) -> None:
        """Nothing is published meanwhile: weights that are pushed would wake an engine again."""
        for actor in self._serving():
            actor.free_gpu()
        while any(actor.freeing for actor in self._supervisors):
            self._check_deadline(deadline_s, "give the GPU's memory back for the learner's turn", timeout_s)
            self.check_beside_learner()
            self._wait(min(_POLL_S, timeout_s))

    @contextmanager
    def _leases_ended_by(self, method: Callable[[RolloutActor], Any]) -> Iterator[list[PendingCall[Any]]]:
        self._desired.leases_paused = True
        try:
            yield [process.call(method) for process in self._processes()]
        finally:
            self._desired.leases_paused = False
            for process in self._processes():
                process.call(RolloutActor.resume_leases)

    def reports(self) -> tuple[ActorReport, ...]:
        """What each actor counted, in order: of those that serve, and of those that were drained.

        What one counted that died went with it.
        """
        calls = [process.call(RolloutActor.report) for process in self._processes()]
        _wait_for_all(calls, _CALL_TIMEOUT_S)
        reports = [report for actor in self._supervisors for report in actor.drained_reports]
        for call in calls:
            with suppress(ActorFailed):
                if call.done():
                    reports.append(call.result())
        return tuple(reports)

    def scale(self, count: int) -> None:
        """From now on so many actors. Those that are too many, the last ones, lease nothing more, complete what they
        have in flight (within `rollout.lease_s`; the rest is issued again) and give their places back."""
        assert count >= 1, f"{count} actors: a run needs at least one"
        self._count = count

    def check(self) -> None:
        """Move everything on that goes on in the background: failures, restarts, updates, actors that come and go.
        Nothing, before `begin` or `start` and after `close`.

        Raises:
            RunFailed: an actor failed more often than `faults.max_restarts`, or none has served for too long.
        """
        if not self._supervisors:
            return
        with asked_together([call for actor in self._supervisors for call in actor.calls]):
            for actor in self._supervisors:
                actor.check()
        if not self._desired.first_start and self._target is not None:
            self._count = self._target.count()
        if not self._desired.leases_paused:
            self._adjust_count()
        if self._target is not None:
            self._target.report(self.counts())
        self._retired.check()
        if self._outage.exceeded(self.serving or self._desired.starts_held):
            states = "; ".join(f"{actor.component}: {actor.failure or actor.state}" for actor in self._supervisors)
            raise RunFailed(
                f"no rollout actor has served for {self._outage.limit_s:g} s (run.cluster_timeout_s + "
                f"run.start_timeout_s): {states}"
            )

    def check_beside_learner(self) -> None:
        """As `check`, while the learner computes: on a GPU that both sides share no engine starts then, for it would
        take memory that the learner uses."""
        self._desired.starts_held = self._shares_gpu
        try:
            self.check()
        finally:
            self._desired.starts_held = False

    def counts(self) -> ActorCounts:
        """How many actors there shall be, and where each stands."""
        states = (f"{actor.name}: {actor.state}" for actor in self._supervisors if actor.state is not State.VACANT)
        return ActorCounts(self._count, self.serving, tuple(states))

    def observe(self, wait_share: float, busy_share: float, batches_ready: float) -> None:
        """Take a step of the learner into account, where the number of actors follows it; see `Observation`."""
        if self._target is not None:
            self._target.observe(Observation(wait_share, batches_ready, busy_share, self.serving))

    def close(self) -> None:
        """End all actors and give their places back. Whatever is left of one is killed, and so is one that starts: it
        would hear nothing before its engine is there."""
        _wait_for_all([process.call(RolloutActor.close) for process in self._processes()], _CLOSE_TIMEOUT_S)
        for actor in self._supervisors:
            actor.close()
        self._supervisors = []

    def _serving(self) -> list[ActorSupervisor]:
        return [actor for actor in self._supervisors if actor.state is State.SERVING]

    def _processes(self) -> list[ActorProcess]:
        return [actor.process for actor in self._serving() if actor.process is not None]

    def _adjust_count(self) -> None:
        """As many actors as there shall be: the first vacant supervisors fill their places, the last ones drain."""
        used = [actor for actor in self._supervisors if actor.state not in (State.VACANT, State.DRAINING)]
        for actor in used[self._count :]:
            actor.drain()  # the last ones: cores are shared by those beyond the plan
        vacant = [actor for actor in self._supervisors if actor.state is State.VACANT]
        for _ in range(self._count - len(used)):
            actor = vacant.pop(0) if vacant else self._new_supervisor()
            actor.open()

    def _new_supervisor(self) -> ActorSupervisor:
        index, spec = len(self._supervisors), self._spec
        begin = partial(ActorProcess, cores=self._plan.of_actor(index), spec=spec)
        actor = ActorSupervisor(index, spec.config, self._desired, begin, self._retired.retire, self._report)
        self._supervisors.append(actor)
        return actor

    def _wait(self, timeout_s: float, others: Sequence[PendingCall] = ()) -> None:
        """Return when a call that moves an actor on, or one of the `others`, is done, or after `timeout_s` seconds."""
        calls = [*others, *(call for actor in self._supervisors for call in actor.awaited)]
        if wait([call.reference for call in calls], timeout_s):
            # Others are about to end too: to look at all after each would take the square of their number.
            runtime().sleep(_SPREAD_S * len(self._supervisors))

    def _wait_for_placement(self) -> None:
        limit_s, bundle = self._spec.config.run.cluster_timeout_s, rollout_bundle(self._spec.config)
        each = describe_amounts(bundle)

        def placed() -> bool:
            self.check()
            return not self._placing()

        awaited = f"places of {self._count} rollout actors, {each} each"
        if not wait_until(placed, limit_s, awaited, lambda: self._wait(min(_POLL_S, limit_s)), _QUIET_S):
            found, free = self._count - self._placing(), describe_amounts(runtime().free(bundle))
            self.close()
            raise UserError(
                f"only {found} of {self._count} rollout actors found a place within {limit_s:g} s: each asks one node "
                f"for {each}, and the cluster has {free} left; add nodes, or lower rollout.actors"
            )

    def _placing(self) -> int:
        return sum(actor.state is State.PLACING for actor in self._supervisors)

    def _starts_on_shared_gpu(self) -> bool:
        return self._shares_gpu and any(actor.state is State.STARTING for actor in self._supervisors)

    def _check_deadline(self, deadline_s: float, task: str, timeout_s: float) -> None:
        if time.monotonic() > deadline_s:
            raise self._too_late(self._supervisors[0], f"{task} (run.step_timeout_s)", timeout_s)

    def _too_late(self, actor: ActorSupervisor, task: str, timeout_s: float) -> RunFailed:
        log = log_path(self._spec.run_dir, actor.name)
        return RunFailed(f"waited {timeout_s:g} s for {actor.name} to {task}; its log is {log}")


def _wait_for_all(calls: Sequence[PendingCall], timeout_s: float) -> None:
    if calls:
        runtime().wait([call.reference for call in calls], timeout_s, count=len(calls))
