"""The training state of a checkpoint: float32 masters, AdamW's moments and the teacher's average.

Full tensors under the student's names, read from and written to any ZeRO stage on any number of ranks (decision 11:
DeepSpeed's own format unpickles, and is bound to the number of ranks); but for moments of 8 bits, which are saved as
they lie (optimizer.py). Random states are not among them: whatever is
drawn is seeded by what it is for. Reading and setting the state is a collective.

On storage they are safetensors files of bounded size, with an index that is written last: a folder without its index
was cut short and is no archive. Whether its bytes are those that were written is for the manifest of the whole
checkpoint (unisd_rl/storage/checkpoints.py). Nothing is unpickled.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from learner.batch import Inputs
from learner.deepspeed_import import (
    safe_get_full_optimizer_state,
    safe_get_local_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)
from learner.optimizer import eight_bit_state, set_eight_bit_state
from learner.sharding import (
    NamedTensors,
    all_gather_parameter,
    groups_up_to,
    is_sharded,
    local_fp32_master,
    local_shard,
    shard_of,
)
from learner.student import Student
from learner.teacher import Teacher
from unisd_rl.errors import RunFailed
from unisd_rl.storage.files import write_text_atomic

_INDEX, _FILE_BYTES = "index.json", 1 << 28
OPTIMIZER_STEPS = "optimizer_steps"


def write_archive(folder: Path, tensors: NamedTensors) -> None:
    """Write copies of `tensors`, about 256 MiB of them in memory at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors_of: dict[str, list[str]] = {}
    copies = ((name, tensor.to("cpu", copy=True).contiguous()) for name, tensor in tensors)
    for number, group in enumerate(groups_up_to(_FILE_BYTES, copies, lambda tensor: tensor.nbytes)):
        path = folder / f"tensors-{number:05d}.safetensors"
        save_file(dict(group), path)
        tensors_of[path.name] = [name for name, _ in group]
    write_text_atomic(folder / _INDEX, json.dumps(tensors_of))


class Archive:
    """Named tensors on storage, read one by one."""

    def __init__(self, folder: Path) -> None:
        """Open it.

        Raises:
            RunFailed: the folder is cut short, or lacks a file, naming it.
        """
        index = folder / _INDEX
        if not index.is_file():
            raise RunFailed(f"{folder} has no {_INDEX}: it was cut short while it was written")
        self._folder, self._file_of = folder, dict[str, str]()
        for name, tensors in json.loads(index.read_text(encoding="utf-8")).items():
            if not (folder / name).is_file():
                raise RunFailed(f"{folder / name} is missing")
            self._file_of |= dict.fromkeys(tensors, name)

    def optimizer_steps(self, version: int) -> int:
        """AdamW steps that were taken up to `version`: as many, unless the archive says otherwise."""
        return int(self.tensor(OPTIMIZER_STEPS)) if OPTIMIZER_STEPS in self._file_of else version

    def tensor(self, name: str) -> Tensor:
        """The tensor of this name.

        Raises:
            RunFailed: there is none; the checkpoint is of another model or another set-up.
        """
        if name not in self._file_of:
            raise RunFailed(f"{self._folder} holds no {name}: it is of another model or another configuration")
        with safe_open(self._folder / self._file_of[name], framework="pt") as file:
            return file.get_tensor(name)


MASTER, MOMENTS, TEACHER = "master", ("exp_avg", "exp_avg_sq"), "teacher"
Lookup = Callable[[str], Tensor]
"""A full float32 tensor by its name."""


def training_state(student: Student, teacher: Teacher | None) -> Iterator[tuple[str, Tensor]]:
    """`kind/name` and the full tensor, one after the other; each is valid until the next."""
    for name, parameter in student.parameters.items():
        yield f"{MASTER}/{name}", all_gather_parameter(local_fp32_master(parameter), parameter).detach()
        for moment in () if student.eight_bit_moments else MOMENTS:
            yield f"{moment}/{name}", _moment(student, parameter, moment)
    if student.eight_bit_moments:
        yield from eight_bit_state(student.optimizer, student.stage)
    for name, tensor in teacher.average() if teacher is not None else ():
        yield f"{TEACHER}/{name}", tensor
    yield OPTIMIZER_STEPS, torch.tensor([student.optimizer_steps])


def restore(student: Student, teacher: Teacher | None, lookup: Lookup, steps: int, empty_inputs: Inputs) -> None:
    """Set everything `training_state` yields; `steps` AdamW steps had been taken, `empty_inputs` has no token."""
    student.init_optimizer_state(steps, empty_inputs)
    for name, parameter in student.parameters.items():
        _set_master(parameter, lookup(f"{MASTER}/{name}"))
        for moment in () if student.eight_bit_moments else MOMENTS:
            _set_moment(student, parameter, moment, lookup(f"{moment}/{name}"))
    if student.eight_bit_moments:
        set_eight_bit_state(student.optimizer, student.stage, lookup)
    if teacher is not None:
        teacher.set_average(lambda name: lookup(f"{TEACHER}/{name}"))


def _moment(student: Student, parameter: nn.Parameter, key: str) -> Tensor:
    """Zeros before the first step."""
    if not student.has_optimizer_state:
        return torch.zeros(parameter.ds_shape if is_sharded(parameter) else parameter.shape)
    if is_sharded(parameter):
        return all_gather_parameter(safe_get_local_optimizer_state(parameter, key), parameter)
    if student.has_full_optimizer_state:
        return student.optimizer_state_of(parameter)[key]
    return safe_get_full_optimizer_state(parameter, key)


@torch.no_grad()
def _set_master(parameter: nn.Parameter, value: Tensor) -> None:
    """Both the master and the weight that computes: they are two tensors in all but ZeRO-0."""
    value = value.to(local_shard(parameter).device)
    if is_sharded(parameter):
        shard = shard_of(value, parameter)
        safe_set_local_fp32_param(parameter, shard)
        local_shard(parameter).copy_(shard)
        if parameter.data.numel():  # small ones stay gathered
            parameter.data.copy_(value)
        return
    safe_set_full_fp32_param(parameter, value)
    parameter.copy_(value)


@torch.no_grad()
def _set_moment(student: Student, parameter: nn.Parameter, key: str, value: Tensor) -> None:
    value = value.to(local_shard(parameter).device)
    if is_sharded(parameter):
        safe_set_local_optimizer_state(parameter, shard_of(value, parameter), key)
    elif student.has_full_optimizer_state:
        student.optimizer_state_of(parameter)[key].copy_(value)
    else:
        safe_set_full_optimizer_state(parameter, value, key)
