"""Which view of a completion must yield what: the union of what the terms that are on need (`Mechanism.needs`).

| on in the objective                 | primary        | auxiliary  | negative       |
|-------------------------------------|----------------|------------|----------------|
| divergence                          | hidden states  |            |                |
| agreement (acts on the divergence)  |                | log-probs  |                |
| contrastive, signal = logprob       | log-probs      |            | log-probs      |
| contrastive, signal = divergence    | hidden states  |            | hidden states  |
| matching                            | hidden states  |            |                |
| likelihood                          |                |            |                |

A view that no term needs is not read, and where no view is read there is no teacher.
"""

from dataclasses import dataclass

from unisd_rl.config import Config
from unisd_rl.types import ViewKind


@dataclass(frozen=True, slots=True)
class ViewSpec:
    """One view of every completion, and what it must yield per completion token."""

    kind: ViewKind
    index: int
    """Which of the views of this kind."""
    states: bool
    """Whether its final hidden states are kept."""
    temperature: float | None
    """The temperature of the target token's log-prob; None: no log-prob is needed."""


@dataclass(frozen=True, slots=True)
class ScoringPlan:
    """All views that the teacher reads in a step."""

    specs: tuple[ViewSpec, ...]

    @property
    def needs_teacher(self) -> bool:
        """Whether a teacher reads anything at all."""
        return bool(self.specs)

    def specs_of(self, kind: ViewKind) -> tuple[int, ...]:
        """Where the views of this kind stand in `specs`."""
        return tuple(number for number, spec in enumerate(self.specs) if spec.kind is kind)


def scoring_plan(config: Config) -> ScoringPlan:
    """The plan of a configuration's objective and contexts."""
    settings, contexts = config.objective_settings, config.contexts_read
    needs, specs = settings.needs, []
    for kind, views, temperature in (
        (ViewKind.PRIMARY, 1, settings.temperature),
        (ViewKind.AUXILIARY, contexts.auxiliary.views if contexts.auxiliary else 0, settings.auxiliary_temperature),
        (ViewKind.NEGATIVE, 1, settings.temperature),
    ):
        states, logprob = kind in needs.states, kind in needs.logprobs
        count = views if states or logprob else 0
        specs += [ViewSpec(kind, index, states, temperature if logprob else None) for index in range(count)]
    return ScoringPlan(tuple(specs))
