"""Reports of a rollout actor: what it counted since it started, and its pulse."""

from dataclasses import dataclass

from unisd_rl.types import PolicyVersion


@dataclass(frozen=True, slots=True)
class ActorReport:
    """What one actor did since it started.

    `rollouts`: committed to the queue. `answered`: prompts of evaluations and probes. `pauses_ms`: one entry per weight
    update, see `PauseReport`.
    """

    name: str
    version: PolicyVersion
    rollouts: int
    answered: int
    pauses_ms: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Pulse:
    """The answer to a ping. `served_s`: seconds it has served the queue, `busy_s` of them with a prompt in flight."""

    version: PolicyVersion
    served_s: float
    busy_s: float
