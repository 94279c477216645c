"""A weight transport: how the weights of a policy version get from the learner into the rollout engines.

Each transport is one module with three ends; `build.weight_transport` picks it by `weights.transport`.

```
learner, rank 0        rollout actor          vLLM inside it
WeightPublisher  --->  WeightReceiver  --->   VllmWeightLoader

object_store  (object_store.py)  a `SnapshotManifest` and its buckets, through the `WeightStore`: actors fetch them
nccl, ipc     (vllm_trainer.py)  tensors, pushed by vLLM's trainer engine into the engine of each actor
```
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from unisd_rl.cluster.processes import Call, CallLate, Handle
from unisd_rl.cluster.waiting import fetch
from unisd_rl.errors import RunFailed
from unisd_rl.transport.weights.manifest import Bytes, SnapshotManifest
from unisd_rl.transport.weights.store import StoreClient
from unisd_rl.types import PolicyVersion

if TYPE_CHECKING:
    import torch
    from vllm import AsyncEngineArgs
    from vllm.lora.request import LoRARequest
    from vllm.v1.engine.async_llm import AsyncLLM

NamedTensors = Iterable[tuple[str, "torch.Tensor"]]

Load = Callable[[], Awaitable[None]]
"""Puts weights in their places while the scheduler is paused."""


@dataclass(frozen=True, slots=True)
class PublishTarget:
    """Where a version goes: `object_store` publishes to the store, `nccl` and `ipc` to each actor."""

    store: Handle
    actors: tuple[Handle, ...]


class WeightPublisher(Protocol):
    """The learner's end: sends a version's weights towards the rollout actors."""

    def publish(self, version: PolicyVersion, tensors: NamedTensors) -> None:
        """Take named tensors (names as in the model's own files); when this returns, the caller may change them."""

    def wait(self, timeout_s: float) -> None:
        """Return when what was published is out of this process's hands.

        Raises:
            RunFailed: after `timeout_s` seconds.
        """


@dataclass(frozen=True, slots=True)
class FetchedSnapshot:
    """A snapshot whose bytes are in this process's reach (with Ray: views into its object store)."""

    manifest: SnapshotManifest
    buckets: tuple[Bytes, ...]


class WeightReceiver(Protocol):
    """The rollout actor's end: where it finds weights."""

    async def newest(self) -> FetchedSnapshot | None:
        """What an actor that starts now should begin with; None before the first publication."""

    async def fetch(self, version: PolicyVersion) -> FetchedSnapshot | None:
        """The newest weights, at least of `version`; None if they reach the engine by themselves.

        Raises:
            TimeoutError: they did not come within `weights.timeout_s`.
        """


class VllmHost(Protocol):
    """The rollout engine around vLLM, as a transport sees it."""

    @property
    def llm(self) -> "AsyncLLM":
        """vLLM itself."""

    async def call_workers(self, method: str, *arguments: Any) -> list[Any]:
        """Call a worker extension's method in each of vLLM's processes; their answers."""

    async def pause(self) -> None:
        """Stop the scheduler between two tokens; requests are kept, their keys and values dropped."""

    async def resume(self, version: PolicyVersion) -> None:
        """Go on; tokens from now on are of `version`."""


class VllmWeightLoader(ABC):
    """The engine's end: one way of replacing what vLLM computes with."""

    adapter: "LoRARequest | None" = None
    """The adapter every request is answered with; None where the model itself is trained."""

    @abstractmethod
    def configure(self, arguments: "AsyncEngineArgs") -> None:
        """Set what vLLM must be started with."""

    async def start(self, host: VllmHost) -> None:  # noqa: B027 (a model begins as its files are)
        """Once, after vLLM has started and before its first request."""

    @abstractmethod
    def prepare(
        self, host: VllmHost, manifest: SnapshotManifest, buckets: Sequence[Bytes]
    ) -> AbstractAsyncContextManager[Load]:
        """Do all that can be done before the pause; yields what is left, to be called within the block.

        Raises:
            UpdateRefused: vLLM's process cannot use these bytes; nothing was changed.
        """

    def close(self) -> None:  # noqa: B027
        """Leave nothing behind. May be called twice."""


class WeightTransport(Protocol):
    """One way for weights to travel, by its three ends."""

    def publisher(self, target: PublishTarget) -> WeightPublisher:
        """The end in rank 0 of the learner."""

    def receiver(self, store: StoreClient) -> WeightReceiver:
        """The end in a rollout actor."""

    def vllm_loader(self, model_path: Path) -> VllmWeightLoader:
        """The end in a rollout actor's vLLM engine, which serves the model at `model_path`."""


def wait_for(answer: Call[Any], timeout_s: float, event: str) -> None:
    """Wait for a call's answer; `event` says, for the message, what has happened then.

    Raises:
        RunFailed: after `timeout_s` seconds.
    """
    try:
        fetch(answer, timeout_s)
    except CallLate as error:
        raise RunFailed(f"waited {timeout_s:g} s until {event}; raise weights.timeout_s if it is only slow") from error
