"""The rollout actor's end of the weights' wire: how it gets at the weights of a version.

With `object_store` the actor fetches a snapshot and hands it to its engine. With `nccl` and `ipc`
the learner's trainer engine drives the actor's engine itself, and there is nothing to fetch.
"""

import asyncio
from dataclasses import dataclass
from typing import Protocol

from unisd_rl.config import WeightsConfig
from unisd_rl.transport.weights.manifest import Bytes, SnapshotManifest
from unisd_rl.transport.weights.store import Snapshot, StoreClient
from unisd_rl.types import PolicyVersion


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
    """Fetches from the `WeightStore`."""

    def __init__(self, store: StoreClient, timeout_s: float) -> None:
        self._store, self._timeout_s = store.handle, timeout_s

    async def newest(self) -> Arrived | None:
        """See `WeightReceiver.newest`."""
        snapshot: Snapshot | None = await self._store.newest.remote()
        return None if snapshot is None else await _buckets_of(snapshot)

    async def fetch(self, version: PolicyVersion) -> Arrived | None:
        """See `WeightReceiver.fetch`."""
        return await _buckets_of(await self._store.at_least.remote(version, self._timeout_s))


class PushedWeights:
    """For `nccl` and `ipc`: the trainer engine calls the actor. Needs GPUs."""

    async def newest(self) -> Arrived | None:
        """Nothing to fetch: the next publication brings all weights."""
        return None

    async def fetch(self, version: PolicyVersion) -> Arrived | None:
        """Nothing to fetch."""
        return None


def weight_receiver(config: WeightsConfig, store: StoreClient) -> WeightReceiver:
    """The receiver that goes with the configured transport."""
    if config.transport == "object_store":
        return ObjectStoreReceiver(store, config.timeout_s)
    return PushedWeights()


async def _buckets_of(snapshot: Snapshot) -> Arrived:
    return Arrived(snapshot.manifest, tuple(await asyncio.gather(*snapshot.buckets)))
