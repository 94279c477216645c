"""The rollout queue as a real Ray actor: actors in other processes, some of which die, and so does the queue."""

import asyncio
import contextlib
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import ray
from ray.exceptions import RayActorError

from unisd_rl.config import Config
from unisd_rl.errors import RunFailed
from unisd_rl.transport.rollouts.driver_client import QueueClient, spawn_queue
from unisd_rl.transport.rollouts.schema import decode, encode
from unisd_rl.types import Failure, Message, NumberedPrompt, PolicyVersion, Prompt, Rollout, Source

CALL_S = 60.0
BATCH = 4


def config(**faults):
    return Config.model_validate(
        {"learner": {"batch_size": BATCH}, "objective": {"divergence": {}}, "faults": {"backoff_s": 0.2, **faults}}
    )


class Completing:
    """Stands for a rollout actor: leases, then completes every prompt with three tokens of one version."""

    def __init__(self, name, queue):
        self.name, self.queue = name, queue

    def lease(self, version, wanted):
        call = self.queue.lease.remote(self.name, PolicyVersion(0, version), wanted, CALL_S)
        self.prompts, self.version = ray.get(call, timeout=2 * CALL_S), version
        return [prompt.number for prompt in self.prompts]

    def complete(self):
        rows = encode([self.rollout(prompt) for prompt in self.prompts])
        ray.get(self.queue.commit.remote(self.name, rows), timeout=CALL_S)

    def rollout(self, prompt):
        three = np.full(3, self.version, np.int32)
        return Rollout(
            number=prompt.number,
            id=prompt.prompt.id,
            source=Source.POLICY,
            prompt_tokens=np.arange(4, dtype=np.int32),
            views=(),
            completion_tokens=np.arange(3, dtype=np.int32),
            logprobs=np.full(3, -1.0, np.float32),
            lineages=np.zeros(3, np.int32),
            versions=three,
            finish_reason="stop",
            seed=prompt.seed,
            actor=self.name,
            started_s=0.0,
            finished_s=1.0,
        )


@pytest.fixture(scope="module")
def cluster():
    here = {"env_vars": {"PYTHONPATH": str(Path(__file__).parents[2])}}  # where Ray's processes find this module
    ray.init(address="local", include_dashboard=False, num_cpus=2, log_to_driver=False, runtime_env=here)
    yield
    ray.shutdown()


@pytest.fixture
def queue(cluster, tmp_path):
    handle = spawn_queue(tmp_path, config())
    yield handle
    ray.kill(handle)


def client_of(queue, events=None, **faults):
    return QueueClient(queue, config(**faults), [].append if events is None else events.append)


def kill_process(queue, sign=signal.SIGKILL):
    os.kill(ray.get(queue.__ray_call__.remote(lambda self: os.getpid()), timeout=CALL_S), sign)


def stop_process(queue):
    kill_process(queue, signal.SIGSTOP)


def completing(name, queue):
    return ray.remote(Completing).options(num_cpus=0).remote(name, queue)


def all_is_well():
    """Nothing to say while a batch is waited for."""


def prompts(count):
    message = (Message("user", "what is asked"),)
    return [NumberedPrompt(number, number, Prompt(f"p{number}", message, ())) for number in range(count)]


