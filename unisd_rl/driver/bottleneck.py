"""Which side waits for which, and how many rollout actors would make neither wait.

Of a step the driver waits w seconds for rollouts, the learner computes for l and publishing holds it up for p. A actors
served meanwhile, s seconds each on average, and had a prompt in flight for b of them. Then

    learner wait = w / (w + l + p)
    actor idle   = 1 - b / s
    suggested    = ceil(r),  r = A (w + l + p) (1 - idle) / (l + p)

r is the actors' work for a step, in actor-seconds, over the seconds in which the learner has use for it: with r actors
rollouts are ready just when the learner is. It assumes that an actor is as fast among more of them (cores and memory of
its own) and that a busy one is full; actors that are busy with few prompts could do with fewer than suggested. With
`max_staleness` 0 the two sides take turns whatever their number, and r only says whose turn is longer.

Nothing here asks anybody: the figures come with what is there anyway (the step's report, the batch, answered pings).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from unisd_rl.metrics import READ_PARTS, ReadPart, StepMetrics

_SLACK = 0.05  # a side that waits for less than this share does not hold the other up


class ActorTime(Protocol):
    """Seconds since an actor began to serve, and those of them with a prompt in flight."""

    @property
    def served_s(self) -> float:
        """All of them."""
        ...

    @property
    def busy_s(self) -> float:
        """The busy ones."""
        ...


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

    `actors_wanted` is r of the module's equation, `depth` counts rollouts that are ready for later steps.
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
        return None if math.isnan(self.actors_wanted) else max(1, math.ceil(self.actors_wanted - 1e-9))


def balance(seconds: StepSeconds, actors: int, idle: float, depth: float) -> Balance:
    """The module's equations."""
    learning_s = seconds.learn_s + seconds.publish_s
    total_s = seconds.wait_s + learning_s
    wanted = actors * total_s * (1.0 - idle) / learning_s if learning_s else math.nan
    return Balance(actors, idle, seconds.wait_s / total_s if total_s else math.nan, wanted, depth)


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
    _steps: int = 0
    _actors: int = 0
    _depth: int = 0
    _served_s: float = 0.0
    _busy_s: float = 0.0
    _staleness: float = 0.0
    _policy_tokens: int = 0
    _update_s: float = 0.0
    _read_s: dict[ReadPart, float] = field(default_factory=lambda: dict.fromkeys(READ_PARTS, 0.0))
    _seen: dict[str, tuple[float, float]] = field(default_factory=dict)

    def add(self, metrics: StepMetrics, seconds: StepSeconds, actors: Mapping[str, ActorTime], depth: int) -> Balance:
        """Take in a step; `actors` by name as they said last, all times since each one's start.

        The idle share is of what they said since the step before; nan where none has said anything since.
        """
        served_s, busy_s = self._since_last(actors)
        self._served_s, self._busy_s = self._served_s + served_s, self._busy_s + busy_s
        self._steps, self._actors, self._depth = self._steps + 1, self._actors + len(actors), self._depth + depth
        self.wait_s, self.learn_s = self.wait_s + seconds.wait_s, self.learn_s + seconds.learn_s
        self.publish_s += seconds.publish_s
        self._update_s += metrics.timing.update_s
        for part, part_s in metrics.timing.read_s.items():
            self._read_s[part] += part_s
        staleness, tokens = metrics.policy.staleness_mean, metrics.counts.tokens
        if not math.isnan(staleness):
            self._staleness, self._policy_tokens = self._staleness + staleness * tokens, self._policy_tokens + tokens
        return balance(seconds, len(actors), _idle(busy_s, served_s), depth)

    def total(self) -> Bottleneck | None:
        """What all steps say together; None before the first."""
        if not self._steps:
            return None
        idle = _idle(self._busy_s, self._served_s)
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

    def _since_last(self, actors: Mapping[str, ActorTime]) -> tuple[float, float]:
        """Seconds served and busy that are new, over all actors."""
        served_s = busy_s = 0.0
        for name, time in actors.items():
            before_served_s, before_busy_s = self._seen.get(name, (0.0, 0.0))
            served_s, busy_s = served_s + time.served_s - before_served_s, busy_s + time.busy_s - before_busy_s
            self._seen[name] = time.served_s, time.busy_s
        return served_s, busy_s


def _idle(busy_s: float, served_s: float) -> float:
    return 1.0 - busy_s / served_s if served_s > 0.0 else math.nan
