"""A low-rank adapter as it travels: in peft's own format.

Under LoRA a snapshot holds the factors only, under the names of peft's files:
`base_model.model.<layer>.lora_A.weight` [rank, in] and `base_model.model.<layer>.lora_B.weight` [out, rank];
a layer's output grows by `alpha / rank * B A x`.
"""

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from unisd_rl.config.model import LoraConfig
from unisd_rl.models.peft_import import PeftConfig
from unisd_rl.transport.weights.shared_memory import SharedMemory

FILE_PREFIX = "base_model.model."
"""How peft names an adapter's tensors in its files: this, then the layer's name."""
_TENSORS = "adapter_model.safetensors"

Shape = tuple[int, ...]


def peft_config(adapter: LoraConfig, model_path: str) -> PeftConfig:
    """What peft needs to put such an adapter on the model at `model_path`, for generation."""
    return PeftConfig(
        r=adapter.rank,
        lora_alpha=adapter.effective_alpha,
        target_modules=list(adapter.targets),
        base_model_name_or_path=model_path,
        task_type="CAUSAL_LM",
        inference_mode=True,
    )


def factors(model: torch.nn.Module, adapter: str) -> dict[str, torch.nn.Parameter]:
    """The factors A and B of one of the model's adapters, by the names that peft's files give them."""
    mark = f".{adapter}."
    return {
        FILE_PREFIX + name.replace(mark, "."): parameter
        for name, parameter in model.named_parameters()
        if ".lora_" in name and mark in name
    }


def describe_mismatch(sent: Mapping[str, Shape], expected: Mapping[str, Shape | None]) -> str | None:
    """Why tensors of these names and shapes are not the ones expected; None if they are. A shape None fits any."""
    if foreign := sorted(sent.keys() - expected.keys()):
        return f"it holds {foreign[0]}, which has no place in this model's adapter ({len(foreign)} such tensors)"
    if missing := sorted(expected.keys() - sent.keys()):
        return f"it leaves out {len(missing)} tensors of this model's adapter, {missing[0]} first"
    for name, shape in expected.items():
        if shape is not None and sent[name] != shape:
            return f"{name} has the shape {list(sent[name])}, not {list(shape)}"
    return None


class AdapterFolder:
    """A folder, readable by this user only, that `peft.PeftModel.from_pretrained` loads within `holding`.

    The tensors never touch a disk: their file is a link to shared memory, which no crash leaves behind.
    What a killed process does leave is the folder with its configuration, some hundred bytes.

    `path` is where it is; `tensors_path` is the file of tensors, within `holding`.
    """

    def __init__(self, adapter: LoraConfig, model_path: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="unisd-rl-adapter-")
        self.path = self._folder.name
        self.tensors_path = str(Path(self.path, _TENSORS))
        peft_config(adapter, model_path).save_pretrained(self.path)

    @contextmanager
    def holding(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> Iterator[np.ndarray]:
        """Within this block the folder holds these tensors; yields the bytes of their file."""
        written = np.frombuffer(save(dict(tensors)), np.uint8)
        link = Path(self.tensors_path)
        with closing(SharedMemory()) as memory:
            link.symlink_to(memory.write([written]).paths[0])
            try:
                yield written
            finally:
                link.unlink()

    def close(self) -> None:
        """Remove the folder. May be called twice."""
        self._folder.cleanup()
