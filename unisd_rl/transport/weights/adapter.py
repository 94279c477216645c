"""A low-rank adapter as it travels: in peft's own format, from a snapshot into vLLM.

Under LoRA a snapshot holds the factors only, under the names of peft's files:
`base_model.model.<layer>.lora_A.weight` [rank, in] and `base_model.model.<layer>.lora_B.weight` [out, rank];
a layer's output grows by `alpha / rank * B A x`.

In vLLM the base stays as it was loaded, and one adapter, always of the same number, is loaded in place. Requests carry
that number from the start: until the first snapshot it stands for a blank adapter (all factors zero), so a request in
flight goes on under whatever the number stands for after an update.
"""

import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np
import torch
from peft import LoraConfig as PeftConfig
from safetensors.torch import save
from typing_extensions import override

from unisd_rl.config.model import LoraConfig
from unisd_rl.transport.weights.manifest import Bytes, SnapshotManifest, UpdateRefused, checksum, label
from unisd_rl.transport.weights.shared_memory import SharedMemory
from unisd_rl.transport.weights.snapshot import unpack
from unisd_rl.transport.weights.transport import Load, VllmHost, VllmWeightLoader

if TYPE_CHECKING:
    from vllm import AsyncEngineArgs

FILE_PREFIX = "base_model.model."
"""How peft names an adapter's tensors in its files: this, then the layer's name."""
_TENSORS = "adapter_model.safetensors"
_NAME, _ID = "student", 1
_EXTENSION = "unisd_rl.transport.weights.adapter_extension.AdapterExtension"  # imported by vLLM's own process

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


class AdapterLoader(VllmWeightLoader):
    """The factors of `adapter`, loaded in place from an `AdapterFolder`; vLLM's process checks them on either side."""

    def __init__(self, adapter: LoraConfig, model_path: Path, verify: bool) -> None:
        self._lora, self._model_path, self._verify = adapter, model_path, verify
        self._folder: AdapterFolder | None = None

    @override
    def configure(self, arguments: "AsyncEngineArgs") -> None:
        from vllm.config.lora import MaxLoRARanks

        arguments.enable_lora = True
        arguments.max_loras = 1
        arguments.max_lora_rank = min(rank for rank in get_args(MaxLoRARanks) if rank >= self._lora.rank)
        arguments.lora_target_modules = list(self._lora.targets)
        arguments.worker_extension_cls = _EXTENSION

    @override
    async def start(self, host: VllmHost) -> None:
        from vllm.lora.request import LoRARequest

        self._folder = AdapterFolder(self._lora, str(self._model_path))
        # With load_inplace in the requests vLLM would load at every step.
        self.adapter = LoRARequest(lora_name=_NAME, lora_int_id=_ID, lora_path=self._folder.path)
        await host.call_workers("hold_blank_adapter", _NAME, _ID, self._folder.path, self._lora.rank)

    @override
    @asynccontextmanager
    async def prepare(
        self, host: VllmHost, manifest: SnapshotManifest, buckets: Sequence[Bytes]
    ) -> AsyncIterator[Load]:
        from vllm.lora.request import LoRARequest

        folder, lora = self._folder, self._lora
        assert folder is not None, "start() comes first"
        if self._verify:
            manifest.verify(buckets)
        with folder.holding(unpack(manifest.buckets, buckets)) as written:
            sent, targets = checksum(written) if self._verify else None, list(lora.targets)
            for objection in await host.call_workers("adapter_mismatch", folder.tensors_path, sent, targets, lora.rank):
                if objection:
                    raise UpdateRefused(f"the adapter of version {label(manifest.version)} is refused: {objection}")

            async def load() -> None:
                await host.llm.add_lora(LoRARequest(_NAME, _ID, folder.path, load_inplace=True))
                if self._verify:
                    await self._check_loaded(host, folder.tensors_path)

            yield load

    @override
    def close(self) -> None:
        if self._folder is not None:
            self._folder.close()

    async def _check_loaded(self, host: VllmHost, tensors_path: str) -> None:
        for different in await host.call_workers("adapter_differences", tensors_path, _ID, self._lora.scaling):
            if different:
                raise RuntimeError(f"{len(different)} layers do not compute with what was sent, {different[0]} first")
