"""The teacher: a slowly moving average of the student that reads more than the student does.

`phi <- beta phi + (1 - beta) theta`, in float32 and from the student's float32 masters. Where it lives:

- ZeRO 0-2: a whole float32 copy on each rank, updated there without communication in float32 training.
- ZeRO-3: one shard a rank, cut like the student's, so each rank averages its own; a second engine gathers layers.
- LoRA: a second pair of factors on the student's own base, whole or sharded as above. The average is of the factors.

In bfloat16 the average is kept beside the weights it reads with: a slow average would round away in those.

How the teacher's weights are read with: a second copy of the model, or a second adapter on the student's base.
"""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

import deepspeed
import torch
from torch import Tensor, nn

from learner.batch import Inputs
from learner.checks import check_teacher_moved
from learner.lora import TEACHER, add_adapters, factors, speaking
from learner.model import Measure, Reader, Result
from learner.sharding import assembled, gathered, is_sharded, local, local_master, part_of, total
from learner.student import NOTHING_STAYS_GATHERED, Student, zero_stage
from unisd_rl.config import Config
from unisd_rl.config.objective import EmaConfig
from unisd_rl.metrics import TeacherMetrics
from unisd_rl.objective.ema import ema_update_
from unisd_rl.objective.kernels.head import Head
from unisd_rl.seeds import derive_seed


class Voice(Protocol):
    """How the teacher's weights are read with."""

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The teacher's weights that follow the student, under the names the student has for its own."""
        ...

    def read(self, inputs: Inputs, measure: Measure[Result]) -> Result:
        """One pass without gradient. A collective under ZeRO-3."""
        ...

    def head(self) -> AbstractContextManager[Head | None]:
        """Its output head, whole within this context, for measures that run inside the student's pass; None: the
        student's own head, which is there in that pass."""
        ...

    def close(self) -> None:
        """Let go of DeepSpeed's hooks, if it owns the weights."""
        ...


class CopyVoice:
    """A second copy of the model: whole on each rank, or in an engine of its own under ZeRO-3."""

    def __init__(self, reader: Reader, config: Config) -> None:
        self._reader = reader.eval().requires_grad_(False)
        self._engine = _sharded(reader, config) if zero_stage(config) == 3 else None

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """See `Voice.parameters`."""
        return dict(self._reader.model.named_parameters())

    def read(self, inputs: Inputs, measure: Measure[Result]) -> Result:
        """See `Voice.read`."""
        return (self._engine or self._reader)(inputs, measure)

    @contextmanager
    def head(self) -> Iterator[Head | None]:
        """See `Voice.head`."""
        with gathered(self._reader.head_parameters()):
            yield self._reader.head()

    def close(self) -> None:
        """See `Voice.close`."""
        if self._engine is not None:
            self._engine.destroy()


class AdapterVoice:
    """The student's own base under the teacher's factors: no second model (LoRA)."""

    def __init__(self, student: Student) -> None:
        self._student = student

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """See `Voice.parameters`."""
        return factors(self._student.reader.model, TEACHER)

    def read(self, inputs: Inputs, measure: Measure[Result]) -> Result:
        """See `Voice.read`."""
        with speaking(self._student.reader.model, TEACHER):
            return self._student.read(inputs, measure)

    def head(self) -> AbstractContextManager[Head | None]:
        """See `Voice.head`: both read with the one frozen head."""
        return nullcontext()

    def close(self) -> None:
        """The student's engine owns everything."""


def _sharded(reader: Reader, config: Config) -> deepspeed.DeepSpeedEngine:
    """No weight may outlive the forward pass that gathered it: the average changes the shards beneath."""
    settings = {
        "train_micro_batch_size_per_gpu": 1,  # unused: passes are sized in tokens
        "bf16": {"enabled": config.model.dtype == "bfloat16"},
        "steps_per_print": None,
        "zero_optimization": {"stage": 3, **NOTHING_STAYS_GATHERED},
    }
    engine, *_ = deepspeed.initialize(model=reader, config=settings)
    return engine


_PROBES = 4


NO_UPDATE = TeacherMetrics(teacher_update_norm=0.0, teacher_student_distance=math.nan)


