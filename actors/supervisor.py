"""The supervisor of one rollout actor: starts its process, watches it, replaces it, drains it.

```
          open               place                  ready              drain
 vacant --------> placing ---------> starting ---------------> serving -----> draining ---> vacant
                     ^                   |                        |
                     |                   +------- failed ---------+
                     +--- back-off --- waiting <-------+
```

`check` looks and moves on; it never waits. Each process has a name of its own (`rollout-2`, then `rollout-2.1`, ...):
what an earlier one still sends is told from what the present one does. What one fails of (killed, engine dead or stuck,
hung, node lost, update overdue, start failed) makes no difference to what is done, unless it is certain to come again:
that ends the run. During the first start of a run the same failure twice in a row counts as certain.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from actors.process import ActorFailed, ActorProcess, PendingCall
from actors.rollout_actor import RolloutActor
from unisd_rl.cluster.retry import RestartPolicy
from unisd_rl.config import Config
from unisd_rl.errors import RunFailed, UserError
from unisd_rl.transport.weights.manifest import label
from unisd_rl.types import ActorReport, Failure, PolicyVersion, Pulse, Recovery, Report

_GRACE_S = 60.0  # a drained actor may take so much longer than its limit before it is ended


class State(StrEnum):
    """Where an actor stands; see the module's drawing."""

    VACANT = "vacant"
    WAITING = "waiting for its back-off"
    PLACING = "waiting for a place"
    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"


@dataclass(slots=True)
class DesiredState:
    """What holds for every actor, also for one that joins: whether all start for the first time, the newest version,
    whether the queue is served, whether leases are paused for an evaluation, and whether none may start now."""

    first_start: bool = True
    version: PolicyVersion | None = None
    running: bool = False
    leases_paused: bool = False
    starts_held: bool = False


@dataclass(slots=True)
class _Update:
    """One broadcast, not known to have ended."""

    call: PendingCall[PolicyVersion]
    version: PolicyVersion
    deadline_s: float


@dataclass(slots=True)
class _Incarnation:
    """One process, and what it was asked to do."""

    process: ActorProcess
    since_s: float
    applied: PolicyVersion | None = None
    starting: PendingCall[PolicyVersion] | None = None
    running: PendingCall[None] | None = None
    draining: PendingCall[ActorReport] | None = None
    updates: list[_Update] = field(default_factory=list)
    freeing: PendingCall[None] | None = None
    ping: PendingCall[Pulse] | None = None
    pinged_s: float = 0.0
    pulse: Pulse | None = None


