"""Feature matching: the student's final hidden states drawn to those of the teacher that read the demonstration."""

from torch import Tensor


def feature_error(student_NH: Tensor, teacher_NH: Tensor) -> Tensor:
    """`err_N`, the channel mean of `(h(theta) - h(phi))^2` in float32; gradient to the student only."""
    return (student_NH.float() - teacher_NH.detach().float()).square().mean(-1)