def test_a_dead_actors_prompts_are_completed_by_another_and_none_is_lost_or_doubled(queue, tmp_path):
    client, first, second = client_of(queue), completing("first", queue), completing("second", queue)
    client.admit(prompts(8))
    assert ray.get(first.lease.remote(0, 3), timeout=CALL_S) == [0, 1, 2]
    assert ray.get(second.lease.remote(0, 99), timeout=CALL_S) == [3, 4, 5, 6, 7]
    ray.get(second.complete.remote(), timeout=CALL_S)
    ray.kill(first)
    ray.get(queue.release.remote("first"), timeout=CALL_S)
    assert ray.get(second.lease.remote(0, 99), timeout=CALL_S) == [0, 1, 2]
    ray.get(second.complete.remote(), timeout=CALL_S)
    batches = [client.take(step, 2, CALL_S, on_wait=lambda: None) for step in range(2)]
    shards = [[[row.number for row in decode(ray.get(shard))] for shard in batch.shards] for batch in batches]
    assert shards == [[[0, 2], [1, 3]], [[4, 6], [5, 7]]]
    assert [(batch.tokens, batch.max_staleness) for batch in batches] == [(12, 0), (12, 1)]
    report = client.report()
    assert (report.consumed, report.lost, report.duplicated, report.leases) == (8, 0, 0, 11)
    lines = (tmp_path / "consumed.jsonl").read_text().splitlines()
    assert [(json.loads(line)["step"], json.loads(line)["prompt"]) for line in lines] == [(n // 4, n) for n in range(8)]


def test_a_waiting_lease_and_a_waiting_take_hold_up_nobody(queue):
    client, actor = client_of(queue), completing("only", queue)
    client.admit(prompts(4))
    taking = queue.take.remote(0, 1, CALL_S)
    ahead = completing("too old", queue).lease.remote(-9, 4)
    assert client.report().admitted == 4  # answered while both wait
    assert ray.get(actor.lease.remote(0, 4), timeout=CALL_S) == [0, 1, 2, 3]
    ray.get(actor.complete.remote(), timeout=CALL_S)
    assert ray.get(taking, timeout=CALL_S).numbers == (0, 1, 2, 3)
    assert ray.wait([ahead], timeout=0)[0] == []


def test_the_driver_is_told_which_prompts_a_step_waited_for(queue):
    client = client_of(queue)
    client.admit(prompts(4))
    with pytest.raises(RunFailed, match=r"step 0 waited 0.1 s for 4 of 4 prompts: 0 \(waiting for an actor"):
        client.take(0, 1, 0.1, on_wait=all_is_well)


def test_what_the_watch_notices_ends_the_wait_for_a_batch(queue):
    def on_wait():
        raise RunFailed("rollout actor 0 died")

    client = client_of(queue)
    client.admit(prompts(4))
    with pytest.raises(RunFailed, match="rollout actor 0 died"):
        client.take(0, 1, CALL_S, on_wait)


def test_a_queue_that_does_not_come_back_is_one_clear_sentence(cluster, tmp_path):
    handle, events = spawn_queue(tmp_path, config()), []
    client = client_of(handle, events, patience_s=1.0)
    client.report()
    ray.kill(handle)
    with contextlib.suppress(RayActorError):
        while True:  # the order to end may still be under way
            ray.get(handle.lineage.remote(), timeout=CALL_S)
    with pytest.raises(
        RunFailed,
        match=r"faults.patience_s = 1 s for the rollout queue to come back; the last time: .*: its process died",
    ):
        client.report()
    assert [(event.component, event.restart) for event in events] == [("queue", 1)]


class Serving(Completing):
    """Serves until it is killed, as a rollout actor does: calls again when the queue is away."""

    def __init__(self, name, queue):
        super().__init__(name, queue)
        self.version, self.newer, self.under_way = 0, asyncio.Event(), set()

    async def update(self, version):
        self.version = version
        self.newer.set()

    async def serve(self):
        while True:
            self.newer.clear()
            answering = asyncio.ensure_future(self.answer_one_call())
            self.under_way.add(answering)
            changed = asyncio.ensure_future(self.newer.wait())
            await asyncio.wait([answering, changed], return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
            for ended in [call for call in self.under_way if call.done()]:
                self.under_way.remove(ended)
                await ended  # what it raised ends this actor

    async def answer_one_call(self):
        """The next call ends this one, unless it has come back to a new queue and been given prompts first."""
        leased = await self.retried("lease", PolicyVersion(0, self.version), 3, CALL_S)
        if leased:
            await self.retried("commit", encode([self.rollout(prompt) for prompt in leased]))

    async def retried(self, method, *arguments):
        while True:
            try:
                return await getattr(self.queue, method).remote(self.name, *arguments)
            except RayActorError:
                await asyncio.sleep(0.1)


def test_a_queue_killed_in_mid_run_goes_on_from_its_files_and_every_prompt_is_consumed_once(queue, tmp_path):
    events, steps = [], 4
    client = client_of(queue, events)
    actors = [ray.remote(Serving).options(num_cpus=0).remote(name, queue) for name in ("first", "second")]
    serving = [actor.serve.remote() for actor in actors]
    client.admit(prompts(steps * BATCH))
    first = client.take(0, 2, CALL_S, on_wait=all_is_well)
    kill_process(queue)  # both actors' calls wait: version 0 may not start step 2
    rows = [row.number for shard in first.shards for row in decode(ray.get(shard, timeout=CALL_S))]
    assert rows == [0, 2, 1, 3]  # a batch that was handed over outlives the process that made it
    batches = [first, client.take(1, 2, CALL_S, on_wait=all_is_well)]
    killed = []

    def kill_once_and_go_on():
        if not killed:
            killed.append(kill_process(queue))  # the driver's take waits in it, and so do both actors' calls
        else:
            ray.get([actor.update.remote(2) for actor in actors], timeout=CALL_S)

    batches += [client.take(step, 2, CALL_S, on_wait=kill_once_and_go_on) for step in (2, 3)]
    assert [batch.numbers for batch in batches] == [tuple(range(4 * k, 4 * k + 4)) for k in range(steps)]
    lines = [json.loads(line) for line in (tmp_path / "consumed.jsonl").read_text().splitlines()]
    assert [(line["step"], line["prompt"]) for line in lines] == [(n // 4, n) for n in range(4 * steps)]
    report = client.report()
    assert (report.consumed, report.lost, report.duplicated, report.too_stale) == (16, 0, 0, 0)
    assert [type(event).__name__ for event in events] == ["Failure", "Recovery"] * 2
    assert ray.wait(serving, num_returns=2, timeout=0)[0] == []
    for actor in actors:
        ray.kill(actor)


def test_a_queue_that_hangs_is_ended_and_goes_on_from_its_files(queue):
    events = []
    client = client_of(queue, events, ping_s=1.0, silent_s=6.0)
    actor = ray.remote(Serving).options(num_cpus=0).remote("first", queue)
    serving = actor.serve.remote()
    ray.get(queue.report.remote(), timeout=CALL_S)  # it has started: who starts slowly is silent too
    client.admit(prompts(3 * BATCH))
    batches = [client.take(0, 1, CALL_S, on_wait=all_is_well)]
    stop_process(queue)
    assert client.report().consumed == BATCH  # a call that the queue would answer at once
    batches.append(client.take(1, 1, CALL_S, on_wait=all_is_well))

    before, done = len(events), []

    def stop_once_then_let_step_2_begin():
        if not done:
            done.append(stop_process(queue))
        elif len(done) == 1 and len(events) > before:  # it was told that the queue hangs
            done.append(actor.update.remote(2))

    batches.append(client.take(2, 1, CALL_S, on_wait=stop_once_then_let_step_2_begin))  # at version 0 it waits
    assert [number for batch in batches for number in batch.numbers] == list(range(3 * BATCH))
    assert [type(event).__name__ for event in events] == ["Failure", "Recovery"] * (len(events) // 2)
    told = [event.reason for event in events if isinstance(event, Failure)]
    assert any("did not report within faults.silent_s = 6 s" in what for what in told)
    assert any("did not answer for faults.silent_s = 6 s" in what for what in told)
    assert ray.wait([serving], timeout=0)[0] == []
    ray.kill(actor)
