"""Losses over a whole vocabulary without ever holding [tokens, vocabulary]: the gradient is formed chunk by chunk.

```
 hidden_CH --W^T--> student logits --+
 teacher_CH --W^T--> primary logits --+--> backend: divergences D, the target's log-prob s, the terms' derivatives
 negative_CH --W^T--> (only if a     --+   dL/dD, dL/ds, and d logits = dL/dD dD/dlogits + dL/ds (onehot - S), over
                      term reads it)       the student's buffer
 d logits --- W ---> gradient of hidden       d logits^T --- hidden ---> gradient of W, b, accumulated
```

Four matmuls in all; three where the head needs no gradient, one less where no term needs the teacher's whole
distribution, one more where one needs that of the negative view. Element-wise work runs on blocks of rows that fit the
processor's cache. Everything is float32 inside, whatever the inputs are.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from unisd_rl.config.objective import Divergence
from unisd_rl.objective.kernels.chunk_logits import ChunkedLogits, Gradients, HiddenStates
from unisd_rl.objective.kernels.head import Head
from unisd_rl.objective.kernels.torch_backend import Logits, TorchBackend
from unisd_rl.objective.term import Measure, TokenScores, TokenTerm, measures_of


@dataclass(frozen=True)
class ScoredTokens:
    """One gradient pass over N tokens."""

    loss: Tensor
    """0-d float32, the sum of the terms; its backward may run once."""
    scores: TokenScores
    """What was measured, no gradient."""


@torch.no_grad()
def token_logprobs(hidden_NH: Tensor, head: Head, targets_N: Tensor, temperature: float, chunk_tokens: int) -> Tensor:
    """`logprob_N`, float32: log-softmax at `temperature` of each token's logits, at its target. No gradient."""
    logits = ChunkedLogits(HiddenStates(hidden_NH), head, None, temperature, chunk_tokens)
    return _run(logits, None, targets_N, (), ()).logprob_N


@torch.no_grad()
def token_entropies(hidden_NH: Tensor, head: Head, temperature: float, chunk_tokens: int) -> Tensor:
    """`entropy_N` in nats, float32, of each token's distribution at `temperature`. No gradient."""
    parts = [torch.zeros(0, device=hidden_NH.device)]
    for hidden_CH in hidden_NH.split(chunk_tokens):
        logprob_CV = head.logits(hidden_CH, temperature).log_softmax(-1)
        parts.append(-(logprob_CV.exp() * logprob_CV).nan_to_num(0.0).sum(-1))  # an entry of probability 0 adds nothing
    return torch.cat(parts)


@torch.no_grad()
def token_divergence(
    student_NH: Tensor,
    student_head: Head,
    teacher_NH: Tensor,
    teacher_head: Head,
    divergence: Divergence,
    temperature: float,
    chunk_tokens: int,
) -> Tensor:
    """`divergence_N` in nats, float32, no gradient: the same numbers `scored_tokens` finds. For the quantile clip."""
    states, measure = HiddenStates(student_NH, teacher_NH), Measure(divergence, "primary")
    logits = ChunkedLogits(states, student_head, teacher_head, temperature, chunk_tokens)
    targets_N = torch.zeros(len(student_NH), dtype=torch.long, device=student_NH.device)
    return _run(logits, None, targets_N, (), (measure,)).divergences[measure]


