"""From the logits of some tokens to their numbers and to the loss's gradient in the student's logits, row by row.

A row is one token; nothing here looks across rows, and nothing is multiplied by a head. `TorchRows` is the arithmetic
in plain torch: it walks over blocks of rows that stay in the processor's cache, in scratch that is allocated once.

```
 student u -- cap, log-softmax --> S --+-- D(S, P) main -----+-- main_t 1[D <= kappa] --------+
 teacher u -- cap, log-softmax --> P --+-- D(S, P), D(S, N) -+-- contrastive_t 1[hinge > 0] --+--> gradient over u
 negative u - cap, log-softmax --> N --+   log S(target) ----+-- dL/ds (onehot - S) ----------+
```
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from unisd_rl.config.objective import DivergenceContrast, ObjectiveSettings
from unisd_rl.objective.divergence import divergence, log_softmax_
from unisd_rl.objective.kernels.head import ScaledHead
from unisd_rl.objective.kernels.token_scores import Derivatives, TokenScores
from unisd_rl.objective.step import TokenTerms

# Elements of one block. On the CPU 4 MiB of float32: a block of logits and its scratch stay in the last-level cache,
# and threads do not meet too often. Elsewhere 64 MiB: scratch stays small beside a chunk, launches stay few.
_CPU_BLOCK_ELEMENTS, _BLOCK_ELEMENTS = 1 << 20, 1 << 24


@dataclass(frozen=True)
class Logits:
    """Some tokens' uncapped logits (`u` of `ScaledHead`), float32; scoring them may overwrite all of them."""

    student_CV: Tensor
    teacher_CV: Tensor | None
    """The primary view's; needed for the main term and for the contrast of divergences."""
    negative_CV: Tensor | None
    """The negative view's; needed for the contrast of divergences."""

    def rows(self, part: slice) -> "Logits":
        """A window on some of the tokens."""
        others = (self.teacher_CV, self.negative_CV)
        return Logits(self.student_CV[part], *(None if other is None else other[part] for other in others))


@dataclass(frozen=True)
class _Slope:
    """A divergence per row and its derivative in the student's capped logits."""

    divergence_R: Tensor
    slope_RV: Tensor


