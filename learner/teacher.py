"""The teacher: a slowly moving average of the student that reads more than the student does.

`phi <- beta phi + (1 - beta) theta`, in float32 and from the student's float32 masters. Where it lives:

- ZeRO 0-2: a whole float32 copy on each rank, updated there without communication in float32 training.
- ZeRO-3: one shard a rank, cut like the student's, so each rank averages its own; a second engine gathers layers.
- LoRA: a second pair of factors on the student's own base, whole or sharded as above. The average is of the factors.

In bfloat16 the average is kept beside the weights it reads with: a slow average would round away in those.
"""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from learner.batch import Inputs
from learner.checks import check_teacher_moved
from learner.lora import add_adapters
from learner.model import Measure, Reader, Result
from learner.ranks import total
from learner.sharding import assembled, is_sharded, local, local_master, part_of
from learner.student import Student
from learner.voice import AdapterVoice, CopyVoice, Voice
from unisd_rl.config import Config, EmaConfig
from unisd_rl.objective.ema import ema_update_
from unisd_rl.objective.kernels.head import Head
from unisd_rl.seeds import derive_seed

_PROBES = 4


@dataclass(frozen=True, slots=True)
class Movement:
    """Norms relative to the teacher's; nan where the teacher did not move."""

    moved: float
    gap: float


STILL = Movement(moved=0.0, gap=math.nan)


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
    def follow(self, student: Student, step: int) -> Movement:
        """After optimiser step `step` (from 1): average the student in, if it is the turn of this step.

        Raises:
            RunFailed: a sample of tensors did not move by `1 - beta` of their gap.
        """
        if self._ema is None or step % self._ema.every:
            return STILL
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

    def _update(self, student: Student, ema: EmaConfig) -> Movement:
        squares = torch.zeros(3, dtype=torch.float64)
        for (name, parameter), (other, average) in zip(student.parameters.items(), self._average.items(), strict=True):
            assert name == other, f"{name} of the student met {other} of the teacher"
            master, before = local_master(parameter), average.clone()
            ema_update_(average, master, ema.beta)
            squares += torch.tensor([_square(average - before), _square(master - average), _square(average)]).double()
        sharded = any(is_sharded(parameter) for parameter in self._parameters.values())
        device = next(iter(self._average.values())).device  # NCCL sums nothing that lies elsewhere
        moved, gap, norm = total(squares.tolist(), device) if sharded else squares.tolist()
        return Movement(math.sqrt(moved / norm), math.sqrt(gap / norm))

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
