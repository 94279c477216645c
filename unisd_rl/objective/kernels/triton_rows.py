"""The arithmetic of `rows` as two Triton kernels: on a GPU every logit is read three times and written once.

```
 measure (a program per token)  pass 1: log-sum-exps, log S(target)   pass 2: divergences, sums their slopes need
 on the host, vectors of tokens  hinge, clipping, derivatives of the loss in all of these
 differentiate (token, block)   the gradient in the student's logits, in the type that the products take
```

Why not Liger's fused linear JSD: it returns the mean over tokens of one divergence. Token weights, clipping per token
and the other terms act between the divergence and its gradient, which is where that kernel has no opening.

Float32 inside. Imported only where there is a GPU (or Triton's interpreter, in the tests).
"""

import torch
import triton
from torch import Tensor

from unisd_rl.config.objective import DivergenceContrast, ObjectiveSettings
from unisd_rl.objective.kernels.head import ScaledHead
from unisd_rl.objective.kernels.token_scores import TokenScores
from unisd_rl.objective.kernels.torch_rows import Logits
from unisd_rl.objective.kernels.triton_kernels import differentiate, measure
from unisd_rl.objective.step import TokenTerms

_BLOCK = 4096
_ABSENT, _FORWARD, _REVERSE, _MIXED = 0, 1, 2, 3

# Lines of `measure`'s statistics that are read here, and how many there are.
_LOGPROB, _VALUES, _SUMS, _LINES = 3, 4, 7, 10


class TritonRows:
    """Scores rows of logits on a GPU; the counterpart of `TorchRows`, to which its results are compared."""

    def __init__(self, student: ScaledHead, teacher: ScaledHead | None, settings: ObjectiveSettings) -> None:
        self._settings = settings
        contrast = settings.contrastive if isinstance(settings.contrastive, DivergenceContrast) else None
        self._contrast = contrast
        wanted = (settings.alpha, None if contrast is None else contrast.alpha)
        primary = tuple(dict.fromkeys(alpha for alpha in wanted if alpha is not None))
        # The divergences to the primary view, one or two, then the one to the negative view.
        self._primary = primary
        alphas = ((*primary, None, None)[0], (*primary, None, None)[1], None if contrast is None else contrast.alpha)
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

    def score_(self, logits: Logits, targets_C: Tensor, terms: TokenTerms, gradient_CV: Tensor | None) -> TokenScores:
        """The tokens' numbers; the loss's gradient in the student's `u` is written to `gradient_CV`, if given."""
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
        scores = self._scores(statistics, terms)
        if gradient_CV is not None:
            assert gradient_CV.is_contiguous()
            weights = self._weights(scores, terms)
            grid = (tokens, triton.cdiv(vocabulary, constants["BLOCK"]))
            differentiate[grid](*views, targets_C, statistics, weights, gradient_CV, *sizes, **constants, num_warps=8)
        return scores

    def _scores(self, statistics: Tensor, terms: TokenTerms) -> TokenScores:
        values = statistics[_VALUES:_SUMS].clamp(min=0.0)
        by_alpha = dict(zip(self._primary, values, strict=False))
        gap_C = None if self._contrast is None else by_alpha[self._contrast.alpha] - values[2]
        main_C = None if self._settings.alpha is None else by_alpha[self._settings.alpha]
        return TokenScores.of(main_C, statistics[_LOGPROB], gap_C, terms, self._settings)

    def _weights(self, scores: TokenScores, terms: TokenTerms) -> Tensor:
        """[4, C]: derivatives of the loss in the divergences to the primary, to the negative, and in the log-prob."""
        found = scores.derivatives(terms, self._settings)
        weights = torch.zeros(4, len(scores.logprob_C), dtype=torch.float32, device=scores.logprob_C.device)
        if found.divergence_C is not None:
            weights[0] += found.divergence_C
        if found.gap_C is not None:
            assert self._contrast is not None
            weights[self._primary.index(self._contrast.alpha)] += found.gap_C
            weights[2] -= found.gap_C
        if found.logprob_C is not None:
            weights[3] += found.logprob_C
        return weights


def _kind(alpha: float | None) -> int:
    if alpha is None:
        return _ABSENT
    return {0.0: _FORWARD, 1.0: _REVERSE}.get(alpha, _MIXED)
