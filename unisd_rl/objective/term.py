"""What a term of the loss is.

A term holds one coefficient for each of some tokens, made once per optimiser step by `of_step`, where all ranks meet:
its weight, the agreement weights and every denominator of a mean are inside. So the loss of a micro-batch, of a chunk
or of a whole step is the same sum over tokens, and `slice` is all that lies between them.

Most terms are functions of what one fused pass measures at each token (`TokenTerm`): divergences to the teacher, and
the target's log-prob. They state their derivatives in these numbers, and the pass forms the gradient in the logits.
A term may instead be a function of the hidden states (`StateTerm`), which autograd differentiates.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from unisd_rl.config.objective import Divergence
from unisd_rl.objective.step import Step


@dataclass(frozen=True)
class Measure:
    """A divergence of the student to one of the teacher's views, at every token."""

    divergence: Divergence
    view: Literal["primary", "negative"]


@dataclass(frozen=True)
class TokenScores:
    """What was measured at some tokens: vectors of one number per token, float32 without gradient."""

    logprob_N: Tensor
    """Log-prob of the target token under the student."""
    divergences: Mapping[Measure, Tensor]
    """Nats, at least 0; to the negative view they mean nothing for tokens without one."""

    @classmethod
    def joined(cls, parts: Sequence["TokenScores"]) -> "TokenScores":
        """The scores of all parts' tokens, in order; at least one part."""
        measures = parts[0].divergences
        return cls(
            torch.cat([part.logprob_N for part in parts]),
            {measure: torch.cat([part.divergences[measure] for part in parts]) for measure in measures},
        )


@dataclass(frozen=True)
class Derivatives:
    """Of a loss, per token, in what was measured; what is absent does not move it."""

    logprob_N: Tensor | None = None
    divergences: Mapping[Measure, Tensor] = field(default_factory=dict)

    def __add__(self, other: "Derivatives") -> "Derivatives":
        divergences = dict(self.divergences)
        for measure, slope_N in other.divergences.items():
            divergences[measure] = divergences[measure] + slope_N if measure in divergences else slope_N
        logprobs = [slope_N for slope_N in (self.logprob_N, other.logprob_N) if slope_N is not None]
        return Derivatives(sum(logprobs[1:], logprobs[0]) if logprobs else None, divergences)


@dataclass(frozen=True)
class LossTerm(ABC):
    """One term of the loss, for some tokens: its tensors have one number for each of them."""

    TOTALS: ClassVar[tuple[str, ...]] = ()
    """Names of the sums over tokens that `metrics` needs beside the loss."""

    @classmethod
    @abstractmethod
    def of_step(cls, section: Any, step: Step) -> Self:
        """The term of this section of the configuration for this rank's share of a step. A collective.

        Its gathers depend on the settings only. Raises ValueError where an input that it needs is absent.
        """

    def slice(self, start: int, stop: int) -> Self:
        """The same term of tokens `start .. stop - 1`."""
        values = {member.name: getattr(self, member.name) for member in fields(self)}
        return replace(self, **{name: value[start:stop] for name, value in values.items() if isinstance(value, Tensor)})

    def totals(self, scores: TokenScores) -> tuple[Tensor, ...]:
        """The sums over the tokens that `TOTALS` names, 0-d."""
        return ()

    def values(self, scores: TokenScores) -> Tensor:
        """One number per token whose distribution `metrics` reports; empty where it reports none."""
        return scores.logprob_N[:0]

    def token_values(self, scores: TokenScores) -> Mapping[str, Tensor]:
        """What it says of each token, by name: what a run keeps of a few rollouts for people to look at."""
        return {}

    @classmethod
    @abstractmethod
    def metrics(cls, totals: Mapping[str, float], values_N: Tensor) -> dict[str, float]:
        """What metrics.jsonl says of this term, by the names it has there.

        `totals` are the sums of a whole step over micro-batches and ranks, with the term's part of the loss as `loss`;
        `values_N` are all its values. A term that is off has sums of zero and no values.
        """


@dataclass(frozen=True)
class TokenTerm(LossTerm):
    """A term that is a function of the numbers which the fused pass measures at each token."""

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The divergences it reads; the target's log-prob is always measured."""
        return ()

    @abstractmethod
    def loss(self, scores: TokenScores) -> Tensor:
        """The sum over the tokens, 0-d float32."""

    @abstractmethod
    def derivatives(self, scores: TokenScores) -> Derivatives:
        """Of `loss`, in every measure and in the log-prob if it reads that."""


@dataclass(frozen=True)
class StateTerm(LossTerm):
    """A term that is a function of final hidden states."""

    @abstractmethod
    def loss(self, student_NH: Tensor, teacher_NH: Tensor | None) -> Tensor:
        """The sum over the tokens, 0-d float32 with gradient to `student_NH`; `teacher_NH` is of the primary view.

        Raises ValueError where that is needed and absent.
        """


def measures_of(terms: Sequence[TokenTerm]) -> tuple[Measure, ...]:
    """What all these terms read, each once: those of the primary view first."""
    distinct = dict.fromkeys(measure for term in terms for measure in term.measures)
    return tuple(sorted(distinct, key=lambda measure: measure.view == "negative"))


def derivatives_of(terms: Sequence[TokenTerm], scores: TokenScores) -> Derivatives:
    """Of the sum of these terms."""
    return sum((term.derivatives(scores) for term in terms), Derivatives())
