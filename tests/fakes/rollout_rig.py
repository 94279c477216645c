"""A started group of rollout actors with its queue and store, in real Ray processes, and what tests ask of it.

The transformers engine stands in (seconds to start); test_engine.py shows that both engines do the same.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

import ray
from transformers import AutoModelForCausalLM

from actors.group import RolloutGroup
from actors.rollout_actor import ActorSpec
from tests.fakes.engine_scenarios import changed
from unisd_rl.cluster.cores import CorePlan
from unisd_rl.config import Config
from unisd_rl.transport.rollouts.driver_client import QueueClient, spawn_queue
from unisd_rl.transport.rollouts.schema import decode
from unisd_rl.transport.weights.object_store import ObjectStorePublisher
from unisd_rl.transport.weights.store import spawn_store
from unisd_rl.types import (
    Event,
    Failure,
    Message,
    NumberedPrompt,
    PolicyVersion,
    Prompt,
    Recovery,
    Rollout,
    View,
    ViewKind,
)

WAIT_S = 120.0
BATCH = 8
PLAN = CorePlan(rollout=((0,), (0,)), learner=((1,),))


def config(lora: dict | None = None, faults: dict | None = None, cluster_timeout_s: float = 3.0, **rollout) -> Config:
    settings = {
        "model": {"lora": lora},
        "rollout": {"engine": {"type": "transformers"}, "max_completion_tokens": 24, "concurrency": 6, **rollout},
        "run": {"cluster_timeout_s": cluster_timeout_s},
        "learner": {"batch_size": BATCH},
        "faults": {"backoff_s": 0.1, **(faults or {})},
        "objective": {"divergence": {}},
    }
    return Config.model_validate(settings)


def numbered(number: int) -> NumberedPrompt:
    question = (Message("user", f"question {number}"),)
    primary = View(ViewKind.PRIMARY, (Message("user", f"answer to {number}, then question {number}"),))
    return NumberedPrompt(number, 1000 + number, Prompt(f"id-{number}", question, (primary,)))


class Parts:
    """A started group with its queue and store, and the weights of each version published to it."""

    def __init__(
        self,
        settings: Config,
        model_path: Path,
        run_dir: Path,
        start_s: float = WAIT_S,
        before_actors: Callable[[], object] = lambda: None,
    ) -> None:
        self.queue_handle, self.store = spawn_queue(run_dir, settings), spawn_store()
        ray.get([self.queue_handle.report.remote(), self.store.handle.newest.remote()], timeout=WAIT_S)
        before_actors()
        self.publisher = ObjectStorePublisher(self.store.handle, bucket_mib=1)
        self.base = AutoModelForCausalLM.from_pretrained(model_path).eval()
        self.models: dict[int, object] = {}
        self.events: list[Event] = []
        self.queue = QueueClient(self.queue_handle, settings, self.events.append)
        self.group = RolloutGroup(
            ActorSpec(settings, model_path, run_dir, self.queue_handle, self.store), PLAN, self.events.append
        )
        self.group.start(start_s)

    @property
    def faults(self) -> list[Failure]:
        return [event for event in self.events if isinstance(event, Failure)]

    @property
    def recoveries(self) -> list[Recovery]:
        return [event for event in self.events if isinstance(event, Recovery)]

    def publish(self, number: int, lineage: int = 0) -> PolicyVersion:
        self.models[number] = changed(self.base, seed=number)
        version = PolicyVersion(lineage, number)
        self.group.broadcast(version)  # before the store has it: actors wait for it
        self.publisher.publish(version, self.models[number].named_parameters())
        self.publisher.wait(WAIT_S)
        return version

    def serve(self, prompts: int) -> None:
        """Version 0 is applied, and the queue served, with so many prompts."""
        self.group.wait_for(self.publish(0), WAIT_S)
        self.queue.admit(tuple(numbered(number) for number in range(prompts)))
        self.group.run()

    def take(self, step: int) -> list[Rollout]:
        """The batch of a step, published as the next version afterwards."""
        batch = self.queue.take(step, 1, WAIT_S, self.group.check)
        self.publish(step + 1)
        return decode(ray.get(batch.shards[0]))

    def take_all(self, first: int, end: int) -> list[Rollout]:
        """The rollouts of these steps, in order."""
        return [rollout for step in range(first, end) for rollout in self.take(step)]

    def until(self, condition: Callable[[], object], what: str, timeout_s: float = WAIT_S) -> None:
        """Supervise until `condition()`; fails after a while."""
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline_s, f"waited {timeout_s:g} s until {what}; told were {self.events}"
            self.group.check()
            ray.wait([self.queue_handle.report.remote()], timeout=0.05)

    def pids(self) -> list[int]:
        """Processes of the actors that serve, in order."""
        # A lambda travels by value: Ray's processes do not find this module.
        asked = [handle.__ray_call__.remote(lambda _: os.getpid()) for handle in self.group.handles]
        return ray.get(asked, timeout=WAIT_S)
