"""From the logits of some tokens to their scores and to the loss's gradient in the student's logits, row by row.

A row is one token; nothing here looks across rows, and nothing is multiplied by a head. `TorchBackend` is the
arithmetic in plain torch: it walks over blocks of rows that stay in the processor's cache, in scratch that is allocated
once.

```
 student u -- cap, log-softmax --> S --+-- D(S, P) ----------+-- dL/dD(S, P) -----------+
 primary u -- cap, log-softmax --> P --+-- D(S, N) ----------+-- dL/dD(S, N) -----------+--> gradient over u
 negative u - cap, log-softmax --> N --+-- s = log S(target) +-- dL/ds (onehot - S) ----+
```
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unisd_rl.objective.divergences import DIVERGENCES
from unisd_rl.objective.kernels.head import ScaledHead
from unisd_rl.objective.term import Measure, TokenScores, TokenTerm, derivatives_of

# Elements of one block. On the CPU 4 MiB of float32: a block of logits and its scratch stay in the last-level cache,
# and threads do not meet too often. Elsewhere 64 MiB: scratch stays small beside a chunk, launches stay few.
_CPU_BLOCK_ELEMENTS, _BLOCK_ELEMENTS = 1 << 20, 1 << 24


@dataclass(frozen=True)
class Logits:
    """Some tokens' uncapped logits (`u` of `ScaledHead`), float32; scoring them may overwrite all of them."""

    student_CV: Tensor
    teacher_CV: Tensor | None
    """The primary view's; needed for a divergence to it."""
    negative_CV: Tensor | None
    """The negative view's; needed for a divergence to it."""

    def slice(self, part: slice) -> "Logits":
        """A window on some of the tokens."""
        others = (self.teacher_CV, self.negative_CV)
        return Logits(self.student_CV[part], *(None if other is None else other[part] for other in others))


