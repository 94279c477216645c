"""What the benchmark of the loop measures."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """Seconds for `steps` steps. `rollout_s` and `learn_s` are what each side takes of that when nothing makes it wait;
    `waited_s` is what the learner waited for rollouts, `published_s` what publishing took from it."""

    part: str
    staleness: int
    steps: int
    seconds: float
    rollout_s: float | None
    learn_s: float
    waited_s: float
    published_s: float


@dataclass(frozen=True)
class TurnsRow:
    """Seconds for `steps` steps of `group` answers to each prompt, of the loop or of one side alone."""

    part: str
    model: str
    group: int
    steps: int
    seconds: float
    waited_s: float | None = None
    learn_s: float | None = None
    published_s: float | None = None


@dataclass(frozen=True)
class SpeedRow:
    """The same prompts through a rollout actor or straight into vLLM; `group` completions of each prompt."""

    part: str
    model: str
    group: int
    completions: int
    tokens: int
    seconds: float

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds
