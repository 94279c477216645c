"""The driver's side of the rollout queue: plain blocking calls, and shards that learner ranks fetch."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from unisd_rl.errors import RunFailed
from unisd_rl.transport.rollouts.queue import RolloutQueue
from unisd_rl.transport.rollouts.report import QueueReport
from unisd_rl.types import NumberedPrompt

_CALL_TIMEOUT_S = 60.0  # for calls that do not wait for rollouts
_WATCH_S = 1.0


@dataclass(frozen=True, slots=True)
class Batch:
    """A `TakenBatch` whose shards lie in Ray's object store, one reference to IPC bytes a learner rank."""

    step: int
    shards: list[ray.ObjectRef]
    numbers: tuple[int, ...]
    max_staleness: int
    tokens: int


class SharingQueue(RolloutQueue):
    """The queue as Ray serves it: shards go to Ray's object store, so the driver passes on references, not data."""

    async def take_shared(self, step: int, shards: int, timeout_s: float) -> Batch:
        """See `RolloutQueue.take`."""
        taken = await self.take(step, shards, timeout_s)
        return Batch(
            taken.step, [ray.put(shard) for shard in taken.shards], taken.numbers, taken.max_staleness, taken.tokens
        )


class QueueClient:
    """Calls on the queue's actor. Every method raises RunFailed when the queue died or does not answer."""

    def __init__(self, queue: ActorHandle, batch_size: int = 1) -> None:
        self._queue, self._batch_size = queue, batch_size
        self._admitted = 0

    @property
    def admitted(self) -> int:
        """The next prompt number to admit."""
        return self._admitted

    def lineage(self) -> int:
        """The lineage of the learner that the queue feeds."""
        return int(str(_answer(self._queue.lineage.remote(), _CALL_TIMEOUT_S, "name its lineage")))

    def fall_back(self, lineage: int, step: int) -> None:
        """The learner goes on at `step` in a new lineage: its prompts are admitted again, and stored ones fed again."""
        _answer(self._queue.fall_back.remote(lineage, step), _CALL_TIMEOUT_S, f"fall back to step {step}")
        self._admitted = step * self._batch_size

    def admit(self, prompts: Sequence[NumberedPrompt]) -> None:
        """Let numbered prompts in; their numbers go on from `admitted` without a gap."""
        numbers = [prompt.number for prompt in prompts]
        assert numbers == list(range(self._admitted, self._admitted + len(prompts))), f"{numbers} leave a gap"
        if prompts:
            _answer(self._queue.admit.remote(list(prompts)), _CALL_TIMEOUT_S, "admit prompts")
            self._admitted += len(prompts)

    def take(self, step: int, shards: int, timeout_s: float, watch: Callable[[], None]) -> Batch:
        """Wait for the rollouts of `step`, calling `watch` every second: what it raises ends the wait.

        Raises RunFailed, naming the prompts waited for, after `timeout_s`.
        """
        call = self._queue.take_shared.remote(step, shards, timeout_s)
        deadline_s = time.monotonic() + timeout_s
        while not ray.wait([call], timeout=_WATCH_S)[0] and time.monotonic() < deadline_s:
            watch()
        batch = _answer(call, max(0.0, deadline_s - time.monotonic()) + _CALL_TIMEOUT_S, f"hand over step {step}")
        assert isinstance(batch, Batch)
        return batch

    def report(self) -> QueueReport:
        """What the queue counted so far."""
        report = _answer(self._queue.report.remote(), _CALL_TIMEOUT_S, "report")
        assert isinstance(report, QueueReport)
        return report


def _answer(call: ray.ObjectRef, timeout_s: float, task: str) -> object:
    try:
        return ray.get(call, timeout=timeout_s)
    except GetTimeoutError as error:
        raise RunFailed(f"the rollout queue did not {task} within {timeout_s:g} s") from error
    except RayTaskError as error:
        raise RunFailed(f"the rollout queue could not {task}: {error.cause}") from error
    except RayActorError as error:
        raise RunFailed(f"the rollout queue died when asked to {task}: {error}") from error
