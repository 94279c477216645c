"""Starts the rollout queue as a Ray actor.

The queue takes no CPU of the cluster's count and outlives every rollout actor. Its methods are
coroutines, so a `take` that waits holds up no `commit`. When its process ends, Ray starts it again with the same
directory, as often as it takes: what was on storage is there, and callers retry (`client.py`).
"""

from pathlib import Path

import ray
from ray.actor import ActorHandle

from unisd_rl.config import Config
from unisd_rl.transport.rollouts.client import ServedQueue

_CALLS_IN_FLIGHT = 10_000  # a call that waits (lease, take) occupies a place
_FOR_EVER = -1


def spawn_queue(directory: Path, config: Config) -> ActorHandle:
    """A handle on a new `ServedQueue` actor that keeps its files in the run's folder.

    `directory` must be reachable from the node that Ray puts the actor on.
    """
    spawned = ray.remote(ServedQueue).options(
        num_cpus=0, max_concurrency=_CALLS_IN_FLIGHT, max_restarts=_FOR_EVER, max_task_retries=0
    )
    return spawned.remote(directory.absolute(), config.learner.batch_size, config.rollout)
