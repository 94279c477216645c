"""Four ways to the same loss and gradients: plain dense torch, ours, TRL's chunked divergence, Liger's fused one.

The loss of every contender is `sum_t weight_t min(D_t, threshold)`, weights and threshold given (Liger's kernel has
neither, so it minimises the plain mean). `alpha` means the same to all: 0 forward KL, 1 reverse KL, in between the
generalised Jensen-Shannon divergence of the mixture `(1 - alpha) S + alpha P`. torch and TRL are imported in here only.

N tokens, H hidden, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from unisd_rl.config.objective import JensenShannon
from unisd_rl.objective.divergence import NO_WEIGHTS, DivergenceTerm
from unisd_rl.objective.kernels.chunk_logits import HiddenStates
from unisd_rl.objective.kernels.chunked import scored_tokens, token_divergence
from unisd_rl.objective.kernels.head import Head
from unisd_rl.objective.term import Measure

ALPHAS = {"fkl": 0.0, "jsd": 0.5, "rkl": 1.0}


@dataclass(frozen=True)
class Size:
    tokens: int
    hidden: int
    vocabulary: int
    chunk_tokens: int
    threads: int
    device: str
    dtype: str


@dataclass
class Inputs:
    student_NH: Tensor
    weight_VH: Tensor
    teacher_NH: Tensor
    teacher_weight_VH: Tensor
    targets_N: Tensor
    token_weight_N: Tensor
    chunk_tokens: int
    clip_threshold: dict[float, float] = field(default_factory=dict)
    """Clip threshold by alpha: clips about every tenth token."""

    @classmethod
    def random(cls, size: Size) -> "Inputs":
        """A student near its teacher, with logits of a spread like a language model's."""
        torch.manual_seed(0)
        options = {"device": size.device, "dtype": getattr(torch, size.dtype)}

        def normal(*shape: int, scale: float) -> Tensor:
            return torch.empty(*shape, **options).normal_(std=scale)

        teacher_NH = normal(size.tokens, size.hidden, scale=1.0)
        student_NH = teacher_NH + normal(size.tokens, size.hidden, scale=0.3)
        teacher_weight_VH = normal(size.vocabulary, size.hidden, scale=3.0 * size.hidden**-0.5)
        weight_VH = teacher_weight_VH.clone()
        weight_VH[:, 0] += 0.5  # another head, made without a temporary of its size
        weight_N = torch.rand(size.tokens, device=size.device)
        inputs = cls(
            student_NH.requires_grad_(),
            weight_VH.requires_grad_(),
            teacher_NH,
            teacher_weight_VH,
            torch.randint(size.vocabulary, (size.tokens,), device=size.device),
            weight_N / weight_N.sum(),
            size.chunk_tokens,
        )
        for alpha in ALPHAS.values():
            inputs.clip_threshold[alpha] = float(inputs.some_divergences(alpha).quantile(0.9))
        return inputs

    def some_divergences(self, alpha: float) -> Tensor:
        few = slice(0, 32)
        heads = Head(self.weight_VH), Head(self.teacher_weight_VH)
        states = self.student_NH[few], self.teacher_NH[few]
        return token_divergence(states[0], heads[0], states[1], heads[1], JensenShannon(alpha=alpha), 1.0, 16)

    def forget_gradients(self) -> None:
        self.student_NH.grad = self.weight_VH.grad = None

    def returned_bytes(self) -> int:
        """The size of the two gradients that every contender hands back."""
        return sum(tensor.numel() * tensor.element_size() for tensor in (self.student_NH, self.weight_VH))


@dataclass(frozen=True)
class Result:
    loss: Tensor
    divergence_N: Tensor | None
    """Before clipping; None where the contender does not tell."""


def dense(inputs: Inputs, alpha: float) -> Result:
    """What one writes first: two [N, V] log-softmaxes, the formula, autograd."""
    type_inside = torch.promote_types(inputs.weight_VH.dtype, torch.float32)
    student_NV = torch.log_softmax((inputs.student_NH @ inputs.weight_VH.t()).to(type_inside), -1)
    with torch.no_grad():
        teacher_NV = torch.log_softmax((inputs.teacher_NH @ inputs.teacher_weight_VH.t()).to(type_inside), -1)

    def kl(left_NV: Tensor, right_NV: Tensor) -> Tensor:
        return (left_NV.exp() * (left_NV - right_NV)).sum(-1)

    if alpha == 0.0:
        divergence_N = kl(teacher_NV, student_NV)
    elif alpha == 1.0:
        divergence_N = kl(student_NV, teacher_NV)
    else:
        mixture_NV = ((1 - alpha) * student_NV.exp() + alpha * teacher_NV.exp()).log()
        divergence_N = alpha * kl(teacher_NV, mixture_NV) + (1 - alpha) * kl(student_NV, mixture_NV)
    return _finish(inputs, alpha, divergence_N)


def ours(inputs: Inputs, alpha: float) -> Result:
    measure, clip_threshold = Measure(JensenShannon(alpha=alpha), "primary"), inputs.clip_threshold[alpha]
    term = DivergenceTerm(measure, inputs.token_weight_N, clip_threshold, None, NO_WEIGHTS)
    heads = Head(inputs.weight_VH), Head(inputs.teacher_weight_VH)
    states = HiddenStates(inputs.student_NH, inputs.teacher_NH)
    scored = scored_tokens(states, *heads, inputs.targets_N, [term], 1.0, inputs.chunk_tokens)
    scored.loss.backward()
    return Result(scored.loss.detach(), scored.scores.divergences[measure])


def trl(inputs: Inputs, alpha: float) -> Result:
    """`ChunkedDivergenceFunction` of TRL 1.16, whose `beta` is our alpha."""
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    student, teacher = (inputs.student_NH, inputs.weight_VH, None), (inputs.teacher_NH, inputs.teacher_weight_VH, None)
    divergence_N, _ = ChunkedDivergenceFunction.apply(*student, *teacher, alpha)
    return _finish(inputs, alpha, divergence_N)


def liger(inputs: Inputs, alpha: float) -> Result:
    """Liger's fused linear JSD (beta 0 and 1 are the KLs): a mean over tokens, no weights and no clipping."""
    from liger_kernel.transformers import LigerFusedLinearJSD

    fused = LigerFusedLinearJSD(jsd_beta=alpha)
    student, teacher = (inputs.student_NH, inputs.weight_VH), (inputs.teacher_NH, inputs.teacher_weight_VH)
    loss = fused(*student, *teacher, inputs.targets_N)
    loss.backward()
    return Result(loss.detach(), None)


def _finish(inputs: Inputs, alpha: float, divergence_N: Tensor) -> Result:
    loss = (inputs.token_weight_N * divergence_N.clamp(max=inputs.clip_threshold[alpha])).sum()
    loss.backward()
    return Result(loss.detach(), divergence_N.detach())


CONTENDERS: dict[str, Callable[[Inputs, float], Result]] = {"dense": dense, "ours": ours, "trl": trl, "liger": liger}
