"""The moving teacher: `phi <- beta phi + (1 - beta) theta`, in float32 and in place, on whole tensors or on shards.

bf16 would round a slow average away, so other types are refused. Under LoRA the tensors are the factors A and B.
"""

import torch
from torch import Tensor


@torch.no_grad()
def ema_update_(teacher: Tensor, student: Tensor, beta: float) -> None:
    """Move `teacher` by `(1 - beta)` of the gap to `student`: both float32 and of one shape, `beta` in [0, 1]."""
    if teacher.dtype != torch.float32 or student.dtype != torch.float32:
        raise TypeError(f"the average is kept in float32, not {teacher.dtype} from {student.dtype}")
    if teacher.shape != student.shape:
        raise ValueError(f"teacher {tuple(teacher.shape)} and student {tuple(student.shape)} differ in shape")
    teacher.lerp_(student, 1.0 - beta)
