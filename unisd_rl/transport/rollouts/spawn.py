"""Starts the rollout queue as a Ray actor.

The queue takes no CPU of the cluster's count and outlives every rollout actor. Its methods are
coroutines, so a `take` that waits holds up no `commit`.
"""

from pathlib import Path

import ray
from ray.actor import ActorHandle

from unisd_rl.config import Config
from unisd_rl.transport.rollouts.client import SharingQueue

_CALLS_IN_FLIGHT = 1000  # a call that waits (lease, take) occupies a place


def spawn_queue(directory: Path, config: Config) -> ActorHandle:
    """A handle on a new `SharingQueue` actor that keeps its files in the run's folder.

    `directory` must be reachable from the node that Ray puts the actor on.
    """
    spawned = ray.remote(SharingQueue).options(num_cpus=0, max_concurrency=_CALLS_IN_FLIGHT)
    rollout = config.rollout
    return spawned.remote(
        directory.absolute(),
        config.learner.batch_size,
        rollout.max_staleness,
        rollout.lease_s,
        rollout.max_attempts,
        rollout.fsync,
        ledger=rollout.ledger,
    )
