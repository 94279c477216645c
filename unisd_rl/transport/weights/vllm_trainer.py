"""The `nccl` and `ipc` transports: vLLM's own trainer engines push tensors into the engine of each actor.

```
learner: trainer engine, one an actor --six calls--> VllmPushEndpoint (the rollout actor) --> vLLM's weight transfer
                                      --tensors, between GPUs (nccl) or on one GPU (ipc)--> vLLM's own process
```

Need GPUs, and have not been run on the machine this was written on. Each actor is a transfer group of its own, because
every one of them counts its ranks from 1.
"""

import asyncio
import socket
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import override

from unisd_rl.cluster.processes import Handle
from unisd_rl.cluster.runtime import runtime
from unisd_rl.config import Config
from unisd_rl.transport.weights.manifest import Bytes, SnapshotManifest, label, parse_label
from unisd_rl.transport.weights.store import StoreClient
from unisd_rl.transport.weights.transport import (
    FetchedSnapshot,
    Load,
    NamedTensors,
    PublishTarget,
    VllmHost,
    VllmWeightLoader,
    WeightPublisher,
    WeightReceiver,
    WeightTransport,
    wait_for,
)
from unisd_rl.types import PolicyVersion

if TYPE_CHECKING:
    import torch
    from vllm import AsyncEngineArgs
    from vllm.distributed.weight_transfer import TrainerWeightTransferEngine
    from vllm.distributed.weight_transfer.base import WeightTransferInitRequest, WeightTransferUpdateRequest


class _TrainerTransport(WeightTransport):
    """What the two have in common."""

    backend: str  # vLLM's name of it

    def __init__(self, config: Config) -> None:
        self._config = config

    @abstractmethod
    def rendezvous(self) -> object:
        """What one trainer engine needs to meet the engine of its actor."""

    @override
    def publisher(self, target: PublishTarget) -> WeightPublisher:
        return TrainerEnginePublisher(target.actors, self.rendezvous, self._config.weights.timeout_s)

    @override
    def receiver(self, store: StoreClient) -> WeightReceiver:
        return NothingToFetch()

    @override
    def vllm_loader(self, model_path: Path) -> VllmWeightLoader:
        return PushedWeightLoader(self.backend)


class NcclTransport(_TrainerTransport):
    """Between GPUs: the learner is rank 0 of a group with all shards of one actor."""

    backend = "nccl"

    @override
    def rendezvous(self) -> object:
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

        with socket.socket() as listener:
            listener.bind(("", 0))
            port = listener.getsockname()[1]
        return NCCLTrainerInitInfo(
            rank=0,
            master_address=runtime().address(),
            master_port=port,
            world_size=1 + self._config.rollout.engine.weight_shards,
        )


class IpcTransport(_TrainerTransport):
    """On one GPU, which learner and actor share."""

    backend = "ipc"

    @override
    def rendezvous(self) -> object:
        from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

        return IPCTrainerInitInfo(rank=0)


class TrainerEnginePublisher(WeightPublisher):
    """One trainer engine an actor, one after the other."""

    def __init__(self, actors: Sequence[Handle], rendezvous: Callable[[], object], timeout_s: float) -> None:
        from vllm.distributed.weight_transfer import RayVLLMWeightSyncClient, WeightTransferTrainerFactory

        self._source, self._timeout_s = _TensorSource(), timeout_s
        self._engines: list[tuple[Handle, TrainerWeightTransferEngine]] = [
            (
                actor,
                WeightTransferTrainerFactory.trainer_init(
                    rendezvous(), client=RayVLLMWeightSyncClient(actor), source=self._source
                ),
            )
            for actor in actors
        ]

    @override
    def publish(self, version: PolicyVersion, tensors: NamedTensors) -> None:
        """Returns when every actor has the weights.

        Raises:
            RunFailed: an actor did not go on within `timeout_s` seconds after it had them.
        """
        self._source.tensors = list(tensors)
        for actor, engine in self._engines:
            engine.send_weights()
            resumed = actor.update_weight_version.remote(label(version))
            wait_for(resumed, self._timeout_s, f"a rollout actor goes on with version {label(version)}")
        self._source.tensors = []

    @override
    def wait(self, timeout_s: float) -> None:
        """Nothing is left to wait for."""


class _TensorSource:
    """vLLM's `WeightSource` on tensors that are there (a structural match: vLLM is imported only when used)."""

    def __init__(self) -> None:
        self.tensors: list[tuple[str, torch.Tensor]] = []

    def metadata(self) -> list[object]:
        from vllm.distributed.weight_transfer import ParamMeta

        return [ParamMeta(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in self.tensors]

    def __iter__(self) -> Iterator[tuple[str, "torch.Tensor"]]:
        return iter(self.tensors)


class NothingToFetch(WeightReceiver):
    """The trainer engine calls the actor: the next publication brings all weights."""

    @override
    async def newest(self) -> FetchedSnapshot | None:
        return None

    @override
    async def fetch(self, version: PolicyVersion) -> FetchedSnapshot | None:
        return None


class PushedWeightLoader(VllmWeightLoader):
    """Starts vLLM with the receiving half of its own transport, which then loads by itself."""

    def __init__(self, backend: str) -> None:
        self._backend = backend

    @override
    def configure(self, arguments: "AsyncEngineArgs") -> None:
        from vllm.config import WeightTransferConfig

        arguments.weight_transfer_config = WeightTransferConfig(backend=self._backend)

    @override
    def prepare(
        self, host: VllmHost, manifest: SnapshotManifest, buckets: Sequence[Bytes]
    ) -> AbstractAsyncContextManager[Load]:
        raise AssertionError(f"weights.transport = {self._backend} pushes weights: no snapshot is loaded")


class VllmPushEndpoint:
    """The six calls that vLLM's `RayVLLMWeightSyncClient` makes on a Ray actor: the base of `RolloutActor`.

    From the first call of an update to the naming of its version the engine is paused and `updating` is held;
    `announce` tells who waits for a version.
    """

    def __init__(self, host: VllmHost, updating: asyncio.Lock, announce: Callable[[], Awaitable[None]]) -> None:
        self._push_host, self._push_lock, self._announce_push = host, updating, announce

    async def init_weight_transfer_engine(self, request: "WeightTransferInitRequest") -> None:
        """Meet the trainer engine."""
        await self._push_host.llm.init_weight_transfer_engine(request)

    async def start_weight_update(self) -> None:
        """Pause, and prepare the layers."""
        await self._push_lock.acquire()
        await self._push_host.pause()
        await self._push_host.llm.start_weight_update()

    async def update_weights(self, request: "WeightTransferUpdateRequest") -> None:
        """Receive weights."""
        await self._push_host.llm.update_weights(request)

    async def finish_weight_update(self) -> None:
        """Put them in their places."""
        await self._push_host.llm.finish_weight_update()

    async def update_weight_version(self, version_label: str) -> None:
        """Name the version (`lineage:number`) and resume."""
        await self._push_host.resume(parse_label(version_label))
        self._push_lock.release()
        await self._announce_push()

    async def shutdown_weight_transfer_engine(self) -> None:
        """Part from the trainer engine."""
        await self._push_host.llm.shutdown_weight_transfer_engine()
