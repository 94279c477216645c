"""LoRA in vLLM: the base stays as it was loaded, and one adapter, always of the same number, is loaded in place.

Requests carry that number from the start: until the first snapshot it stands for a blank adapter (all factors
zero), so a request in flight goes on under whatever the number stands for after an update.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from actors.engines.engine import EngineDied, UpdateRefused
from actors.engines.vllm_weights import Load, ask, refuse_unless_whole
from unisd_rl.config import LoraConfig
from unisd_rl.transport.weights.manifest import Bytes, SnapshotManifest, checksum, label

if TYPE_CHECKING:
    from vllm import AsyncEngineArgs
    from vllm.lora.request import LoRARequest
    from vllm.v1.engine.async_llm import AsyncLLM

    from unisd_rl.transport.weights.adapter import AdapterFolder

_NAME, _ID = "student", 1
_EXTENSION = "unisd_rl.transport.weights.adapter_extension.AdapterExtension"


class AdapterUpdates:
    """`VllmUpdates` for LoRA."""

    def __init__(self, adapter: LoraConfig, model_path: Path, verify: bool) -> None:
        self._lora, self._model_path, self._verify = adapter, model_path, verify
        self._folder: AdapterFolder | None = None
        self._adapter: LoRARequest | None = None

    def configure(self, arguments: "AsyncEngineArgs") -> None:
        """See `VllmUpdates.configure`."""
        from vllm.config.lora import MaxLoRARanks

        arguments.enable_lora = True
        arguments.max_loras = 1
        arguments.max_lora_rank = min(rank for rank in get_args(MaxLoRARanks) if rank >= self._lora.rank)
        arguments.lora_target_modules = list(self._lora.targets)
        arguments.worker_extension_cls = _EXTENSION

    async def begin(self, llm: "AsyncLLM") -> None:
        """See `VllmUpdates.begin`."""
        from vllm.lora.request import LoRARequest

        from unisd_rl.transport.weights.adapter import AdapterFolder

        self._folder = AdapterFolder(self._lora, str(self._model_path))
        # With load_inplace in the requests vLLM would load at every step.
        self._adapter = LoRARequest(lora_name=_NAME, lora_int_id=_ID, lora_path=self._folder.path)
        await ask(llm, "hold_blank_adapter", _NAME, _ID, self._folder.path, self._lora.rank)

    @property
    def adapter(self) -> "LoRARequest | None":
        """See `VllmUpdates.adapter`."""
        return self._adapter

    @asynccontextmanager
    async def prepared(
        self, llm: "AsyncLLM", manifest: SnapshotManifest, buckets: Sequence[Bytes]
    ) -> AsyncIterator[Load]:
        """See `VllmUpdates.prepared`."""
        from vllm.lora.request import LoRARequest

        from unisd_rl.transport.weights.snapshot import unpack

        folder, lora = self._folder, self._lora
        assert folder is not None, "begin() comes first"
        if self._verify:
            refuse_unless_whole(manifest, list(map(checksum, buckets)))
        with folder.holding(unpack(manifest.buckets, buckets)) as written:
            sent = checksum(written) if self._verify else None
            objections = await ask(llm, "adapter_objection", folder.tensors_path, sent, list(lora.targets), lora.rank)
            for objection in filter(None, objections):
                raise UpdateRefused(f"the adapter of version {label(manifest.version)} is refused: {objection}")

            async def load() -> None:
                await llm.add_lora(LoRARequest(_NAME, _ID, folder.path, load_inplace=True))
                if self._verify:
                    await self._compare(llm, folder.tensors_path)

            yield load

    def close(self) -> None:
        """See `VllmUpdates.close`."""
        if self._folder is not None:
            self._folder.close()

    async def _compare(self, llm: "AsyncLLM", tensors_path: str) -> None:
        scaling = self._lora.alpha / self._lora.rank
        for different in await ask(llm, "adapter_differences", tensors_path, _ID, scaling):
            if different:
                raise EngineDied(f"{len(different)} layers do not compute with what was sent, {different[0]} first")
