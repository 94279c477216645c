"""The arithmetic of `torch_backend` as two Triton kernels: on a GPU every logit is read three times and written once.

```
 measure (a program per token)  pass 1: log-sum-exps, log S(target)   pass 2: divergences, sums their slopes need
 on the host, vectors of tokens  the terms' derivatives in all of these
 differentiate (token, block)   the gradient in the student's logits, in the type that the matmuls take
```

Why not Liger's fused linear JSD: it returns the mean over tokens of one divergence. Token weights, clipping per token
and the other terms act between the divergence and its gradient, which is where that kernel has no opening.

Float32 inside. Imported only where there is a GPU (or Triton's interpreter, in the tests).
"""

from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from unisd_rl.config.objective import JensenShannon
from unisd_rl.objective.kernels.head import ScaledHead
from unisd_rl.objective.kernels.torch_backend import Logits
from unisd_rl.objective.kernels.triton_kernels import differentiate, measure
from unisd_rl.objective.term import Measure, TokenScores, TokenTerm, derivatives_of

_BLOCK = 4096
_ABSENT, _FORWARD, _REVERSE, _MIXED = 0, 1, 2, 3
_MOST_PRIMARY, _MOST_NEGATIVE = 2, 1

# Lines of `measure`'s statistics that are read here, and how many there are.
_LOGPROB, _VALUES, _SUMS, _LINES = 3, 4, 7, 10


class TritonBackend:
    """Scores rows of logits on a GPU; the counterpart of `TorchBackend`, to which its results are compared."""

    def __init__(self, student: ScaledHead, teacher: ScaledHead | None, measures: Sequence[Measure]) -> None:
        primary, negative = _by_view(measures)
        # The kernels' slot of each measure: one or two to the primary view, then the one to the negative view.
        self._slots = {wanted: slot for slot, wanted in enumerate(primary)}
        self._slots |= {wanted: _MOST_PRIMARY + slot for slot, wanted in enumerate(negative)}
        alphas: list[float | None] = [None] * (_MOST_PRIMARY + _MOST_NEGATIVE)
        for wanted, slot in self._slots.items():
            assert isinstance(wanted.divergence, JensenShannon)
            alphas[slot] = wanted.divergence.alpha
        other = student if teacher is None else teacher
        self._numbers = (
            student.after,
            1.0 if student.outer is None else student.outer,
            other.after,
            1.0 if other.outer is None else other.outer,
            *(0.0 if alpha is None else alpha for alpha in alphas),
        )
        self._constants = {
            **{f"KIND_{name}": _kind(alpha) for name, alpha in zip("ABN", alphas, strict=True)},
            "STUDENT_CAP": student.outer is not None,
            "TEACHER_CAP": other.outer is not None,
        }

    @staticmethod
    def supports(measures: Sequence[Measure]) -> bool:
        """Whether the kernels compute all of these: they know one family of divergences, and few at a time."""
        primary, negative = _by_view(measures)
        known = all(isinstance(wanted.divergence, JensenShannon) for wanted in measures)
        few = len(primary) <= _MOST_PRIMARY and len(negative) <= _MOST_NEGATIVE
        return known and few and (bool(primary) or not negative)

    def score(
        self, logits: Logits, targets_C: Tensor, terms: Sequence[TokenTerm], gradient_CV: Tensor | None
    ) -> TokenScores:
        """What is measured; the gradient of the terms in the student's `u` is written to `gradient_CV`, if given."""
        tokens, vocabulary = logits.student_CV.shape
        student_CV = logits.student_CV
        views = (
            student_CV,
            student_CV if logits.teacher_CV is None else logits.teacher_CV,
            student_CV if logits.negative_CV is None else logits.negative_CV,
        )
        assert all(view_CV.is_contiguous() for view_CV in views)
        constants = {**self._constants, "BLOCK": min(_BLOCK, triton.next_power_of_2(vocabulary))}
        statistics = torch.zeros(_LINES, tokens, dtype=torch.float32, device=student_CV.device)
        sizes = (tokens, vocabulary, *self._numbers)
        measure[(tokens,)](*views, targets_C, statistics, *sizes, **constants, num_warps=8)
        values = statistics[_VALUES:_SUMS].clamp(min=0.0)
        scores = TokenScores(statistics[_LOGPROB], {wanted: values[slot] for wanted, slot in self._slots.items()})
        if gradient_CV is not None:
            assert gradient_CV.is_contiguous()
            weights = self._weights(scores, terms)
            grid = (tokens, triton.cdiv(vocabulary, constants["BLOCK"]))
            differentiate[grid](*views, targets_C, statistics, weights, gradient_CV, *sizes, **constants, num_warps=8)
        return scores

    def _weights(self, scores: TokenScores, terms: Sequence[TokenTerm]) -> Tensor:
        """[4, C]: derivatives of the loss in the divergences to the primary, to the negative, and in the log-prob."""
        derivatives = derivatives_of(terms, scores)
        weights = torch.zeros(4, len(scores.logprob_N), dtype=torch.float32, device=scores.logprob_N.device)
        for wanted, slope_C in derivatives.divergences.items():
            weights[self._slots[wanted]] = slope_C
        if derivatives.logprob_N is not None:
            weights[3] = derivatives.logprob_N
        return weights


def _by_view(measures: Sequence[Measure]) -> tuple[list[Measure], list[Measure]]:
    primary = [wanted for wanted in measures if wanted.view == "primary"]
    return primary, [wanted for wanted in measures if wanted.view == "negative"]


def _kind(alpha: float | None) -> int:
    if alpha is None:
        return _ABSENT
    return {0.0: _FORWARD, 1.0: _REVERSE}.get(alpha, _MIXED)
