"""The driver's end of the rollout wire: the queue's Ray actor, and blocking calls on it that survive its death.

    call --> answer
      |
      +----> the queue's process ended, or hung and is ended: Failure, back-off, again ... Recovery, admit, call again
                                                     |
                                                     +----> `faults.patience_s` have passed: RunFailed

When the queue's process ends, Ray starts it again with the same directory, as often as it takes. It then knows what is
on storage and nothing else, so the client keeps the prompts that were not taken yet, and who is retired, and tells it
both again.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from unisd_rl.cluster.processes import Call, CallFailed, CallLate, CallRaised, Handle, ProcessOptions
from unisd_rl.cluster.resources import CPU
from unisd_rl.cluster.retry import Patience, RestartPolicy
from unisd_rl.cluster.runtime import runtime
from unisd_rl.cluster.waiting import Heartbeat, fetch, kill_hung, pause, wait
from unisd_rl.config import Config
from unisd_rl.config.rollout import RolloutConfig
from unisd_rl.errors import RunFailed
from unisd_rl.storage.files import FolderLock
from unisd_rl.storage.logs import log_path
from unisd_rl.transport.rollouts.batch import QueueBatch
from unisd_rl.transport.rollouts.queue import NotAdmitted, RolloutQueue
from unisd_rl.transport.rollouts.report import QueueReport
from unisd_rl.transport.rollouts.schema import decode
from unisd_rl.transport.rollouts.wire import pack_answer, unpack_request
from unisd_rl.types import NumberedPrompt, OnWait, Recovery, Report, Rollout, no_op

_COMPONENT = "queue"
_CALLS_IN_FLIGHT = 10_000  # a call that waits (lease, take) occupies a place
_OWNER_S = 60.0
_SHARD_S = 60.0
_TAKE_MARGIN_S = 60.0  # the queue itself ends a `take` that lasts too long

Answer = TypeVar("Answer")


class ServedQueue(RolloutQueue):
    """The queue as a process, the only one of its folder.

    After `kill -9` of a driver the queue before may live a moment longer, and would write to the same ledger: this one
    waits for its lock.
    """

    def __init__(self, directory: Path, batch_size: int, rollout: RolloutConfig) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = FolderLock(directory, "queue.lock")
        if not self._lock.acquire(_OWNER_S):
            raise RunFailed(f"the rollout queue of an earlier run still writes to {directory} after {_OWNER_S:g} s")
        super().__init__(directory, batch_size, rollout)

    async def commit_packed(self, request: bytes, data: bytes) -> bytes:
        """`RolloutQueue.commit`, as `wire.py` has it."""
        actor, lease = unpack_request(request)
        return pack_answer(await self.commit(actor, data, lease))

    async def take_sharded(
        self, step: int, shards: int, timeout_s: float
    ) -> tuple[QueueBatch[pa.Buffer] | pa.Buffer, ...]:
        """`RolloutQueue.take`, as 1 + `shards` objects: the batch without its shards, and each of them.

        What a Ray call returns belongs to the caller: shards outlive the queue's process.
        """
        batch = await self.take(step, shards, timeout_s)
        return replace(batch, shards=()), *batch.shards


def spawn_queue(directory: Path, config: Config) -> Handle:
    """A handle on a new `ServedQueue` actor that keeps its files in the run's folder.

    It lives beside the driver, since rollout nodes come and go, and takes no CPU of the cluster's count. Its methods
    are coroutines: a `take` that waits holds up no `commit`.
    """
    options = ProcessOptions(
        {CPU: 0.0}, beside_driver=True, concurrency=_CALLS_IN_FLIGHT, restarts=-1, log=log_path(directory, _COMPONENT)
    )
    arguments = (directory.absolute(), config.learner.batch_size, config.rollout)
    return runtime().spawn(ServedQueue, *arguments, options=options)


Batch = QueueBatch[Call[bytes]]
"""A batch whose shards the learner's ranks read where they lie."""


def rollouts_of(batch: Batch) -> list[Rollout]:
    """The rollouts of a batch, shard after shard; those of a shard that was lost are left out."""
    rollouts: list[Rollout] = []
    for shard in batch.shards:
        with suppress(CallFailed, *runtime().lost):
            rollouts += decode(fetch(shard, _SHARD_S))
    return rollouts


class _RetryableError(Exception):
    """The call may be made again; says why it failed."""


