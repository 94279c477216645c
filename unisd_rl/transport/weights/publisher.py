"""The learner's end of the weights' wire: one call publishes a version, on rank 0.

```
object_store: tensors -> buckets -> WeightStore -> any number of actors fetch
nccl, ipc:    tensors -> vLLM's trainer engine, one an actor -> the actor's engine
```

Taking the tensors is synchronous: when `publish` returns, the caller may change its weights.
"""

import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import ray
import torch
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayActorError

from unisd_rl.config import Config
from unisd_rl.errors import RunFailed
from unisd_rl.transport.weights.manifest import PublishTarget, label
from unisd_rl.transport.weights.snapshot import BucketMemory, manifest_of, pack
from unisd_rl.types import PolicyVersion

if TYPE_CHECKING:
    from vllm.distributed.weight_transfer import TrainerWeightTransferEngine

NamedTensors = Iterable[tuple[str, torch.Tensor]]


class WeightPublisher(Protocol):
    """Sends a version's weights towards the rollout actors."""

    def publish(self, version: PolicyVersion, tensors: NamedTensors) -> int:
        """Take named tensors (names as in the model's own files); returns their bytes."""
        ...

    def wait(self, timeout_s: float) -> None:
        """Return when what was published is out of this process's hands.

        Raises:
            RunFailed: after `timeout_s` seconds.
        """
        ...


class ObjectStorePublisher:
    """Hands snapshots to the `WeightStore` in the background. Works on any machine."""

    def __init__(self, store: ActorHandle, bucket_mib: int) -> None:
        self._store, self._bucket_bytes = store, bucket_mib << 20
        self._memory = BucketMemory()
        self._sending: ray.ObjectRef[PolicyVersion] | None = None

    def publish(self, version: PolicyVersion, tensors: NamedTensors) -> int:
        """See `WeightPublisher.publish`. Ray's object store gets bucket after bucket; one lies beside it at a time."""
        packed, references = [], []
        for bucket in pack(tensors, self._bucket_bytes, self._memory):
            packed.append(bucket)
            references.append(ray.put(bucket.array))
        manifest = manifest_of(version, packed)
        self._sending = self._store.hold.remote(manifest, references)
        return manifest.nbytes

    def wait(self, timeout_s: float) -> None:
        """See `WeightPublisher.wait`. Where the store died with them, the driver notices and publishes anew."""
        if self._sending is not None:
            with suppress(RayActorError):
                _wait_for(self._sending, timeout_s, "the weight store has the weights published before")


class TrainerEnginePublisher:
    """Sends through vLLM's own trainer engines: `nccl` between GPUs, `ipc` on one GPU.

    Needs GPUs: it has not been run on the machine this was written on. Each actor is a transfer group
    of its own, because every one of them counts its ranks from 1.
    """

    def __init__(self, transport: str, actors: Sequence[ActorHandle], tensor_parallel: int, timeout_s: float) -> None:
        self._tensors, self._timeout_s = _HeldTensors(), timeout_s
        self._links = [_Link(transport, actor, tensor_parallel, self._tensors) for actor in actors]

    def publish(self, version: PolicyVersion, tensors: NamedTensors) -> int:
        """See `WeightPublisher.publish`. Returns when every actor has the weights.

        Raises:
            RunFailed: an actor did not go on within `timeout_s` seconds after it had them.
        """
        self._tensors.held = list(tensors)
        for link in self._links:
            link.send(version, self._timeout_s)
        nbytes = sum(tensor.nbytes for _, tensor in self._tensors.held)
        self._tensors.held = []
        return nbytes

    def wait(self, timeout_s: float) -> None:
        """Nothing is left to wait for."""


def weight_publisher(config: Config, target: PublishTarget) -> WeightPublisher:
    """The publisher that goes with `weights.transport`."""
    if config.weights.transport == "object_store":
        return ObjectStorePublisher(target.store, config.weights.bucket_mib)
    shards = config.rollout.engine.weight_shards
    return TrainerEnginePublisher(config.weights.transport, target.actors, shards, config.weights.timeout_s)


class _HeldTensors:
    """vLLM's `WeightSource` on tensors that are there (a structural match: vLLM is imported only when used)."""

    def __init__(self) -> None:
        self.held: list[tuple[str, torch.Tensor]] = []

    def metadata(self) -> list[object]:
        from vllm.distributed.weight_transfer import ParamMeta

        return [ParamMeta(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in self.held]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        return iter(self.held)


class _Link:
    """One actor, the trainer engine that feeds it, and the version label that ends an update."""

    def __init__(self, transport: str, actor: ActorHandle, tensor_parallel: int, source: _HeldTensors) -> None:
        from vllm.distributed.weight_transfer import WeightTransferTrainerFactory

        self._actor = actor
        self._engine: TrainerWeightTransferEngine = WeightTransferTrainerFactory.trainer_init(
            _init_info(transport, tensor_parallel), client=_client(actor), source=source
        )

    def send(self, version: PolicyVersion, timeout_s: float) -> None:
        self._engine.send_weights()
        resumed = self._actor.update_weight_version.remote(label(version))
        _wait_for(resumed, timeout_s, f"a rollout actor goes on with version {label(version)}")


def _wait_for(answer: "ray.ObjectRef[Any]", timeout_s: float, what: str) -> None:
    try:
        ray.get(answer, timeout=timeout_s)
    except GetTimeoutError as error:
        raise RunFailed(f"waited {timeout_s:g} s until {what}; raise weights.timeout_s if it is only slow") from error


def _client(actor: ActorHandle) -> object:
    from vllm.distributed.weight_transfer import RayVLLMWeightSyncClient

    return RayVLLMWeightSyncClient(actor)


def _init_info(transport: str, tensor_parallel: int) -> object:
    if transport == "ipc":
        from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

        return IPCTrainerInitInfo(rank=0)
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

    with socket.socket() as listener:
        listener.bind(("", 0))
        port = listener.getsockname()[1]
    address = ray.util.get_node_ip_address()
    return NCCLTrainerInitInfo(rank=0, master_address=address, master_port=port, world_size=1 + tensor_parallel)
