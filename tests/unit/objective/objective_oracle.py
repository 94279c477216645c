"""Slow oracles written from the formulas, in Python floats and literal loops, and small random problems to feed them.

Nothing here shares code with the package under test. A `Problem` is one optimiser step: packed tokens of all sequences,
float64. `literal_loss` is the loss of the step; `dense_loss` is the same in dense float64 torch, for autograd.
"""

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unisd_rl.objective.head import Head
from unisd_rl.objective.settings import LogprobContrast, ObjectiveSettings, SequenceAgreement, TokenAgreement
from unisd_rl.objective.unisd import TokenSignals

TOKEN = TokenAgreement(gamma=1.0, statistic="variance", scale_quantile=0.95, scale=None, cap=10.0, floor=0.01)
SEQUENCE = SequenceAgreement(gamma=1.0, statistic="variance")
ALL_FIVE = ObjectiveSettings(
    temperature=0.7,
    alpha=0.5,
    clip_threshold=None,
    clip_quantile=0.8,
    agreement=TOKEN,
    contrastive=LogprobContrast(weight=0.3, margin=1.0),
    matching_weight=0.2,
    chunk_tokens=3,
)
PLAIN = replace(ALL_FIVE, clip_quantile=None, agreement=None, contrastive=None, matching_weight=None)


@dataclass(frozen=True)
class Problem:
    student_NH: Tensor
    weight_VH: Tensor
    teacher_NH: Tensor
    teacher_weight_VH: Tensor
    targets_N: Tensor
    sequence_N: Tensor
    sequences: int
    auxiliary_KN: Tensor
    negative_N: Tensor
    has_negative_S: Tensor

    def tokens(self, chosen_N: Tensor) -> "Problem":
        """The same step with only these tokens, in this order."""
        return replace(
            self,
            student_NH=self.student_NH[chosen_N],
            teacher_NH=self.teacher_NH[chosen_N],
            targets_N=self.targets_N[chosen_N],
            sequence_N=self.sequence_N[chosen_N],
            auxiliary_KN=self.auxiliary_KN[:, chosen_N],
            negative_N=self.negative_N[chosen_N],
        )


