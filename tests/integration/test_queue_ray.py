"""The rollout queue as a real Ray actor: actors in other processes, one of which dies with its leases."""

import json
from pathlib import Path

import numpy as np
import pytest
import ray

from unisd_rl.config import Config
from unisd_rl.errors import RunFailed
from unisd_rl.transport.rollouts.client import QueueClient
from unisd_rl.transport.rollouts.schema import decode, encode
from unisd_rl.transport.rollouts.spawn import spawn_queue
from unisd_rl.types import Message, NumberedPrompt, PolicyVersion, Prompt, Rollout, Source

CALL_S = 60.0
CONFIG = Config.model_validate({"learner": {"batch_size": 4}, "objective": {"divergence": {}}})


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
    here = {"env_vars": {"PYTHONPATH": str(Path(__file__).parent)}}  # where Ray's processes find this module
    ray.init(address="local", include_dashboard=False, num_cpus=2, log_to_driver=False, runtime_env=here)
    yield
    ray.shutdown()


@pytest.fixture
def queue(cluster, tmp_path):
    handle = spawn_queue(tmp_path, CONFIG)
    yield handle
    ray.kill(handle)


def completing(name, queue):
    return ray.remote(Completing).options(num_cpus=0).remote(name, queue)


def all_is_well():
    """Nothing to say while a batch is waited for."""


def prompts(count):
    message = (Message("user", "what is asked"),)
    return [NumberedPrompt(number, number, Prompt(f"p{number}", message, ())) for number in range(count)]


def test_a_dead_actors_prompts_are_completed_by_another_and_none_is_lost_or_doubled(queue, tmp_path):
    client, first, second = QueueClient(queue), completing("first", queue), completing("second", queue)
    client.admit(prompts(8))
    assert ray.get(first.lease.remote(0, 3), timeout=CALL_S) == [0, 1, 2]
    assert ray.get(second.lease.remote(0, 99), timeout=CALL_S) == [3, 4, 5, 6, 7]
    ray.get(second.complete.remote(), timeout=CALL_S)
    ray.kill(first)
    ray.get(queue.release.remote("first"), timeout=CALL_S)
    assert ray.get(second.lease.remote(0, 99), timeout=CALL_S) == [0, 1, 2]
    ray.get(second.complete.remote(), timeout=CALL_S)
    batches = [client.take(step, 2, CALL_S, watch=lambda: None) for step in range(2)]
    shards = [[[row.number for row in decode(ray.get(shard))] for shard in batch.shards] for batch in batches]
    assert shards == [[[0, 2], [1, 3]], [[4, 6], [5, 7]]]
    assert [(batch.tokens, batch.max_staleness) for batch in batches] == [(12, 0), (12, 1)]
    report = client.report()
    assert (report.consumed, report.lost, report.duplicated, report.leases) == (8, 0, 0, 11)
    lines = (tmp_path / "consumed.jsonl").read_text().splitlines()
    assert [(json.loads(line)["step"], json.loads(line)["prompt"]) for line in lines] == [(n // 4, n) for n in range(8)]


def test_a_waiting_lease_and_a_waiting_take_hold_up_nobody(queue):
    client, actor = QueueClient(queue), completing("only", queue)
    taking, leasing = queue.take.remote(0, 1, CALL_S), actor.lease.remote(0, 4)
    assert client.report().admitted == 0  # answered while both wait
    client.admit(prompts(4))
    assert ray.get(leasing, timeout=CALL_S) == [0, 1, 2, 3]
    ray.get(actor.complete.remote(), timeout=CALL_S)
    assert ray.get(taking, timeout=CALL_S).numbers == (0, 1, 2, 3)


def test_the_driver_is_told_which_prompts_a_step_waited_for(queue):
    client = QueueClient(queue)
    client.admit(prompts(1))
    with pytest.raises(RunFailed, match=r"step 0 waited 0.1 s for 4 of 4 prompts: 0 \(waiting for an actor"):
        client.take(0, 1, 0.1, watch=lambda: None)


def test_what_the_watch_notices_ends_the_wait_for_a_batch(queue):
    def watch():
        raise RunFailed("rollout actor 0 died")

    with pytest.raises(RunFailed, match="rollout actor 0 died"):
        QueueClient(queue).take(0, 1, CALL_S, watch)


def test_a_dead_queue_is_one_clear_sentence(cluster, tmp_path):
    handle = spawn_queue(tmp_path, CONFIG)
    client = QueueClient(handle)
    client.report()
    ray.kill(handle)
    with pytest.raises(RunFailed, match="the rollout queue died"):
        client.report()
