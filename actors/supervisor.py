"""One rollout actor's place in the group, whoever fills it: started, watched, replaced, drained.

```
          open              a place                 ready              drain
 gone ----------> placing ---------> starting ---------------> serving -----> draining ---> gone
                     ^                   |                        |
                     |                   +------- failed ---------+
                     +--- back-off --- waiting <-------+
```

`check` looks and moves on; it never waits. Each process that fills the slot has a name of its own (`rollout-2`, then
`rollout-2.1`, ...): what an earlier one still sends is told from what the present one does. What one fails of
(killed, engine dead or stuck, hung, node lost, update overdue, start failed) makes no difference to what is done.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from actors.process import ActorFailed, ActorProcess, PendingCall
from actors.report import ActorReport, Pulse
from unisd_rl.cluster.retry import RestartPolicy
from unisd_rl.config import Config
from unisd_rl.transport.weights.manifest import label
from unisd_rl.types import Failure, PolicyVersion, Recovery, Report

_GRACE_S = 60.0  # a drained actor may take so much longer than its limit before it is ended


class State(StrEnum):
    """Where a slot stands; see the module's drawing."""

    VACANT = "gone"
    WAITING = "waiting for its back-off"
    PLACING = "waiting for a place"
    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"


@dataclass(slots=True)
class DesiredState:
    """What holds for every actor, also for one that joins: the newest version, whether the queue is served, whether an
    evaluation is under way (no leases then)."""

    version: PolicyVersion | None = None
    running: bool = False
    examining: bool = False


@dataclass(slots=True)
class _Update:
    """One broadcast, not known to have ended."""

    call: PendingCall[PolicyVersion]
    version: PolicyVersion
    deadline_s: float


@dataclass(slots=True)
class _Incarnation:
    """One process in the slot, and what it was asked to do."""

    process: ActorProcess
    since_s: float
    applied: PolicyVersion | None = None
    starting: PendingCall[PolicyVersion] | None = None
    running: PendingCall[None] | None = None
    draining: PendingCall[ActorReport] | None = None
    updates: list[_Update] = field(default_factory=list)
    ping: PendingCall[Pulse] | None = None
    pinged_s: float = 0.0
    pulse: Pulse | None = None


