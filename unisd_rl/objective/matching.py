"""Feature matching: the student's final hidden states drawn to those of the teacher that read the demonstration."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from unisd_rl.config.objective import MatchingConfig
from unisd_rl.objective.step import Step
from unisd_rl.objective.term import StateTerm


@dataclass(frozen=True)
class MatchingTerm(StateTerm):
    """`sum_t coefficient_t err_t`."""

    coefficient_N: Tensor

    @classmethod
    @override
    def of_step(cls, section: MatchingConfig, step: Step) -> "MatchingTerm":
        return cls((step.shares.mean_N * section.weight).float())

    @override
    def loss(self, student_NH: Tensor, teacher_NH: Tensor | None) -> Tensor:
        if teacher_NH is None:
            raise ValueError("feature matching needs the teacher's hidden states")
        return (self.coefficient_N * feature_error(student_NH, teacher_NH)).sum()

    @classmethod
    @override
    def metrics(cls, totals: Mapping[str, float], values_N: Tensor) -> dict[str, float]:
        return {"matching_loss": totals["loss"]}


def feature_error(student_NH: Tensor, teacher_NH: Tensor) -> Tensor:
    """`err_N`, the channel mean of `(h(theta) - h(phi))^2` in float32; gradient to the student only."""
    return (student_NH.float() - teacher_NH.detach().float()).square().mean(-1)
