"""A whole optimiser step as the learner runs it, on one rank or on several.

Ranks are threads that meet in `gather`, as the ranks of a process group do.
"""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from tests.fakes.objective_oracle import Problem
from unisd_rl.config.objective import DivergenceContrast, LogprobContrast, ObjectiveSettings
from unisd_rl.metrics import BatchCounts, LossMetrics, WeightMetrics
from unisd_rl.objective.kernels.chunk_logits import HiddenStates
from unisd_rl.objective.kernels.chunked import token_divergence, token_logprobs
from unisd_rl.objective.kernels.head import Head
from unisd_rl.objective.reduction import Gather
from unisd_rl.objective.step import ScoringInputs
from unisd_rl.objective.unisd import loss_metrics, micro_batch_loss, step_terms


def inputs_of(
    problem: Problem, settings: ObjectiveSettings, primary_N: Tensor | None, divergence_N: Tensor | None
) -> ScoringInputs:
    """What the learner would hand to `step_terms`; absent what the settings do not use."""
    by_logprob = isinstance(settings.contrastive, LogprobContrast)
    return ScoringInputs(
        sequence_N=problem.sequence_N,
        sequences=problem.sequences,
        primary_N=primary_N if by_logprob else None,
        auxiliary_KN=problem.auxiliary_KN.float() if settings.agreement and settings.divergence else None,
        negative_N=problem.negative_N.float() if by_logprob else None,
        has_negative_S=problem.has_negative_S if settings.contrastive else None,
        divergence_N=divergence_N,
    )


@dataclass(frozen=True)
class OurStep:
    """One rank's gradients, and what it reports."""

    hidden_NH: Tensor
    weight_VH: Tensor
    loss: LossMetrics
    weights: WeightMetrics
    counts: BatchCounts

    @property
    def numbers(self) -> dict[str, float]:
        return self.loss.flat() | asdict(self.weights) | asdict(self.counts)


def rank_step(
    problem: Problem,
    objective: ObjectiveSettings,
    gather: Gather,
    cuts: Sequence[int] = (0,),
    order_S: Tensor | None = None,
) -> OurStep:
    """One rank's step as the learner does it: score the views, form the terms, then a gradient per micro-batch."""
    student_NH, weight_VH = problem.student_NH.float().requires_grad_(), problem.weight_VH.float().requires_grad_()
    by_divergence = isinstance(objective.contrastive, DivergenceContrast)
    teacher_NH = teacher = primary_N = divergence_N = None
    if objective.needs.views:
        teacher_NH, teacher = problem.teacher_NH.float(), Head(problem.teacher_weight_VH.float())
        temperature, chunk = objective.temperature, objective.chunk_tokens
        primary_N = token_logprobs(teacher_NH, teacher, problem.targets_N, temperature, chunk)
    if objective.needs_divergence_pass:
        divergence_N = token_divergence(
            student_NH, Head(weight_VH), teacher_NH, teacher, objective.divergence, temperature, chunk
        )
    inputs = replace(inputs_of(problem, objective, primary_N, divergence_N), order_S=order_S)
    terms = step_terms(inputs, objective, gather)
    reports = []
    for start, stop in zip(cuts, (*cuts[1:], len(student_NH)), strict=True):
        part = slice(start, stop)
        loss, report = micro_batch_loss(
            HiddenStates(
                student_NH[part],
                None if teacher_NH is None else teacher_NH[part],
                problem.negative_NH[part].float() if by_divergence else None,
            ),
            Head(weight_VH),
            teacher,
            problem.targets_N[part],
            terms.slice(start, stop),
            objective,
        )
        loss.backward()
        reports.append(report)
    loss = loss_metrics(terms, reports, gather, student_NH.device)
    return OurStep(student_NH.grad, weight_VH.grad, loss, terms.weights, terms.counts)


def single(
    problem: Problem, objective: ObjectiveSettings, cuts: Sequence[int] = (0,), order_S: Tensor | None = None
) -> OurStep:
    return rank_step(problem, objective, lambda values: values, cuts, order_S)


def over_ranks(
    problem: Problem, objective: ObjectiveSettings, owner_N: Tensor, ranks: int, cuts: Sequence[int] = (0,)
) -> tuple[Tensor, Tensor, list[OurStep]]:
    """The same step with each token on the rank that `owner_N` names; gradients put back into place and summed.

    A rank keeps the numbers of all sequences, so the others' are fully masked rows to it.
    """
    meeting = SimulatedRanks(ranks)
    chosen = [(owner_N == rank).nonzero()[:, 0] for rank in range(ranks)]
    with ThreadPoolExecutor(ranks) as pool:
        futures = [
            pool.submit(rank_step, problem.tokens(chosen[rank]), objective, meeting.gather(rank), cuts)
            for rank in range(ranks)
        ]
        results = [future.result(timeout=30) for future in futures]
    hidden_NH = torch.zeros_like(problem.student_NH, dtype=torch.float32)
    for index, result in zip(chosen, results, strict=True):
        hidden_NH[index] = result.hidden_NH
    return hidden_NH, torch.stack([result.weight_VH for result in results]).sum(0), results


class SimulatedRanks:
    """Threads that meet in `gather`, as the ranks of a process group do; a rank that calls it too seldom times out."""

    def __init__(self, ranks: int, timeout_s: float = 20.0) -> None:
        self._barrier = threading.Barrier(ranks, timeout=timeout_s)
        self._parts: dict[int, Tensor] = {}

    def gather(self, rank: int) -> Gather:
        def gathered(values: Tensor) -> Tensor:
            assert values.dim() == 1
            self._parts[rank] = values
            self._barrier.wait()
            whole = torch.cat([self._parts[index] for index in sorted(self._parts)])
            self._barrier.wait()
            return whole

        return gathered


def relative_difference(left: Tensor, right: Tensor) -> float:
    """The norm of the difference over the norm of `right`; 0 of equal tensors, also of zeros."""
    return 0.0 if torch.equal(left, right) else float((left - right).norm() / right.norm())