class ActorSupervisor:
    """One actor, process after process; see the module's drawing. `begin` makes a process of a name and asks for its
    place; `retire` tells the queue that a name is not coming back; `clock` returns seconds."""

    def __init__(
        self,
        index: int,
        config: Config,
        desired: DesiredState,
        begin: Callable[[str], ActorProcess],
        retire: Callable[[str], None],
        report: Report,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.component = f"rollout-{index}"
        self._config, self._desired, self._clock = config, desired, clock
        self._begin, self._retire, self._report = begin, retire, report
        self._restarts = RestartPolicy(self.component, config.faults, clock)
        self._incarnations = 0
        self._current: _Incarnation | None = None
        self._retry_s = 0.0
        self._broken_s: float | None = None
        self.state = State.VACANT
        self.failure: str | None = None
        """What its processes failed of since one last served."""
        self.drained_reports: list[ActorReport] = []
        """What those counted that were drained."""

    @property
    def process(self) -> ActorProcess | None:
        """The present process, if there is one."""
        return self._current.process if self._current else None

    @property
    def name(self) -> str:
        """That of the present process, or of the actor while there is none."""
        return self._current.process.name if self._current else self.component

    @property
    def applied(self) -> PolicyVersion | None:
        """The version it is known to be at."""
        return self._current.applied if self._current else None

    @property
    def updating(self) -> bool:
        """Whether it has been asked for a version that it is not known to have."""
        return bool(self._current and self._current.updates)

    @property
    def freeing(self) -> bool:
        """Whether it was asked to give a GPU's memory back, and is not known to have done so."""
        return bool(self._current and self._current.freeing)

    @property
    def awaited(self) -> list[PendingCall]:
        """The calls whose end moves it on."""
        if self._current is None:
            return []
        current = self._current
        placed = current.process.placed if self.state is State.PLACING else None
        others = (current.starting, current.draining, current.freeing)
        calls = (placed, *others, *(update.call for update in current.updates))
        return [call for call in calls if call is not None]

    @property
    def calls(self) -> list[PendingCall]:
        """The calls that `check` looks at."""
        current = self._current
        others = (current.running, current.ping) if current is not None else ()
        return [*self.awaited, *(call for call in others if call is not None)]

    @property
    def pulse(self) -> Pulse | None:
        """The newest answer to a ping of the present process."""
        return self._current.pulse if self._current else None

    def open(self) -> None:
        """Ask the cluster for a place for the next process."""
        name = f"{self.component}.{self._incarnations}" if self._incarnations else self.component
        self._incarnations += 1
        self._current = _Incarnation(self._begin(name), self._clock())
        self.state = State.PLACING

    def update(self, version: PolicyVersion) -> None:
        """Ask a serving actor for a version; one that is not there yet will be asked when it is."""
        if self.state is State.SERVING and self._current is not None:
            deadline_s = self._clock() + self._config.weights.timeout_s
            self._current.updates.append(
                _Update(self._current.process.call(RolloutActor.update, version), version, deadline_s)
            )

    def free_gpu(self) -> None:
        """Let a serving actor, with nothing in flight, give its memory of a GPU back."""
        assert self._current is not None, f"{self.component} does not serve"
        self._current.freeing = self._current.process.call(RolloutActor.free_gpu)

    def drain(self) -> None:
        """Let the actor complete what it holds, and go; what does not serve goes at once."""
        if self.state is State.SERVING and self._current is not None:
            self._current.draining = self._current.process.call(RolloutActor.drain, self._config.rollout.lease_s)
            self._current.since_s, self.state = self._clock(), State.DRAINING
        elif self.state is not State.DRAINING:
            self._leave()
            self._broken_s = self.failure = None

    def close(self) -> None:
        """End whatever is there; nothing is reported."""
        if self._current is not None:
            self._current.process.end()
        self._current, self.state = None, State.VACANT

    def check(self) -> None:
        """Move on.

        Raises:
            RunFailed: its processes failed more often than `faults.max_restarts`, or of what is certain to come again.
            UserError: of what is certain to come again, and wrong in the configuration.
        """
        try:
            self._move_on()
        except ActorFailed as failure:
            self.fail(str(failure), failure.permanent)

    def fail(self, what: str, permanent: type[RunFailed | UserError] | None = None) -> None:
        """Give up this process and wait for the back-off. One that was leaving anyway is just gone.

        Raises:
            RunFailed, UserError: see `check`.
        """
        assert self._current is not None, f"{self.component} has no process that could fail"
        state, now = self.state, self._clock()
        self._leave()
        if state is State.DRAINING:
            self._report(Failure(self.component, f"{what}; it was leaving, and what it held is issued again", 0, 0.0))
            return
        again = self.failure is not None and _cause(what) == _cause(self.failure)
        # One that joins in mid-run may find a machine on which no engine starts: the others go on without it.
        if (self._desired.first_start and (permanent or again)) or (permanent and state is State.SERVING):
            raise (permanent or RunFailed)(what)
        if self._broken_s is None:
            self._broken_s = now
        self.failure = what
        fault = self._restarts.record_failure(what, self._progress)
        self.state, self._retry_s = State.WAITING, now + fault.wait_s
        self._report(fault)

    @property
    def _progress(self) -> int | None:
        """The learner's step, where actors follow it: one that takes long to start, and dies of every prompt, would be
        started again without end if only failures within `faults.window_s` counted."""
        version = self._desired.version
        return version.number if version is not None and self._config.rollout.sources.on_policy else None

    def _move_on(self) -> None:
        current = self._current
        if current is None:
            if self.state is State.WAITING and self._clock() >= self._retry_s:
                self.open()
        elif self.state is State.PLACING and current.process.placed.done():
            current.process.placed.result()
            if self._desired.starts_held:
                return
            current.starting, current.since_s = current.process.start(), self._clock()
            self.state = State.STARTING
        elif self.state is State.STARTING:
            self._check_start(current)
        elif self.state is State.SERVING:
            self._check_service(current)
            self._check_updates(current)
            if current.freeing is not None and current.freeing.done():
                current.freeing.result()
                current.freeing = None
            self._check_pulse(current)
        elif self.state is State.DRAINING:
            self._check_drain(current)

    def _check_start(self, current: _Incarnation) -> None:
        limit_s = self._config.run.start_timeout_s
        assert current.starting is not None, "a process is starting"
        if not current.starting.done():
            self._check_limit(current, limit_s, f"did not start its engine within run.start_timeout_s = {limit_s:g} s")
            return
        current.applied, current.starting = current.starting.result(), None
        current.pinged_s, self.state, self.failure = self._clock(), State.SERVING, None
        if self._broken_s is not None:
            self._report(Recovery(self.component, self._clock() - self._broken_s))
            self._broken_s = None
        if self._desired.version is not None and self._desired.version > current.applied:
            self.update(self._desired.version)
        self._check_service(current)

    def _check_service(self, current: _Incarnation) -> None:
        """Serve the queue as soon as that is ordered; one that joins during an evaluation leases nothing before its
        end."""
        if current.running is None and self._desired.running:
            if self._desired.leases_paused:
                current.process.call(RolloutActor.pause_leases)
            current.running = current.process.call(RolloutActor.run)
        elif current.running is not None and current.running.done():
            current.running.result()
            raise _failed(current, "stopped serving")

    def _check_updates(self, current: _Incarnation) -> None:
        for update in tuple(current.updates):
            if update.call.done():
                current.applied = max(current.applied or update.version, update.call.result())
                current.updates.remove(update)
            elif self._clock() > update.deadline_s:
                limit_s = self._config.weights.timeout_s
                raise _failed(
                    current, f"did not apply {label(update.version)} within weights.timeout_s = {limit_s:g} s"
                )

    def _check_pulse(self, current: _Incarnation) -> None:
        faults, now = self._config.faults, self._clock()
        if current.ping is None:
            if now >= current.pinged_s + faults.ping_s:
                current.ping, current.pinged_s = current.process.call(RolloutActor.ping), now
        elif current.ping.done():
            current.pulse, current.ping = current.ping.result(), None
        elif now > current.pinged_s + faults.silent_s:
            raise _failed(current, f"did not answer for faults.silent_s = {faults.silent_s:g} s")

    def _check_drain(self, current: _Incarnation) -> None:
        limit_s = self._config.rollout.lease_s + _GRACE_S
        assert current.draining is not None, "a process is draining"
        if current.draining.done():
            self.drained_reports.append(current.draining.result())
            self._leave()
        else:
            self._check_limit(current, limit_s, f"was not drained within {limit_s:g} s")

    def _check_limit(self, current: _Incarnation, limit_s: float, what: str) -> None:
        if self._clock() > current.since_s + limit_s:
            raise _failed(current, what)

    def _leave(self) -> None:
        """End the process, if there is one; nobody shall wait for what it holds."""
        if self._current is not None:
            self._retire(self._current.process.name)
            self._current.process.end()
        self._current, self.state = None, State.VACANT


def _cause(what: str) -> str:
    """A failure without what differs from process to process: names, numbers and addresses."""
    return re.sub(r"rollout-[\d.]*\d|0x[0-9a-f]+|\d+", "#", what)


def _failed(current: _Incarnation, what: str) -> ActorFailed:
    return ActorFailed(f"{current.process.name} {what}; its log is {current.process.log}")
