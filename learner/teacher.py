"""The teacher: a slowly moving average of the student that reads more than the student does.

`phi <- beta phi + (1 - beta) theta`, in float32 and from the student's float32 masters. Where it lives:

- ZeRO 0-2: a full float32 copy on each rank, updated there without communication in float32 training.
- ZeRO-3: one shard a rank, cut like the student's, so each rank averages its own; a second engine gathers layers.
- LoRA: a second pair of factors on the student's own base, full or sharded as above. The average is of the factors.

In bfloat16 the average is kept beside the weights it reads with: a slow average would round away in those.
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from typing_extensions import override

from learner.batch import Inputs
from learner.deepspeed_import import deepspeed
from learner.lora import TEACHER, add_adapters, use_adapter
from learner.model import CausalLM, HiddenStateFn, Result
from learner.sharding import (
    all_gather_parameter,
    all_reduce_sum,
    gathered_parameters,
    is_sharded,
    local_fp32_master,
    local_shard,
    shard_of,
)
from learner.student import ZERO3_KEEP_NOTHING_GATHERED, Student
from unisd_rl.config import Config
from unisd_rl.config.objective import EmaConfig
from unisd_rl.metrics import TeacherMetrics
from unisd_rl.objective.ema import ema_update_
from unisd_rl.objective.kernels.head import Head
from unisd_rl.seeds import derive_seed
from unisd_rl.transport.weights.adapter import factors

NO_UPDATE = TeacherMetrics(teacher_update_norm=0.0, teacher_student_distance=math.nan)


class Teacher(ABC):
    """An average of the student, or the initial model where `objective.ema` is absent.

    It reads with a second copy of the model, or with a second adapter on the student's base.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], config: Config) -> None:
        """`parameters`: those that follow the student, under the names the student has for its own."""
        self._ema = config.objective.ema
        self._parameters = parameters
        self._average = {name: local_shard(parameter).float() for name, parameter in self._parameters.items()}

    @abstractmethod
    def forward(self, inputs: Inputs, on_hidden: HiddenStateFn[Result]) -> Result:
        """One pass without gradient. A collective under ZeRO-3."""

    @abstractmethod
    def head(self) -> AbstractContextManager[Head | None]:
        """Its output head, full within this context, for use inside the student's pass; None: it is the student's
        own head, which is there in that pass."""

    @abstractmethod
    def close(self) -> None:
        """Let go of DeepSpeed's hooks, if it owns the weights."""

    @torch.no_grad()
    def update_ema(self, student: Student, step: int) -> TeacherMetrics:
        """After optimiser step `step` (from 1): average the student in, if it is the turn of this step."""
        if self._ema is None or step % self._ema.every:
            return NO_UPDATE
        metrics = self._update(student, self._ema)
        self._renew_weights()
        return metrics

    def average(self) -> Iterator[tuple[str, Tensor]]:
        """The full float32 average under Hugging Face names. A collective under ZeRO-3."""
        for name, average in self._average.items():
            yield name, all_gather_parameter(average, self._parameters[name])

    @torch.no_grad()
    def set_average(self, full_tensor: Callable[[str], Tensor]) -> None:
        """Replace the average by full float32 tensors, asked for by the names `average` yields."""
        for name, average in self._average.items():
            average.copy_(shard_of(full_tensor(name).to(average.device), self._parameters[name]))
        self._renew_weights()

    def _update(self, student: Student, ema: EmaConfig) -> TeacherMetrics:
        device = next(iter(self._average.values())).device  # NCCL sums nothing that lies elsewhere
        squares_3 = torch.zeros(3, dtype=torch.float64, device=device)
        for (name, parameter), (other, average) in zip(student.parameters.items(), self._average.items(), strict=True):
            assert name == other, f"{name} of the student met {other} of the teacher"
            squares_3 += _average_in(average, local_fp32_master(parameter), ema.beta)
        squares = squares_3.tolist()
        sharded = any(is_sharded(parameter) for parameter in self._parameters.values())
        update, distance, norm = all_reduce_sum(squares, device) if sharded else squares
        return TeacherMetrics(math.sqrt(update / norm), math.sqrt(distance / norm))

    def _renew_weights(self) -> None:
        """Carry the average over to what `forward` computes with; in float32 they are the same storage."""
        for name, parameter in self._parameters.items():
            if local_shard(parameter).data_ptr() != self._average[name].data_ptr():
                local_shard(parameter).copy_(self._average[name])
            # A copy that stayed gathered would go on being read with the old numbers.
            assert not is_sharded(parameter) or parameter.data.numel() == 0, f"{name} of the teacher stayed gathered"