class ActorSupervisor:
    """See the module's drawing. `begin` makes a process of a name and asks for its place; `retire` tells the queue that
    a name is not coming back; `clock` returns seconds."""

    def __init__(
        self,
        index: int,
        config: Config,
        orders: DesiredState,
        begin: Callable[[str], ActorProcess],
        retire: Callable[[str], None],
        report: Report,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.part = f"rollout-{index}"
        self._config, self._orders, self._clock = config, orders, clock
        self._begin, self._retire, self._report = begin, retire, report
        self._budget = RestartPolicy(self.part, config.faults, clock)
        self._incarnations = 0
        self._life: _Incarnation | None = None
        self._until_s = 0.0
        self._broken_s: float | None = None
        self.state = State.VACANT
        self.failure: str | None = None
        """What its processes failed of since one last served."""
        self.drained_reports: list[ActorReport] = []
        """What those counted that were drained."""

    @property
    def process(self) -> ActorProcess | None:
        """Who fills the slot now."""
        return self._life.process if self._life else None

    @property
    def name(self) -> str:
        """That of the process, or of the slot while nobody fills it."""
        return self._life.process.name if self._life else self.part

    @property
    def applied(self) -> PolicyVersion | None:
        """The version its actor is known to be at."""
        return self._life.applied if self._life else None

    @property
    def updating(self) -> bool:
        """Whether its actor has been asked for a version that it is not known to have."""
        return bool(self._life and self._life.updates)

    @property
    def awaited(self) -> list[PendingCall]:
        """The calls whose end moves the slot on."""
        if self._life is None:
            return []
        life = self._life
        placed = life.process.placed if self.state is State.PLACING else None
        calls = (placed, life.starting, life.draining, *(update.call for update in life.updates))
        return [call for call in calls if call is not None]

    @property
    def pulse(self) -> Pulse | None:
        """The newest answer to a ping of the present process."""
        return self._life.pulse if self._life else None

    def open(self) -> None:
        """Ask for a place for the next process."""
        name = f"{self.part}.{self._incarnations}" if self._incarnations else self.part
        self._incarnations += 1
        self._life = _Incarnation(self._begin(name), self._clock())
        self.state = State.PLACING

    def update(self, version: PolicyVersion) -> None:
        """Ask a serving actor for a version; one that is not there yet will be asked when it is."""
        if self.state is State.SERVING and self._life is not None:
            deadline_s = self._clock() + self._config.weights.timeout_s
            self._life.updates.append(_Update(self._life.process.update(version), version, deadline_s))

    def drain(self) -> None:
        """Let the actor complete what it holds, and go; what does not serve goes at once."""
        if self.state is State.SERVING and self._life is not None:
            self._life.draining = self._life.process.drain(self._config.rollout.lease_s)
            self._life.since_s, self.state = self._clock(), State.DRAINING
        elif self.state is not State.DRAINING:
            self._leave()
            self._broken_s = self.failure = None

    def close(self) -> None:
        """End whatever is there; nothing is reported."""
        if self._life is not None:
            self._life.process.end()
        self._life, self.state = None, State.VACANT

    def check(self) -> None:
        """Move on.

        Raises:
            RunFailed: the slot's processes failed more often than `faults.max_restarts`.
        """
        try:
            self._move_on()
        except ActorFailed as failure:
            self.fail(str(failure))

    def fail(self, what: str) -> None:
        """Give up this process and wait for the back-off. One that was leaving anyway is just gone.

        Raises:
            RunFailed: see `check`.
        """
        assert self._life is not None, f"nothing is in {self.part} that could fail"
        leaving, now = self.state is State.DRAINING, self._clock()
        self._leave()
        if leaving:
            self._report(Failure(self.part, f"{what}; it was leaving, and what it held is issued again", 0, 0.0))
            return
        if self._broken_s is None:
            self._broken_s = now
        self.failure = what
        fault = self._budget.record_failure(what)
        self.state, self._until_s = State.WAITING, now + fault.wait_s
        self._report(fault)

    def _move_on(self) -> None:
        life = self._life
        if self.state is State.WAITING and self._clock() >= self._until_s:
            self.open()
        elif self.state is State.PLACING and life is not None and life.process.placed.done():
            life.process.placed.result()
            life.starting, life.since_s = life.process.start(), self._clock()
            self.state = State.STARTING
        elif self.state is State.STARTING and life is not None:
            self._check_start(life)
        elif self.state is State.SERVING and life is not None:
            self._check_service(life)
            self._check_updates(life)
            self._check_pulse(life)
        elif self.state is State.DRAINING and life is not None:
            self._check_drain(life)

    def _check_start(self, life: _Incarnation) -> None:
        limit_s = self._config.run.start_timeout_s
        assert life.starting is not None, "a process is starting"
        if not life.starting.done():
            self._refuse_after(life, limit_s, f"did not start its engine within run.start_timeout_s = {limit_s:g} s")
            return
        life.applied, life.starting = life.starting.result(), None
        life.pinged_s, self.state, self.failure = self._clock(), State.SERVING, None
        if self._broken_s is not None:
            self._report(Recovery(self.part, self._clock() - self._broken_s))
            self._broken_s = None
        if self._orders.version is not None and self._orders.version > life.applied:
            self.update(self._orders.version)
        self._check_service(life)

    def _check_service(self, life: _Incarnation) -> None:
        """Serve the queue as soon as that is ordered; one that joins during an evaluation leases nothing before its
        end."""
        if life.running is None and self._orders.running:
            if self._orders.examining:
                life.process.pause_leases()
            life.running = life.process.run()
        elif life.running is not None and life.running.done():
            life.running.result()
            raise ActorFailed(f"{life.process.name} stopped serving; its log is {life.process.log}")

    def _check_updates(self, life: _Incarnation) -> None:
        for update in tuple(life.updates):
            if update.call.done():
                life.applied = max(life.applied or update.version, update.call.result())
                life.updates.remove(update)
            elif self._clock() > update.deadline_s:
                limit_s = self._config.weights.timeout_s
                self._refuse(life, f"did not apply {label(update.version)} within weights.timeout_s = {limit_s:g} s")

    def _check_pulse(self, life: _Incarnation) -> None:
        faults, now = self._config.faults, self._clock()
        if life.ping is None:
            if now >= life.pinged_s + faults.ping_s:
                life.ping, life.pinged_s = life.process.ping(), now
        elif life.ping.done():
            life.pulse, life.ping = life.ping.result(), None
        elif now > life.pinged_s + faults.silent_s:
            self._refuse(life, f"did not answer for faults.silent_s = {faults.silent_s:g} s")

    def _check_drain(self, life: _Incarnation) -> None:
        limit_s = self._config.rollout.lease_s + _GRACE_S
        assert life.draining is not None, "a process is draining"
        if life.draining.done():
            self.drained_reports.append(life.draining.result())
            self._leave()
        else:
            self._refuse_after(life, limit_s, f"was not drained within {limit_s:g} s")

    def _refuse_after(self, life: _Incarnation, limit_s: float, what: str) -> None:
        if self._clock() > life.since_s + limit_s:
            self._refuse(life, what)

    @staticmethod
    def _refuse(life: _Incarnation, what: str) -> None:
        raise ActorFailed(f"{life.process.name} {what}; its log is {life.process.log}")

    def _leave(self) -> None:
        """End the process, if there is one; nobody shall wait for what it holds."""
        if self._life is not None:
            self._retire(self._life.process.name)
            self._life.process.end()
        self._life, self.state = None, State.VACANT
