"""How new weights get into vLLM: the whole model through its weight-transfer interface, or an adapter from a folder.

```
                 before the pause                                       in the pause
whole model:     shared memory, checksums in both processes             weight transfer, layer by layer
adapter:         peft's files in memory, checksum, names and shapes     loaded in place, compared
```
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol

from actors.engines.engine import EngineDied, UpdateRefused
from unisd_rl.transport.weights.manifest import Bytes, SnapshotManifest, label
from unisd_rl.transport.weights.shared_memory import shared

if TYPE_CHECKING:
    from vllm import AsyncEngineArgs
    from vllm.lora.request import LoRARequest
    from vllm.v1.engine.async_llm import AsyncLLM

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
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        with shared(buckets) as paths:
            if self._verify:
                for wrong in await ask(llm, "mismatched_buckets", paths, list(manifest.checksums)):
                    if wrong:
                        version = label(manifest.version)
                        raise UpdateRefused(f"vLLM's process reads bucket {wrong[0]} of {version} wrongly")

            async def load() -> None:
                await llm.start_weight_update()
                await llm.update_weights(
                    WeightTransferUpdateRequest(update_info={"manifest": manifest.to_json(), "paths": paths})
                )
                await llm.finish_weight_update()

            yield load

    def close(self) -> None:
        """Nothing is held between updates."""


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
