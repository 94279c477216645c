"""Which side waits for which, and how many rollout actors would make neither wait.

Of a step the driver waits w seconds for rollouts, the learner computes for l and publishing holds it up for p. A actors
served meanwhile, s seconds each on average, and had a prompt in flight for b of them. Then

    learner wait = w / (w + l + p)
    actor idle   = 1 - b / s
    suggested    = ceil(n*),  n* of `actors.scaling`'s equation

Colocated, one side sleeps in the other's turn, which is not waiting: s is without an actor's sleep, and the learner
waits only while no prompt is in flight either, for (1 - b / s) of w. The number of actors is one.

Would it be faster so? Apart, with half the cores each, a step lasts as long as the slower side's work, or as both
sides' with `max_staleness` 0; colocated both do it on twice the cores, one after the other. With r seconds of a step in
which prompts are in flight the gain is at most

    2 max(r, l) / (r + l),  or 2 with `max_staleness` 0

if the work spreads over cores without loss. It is told where it would be a tenth or more; nothing switches by itself.

With `max_staleness` 0 the two sides take turns whatever their number, and n* only says whose turn is longer.

Nothing here asks anybody: the figures come with what is there anyway (the step's report, the batch, answered pings).
"""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

from actors.scaling import Utilization, balanced_actors
from unisd_rl.metrics import READ_PARTS, ReadPart, StepMetrics
from unisd_rl.types import Pulse

Phase = Literal["wait_s", "learn_s", "publish_s"]
_SLACK = 0.05  # a side that waits for less than this share does not hold the other up
_WORTH_TELLING = 1.1  # gain


@dataclass(slots=True)
class StepTimes:
    """Seconds the driver spent in each phase of one step."""

    wait_s: float = 0.0
    learn_s: float = 0.0
    publish_s: float = 0.0

    @contextmanager
    def measure(self, phase: Phase) -> Iterator[None]:
        """Add the time of this block to `phase`."""
        started = time.monotonic()
        try:
            yield
        finally:
            setattr(self, phase, getattr(self, phase) + time.monotonic() - started)

    def add(self, step: "StepTimes") -> None:
        """Add those of another step."""
        self.wait_s, self.learn_s = self.wait_s + step.wait_s, self.learn_s + step.learn_s
        self.publish_s += step.publish_s

    @property
    def total_s(self) -> float:
        """All phases together."""
        return self.wait_s + self.learn_s + self.publish_s


@dataclass(frozen=True, slots=True)
class Balance:
    """Shares from 0 to 1, nan where nothing is known.

    `actors_wanted` is n* of the module's equation, `depth` counts rollouts that are ready for later steps.
    """

    actors: float
    actor_idle: float
    learner_wait: float
    actors_wanted: float
    depth: float

    @property
    def bound_by(self) -> Literal["rollouts", "learner", "both", "unknown"]:
        """Which side the other waits for; `both` where they take turns, or hardly wait."""
        if math.isnan(self.actor_idle):
            return "unknown"
        if abs(self.actor_idle - self.learner_wait) < _SLACK:
            return "both"
        return "rollouts" if self.learner_wait > self.actor_idle else "learner"

    @property
    def actors_suggested(self) -> int | None:
        """A whole number of actors, at least 1; None where nothing is known."""
        return max(1, math.ceil(self.actors_wanted - 1e-9)) if math.isfinite(self.actors_wanted) else None


def balance(times: StepTimes, actors: float, idle: float, depth: float) -> Balance:
    """The module's equations."""
    wait = times.wait_s / times.total_s if times.total_s else math.nan
    return Balance(actors, idle, wait, balanced_actors(actors, 1.0 - idle, wait), depth)


