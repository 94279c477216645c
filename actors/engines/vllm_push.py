"""Weight updates that the learner drives: the six calls of vLLM's `RayVLLMWeightSyncClient`.

With `nccl` and `ipc` vLLM's trainer engine, in the learner, calls a Ray actor that wraps the engine.
`RolloutActor` is that actor. From the first call of an update to the naming of its version the
engine is paused. Needs GPUs: these transports do not exist on a CPU.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from actors.engines.engine import RolloutEngine
from unisd_rl.errors import RunFailed
from unisd_rl.transport.weights.manifest import parse_label

if TYPE_CHECKING:
    from vllm.distributed.weight_transfer.base import WeightTransferInitRequest, WeightTransferUpdateRequest

    from actors.engines.vllm_engine import VllmRolloutEngine


class VllmPushEndpoint:
    """Base of `RolloutActor`; `updating` is held during an update, `announce` tells who waits for a version."""

    def __init__(self, engine: RolloutEngine, updating: asyncio.Lock, announce: Callable[[], Awaitable[None]]) -> None:
        self._pushed_engine, self._pushed_updating, self._announce_pushed = engine, updating, announce

    async def init_weight_transfer_engine(self, request: "WeightTransferInitRequest") -> None:
        """Meet the trainer engine."""
        await self._vllm().llm.init_weight_transfer_engine(request)

    async def start_weight_update(self) -> None:
        """Pause, and prepare the layers."""
        await self._pushed_updating.acquire()
        await self._vllm().pause()
        await self._vllm().llm.start_weight_update()

    async def update_weights(self, request: "WeightTransferUpdateRequest") -> None:
        """Receive weights."""
        await self._vllm().llm.update_weights(request)

    async def finish_weight_update(self) -> None:
        """Put them in their places."""
        await self._vllm().llm.finish_weight_update()

    async def update_weight_version(self, version_label: str) -> None:
        """Name the version (`lineage:number`) and resume."""
        await self._vllm().resume(parse_label(version_label))
        self._pushed_updating.release()
        await self._announce_pushed()

    async def shutdown_weight_transfer_engine(self) -> None:
        """Part from the trainer engine."""
        await self._vllm().llm.shutdown_weight_transfer_engine()

    def _vllm(self) -> "VllmRolloutEngine":
        from actors.engines.vllm_engine import VllmRolloutEngine

        if not isinstance(self._pushed_engine, VllmRolloutEngine):
            raise RunFailed("weights can only be pushed into a vLLM engine; use weights.transport = object_store")
        return self._pushed_engine
