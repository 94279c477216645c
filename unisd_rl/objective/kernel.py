"""The vocabulary-wide arithmetic of one chunk of tokens, in buffers that are allocated once.

`Kernel` owns two buffers [C, V] (one without a teacher) and the scratch of one block of rows; a `Block` is a window on
them. In the order of use: `project` a chunk, then per block `normalise_`, `diverge_`, `compose_`; after the last block
`logit_gradient` is the chunk's gradient in the student's logits, for `Gradients.add`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from unisd_rl.objective.divergence import divergence_, log_softmax_
from unisd_rl.objective.head import Head, ScaledHead

# Elements of one block. On the CPU 4 MiB of float32: a block of logits and its scratch stay in the last-level cache,
# and threads do not meet too often. Elsewhere 64 MiB: scratch stays small beside a chunk, launches stay few.
_CPU_BLOCK_ELEMENTS, _BLOCK_ELEMENTS = 1 << 20, 1 << 24


@dataclass(frozen=True)
class Block:
    """Some rows of a chunk: logits, then log-probs, then gradients in place, beside scratch for the probabilities."""

    tokens: slice
    """Which of the N tokens these rows are."""
    student_RV: Tensor
    student_p_RV: Tensor
    teacher_RV: Tensor | None
    teacher_p_RV: Tensor | None
    cap_slope_RV: Tensor | None
    """Derivative of the soft cap, where the student's head has one."""


