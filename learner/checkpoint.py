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
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from learner.errors import CheckpointNotWritten
from learner.lora import STUDENT, base_name, factors_of, merged
from learner.sharding import NamedTensors, gathered_parameters, iter_full_tensors, named_weights
from learner.student import Student
from learner.training_state import write_archive
from unisd_rl.config.model import LoraConfig, ModelConfig
from unisd_rl.storage.checkpoints import RUN_STATE, RunState, write_manifest
from unisd_rl.storage.files import replace_directory
from unisd_rl.transport.weights.adapter import factors, peft_config

STATE = "training_state"
_WEIGHTS, _ADAPTER, _ADAPTER_WEIGHTS = "model.safetensors", "adapter", "adapter_model.safetensors"


def published_weights(student: Student, lora: LoraConfig | None) -> Iterator[tuple[str, Tensor]]:
    """Every weight under its Hugging Face name, tied ones once; under LoRA only the factors, as peft names them."""
    model = student.lm.model
    return iter_full_tensors(named_weights(model) if lora is None else factors(model, STUDENT).items())


def full_weights(student: Student, lora: LoraConfig | None) -> Iterator[tuple[str, Tensor]]:
    """Every weight under its Hugging Face name; under LoRA the adapter is merged into a float32 copy of each."""
    model = student.lm.model
    return iter_full_tensors(named_weights(model)) if lora is None else _merged_model(student, lora)


def _merged_model(student: Student, lora: LoraConfig) -> Iterator[tuple[str, Tensor]]:
    adapter = factors(student.lm.model, STUDENT)
    for name, weight in named_weights(student.lm.model):
        plain = base_name(name)
        if plain is None:
            continue
        pair = factors_of(plain, adapter)
        with gathered_parameters((weight, *pair)):
            yield plain, merged(weight.detach(), pair[0], pair[1], lora) if pair else weight.detach()


def save_checkpoint(
    weights: NamedTensors,
    adapter: NamedTensors,
    state: NamedTensors,
    model_path: Path,
    model: ModelConfig,
    path: Path | None,
    run_state: RunState | None,
) -> None:
    """Iterate `weights`, `adapter` (nothing without LoRA), `state` to the end; write the folder where `path` is given.

    `model_path` is the model training started from: its configuration, generation configuration and tokenizer go
    along. Tied weights are stored once. The full model is in this process's memory for a moment. Without `run_state`
    training cannot resume from it.

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
        save_file(_cpu_copies(weights), partial / _WEIGHTS, metadata={"format": "pt"})
        _save_companions(model_path, model.dtype, partial)
        adapter_weights = _cpu_copies(adapter)
        if model.lora is not None:
            peft_config(model.lora, str(model_path)).save_pretrained(str(partial / _ADAPTER))
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


def _save_companions(model_path: Path, dtype: str, folder: Path) -> None:
    config = AutoConfig.from_pretrained(model_path, trust_remote_code=False)
    config.dtype = getattr(torch, dtype)
    config.save_pretrained(folder)
    with suppress(OSError):  # models need not have one
        GenerationConfig.from_pretrained(model_path).save_pretrained(folder)
    AutoTokenizer.from_pretrained(model_path, trust_remote_code=False).save_pretrained(folder)
