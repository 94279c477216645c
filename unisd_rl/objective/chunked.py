"""Losses over a whole vocabulary without ever holding [tokens, vocabulary]: the gradient is formed chunk by chunk.

```
 hidden_CH --W^T--> student logits -- log-softmax --+-> divergence D, log-prob s of the realised token
 teacher_CH --W^T--> teacher logits - log-softmax --+        |
                                                             v  dL/dD = main 1[D <= kappa], dL/ds = contrastive hinge'
                        d logits = dL/dD dD/dlogits + dL/ds (onehot - S)      (over the student's buffer)
                          |--- W ---> gradient of hidden        |--- ^T hidden ---> gradient of W, b, accumulated
```

Four matrix products in all; three where the head needs no gradient, one less where the main term is off. Element-wise
work runs on blocks of rows that fit the processor's cache. Everything is float32 inside, whatever the inputs are.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from unisd_rl.objective.clipping import clipped, keeps_gradient
from unisd_rl.objective.contrastive import hinge, hinge_slope
from unisd_rl.objective.head import Head
from unisd_rl.objective.kernel import Gradients, Kernel
from unisd_rl.objective.settings import ObjectiveSettings
from unisd_rl.objective.terms import TokenTerms


@dataclass(frozen=True)
class ScoredTokens:
    """One gradient pass over N tokens."""

    loss: Tensor
    """0-d float32: `sum_t main_t min(D_t, kappa) + contrastive_t hinge_t`; its backward may run once."""
    divergence_N: Tensor
    """D before clipping, nats, no gradient; zeros where the main term is off."""
    student_logprob_N: Tensor
    """Log-prob of the realised token under the student, no gradient."""
    contrast_active_N: Tensor
    """Which tokens have a non-zero contrastive gradient (bool)."""


@torch.no_grad()
def realised_logprobs(
    hidden_NH: Tensor, head: Head, targets_N: Tensor, temperature: float, chunk_tokens: int
) -> Tensor:
    """`logprob_N`, float32: log-softmax at `temperature` of each token's logits, at its target. No gradient."""
    kernel = Kernel(hidden_NH, head, None, None, temperature, chunk_tokens)
    logprob_N = _float_vector(hidden_NH)
    for chunk in kernel.chunks():
        kernel.project(chunk)
        for block in kernel.blocks(chunk):
            logprob_N[block.tokens] = kernel.normalise_(block, targets_N[block.tokens])
    return logprob_N


@torch.no_grad()
def token_divergence(
    student_NH: Tensor,
    student_head: Head,
    teacher_NH: Tensor,
    teacher_head: Head,
    alpha: float,
    temperature: float,
    chunk_tokens: int,
) -> Tensor:
    """`divergence_N` in nats, float32, no gradient: the same numbers `scored_tokens` finds. For the quantile clip."""
    kernel = Kernel(student_NH, student_head, teacher_NH, teacher_head, temperature, chunk_tokens)
    divergence_N = _float_vector(student_NH)
    for chunk in kernel.chunks():
        kernel.project(chunk)
        for block in kernel.blocks(chunk):
            kernel.normalise_(block, None)
            divergence_N[block.tokens] = kernel.diverge_(block, alpha)
    return divergence_N


def scored_tokens(
    student_NH: Tensor,
    student_head: Head,
    teacher_NH: Tensor | None,
    teacher_head: Head | None,
    targets_N: Tensor,
    terms: TokenTerms,
    settings: ObjectiveSettings,
) -> ScoredTokens:
    """The main and the contrastive term of N tokens, with gradient to `student_NH` and the student head's tensors.

    The teacher's states and head are needed only where the main term is on (`settings.alpha`). Both heads may share
    their weight. No token gives a zero loss with a gradient path. The gradient exists when the forward pass ends;
    backward scales it by the incoming gradient, hands it over and forgets it, so it runs once per forward pass.
    """
    if settings.alpha is not None and (teacher_NH is None or teacher_head is None):
        raise ValueError("the main term (alpha) needs the teacher's hidden states and its head")
    scored = _ScoredTokens.apply(
        student_NH,
        student_head.weight_VH,
        student_head.bias_V,
        student_head,
        None if settings.alpha is None else teacher_NH,
        None if settings.alpha is None else teacher_head,
        targets_N,
        terms,
        settings,
        torch.is_grad_enabled(),
    )
    return ScoredTokens(*scored)


