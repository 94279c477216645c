"""What a whole optimiser step must come to: literal loops for the loss, dense float64 torch for its gradient."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.fakes.objective_oracle import (
    Problem,
    dense_divergence,
    dense_logprobs,
    literal_disagreement,
    literal_divergence,
    literal_logprobs,
    literal_quantile,
)
from unisd_rl.config.objective import (
    DivergenceContrast,
    LogprobContrast,
    ObjectiveSettings,
    SequenceAgreement,
    TokenAgreement,
)
from unisd_rl.objective.kernels.head import Head


@dataclass(frozen=True)
class LiteralTokens:
    """One number per token."""

    divergence: list[float]
    student: list[float]
    """Log-prob of the target token under the student ..."""
    primary: list[float]
    """... and under the primary view."""
    hinge: list[float]
    """The contrastive term; 0 in sequences without a negative view."""
    feature: list[float]


def literal_tokens(problem: Problem, settings: ObjectiveSettings) -> LiteralTokens:
    found = LiteralTokens([], [], [], [], [])
    for t, target in enumerate(problem.targets_N.tolist()):
        student = literal_logprobs(problem.student_NH[t], problem.weight_VH, settings.temperature)
        teacher = literal_logprobs(problem.teacher_NH[t], problem.teacher_weight_VH, settings.temperature)
        negative = literal_logprobs(problem.negative_NH[t], problem.teacher_weight_VH, settings.temperature)
        found.divergence.append(
            0.0 if settings.divergence is None else literal_divergence(student, teacher, settings.divergence)
        )
        found.student.append(student[target])
        found.primary.append(teacher[target])
        right = wrong = margin = -math.inf
        if isinstance(settings.contrastive, LogprobContrast):
            right = abs(student[target] - teacher[target])
            wrong = abs(student[target] - float(problem.negative_N[t]))
            margin = settings.contrastive.margin
        if isinstance(settings.contrastive, DivergenceContrast):
            right = literal_divergence(student, teacher, settings.contrastive.divergence)
            wrong = literal_divergence(student, negative, settings.contrastive.divergence)
            margin = settings.contrastive.margin
        known = settings.contrastive is not None and bool(problem.has_negative_S[problem.sequence_N[t]])
        found.hinge.append(max(0.0, margin + right - wrong) if known else 0.0)
        gap = (problem.student_NH[t] - problem.teacher_NH[t]).tolist()
        found.feature.append(sum(x * x for x in gap) / len(gap))
    return found


def literal_weights(problem: Problem, settings: ObjectiveSettings) -> list[float]:
    """One agreement weight per token."""
    agreement, columns = settings.agreement, problem.auxiliary_KN.t().tolist()
    if isinstance(agreement, TokenAgreement):
        found = [literal_disagreement(column, agreement.statistic) for column in columns]
        scale = agreement.scale or max(1e-6, literal_quantile(found, agreement.scale_quantile))
        return [max(agreement.floor, 1 / (1 + agreement.gamma * min(d / scale, agreement.cap))) for d in found]
    if isinstance(agreement, SequenceAgreement):
        found_of = {}
        for sequence in problem.sequence_N.tolist():
            members = [c for c, other in zip(columns, problem.sequence_N.tolist(), strict=True) if other == sequence]
            means = [sum(column[k] for column in members) / len(members) for k in range(len(members[0]))]
            found_of[sequence] = literal_disagreement(means, agreement.statistic)
        scale = 1.0
        if agreement.scale_quantile is not None:
            scale = max(1e-6, literal_quantile(list(found_of.values()), agreement.scale_quantile))
        return [math.exp(-agreement.gamma * found_of[sequence] / scale) for sequence in problem.sequence_N.tolist()]
    return [1.0] * len(columns)


def literal_threshold(divergences: Sequence[float], settings: ObjectiveSettings) -> float:
    if settings.clipping is None:
        return math.inf
    if settings.clipping.quantile is not None:
        return literal_quantile(divergences, settings.clipping.quantile)
    return settings.clipping.threshold


def literal_loss(problem: Problem, settings: ObjectiveSettings) -> float:
    """L of the whole step."""
    return sum(literal_parts(problem, settings).values())


def literal_parts(problem: Problem, settings: ObjectiveSettings) -> dict[str, float]:
    """What each term contributes to L, by its name in `LossMetrics`."""
    found, weights = literal_tokens(problem, settings), literal_weights(problem, settings)
    threshold = literal_threshold(found.divergence, settings)
    main_losses, main_weights, contrastive, feature, likelihood = [], [], [], [], []
    for b in range(problem.sequences):
        tokens = [t for t, sequence in enumerate(problem.sequence_N.tolist()) if sequence == b]
        if not tokens:
            continue
        clipped = [min(found.divergence[t], threshold) for t in tokens]
        if isinstance(settings.agreement, SequenceAgreement):
            main_losses.append(sum(clipped) / len(tokens))
            main_weights.append(weights[tokens[0]])
        else:
            total = sum(weights[t] for t in tokens)
            main_losses.append(sum(weights[t] * d for t, d in zip(tokens, clipped, strict=True)) / total)
            main_weights.append(1.0)
        if bool(problem.has_negative_S[b]):
            contrastive.append(sum(found.hinge[t] for t in tokens) / len(tokens))
        feature.append(sum(found.feature[t] for t in tokens) / len(tokens))
        likelihood.append(sum(-found.student[t] for t in tokens) / len(tokens))
    parts = {"divergence_loss": 0.0, "contrastive_loss": 0.0, "matching_loss": 0.0, "likelihood_loss": 0.0}
    if settings.divergence is not None:
        weighted = sum(w * d for w, d in zip(main_weights, main_losses, strict=True))
        parts["divergence_loss"] = weighted / sum(main_weights)
    if settings.contrastive is not None and contrastive:
        parts["contrastive_loss"] = settings.contrastive.weight * sum(contrastive) / len(contrastive)
    if settings.matching is not None:
        parts["matching_loss"] = settings.matching.weight * sum(feature) / len(feature)
    if settings.likelihood is not None:
        parts["likelihood_loss"] = settings.likelihood.weight * sum(likelihood) / len(likelihood)
    return parts


@dataclass(frozen=True)
class DenseTokens:
    """One number per token, differentiable; without a term its numbers are zeros."""

    divergence_N: Tensor
    hinge_N: Tensor
    feature_N: Tensor
    likelihood_N: Tensor


def dense_tokens(problem: Problem, settings: ObjectiveSettings, student_NH: Tensor, weight_VH: Tensor) -> DenseTokens:
    """The divergence is clipped; the hinge is zero in sequences without a negative view."""
    student_NV = dense_logprobs(student_NH, Head(weight_VH), settings.temperature)
    teacher_NV, negative_NV = (
        dense_logprobs(hidden_NH, Head(problem.teacher_weight_VH), settings.temperature)
        for hidden_NH in (problem.teacher_NH, problem.negative_NH)
    )
    s_N, p_N = (logprobs_NV.gather(1, problem.targets_N[:, None])[:, 0] for logprobs_NV in (student_NV, teacher_NV))
    divergence_N = hinge_N = torch.zeros_like(s_N)
    if settings.divergence is not None:
        divergence_N = dense_divergence(student_NV, teacher_NV, settings.divergence)
        threshold = literal_threshold(divergence_N.tolist(), settings)
        divergence_N = torch.where(divergence_N <= threshold, divergence_N, torch.full_like(divergence_N, threshold))
    contrastive, known_N = settings.contrastive, problem.has_negative_S[problem.sequence_N]
    if isinstance(contrastive, LogprobContrast):
        n_N = torch.where(known_N, problem.negative_N, p_N)
        hinge_N = known_N * (contrastive.margin + (s_N - p_N).abs() - (s_N - n_N).abs()).clamp(min=0)
    if isinstance(contrastive, DivergenceContrast):
        right_N = dense_divergence(student_NV, teacher_NV, contrastive.divergence)
        wrong_N = dense_divergence(student_NV, negative_NV, contrastive.divergence)
        hinge_N = known_N * (contrastive.margin + right_N - wrong_N).clamp(min=0)
    return DenseTokens(divergence_N, hinge_N, (student_NH - problem.teacher_NH).square().mean(-1), -s_N)


def dense_loss(problem: Problem, settings: ObjectiveSettings, student_NH: Tensor, weight_VH: Tensor) -> Tensor:
    """L of the whole step, differentiable in `student_NH` and `weight_VH`."""
    found = dense_tokens(problem, settings, student_NH, weight_VH)
    owner_SN = torch.arange(problem.sequences)[:, None] == problem.sequence_N[None, :]
    known_S = problem.has_negative_S[owner_SN.any(1)]
    owner_SN = owner_SN[owner_SN.any(1)].double()
    loss = (student_NH.sum() + weight_VH.sum()) * 0.0
    if settings.divergence is not None:
        weight_N = torch.tensor(literal_weights(problem, settings), dtype=torch.float64)
        if isinstance(settings.agreement, SequenceAgreement):
            weight_S = (owner_SN @ weight_N) / owner_SN.sum(1)
            loss = loss + (weight_S * (owner_SN @ found.divergence_N) / owner_SN.sum(1)).sum() / weight_S.sum()
        else:
            loss = loss + ((owner_SN @ (weight_N * found.divergence_N)) / (owner_SN @ weight_N)).mean()

    def mean_over_sequences(values_N: Tensor) -> Tensor:
        return (owner_SN @ values_N) / owner_SN.sum(1)

    if settings.contrastive is not None and bool(known_S.any()):
        loss = loss + settings.contrastive.weight * mean_over_sequences(found.hinge_N)[known_S].mean()
    if settings.matching is not None:
        loss = loss + settings.matching.weight * mean_over_sequences(found.feature_N).mean()
    if settings.likelihood is not None:
        loss = loss + settings.likelihood.weight * mean_over_sequences(found.likelihood_N).mean()
    return loss


Loss = Callable[[Tensor, Tensor], Tensor]
"""From the student's hidden states and head to a loss."""


def dense_gradient(problem: Problem, loss: Loss) -> tuple[Tensor, Tensor]:
    """The gradient of a dense loss in the student's hidden states and head, float64."""
    student_NH = problem.student_NH.clone().requires_grad_()
    weight_VH = problem.weight_VH.clone().requires_grad_()
    return torch.autograd.grad(loss(student_NH, weight_VH), (student_NH, weight_VH))
