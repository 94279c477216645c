"""How the teacher's weights are read with: a second copy of the model, or a second adapter on the student's base."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

import deepspeed
from torch import nn

from learner.batch import Inputs
from learner.lora import TEACHER, factors, speaking
from learner.model import Measure, Reader, Result
from learner.sharding import gathered
from learner.student import NOTHING_STAYS_GATHERED, Student, zero_stage
from unisd_rl.config import Config
from unisd_rl.objective.kernels.head import Head


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
