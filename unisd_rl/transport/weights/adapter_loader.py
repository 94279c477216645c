"""How vLLM takes an adapter: the base stays, and one adapter, always of the same number, is loaded in place.

Requests carry that number from the start: until the first snapshot it stands for a blank adapter (all factors zero), so
a request in flight goes on under whatever the number stands for after an update.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from typing_extensions import override

from unisd_rl.config.model import LoraConfig
from unisd_rl.transport.weights.adapter import AdapterFolder
from unisd_rl.transport.weights.manifest import Bytes, SnapshotManifest, UpdateRefused, checksum, label
from unisd_rl.transport.weights.snapshot import unpack
from unisd_rl.transport.weights.transport import Load, VllmHost, VllmWeightLoader

if TYPE_CHECKING:
    from vllm import AsyncEngineArgs

_NAME, _ID = "student", 1
_EXTENSION = "unisd_rl.transport.weights.adapter_extension.AdapterExtension"  # imported by vLLM's own process


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
