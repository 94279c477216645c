"""Which view of a completion must yield what: derived from the objective, in this one place.

| a term that is on                   | primary              | auxiliary      | negative       |
|-------------------------------------|----------------------|----------------|----------------|
| divergence, matching                | final hidden states  |                |                |
| agreement (acts on the divergence)  |                      | a log-prob each|                |
| contrast on log-probs               | a log-prob           |                | a log-prob     |
| contrast on divergences             | final hidden states  |                | hidden states  |
| likelihood                          |                      |                |                |

A view that no term needs is not read, and where no view is read there is no teacher.
"""

from dataclasses import dataclass

from unisd_rl.objective.settings import DivergenceContrast, LogprobContrast, ObjectiveSettings
from unisd_rl.types import ViewKind


@dataclass(frozen=True, slots=True)
class Line:
    """One view of every completion, and what it must yield per completion token."""

    kind: ViewKind
    index: int
    """Which of the views of this kind."""
    states: bool
    """Whether its final hidden states are kept."""
    temperature: float | None
    """The temperature of the realised token's log-prob; None: no log-prob is needed."""


@dataclass(frozen=True, slots=True)
class ScoringPlan:
    """All views that the teacher reads in a step."""

    lines: tuple[Line, ...]

    @property
    def needs_teacher(self) -> bool:
        """Whether a teacher reads anything at all."""
        return bool(self.lines)

    def lines_of(self, kind: ViewKind) -> tuple[int, ...]:
        """Where the views of this kind stand in `lines`."""
        return tuple(number for number, line in enumerate(self.lines) if line.kind is kind)


def scoring_plan(settings: ObjectiveSettings, auxiliary_views: int) -> ScoringPlan:
    """The plan of an objective, with so many auxiliary views of each completion."""
    contrast = settings.contrastive
    by_logprob, by_states = isinstance(contrast, LogprobContrast), isinstance(contrast, DivergenceContrast)
    states = settings.alpha is not None or settings.matching_weight is not None or by_states
    contrasted = settings.temperature if by_logprob else None
    agreeing = auxiliary_views if settings.needs_auxiliary_views else 0
    primary = [Line(ViewKind.PRIMARY, 0, states, contrasted)] if states or by_logprob else []
    auxiliary = [
        Line(ViewKind.AUXILIARY, index, False, settings.auxiliary_temperature or settings.temperature)
        for index in range(agreeing)
    ]
    negative = [Line(ViewKind.NEGATIVE, 0, by_states, contrasted)] if contrast is not None else []
    return ScoringPlan((*primary, *auxiliary, *negative))