class Kernel:
    """Buffers and heads for N tokens; without a teacher there is no divergence (zeros) and no second product."""

    def __init__(
        self,
        student_NH: Tensor,
        student_head: Head,
        teacher_NH: Tensor | None,
        teacher_head: Head | None,
        temperature: float,
        chunk_tokens: int,
    ) -> None:
        self._student_NH, self._teacher_NH = student_NH, teacher_NH
        self._chunk_tokens = chunk_tokens
        self.student = student_head.at(temperature)
        self._teacher = None if teacher_head is None else teacher_head.at(temperature)
        rows, vocabulary = min(chunk_tokens, len(student_NH)), len(student_head.weight_VH)
        block = _CPU_BLOCK_ELEMENTS if student_NH.device.type == "cpu" else _BLOCK_ELEMENTS
        self._block_rows = max(1, min(rows, block // vocabulary))

        def buffer(count: int) -> Tensor:
            return torch.empty(count, vocabulary, dtype=torch.float32, device=student_NH.device)

        self._student_CV = buffer(rows)
        self._teacher_CV = None if teacher_head is None else buffer(rows)
        self._student_p_RV = buffer(self._block_rows)
        self._teacher_p_RV = None if teacher_head is None else buffer(self._block_rows)
        self._cap_slope_RV = None if student_head.soft_cap is None else buffer(self._block_rows)

    def chunks(self) -> Iterator[slice]:
        """The N tokens in spans of at most `chunk_tokens`."""
        return spans(0, len(self._student_NH), self._chunk_tokens)

    def project(self, chunk: slice) -> Tensor:
        """Fill the buffers with the chunk's uncapped logits; returns the student's scaled hidden states [C, H]."""
        if self._teacher is not None:
            assert self._teacher_NH is not None
            assert self._teacher_CV is not None
            self._teacher.project(self._teacher_NH[chunk], self._teacher_CV[: _length(chunk)])
        return self.student.project(self._student_NH[chunk], self._student_CV[: _length(chunk)])

    def blocks(self, chunk: slice) -> Iterator[Block]:
        """The chunk's rows, a few at a time."""
        for tokens in spans(chunk.start, chunk.stop, self._block_rows):
            rows = slice(tokens.start - chunk.start, tokens.stop - chunk.start)
            scratch = slice(0, _length(tokens))
            yield Block(
                tokens,
                self._student_CV[rows],
                self._student_p_RV[scratch],
                None if self._teacher_CV is None else self._teacher_CV[rows],
                None if self._teacher_p_RV is None else self._teacher_p_RV[scratch],
                None if self._cap_slope_RV is None else self._cap_slope_RV[scratch],
            )

    def logit_gradient(self, chunk: slice) -> Tensor:
        """The student's buffer [C, V], which `compose_` filled with the gradient in the uncapped scaled logits."""
        return self._student_CV[: _length(chunk)]

    def normalise_(self, block: Block, targets_R: Tensor | None) -> Tensor | None:
        """Logits to log-probs, in place; returns the student's log-prob of each row's target, if there are targets."""
        self.student.cap_(block.student_RV)
        if block.cap_slope_RV is not None:
            self.student.cap_slope(block.student_RV, block.cap_slope_RV)
        log_softmax_(block.student_RV, block.student_p_RV)
        if self._teacher is not None:
            assert block.teacher_RV is not None
            assert block.teacher_p_RV is not None
            log_softmax_(self._teacher.cap_(block.teacher_RV), block.teacher_p_RV)
        return None if targets_R is None else at_target(block.student_RV, targets_R)

    def diverge_(self, block: Block, alpha: float) -> Tensor:
        """The divergence per row; the student's rows become its derivative in the student's capped logits."""
        assert block.teacher_RV is not None
        assert block.teacher_p_RV is not None
        return divergence_(block.student_RV, block.teacher_RV, block.student_p_RV, block.teacher_p_RV, alpha)

    def compose_(self, block: Block, targets_R: Tensor, main_R: Tensor | None, contrast_R: Tensor | None) -> None:
        """Rows become `main dD/dlogits + contrast (onehot - S)`, times the slope of the cap; None leaves a term out."""
        gradient_RV = block.student_RV
        if main_R is None:
            gradient_RV.zero_()
        else:
            gradient_RV.mul_(main_R[:, None])
        if contrast_R is not None:
            gradient_RV.addcmul_(block.student_p_RV, contrast_R[:, None], value=-1.0)
            gradient_RV.scatter_add_(1, targets_R[:, None], contrast_R[:, None])
        if block.cap_slope_RV is not None:
            gradient_RV.mul_(block.cap_slope_RV)


@dataclass(frozen=True)
class Gradients:
    """Accumulated in float32; None for what needs no gradient."""

    hidden_NH: Tensor | None
    weight_VH: Tensor | None
    bias_V: Tensor | None

    @classmethod
    def zeros(cls, inputs: tuple[Tensor, Tensor, Tensor | None], needed: tuple[bool, ...]) -> "Gradients":
        """Zeros like each of (hidden, weight, bias) that is needed."""
        return cls(
            *(
                torch.zeros_like(tensor, dtype=torch.float32) if tensor is not None and need else None
                for tensor, need in zip(inputs, needed, strict=True)
            )
        )

    @property
    def any(self) -> bool:
        """Whether anything needs a gradient."""
        return not (self.hidden_NH is None and self.weight_VH is None and self.bias_V is None)

    def add(self, chunk: slice, head: ScaledHead, gradient_CV: Tensor, scaled_CH: Tensor) -> None:
        """Take in one chunk: a matrix product for the hidden states, another for the weight."""
        if self.hidden_NH is not None:
            torch.mm(gradient_CV, head.weight_VH, out=self.hidden_NH[chunk]).mul_(head.inner)
        if self.weight_VH is not None:
            self.weight_VH.addmm_(gradient_CV.t(), scaled_CH)
        if self.bias_V is not None:
            self.bias_V.add_(gradient_CV.sum(0), alpha=head.inner)


def spans(start: int, stop: int, size: int) -> Iterator[slice]:
    """`start .. stop - 1` in slices of `size`, the last one shorter."""
    return (slice(begin, min(begin + size, stop)) for begin in range(start, stop, size or 1))


def at_target(values_RV: Tensor, targets_R: Tensor) -> Tensor:
    """`values[r, targets[r]]`, a copy."""
    return values_RV.gather(1, targets_R[:, None]).squeeze(1)


def _length(part: slice) -> int:
    return int(part.stop - part.start)
