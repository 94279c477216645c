"""The seam between a run and what carries its processes, Ray or this process alone: protocols, and what calls end with.

```
driver   handle = runtime.spawn(RolloutActor, ...)
         call = handle.update.remote(version)        begins before any later call of that handle
         runtime.wait([call], ...), runtime.get(call, ...)
```

Handles are called as Ray's are, and a call may be awaited, as Ray's references may. `ray_runtime.py` is Ray itself;
`in_process.py` has objects of this process behind the same handles. `runtime.py` knows which of the two is in use.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

Result_co = TypeVar("Result_co", covariant=True)


class Call(Protocol[Result_co]):
    """The answer of a call, or a value that was put where all processes read it: there, or still to come."""

    def __await__(self) -> Generator[Any, None, Result_co]:
        """The answer, in an event loop."""


class Handle(Protocol):
    """A process: `handle.method.remote(...)` calls a method of its object, and returns a `Call` at once."""

    def __getattr__(self, method: str) -> Any:
        """The method, with `remote` and `options`."""


class Place(Protocol):
    """Room for processes, asked for."""

    @property
    def ready(self) -> Call[Any]:
        """Ends when there is room."""

    def wait(self, timeout_s: float) -> bool:
        """Whether there is room within `timeout_s` seconds."""

    def give_back(self) -> None:
        """Let others have it; ends what still runs there."""


@dataclass(frozen=True, slots=True)
class ProcessOptions:
    """Where a process runs, and in what surroundings. Without a place it runs wherever `resources` are."""

    resources: Mapping[str, float]
    place: Place | None = None
    index: int = 0
    """Which bundle of the place."""
    beside_driver: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    concurrency: int | None = None
    """Calls of an asynchronous object that may be under way."""
    restarts: int = 0
    """How often it is started again when it ends; -1: always."""
    retries: int = 0
    """How often a call is made again that was lost with its process; -1: always."""
    log: Path | None = None


class Runtime(Protocol):
    """What carries the processes of a run."""

    unreachable: tuple[type[Exception], ...]
    """What awaiting a call raises when its process is gone or cannot be reached."""
    lost: tuple[type[Exception], ...]
    """What awaiting a value raises that ended with its owner."""
    separate: bool
    """Whether a spawned object has a process of its own: then it gives that a log file, cores and a priority, and
    another process may do better in its place when it fails."""

    def place(self, bundles: Sequence[Mapping[str, float]]) -> Place:
        """Ask for room for one process a bundle of resources."""

    def spawn(self, kind: Callable[..., object], *arguments: Any, options: ProcessOptions) -> Handle:
        """A process with the object `kind(*arguments)`."""

    def wait(self, calls: Sequence[Call[Any]], timeout_s: float, count: int = 1) -> list[Call[Any]]:
        """Up to `count` calls that have ended, as soon as so many have, or after `timeout_s` seconds."""

    def sleep(self, seconds: float) -> None:
        """Wait for nothing."""

    def get(self, call: Call[Any], timeout_s: float) -> Any:
        """What the call returned.

        Raises:
            UserError, RunFailed: the method, or the object's constructor, raised that; with its own words alone.
            CallFailed: there is no answer for another reason.
        """

    def put(self, value: Any) -> Call[Any]:
        """A value that any process may read as an argument of a call, or await; a copy."""

    def kill(self, handle: Handle, restart: bool = False) -> None:
        """End a process; with `restart` it is started again, as often as its options say."""

    def address(self) -> str:
        """The address by which other processes reach this one's machine."""

    def nodes(self) -> int:
        """Machines that carry processes."""

    def free(self, bundle: Mapping[str, float]) -> dict[str, float]:
        """How much of each resource of `bundle` nobody uses now."""


class CallFailed(Exception):
    """A call has no answer, because the process cannot be reached or as the subclass says.

    The text is a reason without a full stop, to stand behind `the rollout queue could not admit prompts: `.
    """


class CallLate(CallFailed):
    """The answer did not come in time: the process may hang."""


class Unreachable(CallFailed):
    """The process is gone, or its node does not answer."""


class ProcessDied(Unreachable):
    """The process has ended, or never began."""


class CallRaised(CallFailed):
    """The method raised `cause` (None: something that could not be sent)."""

    def __init__(self, message: str, cause: BaseException | None = None) -> None:
        super().__init__(message)
        self.cause = cause

    @classmethod
    def of(cls, cause: BaseException) -> "CallRaised":
        """With the kind and the text of what was raised."""
        return cls(f"{type(cause).__name__}: {cause}", cause)
