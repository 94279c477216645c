"""What a rollout actor counted since it started."""

from dataclasses import dataclass

from unisd_rl.types import PolicyVersion


@dataclass(frozen=True, slots=True)
class ActorReport:
    """`tokens` and `rollouts`: completed and committed. `failed`: prompts given back to the queue.

    `answered`: prompts of evaluations and probes. `busy_fraction`: share of the serving time with at
    least one prompt in flight. `pauses_ms`, `loads_ms`: one entry per weight update, see `PauseReport`.
    """

    name: str
    version: PolicyVersion
    tokens: int
    rollouts: int
    failed: int
    answered: int
    busy_fraction: float
    pauses_ms: tuple[float, ...]
    loads_ms: tuple[float, ...]
