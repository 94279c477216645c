"""The whole objective: from what all views said about a step's tokens to one loss per micro-batch.

    L = sum over the terms, of sum_t c_t f(t):   divergence, contrastive, matching, likelihood

`step_terms` runs once per optimiser step and rank, on all micro-batches together; it is where ranks meet (`gather`) and
where every global number is made: scale, clip threshold, weights, denominators. `micro_batch_loss` runs per micro-batch
and meets nobody. The sum of all micro-batches' losses over all ranks is the loss L of the step, so gradients are to be
summed, not averaged.

A new term is its module, its section of the configuration, and a line of `TERMS`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from unisd_rl.config.objective import (
    Divergence,
    DivergenceContrast,
    LikelihoodConfig,
    LogprobContrast,
    MatchingConfig,
    ObjectiveSettings,
    TermConfig,
)
from unisd_rl.metrics import BatchCounts, LossMetrics, WeightMetrics
from unisd_rl.objective.contrastive import DivergenceContrastTerm, LogprobContrastTerm
from unisd_rl.objective.divergence import NO_WEIGHTS, DivergenceTerm
from unisd_rl.objective.kernels.chunk_logits import HiddenStates
from unisd_rl.objective.kernels.chunked import scored_tokens
from unisd_rl.objective.kernels.head import Head
from unisd_rl.objective.likelihood import LikelihoodTerm
from unisd_rl.objective.matching import MatchingTerm
from unisd_rl.objective.reduction import Gather, global_sums
from unisd_rl.objective.step import ScoringInputs, step_of
from unisd_rl.objective.term import LossTerm, StateTerm, TokenScores, TokenTerm

TERMS: dict[type[TermConfig], type[LossTerm]] = {
    Divergence: DivergenceTerm,
    LogprobContrast: LogprobContrastTerm,
    DivergenceContrast: DivergenceContrastTerm,
    MatchingConfig: MatchingTerm,
    LikelihoodConfig: LikelihoodTerm,
}
"""The term of each section, or of each family of sections."""


@dataclass(frozen=True)
class LossTerms:
    """The terms of some tokens."""

    terms: tuple[LossTerm, ...]

    def slice(self, start: int, stop: int) -> "LossTerms":
        """The same terms of tokens `start .. stop - 1`."""
        return LossTerms(tuple(term.slice(start, stop) for term in self.terms))


@dataclass(frozen=True)
class StepTerms(LossTerms):
    """The terms of this rank's whole share of a step; `slice` gives those of a micro-batch."""

    counts: BatchCounts
    """Of the whole step: the same on every rank and layout, as the next one."""

    @property
    def weights(self) -> WeightMetrics:
        """The agreement weights and the clip threshold."""
        return next((term.weights for term in self.terms if isinstance(term, DivergenceTerm)), NO_WEIGHTS)


@torch.no_grad()
def step_terms(inputs: ScoringInputs, settings: ObjectiveSettings, gather: Gather) -> StepTerms:
    """The terms that are on, for this rank's tokens; a collective whose gathers depend on the settings only.

    Raises ValueError where a term needs an input that is absent.
    """
    step = step_of(inputs, settings, gather)
    return StepTerms(tuple(_term_class(section).of_step(section, step) for section in settings.terms), step.counts)


def _term_class(section: TermConfig) -> type[LossTerm]:
    return next(TERMS[family] for family in type(section).__mro__ if family in TERMS)


@dataclass(frozen=True)
class MicroReport:
    """What one gradient pass measured, one entry a term."""

    totals: tuple[tuple[float, ...], ...]
    """Its part of the loss and its `TOTALS`: sums, which add up over micro-batches and ranks."""
    values: tuple[Tensor, ...]
    student_logprob_N: Tensor
    """Log-prob of the target token under the student at the objective's temperature."""
    token_values: Mapping[str, Tensor]
    """What the terms say of each token, by name."""


def micro_batch_loss(
    states: HiddenStates,
    student_head: Head,
    teacher_head: Head | None,
    targets_N: Tensor,
    terms: LossTerms,
    settings: ObjectiveSettings,
) -> tuple[Tensor, MicroReport]:
    """This micro-batch's part of the loss, 0-d float32 with gradient to the student's states and head.

    `states` are the final hidden states (after the last norm) at the positions that predict `targets_N`; the teacher's
    are needed where a term reads them (its head where one reads a divergence). Rows of the negative view in sequences
    without one may hold any finite numbers. No tokens: a zero loss with a gradient path.
    """
    of_tokens = [term for term in terms.terms if isinstance(term, TokenTerm)]
    sizes = (settings.temperature, settings.chunk_tokens)
    scored = scored_tokens(states, student_head, teacher_head, targets_N, of_tokens, *sizes)
    loss, parts = scored.loss, []
    for term in terms.terms:
        if isinstance(term, StateTerm):
            parts.append(term.loss(states.student_NH, states.teacher_NH))
            loss = loss + parts[-1]
        else:
            assert isinstance(term, TokenTerm)
            parts.append(term.loss(scored.scores))  # its gradient is in the fused pass
    return loss, _report(terms.terms, parts, scored.scores)


@torch.no_grad()
def _report(terms: Sequence[LossTerm], losses: Sequence[Tensor], scores: TokenScores) -> MicroReport:
    totals = [(loss, *term.totals(scores)) for term, loss in zip(terms, losses, strict=True)]
    # One transfer from the device for all of them.
    numbers = iter(torch.stack([total.double() for of_term in totals for total in of_term]).tolist())
    return MicroReport(
        totals=tuple(tuple(next(numbers) for _ in of_term) for of_term in totals),
        values=tuple(term.values(scores) for term in terms),
        student_logprob_N=scores.logprob_N,
        token_values={name: value_N for term in terms for name, value_N in term.token_values(scores).items()},
    )


def loss_metrics(terms: LossTerms, reports: Sequence[MicroReport], gather: Gather, device: torch.device) -> LossMetrics:
    """Add up this rank's micro-batches and all ranks. A collective, also for a rank without reports."""
    nothing = torch.empty(0, device=device)
    width = sum(1 + len(term.TOTALS) for term in terms.terms)
    rows = [[total for of_term in report.totals for total in of_term] for report in reports]
    local = torch.tensor(rows, dtype=torch.float64, device=device).view(-1, width).sum(0)
    sums = iter(global_sums(local, gather).tolist())
    numbers: dict[str, float] = {}
    loss = 0.0
    for index, term in enumerate(terms.terms):
        totals = {name: next(sums) for name in ("loss", *term.TOTALS)}
        values = [report.values[index] for report in reports]
        numbers |= term.metrics(totals, gather(torch.cat([nothing, *values])))
        loss += totals["loss"]
    return _loss_metrics(loss, numbers)


def no_loss() -> LossMetrics:
    """Of a step without a token to train on."""
    return _loss_metrics(0.0, {})


def _loss_metrics(loss: float, measured: Mapping[str, float]) -> LossMetrics:
    """A term that is off says what it says of no token."""
    numbers: dict[str, float] = {}
    for family in TERMS.values():
        numbers |= family.metrics(dict.fromkeys(("loss", *family.TOTALS), 0.0), torch.empty(0))
    numbers |= measured
    named = {field.name for field in fields(LossMetrics)}
    known = {name: number for name, number in numbers.items() if name in named}
    others = {name: number for name, number in numbers.items() if name not in named}
    return LossMetrics(loss=loss, **known, other_terms=others)
