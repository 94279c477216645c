"""Starts the rollout queue as a Ray actor.

The queue takes no CPU of the cluster's count and outlives every rollout actor. Its methods are
coroutines, so a `take` that waits holds up no `commit`. When its process ends, Ray starts it again with the same
directory, as often as it takes: what was on storage is there, and callers retry (`client.py`).
"""

from pathlib import Path

import ray
from ray.actor import ActorHandle

from unisd_rl.cluster.ray_cluster import beside_the_driver
from unisd_rl.config import Config, RolloutConfig
from unisd_rl.errors import RunFailed
from unisd_rl.storage.files import FolderLock
from unisd_rl.transport.rollouts.driver_client import ServedQueue

_CALLS_IN_FLIGHT = 10_000  # a call that waits (lease, take) occupies a place
_FOR_EVER = -1
_OWNER_S = 60.0


class OwningQueue(ServedQueue):
    """The one queue of a folder: after `kill -9` of a driver the one before may live a moment longer, and would write
    to the same ledger."""

    def __init__(self, directory: Path, batch_size: int, rollout: RolloutConfig) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = FolderLock(directory, "queue.lock")
        if not self._lock.take(_OWNER_S):
            raise RunFailed(f"the rollout queue of an earlier run still writes to {directory} after {_OWNER_S:g} s")
        super().__init__(directory, batch_size, rollout)


def spawn_queue(directory: Path, config: Config) -> ActorHandle:
    """A handle on a new `OwningQueue` actor that keeps its files in the run's folder.

    It lives beside the driver, since rollout nodes come and go.
    """
    spawned = ray.remote(OwningQueue).options(
        num_cpus=0,
        max_concurrency=_CALLS_IN_FLIGHT,
        max_restarts=_FOR_EVER,
        max_task_retries=0,
        scheduling_strategy=beside_the_driver(),
    )
    return spawned.remote(directory.absolute(), config.learner.batch_size, config.rollout)