class QueueClient:
    """Calls on the queue's actor, for one thread. They survive the queue's process.

    Every method raises RunFailed when the queue refuses, does not answer, or does not come back within
    `faults.patience_s`. `report` is told what broke and what works again.

    `admitted` is the next prompt number to admit. After `roll_back(lineage, step)` it is the first of `step`.
    """

    def __init__(self, queue: Handle, config: Config, report: Report) -> None:
        self._queue, self._config, self._report = queue, config, report
        self._restarts = RestartPolicy(_COMPONENT, config.faults)
        self._heartbeat: Heartbeat[int] = Heartbeat(lambda: self._queue.lineage.remote(), config.faults.silent_s)
        self.admitted = 0
        self._not_taken: dict[int, NumberedPrompt] = {}
        self._retired: set[str] = set()

    def admit(self, prompts: Sequence[NumberedPrompt]) -> None:
        """Let numbered prompts in; their numbers go on from `admitted` without a gap."""
        numbers = [prompt.number for prompt in prompts]
        assert numbers == list(range(self.admitted, self.admitted + len(prompts))), f"{numbers} leave a gap"
        if prompts:
            self._call(lambda: self._ask("admit prompts", self._queue.admit.remote(list(prompts))))
            self._not_taken.update((prompt.number, prompt) for prompt in prompts)
            self.admitted += len(prompts)

    def take(self, step: int, shards: int, timeout_s: float, on_wait: OnWait) -> Batch:
        """Wait for the rollouts of `step`, calling `on_wait` every second: what it raises ends the wait.

        Raises RunFailed, naming the prompts waited for, after `timeout_s` seconds; they begin anew when the queue does.
        """
        end = (step + 1) * self._config.learner.batch_size
        assert end <= self.admitted, f"step {step} was not admitted: it needs {end} prompts, and {self.admitted} were"

        def check() -> None:
            if self._heartbeat.unresponsive():
                kill_hung(self._queue)
                silent_s = self._heartbeat.silent_s
                raise _RetryableError(f"the rollout queue did not answer for faults.silent_s = {silent_s:g} s")
            on_wait()

        def take() -> Batch:
            objects = self._queue.take_sharded.options(num_returns=1 + shards).remote(step, shards, timeout_s)
            limit_s = timeout_s + _TAKE_MARGIN_S
            if not wait(objects[:1], limit_s, check):
                raise RunFailed(f"the rollout queue did not hand over step {step} within {limit_s:g} s")
            batch: Batch = self._ask(f"hand over step {step}", objects[0])
            return replace(batch, shards=tuple(objects[1:]))

        batch = self._call(take, on_wait)
        self._not_taken = {number: prompt for number, prompt in self._not_taken.items() if number >= end}
        return batch

    def roll_back(self, lineage: int, step: int) -> None:
        """The learner goes on from its checkpoint of `step` in a new lineage; admit from its first prompt on again."""
        self._call(lambda: self._ask("roll back", self._queue.roll_back.remote(lineage, step)))
        self.admitted = step * self._config.learner.batch_size

    def retire(self, actor: str) -> None:
        """This rollout actor is no more: what it held is issued again, and its name never gets a prompt."""
        self._retired.add(actor)
        self._call(lambda: self._ask("retire a rollout actor", self._queue.retire.remote(actor)))

    def discard(self, step: int) -> None:
        """Rollouts of steps before `step` are not asked for again: they may be thrown away."""
        self._call(lambda: self._ask("throw rollouts away", self._queue.discard.remote(step)))

    def lineage(self) -> int:
        """The lineage that the queue's files say, 0 before the first rollback."""
        return self._call(lambda: self._ask("name its lineage", self._queue.lineage.remote()))

    def report(self) -> QueueReport:
        """What the queue counted so far."""
        return self._call(lambda: self._ask("report", self._queue.report.remote()))

    def _call(self, call: Callable[[], Answer], on_wait: OnWait = no_op) -> Answer:
        """Make a call until it is answered, with back-off. An outage is one failure, however many tries it takes."""
        try:
            return call()
        except _RetryableError as error:
            broke_s, reason = time.monotonic(), error
        failure = self._restarts.record_failure(str(reason))
        self._report(failure)
        patience = Patience("the rollout queue to come back", self._config.faults, failure.wait_s)
        while True:
            pause(patience.wait_s(reason), on_wait)
            try:
                self._readmit()
                answer = call()
            except _RetryableError as error:
                reason = error
            else:
                self._report(Recovery(_COMPONENT, time.monotonic() - broke_s))
                return answer

    def _readmit(self) -> None:
        """Tell a queue that was started again what it forgot."""
        for actor in sorted(self._retired):
            self._ask("retire a rollout actor", self._queue.retire.remote(actor))
        self._ask("admit prompts", self._queue.admit.remote(list(self._not_taken.values())))

    def _ask(self, task: str, call: Call[Any]) -> Any:
        """The answer to a call that the queue answers at once, unless it hangs."""
        silent_s = self._config.faults.silent_s
        try:
            return fetch(call, silent_s)
        except CallLate as error:
            kill_hung(self._queue)
            raise _RetryableError(
                f"the rollout queue did not {task} within faults.silent_s = {silent_s:g} s"
            ) from error
        except (CallFailed, RunFailed) as error:
            kind = _RetryableError if _may_succeed_again(error) else RunFailed
            raise kind(f"the rollout queue could not {task}: {error}") from error


def _may_succeed_again(error: CallFailed | RunFailed) -> bool:
    """Whether the queue is away, was started again and not told what is admitted, or had trouble with its files."""
    if not isinstance(error, CallRaised):
        return isinstance(error, CallFailed)
    return isinstance(error.cause, NotAdmitted | OSError) and not isinstance(error.cause, TimeoutError)
