"""The rollout actor's end of the weights' wire: how it gets at the weights of a version.

With `object_store` the actor fetches a snapshot and hands it to its engine. With `nccl` and `ipc`
the learner's trainer engine drives the actor's engine itself, and there is nothing to fetch.
"""

import asyncio
from dataclasses import dataclass
from typing import Protocol

from ray.exceptions import ObjectLostError, RayActorError

from unisd_rl.cluster.retry import retry
from unisd_rl.config import Config
from unisd_rl.config.run import FaultsConfig
from unisd_rl.transport.weights.manifest import Bytes, SnapshotManifest, label
from unisd_rl.transport.weights.store import Snapshot, StoreClient
from unisd_rl.types import PolicyVersion

_AWAY = (RayActorError, ObjectLostError)  # the store died, or died between naming its buckets and handing them over


@dataclass(frozen=True, slots=True)
class Arrived:
    """A snapshot whose bytes are in this process's reach (views into Ray's object store)."""

    manifest: SnapshotManifest
    buckets: tuple[Bytes, ...]


class WeightReceiver(Protocol):
    """Where an actor finds weights."""

    async def newest(self) -> Arrived | None:
        """What an actor that starts now should begin with; None before the first publication."""
        ...

    async def fetch(self, version: PolicyVersion) -> Arrived | None:
        """The newest weights, at least of `version`; None if they reach the engine by themselves.

        Raises:
            TimeoutError: they did not come within `weights.timeout_s`.
        """
        ...


class ObjectStoreReceiver:
    """Fetches from the `WeightStore`, which may die and be started again: calls wait for it, with back-off.

    Raises RunFailed when it is away for `faults.patience_s`.
    """

    def __init__(self, store: StoreClient, timeout_s: float, faults: FaultsConfig) -> None:
        self._store, self._timeout_s, self._faults = store.handle, timeout_s, faults

    async def newest(self) -> Arrived | None:
        """See `WeightReceiver.newest`."""

        async def newest() -> Arrived | None:
            snapshot: Snapshot | None = await self._store.newest.remote()
            return None if snapshot is None else await _buckets_of(snapshot)

        return await retry(newest, _AWAY, self._faults, "the weight store to show its newest weights")

    async def fetch(self, version: PolicyVersion) -> Arrived | None:
        """See `WeightReceiver.fetch`."""

        async def fetch() -> Arrived:
            return await _buckets_of(await self._store.at_least.remote(version, self._timeout_s))

        return await retry(fetch, _AWAY, self._faults, f"the weight store to hand over {label(version)}")


class PushedWeights:
    """For `nccl` and `ipc`: the trainer engine calls the actor. Needs GPUs."""

    async def newest(self) -> Arrived | None:
        """Nothing to fetch: the next publication brings all weights."""
        return None

    async def fetch(self, version: PolicyVersion) -> Arrived | None:
        """Nothing to fetch."""
        return None


def weight_receiver(config: Config, store: StoreClient) -> WeightReceiver:
    """The receiver that goes with the configured transport."""
    if config.weights.transport == "object_store":
        return ObjectStoreReceiver(store, config.weights.timeout_s, config.faults)
    return PushedWeights()


async def _buckets_of(snapshot: Snapshot) -> Arrived:
    return Arrived(snapshot.manifest, tuple(await asyncio.gather(*snapshot.buckets)))
