"""The student as a checkpoint: a folder that any transformers program loads.

Beside config.json, model.safetensors and the tokenizer's files it holds, under LoRA, `adapter/` with the factors, for
peft and for engines that load them: the model is then the merged one. `training_state/` is what training resumes from
(training_state.py), `run_state.json` says where the run stood, and the manifest, written last, has the checksum of each
file (unisd_rl/storage/checkpoints.py).

A checkpoint is written beside its place and renamed when it is complete, so one that was cut short is never taken for
one. Weights and state are collectives under ZeRO-3: all ranks iterate to the end, and each tensor is valid until the
next.
"""

import itertools
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from learner.errors import CheckpointNotWritten
from learner.lora import STUDENT, adapted_layers, base_name, merged, student_factors
from learner.sharding import NamedTensors, full_shape, gathered_parameters, iter_full_tensors, named_weights
from learner.student import Student
from learner.training_state import write_archive
from learner.weights_file import Layout, write_weights
from unisd_rl.config.model import LoraConfig
from unisd_rl.models.load import WEIGHTS, write_companions
from unisd_rl.models.peft_import import PeftConfig
from unisd_rl.storage.checkpoints import RUN_STATE, RunState, write_manifest
from unisd_rl.storage.files import replace_directory
from unisd_rl.transport.weights.adapter import factors

STATE = "training_state"
_ADAPTER, _ADAPTER_WEIGHTS = "adapter", "adapter_model.safetensors"


def published_weights(student: Student, lora: LoraConfig | None) -> Iterator[tuple[str, Tensor]]:
    """Every weight under its Hugging Face name, tied ones once; under LoRA only the factors, as peft names them."""
    model = student.lm.model
    return iter_full_tensors(named_weights(model) if lora is None else factors(model, STUDENT).items())


def full_weights(student: Student, lora: LoraConfig | None) -> Iterator[tuple[str, Tensor]]:
    """Every weight under its Hugging Face name; under LoRA the adapter is merged into a float32 copy of each."""
    model = student.lm.model
    return iter_full_tensors(named_weights(model)) if lora is None else _merged_weights(model)


def weights_layout(student: Student, lora: LoraConfig | None) -> Layout:
    """Of what `full_weights` yields. No collective."""
    names = ((name if lora is None else base_name(name), weight) for name, weight in named_weights(student.lm.model))
    return {name: (weight.dtype, full_shape(weight)) for name, weight in names if name is not None}


def _merged_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    layers = adapted_layers(model)
    for name, weight in named_weights(model):
        plain, layer = base_name(name), layers.get(name)
        if plain is None:
            continue
        with gathered_parameters((weight, *(student_factors(layer) if layer else ()))):
            yield plain, merged(weight.detach(), layer) if layer else weight.detach()


def save_checkpoint(
    weights: NamedTensors,
    layout: Layout,
    adapter: NamedTensors,
    state: NamedTensors,
    companions: Mapping[str, bytes],
    adapter_config: PeftConfig | None,
    path: Path | None,
    run_state: RunState | None,
) -> None:
    """Iterate `weights`, `adapter` (nothing without LoRA), `state` to the end; write the folder where `path` is given.

    `layout` is that of `weights`, which are written one by one. `companions` are the files that go along:
    configuration, generation configuration, tokenizer. Tied weights are stored once. Without `run_state` training
    cannot resume from it.

    Raises:
        CheckpointNotWritten: the disk did not take it; whatever was at `path` is still there.
    """
    weights, adapter, state = iter(weights), iter(adapter), iter(state)
    if path is None:
        _drain(weights, adapter, state)
        return
    partial = path.with_name(path.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write_weights(partial / WEIGHTS, layout, weights)
        write_companions(companions, partial)
        adapter_weights = _cpu_copies(adapter)
        if adapter_config is not None:
            adapter_config.save_pretrained(str(partial / _ADAPTER))
            save_file(adapter_weights, partial / _ADAPTER / _ADAPTER_WEIGHTS, metadata={"format": "pt"})
        if run_state is not None:
            write_archive(partial / STATE, state)
            (partial / RUN_STATE).write_text(run_state.to_json(), encoding="utf-8")
            write_manifest(partial)
        replace_directory(partial, path)
    except (OSError, SafetensorError) as error:
        _drain(weights, adapter, state)  # the other ranks are in the same collectives, and would wait in them
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointNotWritten(f"{path} could not be written: {error}") from error


def _drain(*tensors: NamedTensors) -> None:
    for _ in itertools.chain(*tensors):
        pass


def _cpu_copies(tensors: NamedTensors) -> dict[str, Tensor]:
    return {name: tensor.to("cpu", copy=True).contiguous() for name, tensor in tensors}
