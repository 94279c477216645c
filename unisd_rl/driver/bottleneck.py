"""Which side waits for which, and how many rollout actors would make neither wait.

Of a step the driver waits w seconds for rollouts, the learner computes for l and publishing holds it up for p. A actors
served meanwhile, s seconds each on average, and had a prompt in flight for b of them. Then

    learner wait = w / (w + l + p)
    actor idle   = 1 - b / s
    suggested    = ceil(n*),  n* of `actors.scaling`'s equation

With `max_staleness` 0 the two sides take turns whatever their number, and n* only says whose turn is longer.

Nothing here asks anybody: the figures come with what is there anyway (the step's report, the batch, answered pings).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from actors.report import Pulse
from actors.scaling import Utilization, balanced_actors
from unisd_rl.metrics import READ_PARTS, ReadPart, StepMetrics

_SLACK = 0.05  # a side that waits for less than this share does not hold the other up


class StepSeconds(Protocol):
    """Where a step's time went, as the driver saw it."""

    @property
    def wait_s(self) -> float:
        """Waiting for rollouts."""
        ...

    @property
    def learn_s(self) -> float:
        """The learner's step."""
        ...

    @property
    def publish_s(self) -> float:
        """Taking the weights."""
        ...


@dataclass(frozen=True, slots=True)
class Balance:
    """Shares from 0 to 1, nan where nothing is known.

    `actors_wanted` is n* of the module's equation, `depth` counts rollouts that are ready for later steps.
    """

    actors: int
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


def balance(seconds: StepSeconds, actors: int, idle: float, depth: float) -> Balance:
    """The module's equations."""
    total_s = seconds.wait_s + seconds.learn_s + seconds.publish_s
    wait = seconds.wait_s / total_s if total_s else math.nan
    return Balance(actors, idle, wait, balanced_actors(actors, 1.0 - idle, wait), depth)


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

    def describe(self) -> str:
        """One line for the screen."""
        shares = f"the learner waited {self.learner_wait:.0%} of the time"
        if self.actors_suggested is None:
            return f"{shares}; how busy the actors were is not known"
        side = {"both": "neither side holds up the other"}.get(self.bound_by, f"the {self.bound_by} held up the rest")
        return (
            f"{side}: {shares}, the actors were idle {self.actor_idle:.0%}; {self.actors_suggested} would be balanced, "
            f"{self.actors_per_rank:.1f} a learner rank"
        )


@dataclass(slots=True)
class BottleneckMeter:
    """Adds up steps. For one thread, the driver's."""

    ranks: int
    wait_s: float = 0.0
    learn_s: float = 0.0
    publish_s: float = 0.0
    busy_share: float = 1.0
    """Mean over the actors of the last step of the share, 0 to 1, that each one was busy when it last said so."""
    _steps: int = 0
    _actors: int = 0
    _depth: int = 0
    _staleness: float = 0.0
    _policy_tokens: int = 0
    _update_s: float = 0.0
    _read_s: dict[ReadPart, float] = field(default_factory=lambda: dict.fromkeys(READ_PARTS, 0.0))
    _utilization: Utilization = field(default_factory=Utilization)

    def add(self, metrics: StepMetrics, seconds: StepSeconds, pulses: Mapping[str, Pulse], depth: int) -> Balance:
        """Take in a step, with the newest pulse of each actor by name.

        The idle share is of what they said since the step before; nan where none has said anything since.
        """
        idle = 1.0 - self._utilization.update(pulses)
        self.busy_share = self._utilization.newest(pulses)
        self._steps, self._actors, self._depth = self._steps + 1, self._actors + len(pulses), self._depth + depth
        self.wait_s, self.learn_s = self.wait_s + seconds.wait_s, self.learn_s + seconds.learn_s
        self.publish_s += seconds.publish_s
        self._update_s += metrics.timing.update_s
        for part, part_s in metrics.timing.read_s.items():
            self._read_s[part] += part_s
        staleness, tokens = metrics.policy.staleness_mean, metrics.counts.tokens
        if not math.isnan(staleness):
            self._staleness, self._policy_tokens = self._staleness + staleness * tokens, self._policy_tokens + tokens
        return balance(seconds, len(pulses), idle, depth)

    def total(self) -> Bottleneck | None:
        """What all steps say together; None before the first."""
        if not self._steps:
            return None
        idle = 1.0 - self._utilization.total()
        found = balance(self, self._actors, idle, self._depth / self._steps)
        wanted = found.actors_wanted / self._steps
        mean = Balance(round(self._actors / self._steps), idle, found.learner_wait, wanted, found.depth)
        return Bottleneck(
            bound_by=mean.bound_by,
            actor_idle=idle,
            learner_wait=mean.learner_wait,
            actors=self._actors / self._steps,
            actors_suggested=mean.actors_suggested,
            actors_per_rank=wanted / self.ranks,
            wait_s=self.wait_s,
            learn_s=self.learn_s,
            publish_s=self.publish_s,
            read_s=dict(self._read_s),
            update_s=self._update_s,
            depth=mean.depth,
            staleness=self._staleness / self._policy_tokens if self._policy_tokens else math.nan,
        )
