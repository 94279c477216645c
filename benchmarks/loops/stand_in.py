"""The loop on a stand-in engine and a stand-in learner that sleep for recorded times; all between them is real."""

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import ray
import torch
from ray.actor import ActorHandle

from benchmarks.loops.rows import Row
from benchmarks.scale import here, prompts, rollout
from unisd_rl.config import Config
from unisd_rl.transport.rollouts.driver_client import QueueClient, spawn_queue
from unisd_rl.transport.rollouts.schema import encode
from unisd_rl.transport.weights.build import weight_transport
from unisd_rl.transport.weights.store import StoreClient, spawn_store
from unisd_rl.transport.weights.transport import PublishTarget
from unisd_rl.types import NumberedPrompt, PolicyVersion

BATCH, PLACES = 64, 64
CALL_S, STEP_S, LEASE_WAIT_S = 60.0, 300.0, 10.0


@dataclass(frozen=True)
class Times:
    """Recorded seconds: of each rollout by prompt number, and of each step; both go round."""

    rollout_s: tuple[float, ...]
    learn_s: tuple[float, ...]

    def rollout(self, number: int) -> float:
        return self.rollout_s[number % len(self.rollout_s)]

    def learn(self, step: int) -> float:
        return self.learn_s[step % len(self.learn_s)]

    def sides(self, steps: range) -> tuple[float, float]:
        """Seconds that the rollouts and the steps of `steps` take, each side for itself."""
        numbers = range(steps.start * BATCH, steps.stop * BATCH)
        return sum(map(self.rollout, numbers)) / PLACES, sum(map(self.learn, steps))

    def even(self, steps: range) -> "Times":
        """With rollouts scaled until both sides take equally long."""
        generating_s, learning_s = self.sides(steps)
        return replace(self, rollout_s=tuple(one * learning_s / generating_s for one in self.rollout_s))


class StandInActor:
    """A rollout actor whose engine sleeps."""

    def __init__(self, name: str, queue: ActorHandle, store: StoreClient, config: Config, times: Times) -> None:
        self._name, self._queue, self._times = name, queue, times
        self._receiver = weight_transport(config).receiver(store)
        self._applied: PolicyVersion | None = None
        self._changed = asyncio.Event()
        self._free = PLACES

    async def update(self, version: PolicyVersion) -> None:
        """Fetch the weights; applying them takes no time."""
        snapshot = await self._receiver.fetch(version)
        assert snapshot is not None
        snapshot.manifest.verify(snapshot.buckets)
        self._applied = snapshot.manifest.version
        self._change()

    async def serve(self) -> None:
        """Work until the process is killed."""
        tasks = set()
        calls: list[asyncio.Future[list[NumberedPrompt]]] = []
        while True:
            self._changed.clear()
            if self._applied is not None and self._free > 0:
                lease = self._queue.lease.remote(self._name, self._applied, self._free, LEASE_WAIT_S)
                calls.append(asyncio.ensure_future(lease))
            changed = asyncio.ensure_future(self._changed.wait())
            await asyncio.wait([*calls, changed], return_when=asyncio.FIRST_COMPLETED)
            for call in [call for call in calls if call.done()]:
                calls.remove(call)
                for prompt in call.result():
                    self._free -= 1
                    tasks.add(asyncio.ensure_future(self._roll_out(prompt)))

    async def _roll_out(self, prompt: NumberedPrompt) -> None:
        assert self._applied is not None
        version = self._applied.number
        await asyncio.sleep(self._times.rollout(prompt.number))
        await self._queue.commit.remote(self._name, encode([rollout(prompt, version, self._name, 4096)]))
        self._free += 1
        self._change()

    def _change(self) -> None:
        self._changed.set()


class StandInLearner:
    """A learner whose steps are slept; its weights are real tensors."""

    def __init__(self, config: Config, target: PublishTarget, times: Times, weights_mib: int) -> None:
        self._publisher, self._times = weight_transport(config).publisher(target), times
        self._weights = [(f"layer.{index}", torch.zeros(1 << 18)) for index in range(weights_mib)]

    def step(self, step: int, shard: bytes) -> int:
        time.sleep(self._times.learn(step))
        return len(shard)

    def publish(self, version: PolicyVersion) -> None:
        self._publisher.publish(version, self._weights)


def stand_in(options: argparse.Namespace) -> list[Row]:
    """Every staleness, with the times as they were recorded and made even."""
    recorded = json.loads((Path(__file__).parent / "stand_in_times.json").read_text())
    faster = 0.1 if options.quick else 1.0
    times = Times(*(tuple(faster * one for one in recorded[name]) for name in ("rollout_s", "learn_s")))
    ways = {"stand-in": times, "stand-in, even": times.even(range(1, options.steps))}
    with ray_here():
        return [looped(part, ways[part], staleness, options) for part in ways for staleness in options.staleness]


@contextmanager
def ray_here() -> Iterator[None]:
    """A Ray of its own whose processes find this module."""
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR", runtime_env=here())
    try:
        yield
    finally:
        ray.shutdown()


def looped(part: str, times: Times, staleness: int, options: argparse.Namespace) -> Row:
    """The loop of `unisd_rl.train`, on stand-ins."""
    sections = {"learner": {"batch_size": BATCH}, "rollout": {"max_staleness": staleness, "concurrency": PLACES}}
    config = Config.model_validate({**sections, "objective": {"divergence": {}}})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        queue, store = spawn_queue(Path(folder), config), spawn_store()
        actor = (
            ray.remote(StandInActor)
            .options(num_cpus=0, max_concurrency=100)
            .remote("stand-in", queue, store, config, times)
        )
        target = PublishTarget(store.handle, (actor,))
        learner = ray.remote(StandInLearner).options(num_cpus=0).remote(config, target, times, options.weights_mib)
        row = timed(part, QueueClient(queue, config, print), actor, learner, config, times, options.steps)
        for one in (actor, learner, store.handle, queue):
            ray.kill(one)
    return row


def timed(
    part: str,
    client: QueueClient,
    actor: ActorHandle,
    learner: ActorHandle,
    config: Config,
    times: Times,
    steps: int,
) -> Row:
    staleness, background = config.rollout.max_staleness, []
    waited_s = published_s = began_s = 0.0

    def publish(version: int) -> float:
        started_s = time.perf_counter()
        ray.get(learner.publish.remote(PolicyVersion(0, version)), timeout=CALL_S)
        background.append(actor.update.remote(PolicyVersion(0, version)))
        return time.perf_counter() - started_s

    def alive() -> None:
        """Raise what ended the actor, instead of waiting for its rollouts."""
        if ended := ray.wait([serving, *background], num_returns=1, timeout=0)[0]:
            ray.get(ended, timeout=CALL_S)
            background[:] = [update for update in background if update not in ended]

    serving = actor.serve.remote()
    publish(0)
    for step in range(steps):
        if step == 1:
            began_s, waited_s, published_s = time.perf_counter(), 0.0, 0.0
        client.admit(prompts(client.admitted, min(step + staleness + 2, steps) * BATCH))
        started_s = time.perf_counter()
        batch = client.take(step, 1, STEP_S, on_wait=alive)
        waited_s += time.perf_counter() - started_s
        ray.get(learner.step.remote(step, batch.shards[0]), timeout=STEP_S)
        published_s += publish(step + 1)
    seconds = time.perf_counter() - began_s
    ray.get(background, timeout=CALL_S)
    assert not ray.wait([serving], timeout=0)[0], "the actor ended"
    generating_s, learning_s = times.sides(range(1, steps))
    return Row(part, staleness, steps - 1, seconds, generating_s, learning_s, waited_s, published_s)
