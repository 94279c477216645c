"""The `object_store` transport: snapshots through Ray's object store, on any machine.

```
learner:   tensors -> buckets -> WeightStore
actor:     WeightStore -> views of the buckets
vLLM:      before the pause                                       in the pause
  model    shared memory, checksum of what lies there             weight transfer, layer by layer
  adapter  peft's files in memory, checksum, names and shapes     loaded in place, compared (adapter.py)
```

Any number of actors fetch; the learner waits for none of them.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import override

from unisd_rl.cluster.processes import Call, Handle, Unreachable
from unisd_rl.cluster.retry import retry
from unisd_rl.cluster.runtime import runtime
from unisd_rl.config import Config
from unisd_rl.config.run import FaultsConfig
from unisd_rl.transport.weights.manifest import Bytes, SnapshotManifest, label
from unisd_rl.transport.weights.shared_memory import SharedMemory
from unisd_rl.transport.weights.snapshot import BucketMemory, manifest_of, pack
from unisd_rl.transport.weights.store import Snapshot, StoreClient
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
    from vllm import AsyncEngineArgs

# By name: vLLM imports it in its own process, and nothing of vLLM is imported here before its environment is set.
_EXTENSION = "unisd_rl.transport.weights.object_store_engine.ObjectStoreExtension"


class ObjectStoreTransport(WeightTransport):
    """Whole models, and adapters (`model.lora`)."""

    def __init__(self, config: Config) -> None:
        self._config = config

    @override
    def publisher(self, target: PublishTarget) -> WeightPublisher:
        return ObjectStorePublisher(target.store, self._config.weights.bucket_mib)

    @override
    def receiver(self, store: StoreClient) -> WeightReceiver:
        return ObjectStoreReceiver(store, self._config.weights.timeout_s, self._config.faults)

    @override
    def vllm_loader(self, model_path: Path) -> VllmWeightLoader:
        lora, verify = self._config.model.lora, self._config.weights.checksum
        if lora is None:
            return WholeModelLoader(verify)
        from unisd_rl.transport.weights.adapter_loader import AdapterLoader  # peft takes seconds to import

        return AdapterLoader(lora, model_path, verify)


class ObjectStorePublisher(WeightPublisher):
    """Hands snapshots to the `WeightStore` in the background."""

    def __init__(self, store: Handle, bucket_mib: int) -> None:
        self._store, self._bucket_bytes = store, bucket_mib << 20
        self._memory = BucketMemory()
        self._sending: Call[PolicyVersion] | None = None

    @override
    def publish(self, version: PolicyVersion, tensors: NamedTensors) -> None:
        packed, references = [], []
        for bucket in pack(tensors, self._bucket_bytes, self._memory):  # one bucket lies beside Ray's store at a time
            packed.append(bucket)
            references.append(runtime().put(bucket.array))
        self._sending = self._store.put.remote(manifest_of(version, packed), references)

    @override
    def wait(self, timeout_s: float) -> None:
        if self._sending is not None:
            with suppress(Unreachable):  # the store died with them: the driver notices and publishes anew
                wait_for(self._sending, timeout_s, "the weight store has the weights published before")


class ObjectStoreReceiver(WeightReceiver):
    """Fetches from the `WeightStore`, which may die and be started again: calls wait for it, with back-off.

    Raises RunFailed when it is away for `faults.patience_s`.
    """

    def __init__(self, store: StoreClient, timeout_s: float, faults: FaultsConfig) -> None:
        self._store, self._timeout_s, self._faults = store.handle, timeout_s, faults

    @override
    async def newest(self) -> FetchedSnapshot | None:
        async def newest() -> FetchedSnapshot | None:
            snapshot: Snapshot | None = await self._store.newest.remote()
            return None if snapshot is None else await _fetch_buckets(snapshot)

        return await retry(newest, _away(), self._faults, "the weight store to show its newest weights")

    @override
    async def fetch(self, version: PolicyVersion) -> FetchedSnapshot | None:
        async def fetch() -> FetchedSnapshot:
            return await _fetch_buckets(await self._store.at_least.remote(version, self._timeout_s))

        return await retry(fetch, _away(), self._faults, f"the weight store to hand over {label(version)}")


def _away() -> tuple[type[Exception], ...]:
    """The store died, or died between naming its buckets and handing them over."""
    return (*runtime().unreachable, *runtime().lost)


async def _fetch_buckets(snapshot: Snapshot) -> FetchedSnapshot:
    return FetchedSnapshot(snapshot.manifest, tuple(await asyncio.gather(*snapshot.buckets)))


class WholeModelLoader(VllmWeightLoader):
    """Every parameter, through shared memory and vLLM's weight-transfer interface (`object_store_engine.py`)."""

    def __init__(self, verify: bool) -> None:
        self._verify, self._memory = verify, SharedMemory()

    @override
    def configure(self, arguments: "AsyncEngineArgs") -> None:
        from vllm.config import WeightTransferConfig

        arguments.weight_transfer_config = WeightTransferConfig(backend="object_store")
        arguments.worker_extension_cls = _EXTENSION

    @override
    @asynccontextmanager
    async def prepare(
        self, host: VllmHost, manifest: SnapshotManifest, buckets: Sequence[Bytes]
    ) -> AsyncIterator[Load]:
        shared, manifest_json = await asyncio.to_thread(self._memory.write, buckets), manifest.to_json()
        if self._verify:
            manifest.compare(shared.checksums)

        async def load() -> None:
            await host.call_workers("load_snapshot", manifest_json, shared.paths)

        yield load

    @override
    def close(self) -> None:
        self._memory.close()