class Teacher:
    """An average of the student, or the initial model where `objective.ema` is absent."""

    def __init__(self, voice: Voice, config: Config) -> None:
        self._ema = config.objective.ema
        self._voice = voice
        self._parameters = voice.parameters
        self._average = {name: local(parameter).float() for name, parameter in self._parameters.items()}

    @torch.no_grad()
    def read(self, inputs: Inputs, measure: Measure[Result]) -> Result:
        """One pass without gradient. A collective under ZeRO-3."""
        return self._voice.read(inputs, measure)

    def head(self) -> AbstractContextManager[Head | None]:
        """The teacher's output head, whole within this context, for measures that run inside the student's pass;
        None: it is the student's, which is there in that pass."""
        return self._voice.head()

    @torch.no_grad()
    def follow(self, student: Student, step: int) -> TeacherMetrics:
        """After optimiser step `step` (from 1): average the student in, if it is the turn of this step.

        Raises:
            RunFailed: a sample of tensors did not move by `1 - beta` of their gap.
        """
        if self._ema is None or step % self._ema.every:
            return NO_UPDATE
        before = {name: self._whole(name).clone() for name in self._probes()}
        movement = self._update(student, self._ema)
        self._renew_weights()
        for name, tensor in before.items():
            target = assembled(local_master(student.parameters[name]), student.parameters[name])
            check_teacher_moved(name, tensor, target, self._whole(name), self._ema.beta)
        return movement

    def average(self) -> Iterator[tuple[str, Tensor]]:
        """The whole float32 average under Hugging Face names. A collective under ZeRO-3."""
        for name in self._average:
            yield name, self._whole(name)

    @torch.no_grad()
    def set_average(self, whole: Callable[[str], Tensor]) -> None:
        """Replace the average by whole float32 tensors, asked for by the names `average` yields."""
        for name, average in self._average.items():
            average.copy_(part_of(whole(name).to(average.device), self._parameters[name]))
        self._renew_weights()

    def close(self) -> None:
        """Let go of DeepSpeed's hooks, if it owns the weights."""
        self._voice.close()

    def _update(self, student: Student, ema: EmaConfig) -> TeacherMetrics:
        squares = torch.zeros(3, dtype=torch.float64)
        for (name, parameter), (other, average) in zip(student.parameters.items(), self._average.items(), strict=True):
            assert name == other, f"{name} of the student met {other} of the teacher"
            master, before = local_master(parameter), average.clone()
            ema_update_(average, master, ema.beta)
            squares += torch.tensor([_square(average - before), _square(master - average), _square(average)]).double()
        sharded = any(is_sharded(parameter) for parameter in self._parameters.values())
        device = next(iter(self._average.values())).device  # NCCL sums nothing that lies elsewhere
        moved, gap, norm = total(squares.tolist(), device) if sharded else squares.tolist()
        return TeacherMetrics(math.sqrt(moved / norm), math.sqrt(gap / norm))

    def _renew_weights(self) -> None:
        """Carry the average over to what `read` computes with; in float32 they are the same storage."""
        for name, parameter in self._parameters.items():
            if local(parameter).data_ptr() != self._average[name].data_ptr():
                local(parameter).copy_(self._average[name])
            # A copy that stayed gathered would go on being read with the old numbers.
            assert not is_sharded(parameter) or parameter.data.numel() == 0, f"{name} of the teacher stayed gathered"

    def _whole(self, name: str) -> Tensor:
        return assembled(self._average[name], self._parameters[name])

    def _probes(self) -> list[str]:
        """A few names, spread over the model."""
        names = list(self._average)
        return sorted({names[(index + 1) * len(names) // (_PROBES + 1)] for index in range(_PROBES)})


def student_and_teacher(reader: Reader, config: Config, teaches: bool) -> tuple[Student, Teacher | None]:
    """Two that weigh the same: two copies of a model, or two adapters on one base; a teacher only where it `teaches`.

    Raises:
        UserError: the model has none of the layers that should get an adapter.
    """
    if config.model.lora is None and not teaches:
        return Student(reader, config), None
    if config.model.lora is None:
        voice: Voice = CopyVoice(copy.deepcopy(reader), config)  # before an engine owns the original
        student = Student(reader, config)
    else:
        add_adapters(reader.model, config.model.lora, derive_seed(config.run.seed, "adapters"))
        student = Student(reader, config)
        voice = AdapterVoice(student)
    return student, Teacher(voice, config) if teaches else None


def _square(tensor: Tensor) -> Tensor:
    return tensor.double().square().sum().cpu()
