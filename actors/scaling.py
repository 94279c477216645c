"""How many rollout actors a run has: as configured, as a person last asked, or as many as keep the learner busy.

```
 config --------------------+
 RUN/control/actors.json ---+--> count --> RolloutGroup.check
 each step's waits (auto) --+              RolloutGroup.check --> RUN/control/status.json
```

The balance. A step lasts s seconds, of which the learner waits for rollouts for a share w and works for (1-w) s. n
actors with a prompt in flight for a share b of the time spend n b s actor-seconds on a step's rollouts. Generation
hides behind learning (staleness >= 1) when that fits into the learner's own time:

    n* = n b s / ((1-w) s) = n b / (1-w)

It assumes that an actor is as fast among more of them (cores and memory of its own) and that a busy one is full; actors
that are busy with few prompts could do with fewer. In lockstep (staleness 0) actors are idle while the learner works,
b + w = 1, and n* = n.

The rule behind `rollout.actors.max`. More are added while the learner waits too long and no whole batch lies ready, at
most as many as there are. One goes when the learner hardly waits (a quarter of that share), a whole batch lies ready
when it comes, and the others would have a tenth of their time to spare: n b <= 0.9 (n-1). The gap between the two
conditions, and that each must hold for `patience` steps in a row, keep the number from swinging. After every change the
steps are counted anew, and only those in which all actors served: what an actor does to the waits is seen when it is
there.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from actors.scale_requests import ActorCounts, InvalidRequest, ScaleRequests
from unisd_rl.config.rollout import AutoActors, RolloutConfig
from unisd_rl.types import Failure, Pulse, Report, Scaling

_SPARE = 0.9  # share of its time an actor may be busy after another has gone


def balanced_actors(actors: float, busy_share: float, wait_share: float) -> float:
    """n* of the module's equation; inf where the learner does nothing but wait."""
    return math.inf if wait_share >= 1.0 else actors * busy_share / (1.0 - wait_share)


class Utilization:
    """Shares of the time, 0 to 1, in which rollout actors had a prompt in flight, from their pulses.

    Pulses count from the start of each actor, whose name no other has.
    """

    def __init__(self) -> None:
        self._newest: dict[str, Pulse] = {}
        self._shares: dict[str, float] = {}

    def update(self, pulses: Mapping[str, Pulse]) -> float:
        """Share of the time that is new in these pulses, by name, over all actors; nan where none is newer."""
        new_served_s = new_busy_s = 0.0
        for name, pulse in pulses.items():
            before = self._newest.get(name)
            served_s = pulse.served_s - (before.served_s if before else 0.0)
            busy_s = pulse.busy_s - (before.busy_s if before else 0.0)
            if served_s > 0.0:
                self._newest[name], self._shares[name] = pulse, busy_s / served_s
                new_served_s, new_busy_s = new_served_s + served_s, new_busy_s + busy_s
        return new_busy_s / new_served_s if new_served_s else math.nan

    def newest(self, names: Iterable[str]) -> float:
        """Mean over these actors of what each one's newest pulse said.

        1 where nothing is known: nobody is taken for idle without proof.
        """
        known = [self._shares[name] for name in names if name in self._shares]
        return sum(known) / len(known) if known else 1.0

    def total(self) -> float:
        """Share of all the time that all actors served so far; nan where nothing is known."""
        served_s = sum(pulse.served_s for pulse in self._newest.values())
        return sum(pulse.busy_s for pulse in self._newest.values()) / served_s if served_s else math.nan


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
    """The number of actors that should be there; see the module."""

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

    def observe(self, step: Observation) -> None:
        """Take a step into account."""
        if step.serving != self._count:
            self._recent.clear()
            return
        self._recent.append(step)
        if len(self._recent) == self._settings.patience:
            if all(map(self._too_few, self._recent)):
                self._change(min(self._enough(), self._settings.max))
            elif all(map(self._too_many, self._recent)):
                self._change(max(self._count - 1, self._settings.min))

    def _too_few(self, step: Observation) -> bool:
        return step.wait_share > self._settings.wait_share and step.batches_ready < 1.0

    def _too_many(self, step: Observation) -> bool:
        spare = self._count * step.busy_share <= _SPARE * (self._count - 1)
        return step.wait_share < self._settings.wait_share / 4 and step.batches_ready >= 1.0 and spare

    def _enough(self) -> int:
        """n* of the means over the recent steps; not more than twice what is there."""
        busy = sum(step.busy_share for step in self._recent) / len(self._recent)
        wait = sum(step.wait_share for step in self._recent) / len(self._recent)
        balanced = min(balanced_actors(self._count, busy, wait), 2 * self._count)
        return max(math.ceil(balanced - 1e-9), self._count)

    def _change(self, count: int) -> None:
        if count != self._count:
            self._count = count
            self._recent.clear()


class TargetActorCount:
    """How many actors there shall be now. What a person asks for holds until they ask for something else; with
    `rollout.actors.max` the rule goes on from there, within its bounds."""

    def __init__(self, config: RolloutConfig, requests: ScaleRequests, report: Report) -> None:
        self._requests, self._report = requests, report
        requests.reset()
        self._rule = ScalingRule(config.actors) if isinstance(config.actors, AutoActors) else None
        self._count = config.actors_at_start
        self._requested: int | None = None
        self._objection = ""

    def count(self) -> int:
        """The number wanted now; a change is reported. A request that nobody can read is reported once, and changes
        nothing."""
        requested, reason = self._requested, "so that neither the learner nor the actors wait (rollout.actors.max)"
        try:
            requested = self._requests.requested_actors()
        except InvalidRequest as error:
            if str(error) != self._objection:
                self._objection = str(error)
                self._report(Failure("control", self._objection, 0, 0.0))
        count = self._count if self._rule is None else self._rule.count
        if requested is not None and requested != self._requested:
            self._requested = count = requested
            reason = "requested by unisd_rl.scale"
            if self._rule is not None:
                self._rule.set(requested)
                count = self._rule.count
        if count != self._count:
            self._report(Scaling("rollout", reason, self._count, count))
            self._count = count
        return count

    def observe(self, step: Observation) -> None:
        """Take a step into account; nothing, where the number is fixed."""
        if self._rule is not None:
            self._rule.observe(step)

    def report(self, counts: ActorCounts) -> None:
        """Write what there is. What a full disk does not take is written at a later look."""
        with suppress(OSError):
            self._requests.report(counts)