def scored_tokens(
    states: HiddenStates,
    student_head: Head,
    teacher_head: Head | None,
    targets_N: Tensor,
    terms: Sequence[TokenTerm],
    temperature: float,
    chunk_tokens: int,
) -> ScoredTokens:
    """The terms of N tokens, with gradient to `states.student_NH` and the student head's tensors.

    The teacher's states and head are needed where a term reads a divergence, those of the negative view where one
    reads a divergence to that; tokens without that view hold any finite numbers there. Both heads may share their
    weight. No token gives a zero loss with a gradient path. The gradient exists when the forward pass ends; backward
    scales it by the incoming gradient, hands it over and forgets it, so it runs once per forward pass. Raises
    ValueError where states or head that are needed are absent.
    """
    measures = measures_of(terms)
    views = {measure.view for measure in measures}
    if measures and (states.teacher_NH is None or teacher_head is None):
        raise ValueError("a term that reads a divergence needs the teacher's states and its head")
    if "negative" in views and states.negative_NH is None:
        raise ValueError("a divergence to the negative view needs the teacher's hidden states of it")
    loss, logprob_N, *divergences = _ScoredTokens.apply(
        states.student_NH,
        student_head.weight_VH,
        student_head.bias_V,
        student_head,
        (states.teacher_NH if measures else None, states.negative_NH if "negative" in views else None),
        teacher_head if measures else None,
        targets_N,
        tuple(terms),
        (temperature, chunk_tokens),
        torch.is_grad_enabled(),
    )
    return ScoredTokens(loss, TokenScores(logprob_N, dict(zip(measures, divergences, strict=True))))


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
        terms: tuple[TokenTerm, ...],
        sizes: tuple[float, int],
        grad_enabled: bool,
    ) -> tuple[Tensor, ...]:
        inputs = (student_NH, weight_VH, bias_V)
        gradients = Gradients.zeros(inputs, tuple(grad_enabled and need for need in ctx.needs_input_grad[:3]))
        logits = ChunkedLogits(HiddenStates(student_NH, *teacher_views), student_head, teacher_head, *sizes)
        scores = _run(logits, gradients, targets_N, terms, measures_of(terms))
        # Not save_for_backward: backward must be able to let go of them, so that the head's gradient exists once.
        ctx.gradients = (gradients.hidden_NH, gradients.weight_VH, gradients.bias_V)
        ctx.dtypes = tuple(None if tensor is None else tensor.dtype for tensor in inputs)
        numbers = (scores.logprob_N, *scores.divergences.values())
        ctx.mark_non_differentiable(*numbers)
        loss = sum((term.loss(scores) for term in terms), scores.logprob_N.new_zeros(()))
        return loss, *numbers

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
    logits: ChunkedLogits,
    gradients: Gradients | None,
    targets_N: Tensor,
    terms: tuple[TokenTerm, ...],
    measures: tuple[Measure, ...],
) -> TokenScores:
    """All chunks: fills `gradients`, returns the scores of the N tokens."""
    backend = _backend(logits, measures)
    wanted = gradients is not None and gradients.any and bool(terms)
    nothing = torch.zeros(0, device=targets_N.device)
    parts = [TokenScores(nothing, dict.fromkeys(measures, nothing))]
    for chunk in logits.chunks():
        filled, operand_CH = logits.fill(chunk)
        gradient_CV = logits.gradient(chunk) if wanted else None
        of_chunk = [term.slice(chunk.start, chunk.stop) for term in terms]
        parts.append(backend.score(filled, targets_N[chunk], of_chunk, gradient_CV))
        if gradients is not None and gradient_CV is not None:
            gradients.add(chunk, logits.student, gradient_CV, operand_CH)
    return TokenScores.joined(parts)


class _Backend(Protocol):
    def score(
        self, logits: Logits, targets_C: Tensor, terms: Sequence[TokenTerm], gradient_CV: Tensor | None
    ) -> TokenScores:
        """As `TorchBackend.score`."""
        ...


def _backend(logits: ChunkedLogits, measures: tuple[Measure, ...]) -> _Backend:
    """Triton on a GPU that has it, where it has kernels for all that is measured; else plain torch."""
    if logits.buffers.student_CV.device.type == "cuda" and importlib.util.find_spec("triton") is not None:
        from unisd_rl.objective.kernels.triton_backend import TritonBackend

        if TritonBackend.supports(measures):
            return TritonBackend(logits.student, logits.teacher, measures)
    return TorchBackend(logits.student, logits.teacher, measures, logits.buffers)
