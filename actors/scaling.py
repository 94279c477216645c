"""How many rollout actors keep the learner busy: the rule behind `rollout.actors.max`. Pure: numbers in, a number out.

A step lasts s seconds, of which the learner waits for rollouts for a share w and works for (1-w) s. n actors with a
prompt in flight for a share b of the time spend n b s actor-seconds on a step's rollouts. Generation hides behind
learning (staleness >= 1) when that fits into the learner's own time:

    n* = n b s / ((1-w) s) = n b / (1-w)

More are added while the learner waits too long and no whole batch lies ready, at most as many as there are. One goes
when the learner hardly waits (a quarter of that share), a whole batch lies ready when it comes, and the others would
have a tenth of their time to spare: n b <= 0.9 (n-1). The gap between the two conditions, and that each must hold for
`patience` steps in a row, keep the number from swinging. After every change the steps are counted anew, and only those
in which all actors served: what an actor does to the waits is seen when it is there.

In lockstep (staleness 0) actors are idle while the learner works, b + w = 1, and n* = n: nothing changes.

How busy the actors were between two looks at their pulses.

How many rollout actors a run wants right now: as configured, as a person last asked, or as the learner's waits ask.

```
 config --------------------+
 RUN/control/actors.json ---+--> count --> RolloutGroup.check
 each step's waits (auto) --+              RolloutGroup.check --> RUN/control/status.json
```
"""

import math
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from actors.report import Pulse
from actors.scale_requests import ActorCounts, InvalidRequest, ScaleRequests
from unisd_rl.config.rollout import AutoActors, RolloutConfig
from unisd_rl.types import Failure, Report

_SPARE = 0.9  # share of its time an actor may be busy after another has gone


@dataclass(frozen=True, slots=True)
class Observation:
    """One step. `wait_share`: part of it, 0 to 1, in which the learner waited for rollouts. `batches_ready`: completed
    rollouts that lay ready after its batch was taken, in batches. `busy_share`: part of the time, 0 to 1, in which an
    actor had a prompt in flight, mean over actors. `serving`: actors that served."""

    wait_share: float
    batches_ready: float
    busy_share: float
    serving: int


class ScalingRule:
    """Keeps the number of actors that should be there; see the module."""

    def __init__(self, settings: AutoActors) -> None:
        self._settings = settings
        self._recent: deque[Observation] = deque(maxlen=settings.patience)
        self._count = settings.min

    @property
    def count(self) -> int:
        """How many actors there shall be."""
        return self._count

    def set(self, count: int) -> None:
        """Somebody decided: the rule goes on from there, within its bounds."""
        self._change(min(max(count, self._settings.min), self._settings.max))

    def observe(self, seen: Observation) -> None:
        """Take a step into account."""
        if seen.serving != self._count:
            self._recent.clear()
            return
        self._recent.append(seen)
        if len(self._recent) == self._settings.patience:
            if all(map(self._too_few, self._recent)):
                self._change(min(self._enough(), self._settings.max))
            elif all(map(self._too_many, self._recent)):
                self._change(max(self._count - 1, self._settings.min))

    def _too_few(self, seen: Observation) -> bool:
        return seen.wait_share > self._settings.wait_share and seen.batches_ready < 1.0

    def _too_many(self, seen: Observation) -> bool:
        spare = self._count * seen.busy_share <= _SPARE * (self._count - 1)
        return seen.wait_share < self._settings.wait_share / 4 and seen.batches_ready >= 1.0 and spare

    def _enough(self) -> int:
        """n* of the module, by the means over the recent steps; not more than twice what is there."""
        busy = sum(seen.busy_share for seen in self._recent) / len(self._recent)
        wait = sum(seen.wait_share for seen in self._recent) / len(self._recent)
        wanted = math.ceil(self._count * busy / max(1.0 - wait, 1e-9) - 1e-9)
        return min(max(wanted, self._count), 2 * self._count)

    def _change(self, count: int) -> None:
        if count != self._count:
            self._count = count
            self._recent.clear()


class Utilization:
    """Pulses count from the start of each actor; what matters is the time since the last look."""

    def __init__(self) -> None:
        self._seen: dict[str, Pulse] = {}
        self._shares: dict[str, float] = {}

    def mean(self, pulses: Mapping[str, Pulse]) -> float:
        """Mean share of time, 0 to 1, with a prompt in flight, of the actors named in `pulses`.

        An actor with no newer pulse than before counts as it did then. 1 where nothing is known: nobody is taken for
        idle without proof.
        """
        for name, pulse in pulses.items():
            before = self._seen.get(name)
            served_s = pulse.served_s - (before.served_s if before else 0.0)
            if served_s > 0.0:
                self._shares[name] = (pulse.busy_s - (before.busy_s if before else 0.0)) / served_s
                self._seen[name] = pulse
        known = [self._shares[name] for name in pulses if name in self._shares]
        return sum(known) / len(known) if known else 1.0


class TargetActorCount:
    """See the module. What a person says holds until they say something else; with `rollout.actors.max` the rule goes
    on from there, within its bounds."""

    def __init__(self, config: RolloutConfig, control: ScaleRequests, report: Report) -> None:
        self._control, self._report = control, report
        control.reset()
        self._rule = ScalingRule(config.actors) if isinstance(config.actors, AutoActors) else None
        self._count = config.actors_at_start
        self._requested: int | None = None
        self._objection = ""

    def count(self) -> int:
        """The number wanted now."""
        try:
            requested = self._control.requested_actors()
        except InvalidRequest as error:
            requested = self._requested
            self._object(str(error))
        if requested is not None and requested != self._requested:
            self._requested = self._count = requested
            if self._rule is not None:
                self._rule.set(requested)
        return self._count if self._rule is None else self._rule.count

    def observe(self, seen: Observation) -> None:
        """Take a step into account; nothing, where the number is fixed."""
        if self._rule is not None:
            self._rule.observe(seen)

    def report(self, status: ActorCounts) -> None:
        """Say what there is. What a full disk does not take is written at a later look."""
        with suppress(OSError):
            self._control.report(status)

    def _object(self, sentence: str) -> None:
        if sentence != self._objection:
            self._objection = sentence
            self._report(Failure("control", sentence, 0, 0.0))