class FullTeacher(Teacher):
    """A second copy of the model: full on each rank, or in an engine of its own under ZeRO-3."""

    def __init__(self, lm: CausalLM, config: Config) -> None:
        self._lm = lm.eval().requires_grad_(False)
        self._engine: deepspeed.DeepSpeedEngine | None = None
        if config.zero_stage == 3:
            # No weight may outlive the forward pass that gathered it: the average changes the shards beneath.
            settings = {
                "train_micro_batch_size_per_gpu": 1,  # unused: passes are sized in tokens
                "bf16": {"enabled": config.model.dtype == "bfloat16"},
                "steps_per_print": None,
                "zero_optimization": {"stage": 3, **ZERO3_KEEP_NOTHING_GATHERED},
            }
            self._engine, *_ = deepspeed.initialize(model=lm, config=settings)
        super().__init__(dict(lm.model.named_parameters()), config)

    @override
    @torch.no_grad()
    def forward(self, inputs: Inputs, on_hidden: HiddenStateFn[Result]) -> Result:
        return (self._engine or self._lm)(inputs, on_hidden)

    @override
    @contextmanager
    def head(self) -> Iterator[Head | None]:
        with gathered_parameters(self._lm.head_parameters()):
            yield self._lm.head()

    @override
    def close(self) -> None:
        if self._engine is not None:
            self._engine.destroy()


class AdapterTeacher(Teacher):
    """The student's own base under the teacher's factors: no second model (LoRA)."""

    def __init__(self, student: Student, config: Config) -> None:
        self._student = student
        super().__init__(factors(student.lm.model, TEACHER), config)

    @override
    def forward(self, inputs: Inputs, on_hidden: HiddenStateFn[Result]) -> Result:
        with use_adapter(self._student.lm.model, TEACHER):
            return self._student.forward(inputs, on_hidden)

    @override
    def head(self) -> AbstractContextManager[Head | None]:
        return nullcontext()  # both read with the one frozen head

    @override
    def close(self) -> None:
        """The student's engine owns everything."""


def student_and_teacher(lm: CausalLM, config: Config, teaches: bool) -> tuple[Student, Teacher | None]:
    """Two that weigh the same: two copies of a model, or two adapters on one base; a teacher only where it `teaches`.

    Raises:
        UserError: the model has none of the layers that should get an adapter.
    """
    if config.model.lora is None and not teaches:
        return Student(lm, config), None
    if config.model.lora is None:
        teacher = FullTeacher(copy.deepcopy(lm), config)  # before an engine owns the original
        return Student(lm, config), teacher
    add_adapters(lm.model, config.model.lora, derive_seed(config.run.seed, "adapters"))
    student = Student(lm, config)
    return student, AdapterTeacher(student, config) if teaches else None


_SLICE_ELEMENTS = 1 << 22
"""Few enough that temporaries are small, and enough that starting threads or kernels costs little."""


def _average_in(average: Tensor, student: Tensor, beta: float) -> Tensor:
    """`ema_update_`, a slice at a time. Squared norms of the move, of what is left to go, and of the average.

    They are float64 sums of float32 ones over the slices.
    """
    squares_3 = torch.zeros(3, dtype=torch.float64, device=average.device)
    slices = (whole.view(-1).split(_SLICE_ELEMENTS) for whole in (average, student))
    for average_n, student_n in zip(*slices, strict=True):
        scratch_n = average_n.clone()
        ema_update_(average_n, student_n, beta)
        moved = _square(scratch_n.sub_(average_n))
        left = _square(torch.sub(student_n, average_n, out=scratch_n))
        squares_3 += torch.stack([moved, left, _square(average_n)])
    return squares_3


def _square(tensor_n: Tensor) -> Tensor:
    return torch.dot(tensor_n, tensor_n)
