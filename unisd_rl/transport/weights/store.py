"""The weight store: a process that owns the newest snapshot, because an object in Ray dies with who put it there.

```
learner rank 0 --put(manifest, buckets)--> WeightStore --at_least(version)--> rollout actors
```

A snapshot is handed out as soon as it is there, in the learner's objects. The store makes copies of its own a moment
later (at most 5 s): copied at the same time, they took as much of the memory's bandwidth as the actors that had waited,
whose own copying then took twice as long. If the learner dies before they are made, the snapshot before is the newest
again, and who was reading the lost one asks again.

The learner may end or roll back, and rollout actors may start at any time: what they need lies here.
An actor that asks for a version before it has arrived waits for it.

Ray starts a store that died again, empty, and repeats the calls that were under way. The driver notices
(`StoreMonitor`), ends one that hangs, and publishes anew.
"""

import asyncio
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from unisd_rl.cluster.processes import Call, Handle, ProcessOptions
from unisd_rl.cluster.resources import CPU
from unisd_rl.cluster.retry import RestartPolicy
from unisd_rl.cluster.runtime import runtime
from unisd_rl.cluster.waiting import Heartbeat, fetch, kill_hung
from unisd_rl.config.run import FaultsConfig
from unisd_rl.errors import RunFailed
from unisd_rl.transport.weights.manifest import Bytes, CorruptSnapshotError, SnapshotManifest, checksum
from unisd_rl.types import Failure, PolicyVersion

_COPY_TIMEOUT_S = 600.0  # bytes that lie on another machine
_SERVED_FIRST = 1 << 29  # bytes a second, about: how fast actors that waited read and load
_LATEST_COPY_S = 5.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A manifest, and where its buckets are read."""

    manifest: SnapshotManifest
    buckets: tuple[Call[Bytes], ...]

    @property
    def version(self) -> PolicyVersion:
        """The policy these weights are."""
        return self.manifest.version


@dataclass(slots=True)
class StoreClient:
    """The driver's end: the process, and the version that was last sent to it (None before the first)."""

    handle: Handle
    version: PolicyVersion | None = None


class WeightStore:
    """Owner of the newest snapshot. A plain class; `spawn_store` makes it a process."""

    def __init__(self, copy: "Callable[[Snapshot], Snapshot] | None" = None) -> None:
        self._copy, self._instance_id = copy or copy_snapshot, uuid.uuid4().hex
        self._newest: Snapshot | None = None
        self._owned: Snapshot | None = None
        self._changed = asyncio.Event()
        self._waiting = 0

    async def put(self, manifest: SnapshotManifest, buckets: Sequence[Call[Bytes]]) -> PolicyVersion:
        """Hand these buckets out, and return when the store owns a copy, with the version it then holds.

        Calls of one sender may overtake each other, and a learner that rolled back may have left one behind: what is
        older than the snapshot held is let go of.

        Raises:
            CorruptSnapshotError: the bytes are not those of the manifest.
            Runtime.lost: the sender died before they were copied. The snapshot before is back.
        """
        if self._newest is not None and manifest.version < self._newest.version:
            return self._newest.version
        borrowed = self._newest = Snapshot(manifest, tuple(buckets))
        served_s = min(_LATEST_COPY_S, manifest.nbytes / _SERVED_FIRST) if self._waiting else 0.0
        self._changed.set()
        self._changed = asyncio.Event()
        withdrawn: tuple[type[Exception], ...] = (CorruptSnapshotError, *runtime().lost)
        try:
            await asyncio.sleep(served_s)
            owned = await asyncio.to_thread(self._copy, borrowed)
        except withdrawn:
            if self._newest is borrowed:
                self._newest = self._owned
            raise
        if self._newest is borrowed:
            self._newest = self._owned = owned
        return manifest.version

    async def instance_id(self) -> str:
        """A name of this object: one with another name is another store, and empty."""
        return self._instance_id

    async def newest(self) -> Snapshot | None:
        """The last snapshot held, or None before the first."""
        return self._newest

    async def at_least(self, version: PolicyVersion, timeout_s: float) -> Snapshot:
        """The newest snapshot, as soon as it is of `version` or later.

        Raises:
            TimeoutError: it did not come within `timeout_s` seconds.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                self._waiting += 1
                try:
                    while self._newest is None or self._newest.version < version:
                        await self._changed.wait()
                finally:
                    self._waiting -= 1
        if self._newest is None or self._newest.version < version:
            held = self._newest.version if self._newest else None
            raise TimeoutError(f"waited {timeout_s:g} s for weights of {version}; the store holds {held}")
        return self._newest


def copy_snapshot(borrowed: Snapshot) -> Snapshot:
    """The same bytes as objects of this process, one bucket after the other: what comes from another machine lies in
    this one's object store while it is held, beside the copies and the snapshot before.

    Raises:
        CorruptSnapshotError: they are not those of the manifest.
    """
    checksums, copies = [], []
    for bucket in borrowed.buckets:
        array: Bytes = fetch(bucket, _COPY_TIMEOUT_S)
        checksums.append(checksum(array))
        copies.append(runtime().put(array))
        del array  # before the next one is asked for
    borrowed.manifest.compare(checksums)
    return Snapshot(borrowed.manifest, tuple(copies))


def spawn_store() -> StoreClient:
    """Start the store as a process; it asks for no core because it sleeps between snapshots."""
    options = ProcessOptions({CPU: 0.0}, beside_driver=True, restarts=-1, retries=-1)
    return StoreClient(runtime().spawn(WeightStore, options=options))


class StoreMonitor:
    """The driver's health check of the store: notices that it was started again, and ends one that hangs.

    Waits only when it is made, for `faults.patience_s`.
    """

    def __init__(self, store: StoreClient, faults: FaultsConfig) -> None:
        self._store, self._patience_s = store.handle, faults.patience_s
        self._restarts = RestartPolicy("store", faults)
        self._heartbeat: Heartbeat[str] = Heartbeat(store.handle.instance_id.remote, faults.silent_s)
        self._instance: str = fetch(store.handle.instance_id.remote(), self._patience_s)

    def check_health(self) -> None:
        """To be called now and then: ask who is there.

        Raises:
            RunFailed: it has not answered for `faults.patience_s`.
        """
        if self._heartbeat.unresponsive():
            kill_hung(self._store)
        if self._heartbeat.unanswered_s > self._patience_s:
            raise RunFailed(f"the weight store has not answered for {self._patience_s:g} s (faults.patience_s)")

    def lost_contents(self) -> Failure | None:
        """`check_health`, and the fault if the store lost what it held since the last call of this: an answer may be a
        call late.

        Raises:
            RunFailed: it did so more often than `faults.max_restarts`, or see `check_health`.
        """
        self.check_health()
        known, self._instance = self._instance, self._heartbeat.answer or self._instance
        if self._instance == known:
            return None
        # Ray has started it by now, so there is no back-off left to wait for.
        return replace(self._restarts.record_failure("it died and was started again without weights"), wait_s=0.0)