class TorchBackend:
    """Scores rows of logits under one head each for student and teacher, for one set of measures."""

    def __init__(
        self, student: ScaledHead, teacher: ScaledHead | None, measures: Sequence[Measure], buffers: Logits
    ) -> None:
        """`buffers`: what the logits of any chunk lie in, for their shape and device."""
        self._student, self._teacher = student, teacher
        (rows, vocabulary), device = buffers.student_CV.shape, buffers.student_CV.device
        block = _CPU_BLOCK_ELEMENTS if device.type == "cpu" else _BLOCK_ELEMENTS
        self._block_rows = max(1, min(rows, block // vocabulary))
        primary = [measure for measure in measures if measure.view == "primary"]
        negative = [measure for measure in measures if measure.view == "negative"]
        self._primary, self._negative = primary, negative

        def scratch() -> Tensor:
            return torch.empty(self._block_rows, vocabulary, dtype=torch.float32, device=device)

        self._student_p_RV = scratch()
        self._cap_slope_RV = scratch() if student.outer is not None else None
        self._teacher_p_RV = scratch() if measures else None
        # One slope a measure; the last one lies over the student's log-probs.
        self._slopes_RV = [scratch() for _ in measures[1:]]
        # A view's last measure may overwrite the view's log-probs, those before may not.
        self._ratio_RV = scratch() if max(len(primary), len(negative)) > 1 else None

    def score(
        self, logits: Logits, targets_C: Tensor, terms: Sequence[TokenTerm], gradient_CV: Tensor | None
    ) -> TokenScores:
        """What is measured; the gradient of the terms in the student's `u` is written to `gradient_CV`, if given.

        That may be the student's logits themselves, or a buffer of another type.
        """
        blocks = []
        for part in spans(0, len(targets_C), self._block_rows):
            block, of_block = logits.slice(part), [term.slice(part.start, part.stop) for term in terms]
            blocks.append(self._score_block(block, targets_C[part], of_block, gradient_CV is not None))
            if gradient_CV is not None and gradient_CV.data_ptr() != logits.student_CV.data_ptr():
                gradient_CV[part] = block.student_CV
        return TokenScores.joined(blocks)

    def _score_block(
        self, logits: Logits, targets_R: Tensor, terms: Sequence[TokenTerm], gradient: bool
    ) -> TokenScores:
        """Where a gradient is wanted, it ends in the student's logits."""
        student_p_RV = self._student_p_RV[: len(targets_R)]
        cap_slope_RV = None if self._cap_slope_RV is None else self._cap_slope_RV[: len(targets_R)]
        self._student.finish_(logits.student_CV)
        if cap_slope_RV is not None:
            self._student.cap_slope(logits.student_CV, cap_slope_RV)
        log_softmax_(logits.student_CV, student_p_RV)
        logprob_R = logits.student_CV.gather(1, targets_R[:, None]).squeeze(1)
        divergences, slopes = self._divergences(logits)
        scores = TokenScores(logprob_R, divergences)
        if gradient:
            derivatives = derivatives_of(terms, scores)
            gradient_RV = _weighted(logits.student_CV, slopes, derivatives.divergences)
            slope_R = derivatives.logprob_N
            if slope_R is not None:
                gradient_RV.addcmul_(student_p_RV, slope_R[:, None], value=-1.0)
                gradient_RV.scatter_add_(1, targets_R[:, None], slope_R[:, None])
            if cap_slope_RV is not None:
                gradient_RV.mul_(cap_slope_RV)
            if self._student.after != 1.0:
                gradient_RV.mul_(self._student.after)
        return scores

    def _divergences(self, logits: Logits) -> tuple[dict[Measure, Tensor], dict[Measure, Tensor]]:
        """Values and slopes in the order of the measures; the last slope lies over the student's log-probs."""
        values: dict[Measure, Tensor] = {}
        slopes: dict[Measure, Tensor] = {}
        rows = len(logits.student_CV)
        buffers = iter([*(slope_RV[:rows] for slope_RV in self._slopes_RV), logits.student_CV])
        student = (logits.student_CV, self._student_p_RV[:rows])
        for measures, view_RV in ((self._primary, logits.teacher_CV), (self._negative, logits.negative_CV)):
            if not measures:
                continue
            assert self._teacher is not None
            assert self._teacher_p_RV is not None
            assert view_RV is not None
            p_RV = self._teacher_p_RV[:rows]
            log_softmax_(self._teacher.finish_(view_RV), p_RV)
            for measure in measures:
                spare_RV = None if measure is measures[-1] else self._ratio_RV
                scratch_RV = view_RV if spare_RV is None else spare_RV[:rows]
                slopes[measure] = slope_RV = next(buffers)
                (logS_RV, S_RV), kind = student, measure.divergence
                divergence = DIVERGENCES[type(kind)]
                values[measure] = divergence(kind, logS_RV, view_RV, S_RV, p_RV, scratch_RV, slope_RV)
        return values, slopes


def _weighted(gradient_RV: Tensor, slopes: Mapping[Measure, Tensor], weights: Mapping[Measure, Tensor]) -> Tensor:
    """The sum of all slopes times the derivatives of the loss in their divergences, over `gradient_RV`."""
    if not slopes:
        return gradient_RV.zero_()
    *others, last = slopes
    gradient_RV.mul_(weights[last][:, None])  # the last slope lies there
    for measure in others:
        gradient_RV.addcmul_(slopes[measure], weights[measure][:, None])
    return gradient_RV


def log_softmax_(logits_RV: Tensor, probs_RV: Tensor) -> None:
    """Turn finite logits of any size into log-probabilities in place, and write the probabilities to `probs_RV`."""
    logits_RV.sub_(logits_RV.amax(-1, keepdim=True))
    torch.exp(logits_RV, out=probs_RV)
    total_R1 = probs_RV.sum(-1, keepdim=True)
    logits_RV.sub_(total_R1.log())
    probs_RV.div_(total_R1)


def spans(start: int, stop: int, size: int) -> Iterator[slice]:
    """`start .. stop - 1` in slices of `size`, the last one shorter."""
    return (slice(begin, min(begin + size, stop)) for begin in range(start, stop, size or 1))
