"""The likelihood term: cross-entropy on the completion itself, what supervised fine-tuning minimises. No teacher."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from unisd_rl.config.objective import LikelihoodConfig
from unisd_rl.objective.step import Step
from unisd_rl.objective.term import Derivatives, TokenScores, TokenTerm


@dataclass(frozen=True)
class LikelihoodTerm(TokenTerm):
    """`-sum_t coefficient_t s_t`, s the target's log-prob under the student."""

    coefficient_N: Tensor

    @classmethod
    @override
    def of_step(cls, section: LikelihoodConfig, step: Step) -> "LikelihoodTerm":
        return cls((step.shares.mean_N * section.weight).float())

    @override
    def loss(self, scores: TokenScores) -> Tensor:
        return -(self.coefficient_N * scores.logprob_N).sum()

    @override
    def derivatives(self, scores: TokenScores) -> Derivatives:
        return Derivatives(logprob_N=-self.coefficient_N)

    @classmethod
    @override
    def metrics(cls, totals: Mapping[str, float], values_N: Tensor) -> dict[str, float]:
        return {"likelihood_loss": totals["loss"]}
