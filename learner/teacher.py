"""The teacher: a slowly moving average of the student that reads more than the student does.

`phi <- beta phi + (1 - beta) theta`, in float32 and from the student's float32 masters. Where it lives:

- ZeRO 0-2: a whole float32 copy on each rank, updated there without communication in float32 training.
- ZeRO-3: one shard a rank, cut like the student's, so each rank averages its own; a second engine gathers layers.

In bfloat16 the average is kept beside the weights it reads with: a slow average would round away in those.
"""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import deepspeed
import torch
from torch import Tensor

from learner.batch import Inputs
from learner.checks import check_teacher_moved
from learner.ranks import total
from learner.reader import Measure, Reader, Result
from learner.student import Student, zero_stage
from learner.tensors import assembled, gathered, is_sharded, local, local_master
from unisd_rl.config import Config, EmaConfig
from unisd_rl.objective.ema import ema_update_
from unisd_rl.objective.head import Head

_PROBES = 4


@dataclass(frozen=True, slots=True)
class Movement:
    """Norms relative to the teacher's; nan where the teacher did not move."""

    moved: float
    gap: float


STILL = Movement(moved=0.0, gap=math.nan)


class Teacher:
    """An average of the student, or the initial model where `objective.ema` is absent."""

    def __init__(self, reader: Reader, config: Config) -> None:
        self._ema = config.objective.ema
        self._reader = reader.eval().requires_grad_(False)
        self._engine = _sharded(reader, config) if zero_stage(config) == 3 else None
        self._parameters = dict(reader.model.named_parameters())
        self._average = {name: local(parameter).float() for name, parameter in self._parameters.items()}

    @torch.no_grad()
    def read(self, inputs: Inputs, measure: Measure[Result]) -> Result:
        """One pass without gradient. A collective under ZeRO-3."""
        return (self._engine or self._reader)(inputs, measure)

    @contextmanager
    def head(self) -> Iterator[Head]:
        """The teacher's output head, whole within this context, for measures that run inside the student's pass."""
        with gathered(self._reader.head_parameters()):
            yield self._reader.head()

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

    def close(self) -> None:
        """Let go of DeepSpeed's hooks, if it owns the weights."""
        if self._engine is not None:
            self._engine.destroy()

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


def copy_of(reader: Reader) -> Reader:
    """Weights of its own, tied as in the original; to be called before an engine owns `reader`."""
    return copy.deepcopy(reader)


def _sharded(reader: Reader, config: Config) -> deepspeed.DeepSpeedEngine:
    """No weight may outlive the forward pass that gathered it: the average changes the shards beneath."""
    settings = {
        "train_micro_batch_size_per_gpu": 1,  # unused: passes are sized in tokens
        "bf16": {"enabled": config.model.dtype == "bfloat16"},
        "steps_per_print": None,
        "zero_optimization": {
            "stage": 3,
            "stage3_param_persistence_threshold": 0,
            "stage3_max_live_parameters": 0,
            "stage3_max_reuse_distance": 0,
        },
    }
    engine, *_ = deepspeed.initialize(model=reader, config=settings)
    return engine


def _square(tensor: Tensor) -> Tensor:
    return tensor.double().square().sum().cpu()
