"""The student as a folder any transformers program loads: config.json, model.safetensors, and the tokenizer's files.

It is written beside its place and renamed when it is whole, so a cut-short one is never taken for a checkpoint.
"""

import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

_WEIGHTS = "model.safetensors"


def save_checkpoint(weights: Iterable[tuple[str, Tensor]], model_path: Path, dtype: str, path: Path | None) -> None:
    """Iterate `weights` to the end, and write the folder where `path` is given; tied weights are stored once.

    `model_path` is the model training started from: its configuration, generation configuration and tokenizer go
    along. The whole model is in this process's memory for a moment.
    """
    if path is None:
        for _ in weights:
            pass
        return
    tensors = {name: tensor.to("cpu", copy=True).contiguous() for name, tensor in weights}
    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(tensors, partial / _WEIGHTS, metadata={"format": "pt"})
    _save_companions(model_path, dtype, partial)
    shutil.rmtree(path, ignore_errors=True)
    partial.rename(path)


def _save_companions(model_path: Path, dtype: str, folder: Path) -> None:
    config = AutoConfig.from_pretrained(model_path, trust_remote_code=False)
    config.dtype = getattr(torch, dtype)
    config.save_pretrained(folder)
    with suppress(OSError):  # models need not have one
        GenerationConfig.from_pretrained(model_path).save_pretrained(folder)
    AutoTokenizer.from_pretrained(model_path, trust_remote_code=False).save_pretrained(folder)
