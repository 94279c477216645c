"""Keeps the newest weights alive: an object in Ray belongs to the process that put it there.

```
learner rank 0 --hold(manifest, *buckets)--> WeightStore --newest()--> driver --> rollout actors
```

The learner may end or fall back, and rollout actors may start at any time: what they need lies here.
"""

from dataclasses import dataclass

import ray

from unisd_rl.transport.weights.manifest import Bytes, SnapshotManifest
from unisd_rl.types import PolicyVersion


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A manifest, and references to its buckets in Ray's object store."""

    manifest: SnapshotManifest
    buckets: "tuple[ray.ObjectRef[Bytes], ...]"

    @property
    def version(self) -> PolicyVersion:
        """The policy these weights are."""
        return self.manifest.version


class WeightStore:
    """Owner of the newest snapshot. A plain class; `spawn_store` makes it a Ray actor."""

    def __init__(self) -> None:
        self._newest: Snapshot | None = None

    def hold(self, manifest: SnapshotManifest, *buckets: Bytes) -> PolicyVersion:
        """Own a copy of these buckets and let go of the snapshot before."""
        manifest.verify(buckets)
        self._newest = Snapshot(manifest, tuple(ray.put(bucket) for bucket in buckets))
        return manifest.version

    def newest(self) -> Snapshot | None:
        """The last snapshot held, or None before the first."""
        return self._newest


def spawn_store() -> "ray.actor.ActorHandle[WeightStore]":
    """Start the store as a Ray actor; it asks for no core because it sleeps between snapshots."""
    return ray.remote(WeightStore).options(num_cpus=0, max_restarts=0).remote()
