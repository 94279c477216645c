"""How new weights get into vLLM: the whole model through its weight-transfer interface, or an adapter from a folder.

```
                 before the pause                                       in the pause
whole model:     shared memory, checksum of what lies there             weight transfer, layer by layer
adapter:         peft's files in memory, checksum, names and shapes     loaded in place, compared
```

LoRA in vLLM: the base stays as it was loaded, and one adapter, always of the same number, is loaded in place.

Requests carry that number from the start: until the first snapshot it stands for a blank adapter (all factors
zero), so a request in flight goes on under whatever the number stands for after an update.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol

from actors.engines.engine import EngineDied, UpdateRefused
from unisd_rl.transport.weights.manifest import Bytes, CorruptSnapshotError, SnapshotManifest
from unisd_rl.transport.weights.shared_memory import SharedMemory

if TYPE_CHECKING:
    from vllm import AsyncEngineArgs
    from vllm.lora.request import LoRARequest
    from vllm.v1.engine.async_llm import AsyncLLM
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from unisd_rl.config.model import LoraConfig
from unisd_rl.transport.weights.manifest import checksum, label

if TYPE_CHECKING:
    from vllm import AsyncEngineArgs
    from vllm.lora.request import LoRARequest
    from vllm.v1.engine.async_llm import AsyncLLM

    from unisd_rl.transport.weights.adapter import AdapterFolder


Load = Callable[[], Awaitable[None]]
"""Puts weights in their places while the scheduler is paused."""

_EXTENSION = "unisd_rl.transport.weights.object_store_engine.ObjectStoreExtension"


class VllmUpdates(Protocol):
    """One way of replacing what vLLM computes with."""

    def configure(self, arguments: "AsyncEngineArgs") -> None:
        """Set what vLLM must be started with."""
        ...

    async def begin(self, llm: "AsyncLLM") -> None:
        """Once, after vLLM has started and before its first request."""
        ...

    @property
    def adapter(self) -> "LoRARequest | None":
        """The adapter every request is answered with; None where the model itself is trained."""
        ...

    def prepared(
        self, llm: "AsyncLLM", manifest: SnapshotManifest, buckets: Sequence[Bytes]
    ) -> AbstractAsyncContextManager[Load]:
        """Do all that can be done before the pause; yields what is left, to be called within the block.

        Raises:
            UpdateRefused: vLLM's process cannot use these bytes; nothing was changed.
            EngineDied: vLLM's process is gone.
        """
        ...

    def close(self) -> None:
        """Leave nothing behind. May be called twice."""
        ...


class WholeModelUpdates:
    """`VllmUpdates` for training of all weights; with `nccl` and `ipc` the learner calls vLLM itself."""

    def __init__(self, transport: str, verify: bool) -> None:
        self._transport, self._verify = transport, verify
        self._memory = SharedMemory()

    adapter = None

    def configure(self, arguments: "AsyncEngineArgs") -> None:
        """See `VllmUpdates.configure`."""
        from vllm.config import WeightTransferConfig

        arguments.weight_transfer_config = WeightTransferConfig(backend=self._transport)
        if self._transport == "object_store":
            arguments.worker_extension_cls = _EXTENSION

    async def begin(self, llm: "AsyncLLM") -> None:
        """The model begins as its files are."""

    @asynccontextmanager
    async def prepared(
        self, llm: "AsyncLLM", manifest: SnapshotManifest, buckets: Sequence[Bytes]
    ) -> AsyncIterator[Load]:
        """See `VllmUpdates.prepared`."""
        written, described = await asyncio.to_thread(self._memory.write, buckets), manifest.to_json()
        if self._verify:
            refuse_unless_whole(manifest, written.checksums)

        async def load() -> None:
            await ask(llm, "load_snapshot", described, written.paths)

        yield load

    def close(self) -> None:
        """See `VllmUpdates.close`."""
        self._memory.close()


def refuse_unless_whole(manifest: SnapshotManifest, checksums: Sequence[str]) -> None:
    """Raise `UpdateRefused` if buckets of these checksums are not those that were sent."""
    try:
        manifest.compare(checksums)
    except CorruptSnapshotError as error:
        raise UpdateRefused(str(error)) from error


async def ask(llm: "AsyncLLM", method: str, *arguments: Any) -> list[Any]:
    """Call an extension's method in each of vLLM's processes; their answers.

    Raises:
        EngineDied: vLLM's process is gone, or the method failed there.
    """
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        return await llm.collective_rpc(method, args=arguments)
    except EngineDeadError as error:
        raise EngineDied("vLLM's process died; its last words are the first ERROR in the log") from error
    except Exception as error:  # vLLM tells what failed in its process as a bare Exception
        raise EngineDied(f"{method} failed in vLLM's process: {error}") from error


_NAME, _ID = "student", 1

_ADAPTER_EXTENSION = "unisd_rl.transport.weights.adapter_extension.AdapterExtension"


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
        arguments.worker_extension_cls = _ADAPTER_EXTENSION

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