def colocated_gain(times: StepTimes, busy_share: float, lockstep: bool) -> float:
    """How many times as fast the two sides would be in turns, of the module's equation; nan where nothing is known."""
    generate_s, learn_s = busy_share * times.total_s, times.learn_s
    both_s = generate_s + learn_s
    return 2.0 * (both_s if lockstep else max(generate_s, learn_s)) / both_s if both_s else math.nan


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """The whole run: seconds are sums over its steps, of the slowest rank for what ranks do.

    `read_s`: passes of the learner, by view (without gradient), for a quantile clip, and with gradient. `staleness` is
    the mean over tokens, nan if the policy sampled none. `actors_per_rank` is suggested.
    """

    bound_by: str
    actor_idle: float
    learner_wait: float
    actors: float
    actors_suggested: int | None
    actors_per_rank: float
    wait_s: float
    learn_s: float
    publish_s: float
    read_s: Mapping[ReadPart, float]
    update_s: float
    depth: float
    staleness: float
    colocated: bool = False
    colocated_gain: float | None = None
    """How many times as fast the run might be colocated; None where it could not be, or where nothing is known."""

    def describe(self) -> str:
        """One line for the screen."""
        if self.colocated:
            return self._describe_turns()
        shares = f"learner idle {self.learner_wait:.0%}"
        if self.actors_suggested is None:
            return f"{shares}; how busy the actors were is not known"
        side = {"both": "balanced", "learner": "the learner is the bottleneck"}
        return (
            f"{side.get(self.bound_by, 'rollouts are the bottleneck')}: {shares}, actors idle {self.actor_idle:.0%}; "
            f"suggested actors: {self.actors_suggested} ({self.actors_per_rank:.1f} per learner rank)"
            f"{self._suggest_turns()}"
        )

    def _describe_turns(self) -> str:
        total_s = self.wait_s + self.learn_s + self.publish_s
        parts = {"generating": self.wait_s, "learning": self.learn_s, "publishing": self.publish_s}
        shares = ", ".join(f"{name} {part_s / total_s:.0%}" for name, part_s in parts.items())
        return f"generation and learning took turns: {shares} of the time"

    def _suggest_turns(self) -> str:
        if self.colocated_gain is None or self.colocated_gain < _WORTH_TELLING:
            return ""
        return f"; with the set-up `colocated` up to {self.colocated_gain:.1f} times as fast"


@dataclass(slots=True)
class BottleneckMeter:
    """Adds up the steps of a run. For one thread, the driver's."""

    ranks: int
    colocated: bool = False
    """Whether the two sides take turns on the same cores."""
    may_be_colocated: bool = False
    """Whether they have cores apart now and could take turns."""
    lockstep: bool = False
    """Whether no rollout may run ahead of the learner (`max_staleness` 0)."""
    busy_share: float = 1.0
    """Mean over the actors of the last step of the share, 0 to 1, that each one was busy when it last said so."""
    times: StepTimes = field(default_factory=StepTimes)
    _steps: int = 0
    _actors: int = 0
    _depth: int = 0
    _staleness: float = 0.0
    _policy_tokens: int = 0
    _update_s: float = 0.0
    _read_s: dict[ReadPart, float] = field(default_factory=lambda: dict.fromkeys(READ_PARTS, 0.0))
    _utilization: Utilization = field(default_factory=Utilization)

    def add(self, metrics: StepMetrics, times: StepTimes, pulses: Mapping[str, Pulse], depth: int) -> Balance:
        """Take in a step, with the newest pulse of each actor by name.

        The idle share is of what they said since the step before; nan where none has said anything since.
        """
        idle = 1.0 - self._utilization.update(pulses)
        self.busy_share = self._utilization.newest(pulses)
        self._steps, self._actors, self._depth = self._steps + 1, self._actors + len(pulses), self._depth + depth
        self.times.add(times)
        self._update_s += metrics.timing.update_s
        for part, part_s in metrics.timing.read_s.items():
            self._read_s[part] += part_s
        staleness, tokens = metrics.policy.staleness_mean, metrics.counts.tokens
        if not math.isnan(staleness):
            self._staleness, self._policy_tokens = self._staleness + staleness * tokens, self._policy_tokens + tokens
        return self._balance(times, len(pulses), idle, depth)

    def total(self) -> Bottleneck | None:
        """What all steps say together; None before the first."""
        if not self._steps:
            return None
        actors, idle = self._actors / self._steps, 1.0 - self._utilization.total()
        mean = self._balance(self.times, actors, idle, self._depth / self._steps)
        gain = colocated_gain(self.times, 1.0 - idle, self.lockstep) if self.may_be_colocated else math.nan
        return Bottleneck(
            bound_by="both" if self.colocated else mean.bound_by,
            actor_idle=idle,
            learner_wait=mean.learner_wait,
            actors=actors,
            actors_suggested=mean.actors_suggested,
            actors_per_rank=mean.actors_wanted / self.ranks,
            wait_s=self.times.wait_s,
            learn_s=self.times.learn_s,
            publish_s=self.times.publish_s,
            read_s=dict(self._read_s),
            update_s=self._update_s,
            depth=mean.depth,
            staleness=self._staleness / self._policy_tokens if self._policy_tokens else math.nan,
            colocated=self.colocated,
            colocated_gain=None if math.isnan(gain) else gain,
        )

    def _balance(self, times: StepTimes, actors: float, idle: float, depth: float) -> Balance:
        found = balance(times, actors, idle, depth)
        if not self.colocated:
            return found
        return replace(found, learner_wait=found.learner_wait * idle, actors_wanted=actors)
