"""Rollout actors that are killed, stopped, lost with their node, or set back, in real Ray processes: the prompts arrive
nevertheless, each once and in order."""

import asyncio
import errno
import os
import signal
import threading

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster

from tests.fakes.rollout_rig import BATCH, WAIT_S, Parts, config, numbered
from unisd_rl.config.run import FaultsConfig
from unisd_rl.errors import RunFailed
from unisd_rl.transport.rollouts.actor_client import QueueProcess
from unisd_rl.transport.rollouts.dispatch import CommitAnswer
from unisd_rl.transport.rollouts.schema import decode
from unisd_rl.transport.rollouts.wire import pack_answer, unpack_request
from unisd_rl.types import Message, PolicyVersion, Sampling


def test_an_actor_that_is_killed_is_replaced_and_every_prompt_arrives_once(parts):
    (pid,) = parts.pids()
    parts.serve(3 * BATCH)
    parts.until(lambda: parts.queue.report().leases, "prompts were leased")
    os.kill(pid, signal.SIGKILL)  # before version 1, without which the prompts of step 2 do not start
    rollouts = parts.take_all(0, 3)
    assert [rollout.number for rollout in rollouts] == list(range(3 * BATCH))
    assert {rollout.actor for rollout in rollouts[2 * BATCH :]} == {"rollout-0.1"}
    (fault,) = parts.faults
    assert fault.component == "rollout-0"
    assert fault.reason.startswith("rollout-0 stopped: its process died: ")
    (recovery,) = parts.recoveries
    assert 0.1 <= recovery.seconds < WAIT_S
    report = parts.queue.report()
    assert (report.lost, report.duplicated) == (0, 0)


def mortal_queue():
    """A stand-in in a Ray process that dies of its first renewal and finds the disk full at its first two commits.

    The class is made here, so that it travels by value: Ray's processes do not find this module.
    """

    class MortalQueue:
        def __init__(self, folder):
            self.renewals, self.commits = folder / "renewals", folder / "commits"

        async def renew(self, actor, numbers):
            if self.note(self.renewals, f"{actor} {numbers}") == 1:
                os._exit(1)

        async def commit_packed(self, request, data):
            actor, _ = unpack_request(request)
            if self.note(self.commits, f"{actor} {data}") < 3:
                raise OSError(errno.ENOSPC, "No space left on device")
            return pack_answer(CommitAnswer([], learner_waits=True))

        def note(self, file, line):
            with file.open("a") as notes:
                notes.write(line + "\n")
            return len(file.read_text().splitlines())

    return ray.remote(MortalQueue).options(num_cpus=0, max_restarts=-1)


def test_calls_outlive_the_queue_and_rollouts_a_full_disk(cluster, tmp_path):
    handle = mortal_queue().remote(tmp_path)
    leases = QueueProcess(handle, FaultsConfig(backoff_s=0.05, backoff_max_s=0.5, patience_s=WAIT_S))
    asyncio.run(leases.renew("a", (3, 4)))
    asyncio.run(leases.commit("a", b"rollouts", None))
    assert (tmp_path / "renewals").read_text().splitlines() == ["a (3, 4)"] * 2
    assert (tmp_path / "commits").read_text().splitlines() == ["a b'rollouts'"] * 3
    impatient = QueueProcess(handle, FaultsConfig(backoff_s=0.05, patience_s=0.1))
    (tmp_path / "commits").unlink()
    with pytest.raises(RunFailed, match=r"0\.1 s for the rollout queue to store rollouts.*No space left on device"):
        asyncio.run(impatient.commit("a", b"rollouts", None))


@pytest.mark.slow
@pytest.mark.parametrize("parts", [{"actors": 2, "faults": {"ping_s": 0.5, "silent_s": 4.0}}], indirect=True)
def test_an_actor_that_is_stopped_is_killed_and_replaced(parts):
    parts.serve(3 * BATCH)
    parts.take(0)
    stopped = psutil.Process(parts.pids()[1])
    stopped.suspend()
    assert [rollout.number for rollout in parts.take_all(1, 3)] == list(range(BATCH, 3 * BATCH))
    parts.until(lambda: parts.recoveries, "the stopped actor was replaced")
    assert "rollout-1 did not answer for faults.silent_s = 4 s" in parts.faults[0].reason
    parts.until(lambda: not stopped.is_running() or stopped.status() == "zombie", "the stopped process was killed")