class TorchRows:
    """Scores rows of logits under one head each for student and teacher, for one set of terms."""

    def __init__(
        self,
        student: ScaledHead,
        teacher: ScaledHead | None,
        settings: ObjectiveSettings,
        buffers: Logits,
    ) -> None:
        """`buffers`: what the logits of any chunk lie in, for their shape and device."""
        self._student, self._teacher, self._settings = student, teacher, settings
        (rows, vocabulary), device = buffers.student_CV.shape, buffers.student_CV.device
        block = _CPU_BLOCK_ELEMENTS if device.type == "cpu" else _BLOCK_ELEMENTS
        self._block_rows = max(1, min(rows, block // vocabulary))
        contrast = settings.contrastive if isinstance(settings.contrastive, DivergenceContrast) else None
        # Alphas of the divergences to the primary view: one where main term and contrast agree on it.
        wanted = (settings.alpha, None if contrast is None else contrast.alpha)
        self._alphas = tuple(dict.fromkeys(alpha for alpha in wanted if alpha is not None))
        self._contrast = contrast
        slopes = max(0, len(self._alphas) + (contrast is not None) - 1)

        def scratch(count: int) -> list[Tensor]:
            shape = (self._block_rows, vocabulary)
            return [torch.empty(shape, dtype=torch.float32, device=device) for _ in range(count)]

        self._student_p_RV, self._cap_slope_RV = scratch(1)[0], scratch(1)[0] if student.outer is not None else None
        self._teacher_p_RV = scratch(1)[0] if self._alphas else None
        self._slopes_RV = scratch(slopes)
        self._ratio_RV = scratch(1)[0] if len(self._alphas) > 1 else None

    def score_(self, logits: Logits, targets_C: Tensor, terms: TokenTerms, gradient_CV: Tensor | None) -> TokenScores:
        """The tokens' numbers; the loss's gradient in the student's `u` is written to `gradient_CV`, if given.

        That may be the student's logits themselves, or a buffer of another type.
        """
        blocks = []
        for part in spans(0, len(targets_C), self._block_rows):
            block = logits.rows(part)
            wanted = gradient_CV is not None
            blocks.append(self._score_block_(block, targets_C[part], terms.slice(part.start, part.stop), wanted))
            if gradient_CV is not None and gradient_CV.data_ptr() != logits.student_CV.data_ptr():
                gradient_CV[part] = block.student_CV
        return TokenScores.joined(blocks)

    def _score_block_(self, logits: Logits, targets_R: Tensor, terms: TokenTerms, gradient: bool) -> TokenScores:
        student_p_RV = self._student_p_RV[: len(targets_R)]
        cap_slope_RV = None if self._cap_slope_RV is None else self._cap_slope_RV[: len(targets_R)]
        self._student.finish_(logits.student_CV)
        if cap_slope_RV is not None:
            self._student.cap_slope(logits.student_CV, cap_slope_RV)
        log_softmax_(logits.student_CV, student_p_RV)
        logprob_R = at_target(logits.student_CV, targets_R)
        found, against = self._divergences_(logits)
        scores = self._scores(found, against, logprob_R, terms)
        if gradient:
            derivatives = scores.derivatives(terms, self._settings)
            gradient_RV = self._weighted_(logits.student_CV, found, against, derivatives)
            slope_R = derivatives.logprob_C
            if slope_R is not None:
                gradient_RV.addcmul_(student_p_RV, slope_R[:, None], value=-1.0)
                gradient_RV.scatter_add_(1, targets_R[:, None], slope_R[:, None])
            if cap_slope_RV is not None:
                gradient_RV.mul_(cap_slope_RV)
            if self._student.after != 1.0:
                gradient_RV.mul_(self._student.after)
        return scores

    def _divergences_(self, logits: Logits) -> tuple[dict[float, _Slope], _Slope | None]:
        """To the primary view, by alpha, and to the negative view; the last one's slope lies over the log-probs."""
        if not self._alphas:
            return {}, None
        rows = len(logits.student_CV)
        slopes = iter([*(slope_RV[:rows] for slope_RV in self._slopes_RV), logits.student_CV])
        assert self._teacher is not None
        assert self._teacher_p_RV is not None
        assert logits.teacher_CV is not None
        student, p_RV = (logits.student_CV, self._student_p_RV[:rows]), self._teacher_p_RV[:rows]
        log_softmax_(self._teacher.finish_(logits.teacher_CV), p_RV)
        found = {}
        for alpha in self._alphas:
            last = alpha == self._alphas[-1]
            ratio_RV = logits.teacher_CV if last or self._ratio_RV is None else self._ratio_RV[:rows]
            slope_RV = next(slopes)
            found[alpha] = _slope(student, (logits.teacher_CV, p_RV), alpha, ratio_RV, slope_RV)
        if self._contrast is None:
            return found, None
        assert logits.negative_CV is not None
        log_softmax_(self._teacher.finish_(logits.negative_CV), p_RV)
        negative = (logits.negative_CV, p_RV)
        return found, _slope(student, negative, self._contrast.alpha, logits.negative_CV, next(slopes))

    def _scores(
        self, found: dict[float, _Slope], against: _Slope | None, logprob_R: Tensor, terms: TokenTerms
    ) -> TokenScores:
        gap_R = None
        if self._contrast is not None:
            assert against is not None
            gap_R = found[self._contrast.alpha].divergence_R - against.divergence_R
        main_R = None if self._settings.alpha is None else found[self._settings.alpha].divergence_R
        return TokenScores.of(main_R, logprob_R, gap_R, terms, self._settings)

    def _weighted_(
        self,
        gradient_RV: Tensor,
        found: dict[float, _Slope],
        against: _Slope | None,
        derivatives: Derivatives,
    ) -> Tensor:
        """The sum of all slopes times the derivatives of the loss in their divergences, over `gradient_RV`."""
        weights = [(self._weight(alpha, derivatives), slope.slope_RV) for alpha, slope in found.items()]
        if against is not None:
            assert derivatives.gap_C is not None
            weights.append((-derivatives.gap_C, against.slope_RV))
        if not weights:
            return gradient_RV.zero_()
        gradient_RV.mul_(weights[-1][0][:, None])  # the last slope lies there
        for weight_R, slope_RV in weights[:-1]:
            gradient_RV.addcmul_(slope_RV, weight_R[:, None])
        return gradient_RV

    def _weight(self, alpha: float, derivatives: Derivatives) -> Tensor:
        """The derivative of the loss in the divergence of this alpha to the primary view."""
        main_C = derivatives.divergence_C if alpha == self._settings.alpha else None
        gap_C = derivatives.gap_C if self._contrast is not None and alpha == self._contrast.alpha else None
        found = [part for part in (main_C, gap_C) if part is not None]
        return found[0] if len(found) == 1 else found[0] + found[1]


def _slope(
    student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], alpha: float, ratio_RV: Tensor, slope_RV: Tensor
) -> _Slope:
    (logS_RV, S_RV), (logP_RV, P_RV) = student, teacher
    return _Slope(divergence(logS_RV, logP_RV, S_RV, P_RV, alpha, ratio_RV, slope_RV), slope_RV)


def spans(start: int, stop: int, size: int) -> Iterator[slice]:
    """`start .. stop - 1` in slices of `size`, the last one shorter."""
    return (slice(begin, min(begin + size, stop)) for begin in range(start, stop, size or 1))


def at_target(values_RV: Tensor, targets_R: Tensor) -> Tensor:
    """`values[r, targets[r]]`, a copy."""
    return values_RV.gather(1, targets_R[:, None]).squeeze(1)
