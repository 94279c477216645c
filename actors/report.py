"""Reports of a rollout actor: what it counted since it started, and its pulse."""

from dataclasses import dataclass

from unisd_rl.types import PolicyVersion


@dataclass(slots=True)
class ServiceCounts:
    """What came of the prompts that an actor leased: rollouts committed, their tokens, prompts given back."""

    tokens: int = 0
    rollouts: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class ActorReport:
    """What one actor did since it started.

    `answered`: prompts of evaluations and probes. `busy_fraction`: share of the serving time, 0 to 1, with at least one
    prompt in flight. `pauses_ms`: one entry per weight update, see `PauseReport`.
    """

    name: str
    version: PolicyVersion
    counts: ServiceCounts
    answered: int
    busy_fraction: float
    pauses_ms: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Pulse:
    """The answer to a ping. `served_s`: seconds it has served the queue, `busy_s` of them with a prompt in flight."""

    version: PolicyVersion
    served_s: float
    busy_s: float