def random_problem(
    seed: int = 0, lengths: Sequence[int] = (3, 1, 0, 5, 5), hidden: int = 4, vocabulary: int = 7, views: int = 3
) -> Problem:
    """A step whose student is near its teacher; the last sequence with tokens has no negative view (nan)."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    tokens, sequences = sum(lengths), len(lengths)
    teacher_NH, teacher_weight_VH = normal(tokens, hidden), normal(vocabulary, hidden)
    sequence_N = torch.repeat_interleave(torch.arange(sequences), torch.tensor(lengths))
    has_negative_S = torch.ones(sequences, dtype=torch.bool)
    has_negative_S[max(index for index, length in enumerate(lengths) if length)] = sequences == 1
    targets_N = torch.randint(vocabulary, (tokens,), generator=generator)
    primary_NV = dense_logprobs(teacher_NH, Head(teacher_weight_VH), 0.7)
    negative_N = primary_NV.gather(1, targets_N[:, None])[:, 0] + 2.0 * normal(tokens)
    negative_N[~has_negative_S[sequence_N]] = math.nan
    return Problem(
        student_NH=teacher_NH + 0.4 * normal(tokens, hidden),
        weight_VH=teacher_weight_VH + 0.2 * normal(vocabulary, hidden),
        teacher_NH=teacher_NH,
        teacher_weight_VH=teacher_weight_VH,
        targets_N=targets_N,
        sequence_N=sequence_N,
        sequences=sequences,
        auxiliary_KN=-2.0 + normal(views, tokens),
        negative_N=negative_N,
        has_negative_S=has_negative_S,
    )


def literal_logprobs(hidden: Tensor, weight: Tensor, temperature: float) -> list[float]:
    logits = [sum(float(h) * float(w) for h, w in zip(hidden, row, strict=True)) / temperature for row in weight]
    top = max(logits)
    log_sum = top + math.log(sum(math.exp(logit - top) for logit in logits))
    return [logit - log_sum for logit in logits]


def literal_divergence(student: list[float], teacher: list[float], alpha: float) -> float:
    """From log-probabilities."""

    def kl(left: list[float], right: list[float]) -> float:
        return sum(math.exp(a) * (a - b) for a, b in zip(left, right, strict=True) if math.exp(a) > 0.0)

    if alpha == 0.0:
        return kl(teacher, student)
    if alpha == 1.0:
        return kl(student, teacher)
    mixture = [
        math.log(max((1 - alpha) * math.exp(s) + alpha * math.exp(t), 1e-320))
        for s, t in zip(student, teacher, strict=True)
    ]
    return alpha * kl(teacher, mixture) + (1 - alpha) * kl(student, mixture)


def literal_quantile(values: Sequence[float], fraction: float) -> float:
    ordered = sorted(values)
    position = fraction * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] * (1 - (position - below)) + ordered[above] * (position - below)


def literal_disagreement(values: Sequence[float], statistic: str) -> float:
    if statistic == "range":
        return max(values) - min(values)
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values) / len(values)


def literal_weights(problem: Problem, settings: ObjectiveSettings) -> list[float]:
    """One weight per token."""
    agreement, columns = settings.agreement, problem.auxiliary_KN.t().tolist()
    if isinstance(agreement, TokenAgreement):
        found = [literal_disagreement(column, agreement.statistic) for column in columns]
        scale = agreement.scale or max(1e-6, literal_quantile(found, agreement.scale_quantile))
        return [max(agreement.floor, 1 / (1 + agreement.gamma * min(d / scale, agreement.cap))) for d in found]
    if isinstance(agreement, SequenceAgreement):
        weights = []
        for sequence in problem.sequence_N.tolist():
            members = [c for c, other in zip(columns, problem.sequence_N.tolist(), strict=True) if other == sequence]
            means = [sum(column[k] for column in members) / len(members) for k in range(len(members[0]))]
            weights.append(math.exp(-agreement.gamma * literal_disagreement(means, agreement.statistic)))
        return weights
    return [1.0] * len(columns)


def literal_step(problem: Problem, settings: ObjectiveSettings) -> tuple[list[float], list[float], list[float]]:
    """Per token: divergence, log-prob of the realised token under the student, and under the primary view."""
    divergences, student_logprobs, primary_logprobs = [], [], []
    for t, target in enumerate(problem.targets_N.tolist()):
        student = literal_logprobs(problem.student_NH[t], problem.weight_VH, settings.temperature)
        teacher = literal_logprobs(problem.teacher_NH[t], problem.teacher_weight_VH, settings.temperature)
        divergences.append(0.0 if settings.alpha is None else literal_divergence(student, teacher, settings.alpha))
        student_logprobs.append(student[target])
        primary_logprobs.append(teacher[target])
    return divergences, student_logprobs, primary_logprobs


def literal_kappa(divergences: Sequence[float], settings: ObjectiveSettings) -> float:
    if settings.clip_quantile is not None:
        return literal_quantile(divergences, settings.clip_quantile)
    return math.inf if settings.clip_threshold is None else settings.clip_threshold


def literal_loss(problem: Problem, settings: ObjectiveSettings) -> float:
    """L of the whole step."""
    divergences, student, primary = literal_step(problem, settings)
    kappa, weights = literal_kappa(divergences, settings), literal_weights(problem, settings)
    main_losses, main_weights, contrastive, feature = [], [], [], []
    for b in range(problem.sequences):
        tokens = [t for t, sequence in enumerate(problem.sequence_N.tolist()) if sequence == b]
        if not tokens:
            continue
        clipped = [min(divergences[t], kappa) for t in tokens]
        if isinstance(settings.agreement, SequenceAgreement):
            main_losses.append(sum(clipped) / len(tokens))
            main_weights.append(weights[tokens[0]])
        else:
            total = sum(weights[t] for t in tokens)
            main_losses.append(sum(weights[t] * d for t, d in zip(tokens, clipped, strict=True)) / total)
            main_weights.append(1.0)
        if settings.contrastive is not None and bool(problem.has_negative_S[b]):
            contrastive.append(
                sum(
                    max(
                        0.0,
                        settings.contrastive.margin
                        + abs(student[t] - primary[t])
                        - abs(student[t] - float(problem.negative_N[t])),
                    )
                    for t in tokens
                )
                / len(tokens)
            )
        errors = (problem.student_NH - problem.teacher_NH)[tokens].tolist()
        feature.append(sum(sum(x * x for x in row) / len(row) for row in errors) / len(tokens))
    loss = 0.0
    if settings.alpha is not None:
        loss += sum(w * d for w, d in zip(main_weights, main_losses, strict=True)) / sum(main_weights)
    if contrastive:
        loss += settings.contrastive.weight * sum(contrastive) / len(contrastive)
    if settings.matching_weight is not None:
        loss += settings.matching_weight * sum(feature) / len(feature)
    return loss


def dense_logprobs(hidden_NH: Tensor, head: Head, temperature: float) -> Tensor:
    logits = hidden_NH @ head.weight_VH.t()
    if head.bias_V is not None:
        logits = logits + head.bias_V
    logits = logits * head.scale
    if head.soft_cap is not None:
        logits = head.soft_cap * torch.tanh(logits / head.soft_cap)
    return torch.log_softmax(logits / temperature, -1)


def dense_divergence(student_NV: Tensor, teacher_NV: Tensor, alpha: float) -> Tensor:
    if alpha == 0.0:
        return (teacher_NV.exp() * (teacher_NV - student_NV)).sum(-1)
    if alpha == 1.0:
        return (student_NV.exp() * (student_NV - teacher_NV)).sum(-1)
    mixture_NV = torch.logaddexp(student_NV + math.log(1 - alpha), teacher_NV + math.log(alpha))
    teacher_N = (teacher_NV.exp() * (teacher_NV - mixture_NV)).sum(-1)
    student_N = (student_NV.exp() * (student_NV - mixture_NV)).sum(-1)
    return alpha * teacher_N + (1 - alpha) * student_N


def dense_loss(problem: Problem, settings: ObjectiveSettings, student_NH: Tensor, weight_VH: Tensor) -> Tensor:
    """L of the whole step, differentiable in `student_NH` and `weight_VH`."""
    student_NV = dense_logprobs(student_NH, Head(weight_VH), settings.temperature)
    teacher_NV = dense_logprobs(problem.teacher_NH, Head(problem.teacher_weight_VH), settings.temperature)
    owner_SN = torch.arange(problem.sequences)[:, None] == problem.sequence_N[None, :]
    owner_SN = owner_SN[owner_SN.any(1)].double()
    loss = (student_NH.sum() + weight_VH.sum()) * 0.0
    if settings.alpha is not None:
        divergence_N = dense_divergence(student_NV, teacher_NV, settings.alpha)
        kappa = literal_kappa(divergence_N.tolist(), settings)
        clipped_N = torch.where(divergence_N <= kappa, divergence_N, torch.full_like(divergence_N, kappa))
        weight_N = torch.tensor(literal_weights(problem, settings), dtype=torch.float64)
        if isinstance(settings.agreement, SequenceAgreement):
            weight_S = (owner_SN @ weight_N) / owner_SN.sum(1)
            loss = loss + (weight_S * (owner_SN @ clipped_N) / owner_SN.sum(1)).sum() / weight_S.sum()
        else:
            loss = loss + ((owner_SN @ (weight_N * clipped_N)) / (owner_SN @ weight_N)).mean()
    if settings.contrastive is not None and bool(problem.has_negative_S[problem.sequence_N].any()):
        s_N = student_NV.gather(1, problem.targets_N[:, None])[:, 0]
        p_N = teacher_NV.gather(1, problem.targets_N[:, None])[:, 0]
        known_N = problem.has_negative_S[problem.sequence_N]
        n_N = torch.where(known_N, problem.negative_N, p_N)
        hinge_N = (settings.contrastive.margin + (s_N - p_N).abs() - (s_N - n_N).abs()).clamp(min=0)
        known_SN = owner_SN[(owner_SN * known_N).any(1)]
        loss = loss + settings.contrastive.weight * ((known_SN @ hinge_N) / known_SN.sum(1)).mean()
    if settings.matching_weight is not None:
        error_N = (student_NH - problem.teacher_NH).square().mean(-1)
        loss = loss + settings.matching_weight * ((owner_SN @ error_N) / owner_SN.sum(1)).mean()
    return loss


def dense_gradient(problem: Problem, settings: ObjectiveSettings) -> tuple[Tensor, Tensor]:
    """The gradient of `dense_loss` in the student's hidden states and head, float64."""
    student_NH = problem.student_NH.clone().requires_grad_()
    weight_VH = problem.weight_VH.clone().requires_grad_()
    return torch.autograd.grad(dense_loss(problem, settings, student_NH, weight_VH), (student_NH, weight_VH))


def signals_of(problem: Problem, settings: ObjectiveSettings, primary_N: Tensor, divergence_N: Tensor | None):
    """What the learner would hand to `step_terms`; absent what the settings do not use."""
    return TokenSignals(
        sequence_N=problem.sequence_N,
        sequences=problem.sequences,
        primary_N=primary_N,
        auxiliary_KN=None if settings.agreement is None else problem.auxiliary_KN.float(),
        negative_N=None if settings.contrastive is None else problem.negative_N.float(),
        has_negative_S=problem.has_negative_S,
        divergence_N=divergence_N,
    )


class SimulatedRanks:
    """Threads that meet in `gather`, as the ranks of a process group do; a rank that calls it too seldom times out."""

    def __init__(self, ranks: int, timeout_s: float = 20.0) -> None:
        self._barrier = threading.Barrier(ranks, timeout=timeout_s)
        self._parts: dict[int, Tensor] = {}

    def gather(self, rank: int) -> Callable[[Tensor], Tensor]:
        def gathered(values: Tensor) -> Tensor:
            assert values.dim() == 1
            self._parts[rank] = values
            self._barrier.wait()
            whole = torch.cat([self._parts[index] for index in sorted(self._parts)])
            self._barrier.wait()
            return whole

        return gathered
