"""The driver's calls on a queue that was started again, failed for a while, or refuses; its process is by hand."""

import pytest

from unisd_rl.cluster.processes import CallLate, CallRaised, ProcessDied, Unreachable
from unisd_rl.config import Config
from unisd_rl.errors import RunFailed
from unisd_rl.transport.rollouts import driver_client
from unisd_rl.transport.rollouts.batch import QueueBatch
from unisd_rl.transport.rollouts.driver_client import QueueClient
from unisd_rl.transport.rollouts.queue import NotAdmitted
from unisd_rl.types import Failure, Message, NumberedPrompt, Prompt, Recovery

BATCH = 2


class Method:
    """A method of the queue: `remote` notes the call, whose answer is decided when it is fetched."""

    def __init__(self, queue, name):
        self.queue, self.name = queue, name

    def options(self, **_):
        return self

    def remote(self, *arguments):
        self.queue.calls.append((self.name, *arguments))
        return [self.name] if self.name == "take_sharded" else self.name


class HandQueue:
    """`failures[method]`: what the next calls of it end with, in order; then they succeed."""

    def __init__(self):
        self.calls, self.failures, self.killed = [], {}, 0

    def __getattr__(self, name):
        return Method(self, name)

    def fetch(self, call, timeout_s):
        if self.failures.get(call):
            raise self.failures[call].pop(0)
        return QueueBatch(0, (), (0, 1), 0, 6, 0) if call == "take_sharded" else None

    def names(self):
        return [name for name, *_ in self.calls]


def raised(cause):
    return CallRaised.of(cause)


@pytest.fixture
def rig(monkeypatch):
    """A queue, its client, and what that reports."""
    queue, events = HandQueue(), []

    def kill(_):
        queue.killed += 1

    monkeypatch.setattr(driver_client, "fetch", queue.fetch)
    monkeypatch.setattr(driver_client, "wait", lambda calls, limit_s, on_wait: calls)
    monkeypatch.setattr(driver_client, "pause", lambda seconds, on_wait: on_wait())
    monkeypatch.setattr(driver_client, "kill_hung", kill)
    config = Config.model_validate({"learner": {"batch_size": BATCH}, "objective": {"divergence": {}}})
    return queue, QueueClient(queue, config, events.append), events


def prompts(first, count):
    messages = (Message("user", "2 + 2"),)
    return [
        NumberedPrompt(number, number, Prompt(f"p{number}", messages, ())) for number in range(first, first + count)
    ]


def nothing():
    pass


def test_a_queue_that_was_started_again_is_told_who_is_retired_and_what_was_admitted_and_not_taken(rig):
    queue, client, events = rig
    client.retire("rollout-1")
    client.admit(prompts(0, 4))
    client.take(0, 1, 60.0, nothing)
    queue.failures["take_sharded"] = [raised(NotAdmitted("step 1 needs prompts that were not admitted: 2"))]
    queue.calls.clear()
    client.take(1, 1, 60.0, nothing)
    assert queue.names() == ["take_sharded", "retire", "admit", "take_sharded"]
    assert [prompt.number for prompt in queue.calls[2][1]] == [2, 3]
    (failure, recovery) = events
    assert isinstance(failure, Failure)
    assert isinstance(recovery, Recovery)
    assert failure.reason.startswith("the rollout queue could not hand over step 1: NotAdmitted: step 1 needs")


@pytest.mark.parametrize(
    ("failure", "killed", "reason"),
    [
        (ProcessDied("its process died"), 0, "could not report: its process died"),
        (Unreachable("its process cannot be reached"), 0, "could not report: its process cannot be reached"),
        (CallLate("no answer"), 1, "did not report within faults.silent_s = 60 s"),
        (raised(OSError("no space left")), 0, "could not report: OSError: no space left"),
    ],
    ids=["died", "unreachable", "hangs", "disk"],
)
def test_a_queue_that_comes_back_is_one_failure_and_one_recovery(failure, killed, reason, rig):
    queue, client, events = rig
    queue.failures["report"] = [failure, failure]
    client.report()
    assert [type(event) for event in events] == [Failure, Recovery]
    assert events[0].reason == f"the rollout queue {reason}"
    assert queue.killed == 2 * killed


@pytest.mark.parametrize(
    "failure",
    [RunFailed("another run writes there"), raised(TimeoutError("step 0 waited")), raised(ValueError("not whole"))],
    ids=["its own sentence", "too long", "refused"],
)
def test_what_the_queue_refuses_is_not_asked_again(failure, rig):
    queue, client, events = rig
    queue.failures["report"] = [failure]
    with pytest.raises(RunFailed, match=f"^the rollout queue could not report: {failure}$"):
        client.report()
    assert events == []


def test_a_step_that_was_never_admitted_is_a_mistake_of_the_caller(rig):
    queue, client, _ = rig
    client.admit(prompts(0, 1))
    with pytest.raises(AssertionError, match="step 0 was not admitted: it needs 2 prompts, and 1 were"):
        client.take(0, 1, 60.0, nothing)
    assert "take_sharded" not in queue.names()
