"""Token-level contrast of a right with a wrong demonstration: `max(0, margin + |s - p| - |s - n|)`, in nats.

`s`, `p`, `n` are log-probs of the realised token under the student, the teacher's primary and its negative view.
The derivative in `s` is `sign(s - p) - sign(s - n)` inside the hinge: zero unless `s` lies between `p` and `n`.
"""

import torch
from torch import Tensor


def hinge(student_N: Tensor, primary_N: Tensor, negative_N: Tensor, margin: float) -> Tensor:
    """The hinge per token."""
    return _argument(student_N, primary_N, negative_N, margin).clamp(min=0.0)


def hinge_slope(student_N: Tensor, primary_N: Tensor, negative_N: Tensor, margin: float) -> Tensor:
    """Its derivative in the student's log-prob: one of -2, -1, 0, 1, 2; 0 at and below the hinge's corner."""
    slope_N = torch.sign(student_N - primary_N) - torch.sign(student_N - negative_N)
    return slope_N * (_argument(student_N, primary_N, negative_N, margin) > 0)


def _argument(student_N: Tensor, primary_N: Tensor, negative_N: Tensor, margin: float) -> Tensor:
    return (student_N - primary_N).abs() - (student_N - negative_N).abs() + margin