@pytest.mark.slow
@pytest.mark.parametrize("parts", [{"actors": 2, "max_completion_tokens": 64}], indirect=True)
def test_an_evaluation_outlives_an_actor_and_is_the_same_as_without(parts):
    parts.serve(BATCH)
    first = PolicyVersion(0, 0)
    asked = [(Message("user", f"question {number}"),) for number in range(40)]
    sampling = Sampling(0.7, 1.0, 64, seed=3)
    undisturbed = parts.group.answers(asked, sampling, first)
    pid = parts.pids()[1]
    killer = threading.Timer(0.3, os.kill, (pid, signal.SIGKILL))
    killer.start()
    answers = parts.group.answers(asked, sampling, first)
    killer.join()
    parts.until(lambda: parts.recoveries, "the killed actor was replaced")
    assert [answer.text for answer in answers] == [answer.text for answer in undisturbed]
    assert all((answer.generation.versions == 0).all() for answer in answers)
    assert len(parts.faults) == 1
    assert [rollout.number for rollout in parts.take_all(0, 1)] == list(range(BATCH))


@pytest.mark.slow
def test_an_actor_that_joins_in_mid_evaluation_leases_nothing_before_its_end(parts):
    parts.group.wait_for(parts.publish(0), WAIT_S)
    parts.group.run()
    with parts.group.leases_paused():
        os.kill(parts.pids()[0], signal.SIGKILL)
        parts.until(lambda: parts.recoveries, "the killed actor was replaced")
        parts.queue.admit(tuple(numbered(number) for number in range(BATCH)))
        asked = [(Message("user", "question 1"),)]
        assert len(parts.group.answers(asked, Sampling(0.0, 1.0, 8), PolicyVersion(0, 0))) == 1
        assert parts.queue.report().leases == 0
    assert [rollout.number for rollout in parts.take_all(0, 1)] == list(range(BATCH))


@pytest.mark.slow
@pytest.mark.parametrize("parts", [{"max_completion_tokens": 192}], indirect=True)
def test_weights_of_a_higher_lineage_find_nothing_in_flight(parts):
    parts.serve(BATCH)
    parts.until(lambda: parts.queue.report().leased, "prompts are in flight")
    parts.queue.roll_back(1, 0)
    parts.group.wait_for(parts.publish(0, lineage=1), WAIT_S)
    parts.queue.admit(tuple(numbered(number) for number in range(BATCH)))  # as a driver does after a roll-back
    batch = parts.queue.take(0, 1, WAIT_S, parts.group.check)
    assert [len(set(rollout.lineages)) for rollout in decode(ray.get(batch.shards[0]))] == [1] * BATCH
    assert parts.queue.report().leases > BATCH  # what was in flight was given back, and leased again
    assert not parts.faults


@pytest.mark.slow
def test_an_actor_whose_node_is_removed_comes_back_on_another(tied_model_path, tmp_path):
    ray.shutdown()
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        ray.init(address=nodes.address, log_to_driver=False)
        doomed = []

        def add_node():
            doomed.append(nodes.add_node(num_cpus=1))

        settings = config(cluster_timeout_s=WAIT_S)
        made = Parts(settings, tied_model_path, tmp_path, before_actors=add_node)  # queue and store live on the head
        made.serve(BATCH)
        made.take(0)
        nodes.remove_node(doomed[0])
        made.until(lambda: made.faults, "the loss of the node was told")
        made.queue.admit(tuple(numbered(number) for number in range(BATCH, 2 * BATCH)))
        nodes.add_node(num_cpus=1)
        assert [rollout.number for rollout in made.take(1)] == list(range(BATCH, 2 * BATCH))
        assert made.recoveries
        made.group.close()
    finally:
        ray.shutdown()
        nodes.shutdown()