class _ScoredTokens(torch.autograd.Function):
    """The weight and bias appear twice: as tensors, so that autograd sees them, and inside the head."""

    @staticmethod
    def forward(
        ctx: Any,
        student_NH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        student_head: Head,
        teacher_NH: Tensor | None,
        teacher_head: Head | None,
        targets_N: Tensor,
        terms: TokenTerms,
        settings: ObjectiveSettings,
        grad_enabled: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        inputs = (student_NH, weight_VH, bias_V)
        gradients = Gradients.zeros(inputs, tuple(grad_enabled and need for need in ctx.needs_input_grad[:3]))
        kernel = Kernel(student_NH, student_head, teacher_NH, teacher_head, settings.temperature, settings.chunk_tokens)
        divergence_N, logprob_N = _run(kernel, gradients, targets_N, terms, settings)
        # Not save_for_backward: backward must be able to let go of them, so that the head's gradient exists once.
        ctx.gradients = (gradients.hidden_NH, gradients.weight_VH, gradients.bias_V)
        ctx.dtypes = tuple(None if tensor is None else tensor.dtype for tensor in inputs)
        loss, active_N = _loss(divergence_N, logprob_N, terms, settings)
        ctx.mark_non_differentiable(divergence_N, logprob_N, active_N)
        return loss, divergence_N, logprob_N, active_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("the backward pass of scored_tokens ran a second time; its gradient is handed over once")
        gradients, ctx.gradients = ctx.gradients, None
        scaled = (
            None if gradient is None else gradient.mul_(grad_loss).to(dtype)
            for gradient, dtype in zip(gradients, ctx.dtypes, strict=True)
        )
        return (*scaled, *(None,) * 7)


def _run(
    kernel: Kernel, gradients: Gradients, targets_N: Tensor, terms: TokenTerms, settings: ObjectiveSettings
) -> tuple[Tensor, Tensor]:
    """All chunks: fills `gradients`, returns divergence and realised log-prob of the student per token."""
    divergence_N, logprob_N = torch.zeros_like(terms.main_N), torch.empty_like(terms.main_N)
    wanted = gradients.any and (settings.alpha is not None or settings.contrastive is not None)
    for chunk in kernel.chunks():
        scaled_CH = kernel.project(chunk)
        for block in kernel.blocks(chunk):
            at = block.tokens
            logprob_N[at] = kernel.normalise_(block, targets_N[at])
            if settings.alpha is not None:
                divergence_N[at] = kernel.diverge_(block, settings.alpha)
            if wanted:
                main_R, contrast_R = _slopes(divergence_N[at], logprob_N[at], terms.slice(at.start, at.stop), settings)
                kernel.compose_(block, targets_N[at], main_R, contrast_R)
        if wanted:
            gradients.add(chunk, kernel.student, kernel.logit_gradient(chunk), scaled_CH)
    return divergence_N, logprob_N


def _slopes(
    divergence_R: Tensor, logprob_R: Tensor, terms: TokenTerms, settings: ObjectiveSettings
) -> tuple[Tensor | None, Tensor | None]:
    """The derivatives of the loss in each token's divergence and log-prob; None where the term is off."""
    main_R = contrast_R = None
    if settings.alpha is not None:
        main_R = terms.main_N * (keeps_gradient(divergence_R, terms.kappa) if terms.kept_N is None else terms.kept_N)
    if settings.contrastive is not None:
        slope_R = hinge_slope(logprob_R, terms.primary_N, terms.negative_N, settings.contrastive.margin)
        contrast_R = terms.contrastive_N * slope_R
    return main_R, contrast_R


def _loss(
    divergence_N: Tensor, logprob_N: Tensor, terms: TokenTerms, settings: ObjectiveSettings
) -> tuple[Tensor, Tensor]:
    """The loss (0-d, float32) and which tokens have a contrastive gradient."""
    loss = (terms.main_N * clipped(divergence_N, terms.kappa)).sum()
    active_N = torch.zeros_like(logprob_N, dtype=torch.bool)
    if settings.contrastive is not None:
        arguments = (logprob_N, terms.primary_N, terms.negative_N, settings.contrastive.margin)
        loss = loss + (terms.contrastive_N * hinge(*arguments)).sum()
        active_N = (terms.contrastive_N * hinge_slope(*arguments)) != 0
    return loss, active_N


def _float_vector(hidden_NH: Tensor) -> Tensor:
    return torch.empty(len(hidden_NH), dtype=torch.float32, device=hidden_NH.device)
