"""Losses over a whole vocabulary without ever holding [tokens, vocabulary]: the gradient is formed chunk by chunk.

```
 hidden_CH --W^T--> student logits --+
 teacher_CH --W^T--> teacher logits --+--> rows: divergences D, log-prob s of the realised token, dL/dD, dL/ds,
 negative_CH --W^T--> (contrast of   --+   and d logits = dL/dD dD/dlogits + dL/ds (onehot - S), over the student's
                      divergences only)    buffer
 d logits --- W ---> gradient of hidden       d logits^T --- hidden ---> gradient of W, b, accumulated
```

Four matrix products in all; three where the head needs no gradient, one less where nothing needs the teacher's whole
distribution, one more for the contrast of divergences. Element-wise work runs on blocks of rows that fit the
processor's cache. Everything is float32 inside, whatever the inputs are.
"""

import importlib.util
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from unisd_rl.config.objective import DivergenceConfig, DivergenceContrast, ObjectiveSettings
from unisd_rl.objective.kernels.chunk_logits import Gradients, Kernel, States
from unisd_rl.objective.kernels.head import Head
from unisd_rl.objective.kernels.token_scores import TokenScores
from unisd_rl.objective.kernels.torch_rows import Logits, TorchRows
from unisd_rl.objective.step import TokenTerms


@dataclass(frozen=True)
class ScoredTokens:
    """One gradient pass over N tokens."""

    loss: Tensor
    """0-d float32: `sum_t main_t min(D_t, kappa) + contrastive_t hinge_t - likelihood_t s_t`; its backward may run
    once."""
    divergence_N: Tensor
    """D before clipping, nats, no gradient; zeros where the main term is off."""
    student_logprob_N: Tensor
    """Log-prob of the realised token under the student, no gradient."""
    hinge_N: Tensor
    """The contrastive term's hinge, nats, no gradient; zeros where it is off, no meaning where `contrastive_N` is 0."""
    contrast_active_N: Tensor
    """Which tokens have a non-zero contrastive gradient (bool)."""


@torch.no_grad()
def realised_logprobs(
    hidden_NH: Tensor, head: Head, targets_N: Tensor, temperature: float, chunk_tokens: int
) -> Tensor:
    """`logprob_N`, float32: log-softmax at `temperature` of each token's logits, at its target. No gradient."""
    kernel = Kernel(States(hidden_NH), head, None, temperature, chunk_tokens)
    return _run(kernel, None, targets_N, _no_terms(targets_N), _measuring(None, temperature, chunk_tokens)).logprob_C


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
    kernel = Kernel(States(student_NH, teacher_NH), student_head, teacher_head, temperature, chunk_tokens)
    targets_N = torch.zeros(len(student_NH), dtype=torch.long, device=student_NH.device)
    settings = _measuring(alpha, temperature, chunk_tokens)
    return _run(kernel, None, targets_N, _no_terms(targets_N), settings).divergence_C


