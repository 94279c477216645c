"""The formulas of one token, slowly: Python floats and literal loops, and dense float64 torch for autograd.

Nothing here shares code with the package under test. A `Problem` is one optimiser step: packed tokens of all sequences,
float64. Whole steps are in `objective_expected.py`; ours runs in `objective_steps.py`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unisd_rl.config.base import Section
from unisd_rl.config.objective import (
    ClippingConfig,
    Divergence,
    DivergenceContrast,
    JensenShannon,
    LikelihoodConfig,
    LogprobContrast,
    MatchingConfig,
    ObjectiveSettings,
    ReferenceReductions,
    SequenceAgreement,
    TokenAgreement,
    TopK,
    TotalVariation,
)
from unisd_rl.objective.kernels.head import Head

TOKEN = TokenAgreement(gamma=1.0, statistic="variance", scale_quantile=0.95, cap=10.0, floor=0.01)
SEQUENCE = SequenceAgreement(gamma=1.0, statistic="variance")
SHORT = {
    "alpha": ("divergence", lambda alpha: JensenShannon(alpha=alpha)),
    "clip_threshold": ("clipping", lambda threshold: ClippingConfig(threshold=threshold)),
    "clip_quantile": ("clipping", lambda quantile: ClippingConfig(quantile=quantile)),
    "matching_weight": ("matching", lambda weight: MatchingConfig(weight=weight)),
    "likelihood_weight": ("likelihood", lambda weight: LikelihoodConfig(weight=weight)),
    "released_micro_batch": ("reference_reductions", lambda size: ReferenceReductions(micro_batch_size=size)),
}
"""Short names of sections that hold one number."""


def changed(section: Section, **changes):
    """The same section with other values; of an objective also by `SHORT`, None: that section is off.

    Not validated as a whole: a test may leave an objective without any term.
    """
    for name in [name for name in changes if name in SHORT]:
        section_name, made = SHORT[name]
        value = changes.pop(name)
        changes[section_name] = None if value is None else made(value)
    assert set(changes) <= set(type(section).model_fields)
    return section.model_copy(update=changes)


def contrast_of(alpha: float, weight: float = 0.3, margin: float = 0.1) -> DivergenceContrast:
    return DivergenceContrast(weight=weight, margin=margin, alpha=alpha)


PLAIN = ObjectiveSettings(
    temperature=0.7, auxiliary_temperature=0.7, chunk_tokens=3, divergence=JensenShannon(alpha=0.5)
)
ALL_FIVE = changed(
    PLAIN, clip_quantile=0.8, agreement=TOKEN, contrastive=LogprobContrast(weight=0.3, margin=1.0), matching_weight=0.2
)


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
    negative_NH: Tensor
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
            negative_NH=self.negative_NH[chosen_N],
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
    student_NH = teacher_NH + 0.4 * normal(tokens, hidden)
    weight_VH = teacher_weight_VH + 0.2 * normal(vocabulary, hidden)
    auxiliary_KN = -2.0 + normal(views, tokens)
    negative_NH = teacher_NH + 0.6 * normal(tokens, hidden)
    return Problem(
        student_NH=student_NH,
        weight_VH=weight_VH,
        teacher_NH=teacher_NH,
        teacher_weight_VH=teacher_weight_VH,
        targets_N=targets_N,
        sequence_N=sequence_N,
        sequences=sequences,
        auxiliary_KN=auxiliary_KN,
        negative_N=negative_N,
        negative_NH=negative_NH,
        has_negative_S=has_negative_S,
    )


def literal_logprobs(hidden: Tensor, weight: Tensor, temperature: float) -> list[float]:
    values = hidden.tolist()
    logits = [sum(h * w for h, w in zip(values, row, strict=True)) / temperature for row in weight.tolist()]
    top = max(logits)
    log_sum = top + math.log(sum(math.exp(logit - top) for logit in logits))
    return [logit - log_sum for logit in logits]


def literal_divergence(student: list[float], teacher: list[float], kind: Divergence) -> float:
    """From log-probabilities."""
    if isinstance(kind, TotalVariation):
        return 0.5 * sum(abs(math.exp(s) - math.exp(t)) for s, t in zip(student, teacher, strict=True))
    alpha = kind.alpha
    if isinstance(kind, TopK):
        best = sorted(range(len(teacher)), key=lambda v: -teacher[v])[: kind.k]
        return literal_divergence(
            literal_outcomes(student, best, kind.tail),
            literal_outcomes(teacher, best, kind.tail),
            JensenShannon(alpha=alpha),
        )

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


def literal_outcomes(logs: list[float], best: list[int], tail: bool) -> list[float]:
    """Log-probabilities of the tokens `best`: with one more of all others, or else renormalised."""
    kept = [logs[v] for v in best]
    if not tail:
        total = math.log(sum(math.exp(log) for log in kept))
        return [log - total for log in kept]
    rest = sum(math.exp(log) for v, log in enumerate(logs) if v not in best)
    return [*kept, math.log(rest)] if rest else kept


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


def dense_logprobs(hidden_NH: Tensor, head: Head, temperature: float) -> Tensor:
    logits = hidden_NH @ head.weight_VH.t()
    if head.bias_V is not None:
        logits = logits + head.bias_V
    logits = logits * head.scale
    if head.soft_cap is not None:
        logits = head.soft_cap * torch.tanh(logits / head.soft_cap)
    return torch.log_softmax(logits / temperature, -1)


def dense_divergence(student_NV: Tensor, teacher_NV: Tensor, kind: Divergence) -> Tensor:
    if isinstance(kind, TotalVariation):
        return 0.5 * (student_NV.exp() - teacher_NV.exp()).abs().sum(-1)
    alpha = kind.alpha
    if isinstance(kind, TopK):
        likeliest_NV = torch.zeros_like(teacher_NV, dtype=torch.bool)
        likeliest_NV.scatter_(-1, teacher_NV.topk(min(kind.k, teacher_NV.shape[-1])).indices, True)
        reduced = []
        for logs_NV in (student_NV, teacher_NV):
            kept_NV = logs_NV.masked_fill(~likeliest_NV, -torch.inf)
            rest_N = logs_NV.masked_fill(likeliest_NV, -torch.inf).logsumexp(-1, keepdim=True)
            logs_NK = logs_NV[likeliest_NV].reshape(len(logs_NV), -1)
            reduced.append(
                torch.cat((logs_NK, rest_N), -1) if kind.tail else logs_NK - kept_NV.logsumexp(-1, keepdim=True)
            )
        return dense_divergence(*reduced, JensenShannon(alpha=alpha))
    if alpha == 0.0:
        return (teacher_NV.exp() * (teacher_NV - student_NV)).sum(-1)
    if alpha == 1.0:
        return (student_NV.exp() * (student_NV - teacher_NV)).sum(-1)
    mixture_NV = torch.logaddexp(student_NV + math.log(1 - alpha), teacher_NV + math.log(alpha))
    teacher_N = (teacher_NV.exp() * (teacher_NV - mixture_NV)).sum(-1)
    student_N = (student_NV.exp() * (student_NV - mixture_NV)).sum(-1)
    return alpha * teacher_N + (1 - alpha) * student_N
