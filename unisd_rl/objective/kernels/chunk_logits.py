"""The logits of one chunk of tokens after another, in buffers that are allocated once, and the gradients they end in.

`ChunkedLogits` owns one buffer [C, V] per view that is scored: the student's, the teacher's primary, its negative.
`fill` fills them, a backend turns them into scores and gradients, `Gradients.add` takes a chunk's gradient in.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from unisd_rl.objective.kernels.head import Head, ScaledHead, add_weight_gradient_, hidden_gradient_, uses_half_matmul
from unisd_rl.objective.kernels.torch_backend import Logits, spans


@dataclass(frozen=True)
class HiddenStates:
    """Final hidden states of the same tokens: the student's, and the teacher's of the views that are scored whole."""

    student_NH: Tensor
    teacher_NH: Tensor | None = None
    negative_NH: Tensor | None = None


class ChunkedLogits:
    """Buffers and heads for N tokens; a view without states has no buffer and costs no matmul."""

    def __init__(
        self,
        states: HiddenStates,
        student_head: Head,
        teacher_head: Head | None,
        temperature: float,
        chunk_tokens: int,
    ) -> None:
        self._states, tokens = states, len(states.student_NH)
        self.student = student_head.at(temperature, states.student_NH.dtype)
        self.teacher = None
        if teacher_head is not None and states.teacher_NH is not None:
            self.teacher = teacher_head.at(temperature, states.teacher_NH.dtype)
        # Chunks of one size: a short last one would run at a lower rate, and larger ones would cost memory.
        self._rows, vocabulary = -(-tokens // max(1, -(-tokens // chunk_tokens))), len(student_head.weight_VH)

        def buffer(hidden_NH: Tensor | None) -> Tensor | None:
            if hidden_NH is None:
                return None
            return torch.empty(self._rows, vocabulary, dtype=torch.float32, device=hidden_NH.device)

        student_CV = buffer(states.student_NH)
        assert student_CV is not None
        # Over the student's logits, but where the matmuls take another type.
        half = uses_half_matmul(student_CV.device, states.student_NH.dtype, student_head.weight_VH.dtype)
        self._gradient_CV = torch.empty_like(student_CV, dtype=states.student_NH.dtype) if half else student_CV
        self.buffers = Logits(student_CV, buffer(states.teacher_NH), buffer(states.negative_NH))

    def chunks(self) -> Iterator[slice]:
        """The N tokens in spans of about one size, at most `chunk_tokens`."""
        return spans(0, len(self._states.student_NH), self._rows)

    def fill(self, chunk: slice) -> tuple[Logits, Tensor]:
        """The chunk's uncapped logits, in the buffers, and the student's `before * hidden` [C, H]."""
        filled = self.buffers.slice(slice(0, chunk.stop - chunk.start))
        views = ((self._states.teacher_NH, filled.teacher_CV), (self._states.negative_NH, filled.negative_CV))
        for hidden_NH, out_CV in views:
            if hidden_NH is not None and out_CV is not None:
                assert self.teacher is not None
                self.teacher.project(hidden_NH[chunk], out_CV)
        return filled, self.student.project(self._states.student_NH[chunk], filled.student_CV)

    def gradient(self, chunk: slice) -> Tensor:
        """Where the chunk's gradient in the student's logits is to be written, of the type the matmuls take."""
        return self._gradient_CV[: chunk.stop - chunk.start]


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

    def add(self, chunk: slice, head: ScaledHead, gradient_CV: Tensor, operand_CH: Tensor) -> None:
        """Take in one chunk's gradient in `u` of `head`: a matmul for the hidden states, another for the weight."""
        if self.hidden_NH is not None:
            hidden_gradient_(gradient_CV, head.weight_VH, self.hidden_NH[chunk])
            self.hidden_NH[chunk] *= head.before
        if self.weight_VH is not None:
            add_weight_gradient_(gradient_CV, operand_CH, self.weight_VH)
        if self.bias_V is not None:
            self.bias_V.add_(gradient_CV.sum(0, dtype=torch.float32), alpha=head.before)
