"""The student as a folder any transformers program loads: config.json, model.safetensors, and the tokenizer's files.

Under LoRA the model in it is the merged one, and `adapter/` holds the factors, for peft and for engines that load them.
`training_state/` is what training goes on from: float32 masters, optimiser moments, the teacher; `run_state.json` says
where the run stood, and the manifest, written last, has the checksum of every file (unisd_rl/storage/checkpoints.py).

It is written beside its place and renamed when it is whole, so a cut-short one is never taken for a checkpoint.

The student's weights for others: what travels to the rollout actors, and the whole model for a checkpoint.

Everything here is a collective under ZeRO-3: all ranks iterate to the end, and each tensor is valid until the next.
"""

import itertools
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from learner.errors import CheckpointNotWritten
from learner.lora import STUDENT, base_name, factors_of, merged
from learner.sharding import gathered_parameters, iter_full_tensors, named_weights
from learner.student import Student
from learner.training_state import write_archive
from unisd_rl.config.model import LoraConfig, ModelConfig
from unisd_rl.storage.checkpoints import RUN_STATE, RunState, write_manifest
from unisd_rl.storage.files import replace_directory
from unisd_rl.transport.weights.adapter import factors, peft_config


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


NamedTensors = Iterable[tuple[str, Tensor]]
STATE = "training_state"
_WEIGHTS, _ADAPTER, _ADAPTER_WEIGHTS = "model.safetensors", "adapter", "adapter_model.safetensors"


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
    along. Tied weights are stored once. The whole model is in this process's memory for a moment. Without `run_state`
    it is a model that nobody goes on from.

    Raises:
        CheckpointNotWritten: the disk did not take it; whatever was at `path` is still there.
    """
    weights, adapter, state = iter(weights), iter(adapter), iter(state)
    if path is None:
        _drain(weights, adapter, state)
        return
    partial = path.with_name(path.name + ".partial")
    try:
        _write(partial, weights, adapter, state, model_path, model, run_state)
        replace_directory(partial, path)
    except (OSError, SafetensorError) as error:
        _drain(weights, adapter, state)  # the other ranks are in the same collectives, and would wait in them
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointNotWritten(f"{path} could not be written: {error}") from error


def _write(
    folder: Path,
    weights: NamedTensors,
    adapter: NamedTensors,
    state: NamedTensors,
    model_path: Path,
    model: ModelConfig,
    run_state: RunState | None,
) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    save_file(_kept(weights), folder / _WEIGHTS, metadata={"format": "pt"})
    _save_companions(model_path, model.dtype, folder)
    adapter_weights = _kept(adapter)
    if model.lora is not None:
        peft_config(model.lora, str(model_path)).save_pretrained(str(folder / _ADAPTER))
        save_file(adapter_weights, folder / _ADAPTER / _ADAPTER_WEIGHTS, metadata={"format": "pt"})
    if run_state is not None:
        write_archive(folder / STATE, state)
        (folder / RUN_STATE).write_text(run_state.to_json(), encoding="utf-8")
        write_manifest(folder)


def _drain(*tensors: NamedTensors) -> None:
    for _ in itertools.chain(*tensors):
        pass


def _kept(tensors: NamedTensors) -> dict[str, Tensor]:
    return {name: tensor.to("cpu", copy=True).contiguous() for name, tensor in tensors}


def _save_companions(model_path: Path, dtype: str, folder: Path) -> None:
    config = AutoConfig.from_pretrained(model_path, trust_remote_code=False)
    config.dtype = getattr(torch, dtype)
    config.save_pretrained(folder)
    with suppress(OSError):  # models need not have one
        GenerationConfig.from_pretrained(model_path).save_pretrained(folder)
    AutoTokenizer.from_pretrained(model_path, trust_remote_code=False).save_pretrained(folder)
