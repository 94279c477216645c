"""A term of the loss of your own: a margin that the student's log-prob of each token keeps to the teacher's.

The two classes are those of docs/add_a_term.md, which says where each goes in the tree. As a program this file tries
the term by itself, before it goes anywhere: the derivative that it states, against autograd.

    python examples/own_term.py
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from unisd_rl.config.base import NonNegative, Positive
from unisd_rl.config.objective import Needs, ObjectiveConfig, TermConfig
from unisd_rl.objective.step import Step
from unisd_rl.objective.term import Derivatives, TokenScores, TokenTerm
from unisd_rl.types import ViewKind


class MarginConfig(TermConfig):
    """The student's log-prob of each token comes within `slack` of the teacher's."""

    weight: Positive = 0.1
    """Its weight in the loss."""
    slack: NonNegative = 0.5
    """Nats by which the student may stay below the teacher."""

    needs = Needs(logprobs=frozenset({ViewKind.PRIMARY}))

    @override
    def ineffective(self, objective: "ObjectiveConfig") -> Iterator[str]:
        if self.slack > 20.0:
            yield f"objective.margin.slack = {self.slack:g} nats: hardly any token lies so far below the teacher"


@dataclass(frozen=True)
class MarginTerm(TokenTerm):
    """`sum_t coefficient_t max(0, p_t - s_t - slack)`."""

    TOTALS = ("below",)

    coefficient_N: Tensor
    floor_N: Tensor
    """`p - slack`."""

    @classmethod
    @override
    def of_step(cls, section: MarginConfig, step: Step) -> "MarginTerm":
        if step.inputs.primary_N is None:
            raise ValueError("the margin term needs the log-probs of the primary view")
        coefficient_N = (section.weight * step.shares.mean_N).float()
        return cls(coefficient_N, step.inputs.primary_N.float() - section.slack)

    @override
    def loss(self, scores: TokenScores) -> Tensor:
        return (self.coefficient_N * (self.floor_N - scores.logprob_N).clamp(min=0.0)).sum()

    @override
    def derivatives(self, scores: TokenScores) -> Derivatives:
        return Derivatives(logprob_N=-self.coefficient_N * self._below(scores))

    @override
    def totals(self, scores: TokenScores) -> tuple[Tensor, ...]:
        return (self._below(scores).sum(),)

    @classmethod
    @override
    def metrics(cls, totals: Mapping[str, float], values_N: Tensor) -> dict[str, float]:
        return {"margin_loss": totals["loss"], "margin_below": totals["below"]}

    def _below(self, scores: TokenScores) -> Tensor:
        return scores.logprob_N < self.floor_N


def main() -> None:
    torch.manual_seed(0)
    section, tokens = MarginConfig(), 1000
    student_N, teacher_N = -2.0 * torch.rand(tokens), -2.0 * torch.rand(tokens)
    term = MarginTerm(torch.full((tokens,), section.weight / tokens), teacher_N - section.slack)
    stated_N = term.derivatives(TokenScores(student_N, {})).logprob_N
    student_N.requires_grad_()
    loss = term.loss(TokenScores(student_N, {}))
    (expected_N,) = torch.autograd.grad(loss, student_N)
    below = int(term.totals(TokenScores(student_N.detach(), {}))[0])
    print(f"margin loss {loss.item():.4f}; {below} of {tokens} tokens below the margin")
    print(
        f"largest difference of the stated derivative from autograd's: {(stated_N - expected_N).abs().max().item():g}"
    )


if __name__ == "__main__":
    main()