def scored_tokens(
    student_NH: Tensor,
    student_head: Head,
    teacher_NH: Tensor | None,
    teacher_head: Head | None,
    targets_N: Tensor,
    terms: TokenTerms,
    settings: ObjectiveSettings,
    negative_NH: Tensor | None = None,
) -> ScoredTokens:
    """Divergence, contrast and likelihood of N tokens, with gradient to `student_NH` and the student head's tensors.

    The teacher's states and head are needed where the main term is on (`settings.alpha`) and for the contrast of
    divergences, which also needs `negative_NH`, the teacher's states of the negative view; tokens without that view
    hold any finite numbers there. Both heads may share their weight. No token gives a zero loss with a gradient path.
    The gradient exists when the forward pass ends; backward scales it by the incoming gradient, hands it over and
    forgets it, so it runs once per forward pass. Raises ValueError where states or head that are needed are absent.
    """
    whole = isinstance(settings.contrastive, DivergenceContrast)
    if (settings.alpha is not None or whole) and (teacher_NH is None or teacher_head is None):
        raise ValueError("the main term (alpha) and the contrast of divergences need the teacher's states and its head")
    if whole and negative_NH is None:
        raise ValueError("the contrast of divergences needs the teacher's hidden states of the negative view")
    needs_teacher = settings.alpha is not None or whole
    scored = _ScoredTokens.apply(
        student_NH,
        student_head.weight_VH,
        student_head.bias_V,
        student_head,
        (teacher_NH if needs_teacher else None, negative_NH if whole else None),
        teacher_head if needs_teacher else None,
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
        teacher_views: tuple[Tensor | None, Tensor | None],
        teacher_head: Head | None,
        targets_N: Tensor,
        terms: TokenTerms,
        settings: ObjectiveSettings,
        grad_enabled: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        inputs = (student_NH, weight_VH, bias_V)
        gradients = Gradients.zeros(inputs, tuple(grad_enabled and need for need in ctx.needs_input_grad[:3]))
        states = States(student_NH, *teacher_views)
        kernel = Kernel(states, student_head, teacher_head, settings.temperature, settings.chunk_tokens)
        scores = _run(kernel, gradients, targets_N, terms, settings)
        # Not save_for_backward: backward must be able to let go of them, so that the head's gradient exists once.
        ctx.gradients = (gradients.hidden_NH, gradients.weight_VH, gradients.bias_V)
        ctx.dtypes = tuple(None if tensor is None else tensor.dtype for tensor in inputs)
        numbers = (scores.divergence_C, scores.logprob_C, scores.hinge_C, scores.active_C)
        ctx.mark_non_differentiable(*numbers)
        return scores.loss(terms, settings), *numbers

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
    kernel: Kernel, gradients: Gradients | None, targets_N: Tensor, terms: TokenTerms, settings: ObjectiveSettings
) -> TokenScores:
    """All chunks: fills `gradients`, returns the scores of the N tokens."""
    rows = _rows(kernel, settings)
    some = (settings.divergence, settings.contrastive, settings.likelihood) != (None, None, None)
    wanted = gradients is not None and gradients.any and some
    found = [TokenScores.none(targets_N.device)]
    for chunk in kernel.chunks():
        logits, operand_CH = kernel.logits(chunk)
        gradient_CV = kernel.gradient(chunk) if wanted else None
        found.append(rows.score_(logits, targets_N[chunk], terms.slice(chunk.start, chunk.stop), gradient_CV))
        if gradients is not None and gradient_CV is not None:
            gradients.add(chunk, kernel.student, gradient_CV, operand_CH)
    return TokenScores.joined(found)


class _Rows(Protocol):
    def score_(self, logits: Logits, targets_C: Tensor, terms: TokenTerms, gradient_CV: Tensor | None) -> TokenScores:
        """See `TorchRows.score_`."""
        ...


def _rows(kernel: Kernel, settings: ObjectiveSettings) -> _Rows:
    """Triton's on a GPU that has it, else plain torch."""
    if kernel.buffers.student_CV.device.type == "cuda" and importlib.util.find_spec("triton") is not None:
        from unisd_rl.objective.kernels.triton_rows import TritonRows

        return TritonRows(kernel.student, kernel.teacher, settings)
    return TorchRows(kernel.student, kernel.teacher, settings, kernel.buffers)


def _measuring(alpha: float | None, temperature: float, chunk_tokens: int) -> ObjectiveSettings:
    """Settings under which nothing but the divergence of this alpha, or not even that, is measured."""
    divergence = None if alpha is None else DivergenceConfig(alpha=alpha)
    return ObjectiveSettings.model_construct(temperature=temperature, divergence=divergence, chunk_tokens=chunk_tokens)


def _no_terms(targets_N: Tensor) -> TokenTerms:
    zeros_N = torch.zeros(len(targets_N), device=targets_N.device)
    return TokenTerms(*(zeros_N,) * 6, kappa=None, kept_N=None)
