"""This process alone as the carrier of a run's processes: their objects live here, and no Ray is imported.

```
driver's thread    wait, get, sleep ---> one event loop, which runs only then: queue, store, rollout actor
                   step of the learner: at the call, in this thread, while the loop stands still
engine's thread    the model of the rollout actor, while the driver waits
```

Objects with a coroutine among their methods are asynchronous, as Ray has it: all their calls begin in order in the
loop. The calls of others are over when they return. So a breakpoint anywhere in them works, and stops all of the run
but an engine that generates. Nothing is sent: arguments are the caller's own objects, but what is `put` is a copy.
"""

import asyncio
import inspect
import os
import traceback
from collections.abc import Callable, Coroutine, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from typing_extensions import override

from unisd_rl.cluster.processes import Call, CallLate, CallRaised, Handle, Place, ProcessDied, ProcessOptions, Runtime
from unisd_rl.cluster.runtime import using
from unisd_rl.errors import RunFailed, UserError

LOOPBACK = "127.0.0.1"
_ARGUMENT_S = 60.0  # an answer that is another call's argument is there, or about to be


@contextmanager
def in_process() -> Iterator[None]:
    """Within this block processes are objects of this one; at its end what they still do is cancelled."""
    local = InProcess()
    try:
        with using(local):
            yield
    finally:
        local.close()


@dataclass(frozen=True, slots=True, eq=False)
class _Value(Call[Any]):
    """What was put."""

    value: Any

    @override
    def __await__(self) -> Generator[Any, None, Any]:
        yield from ()
        return self.value


@dataclass(frozen=True, slots=True, eq=False)
class _LocalCall(Call[Any]):
    """A call, under way in the loop or over. To stop awaiting it does not stop it."""

    future: "asyncio.Future[Any]"
    log: Path | None

    @override
    def __await__(self) -> Generator[Any, None, Any]:
        return (yield from asyncio.shield(self.future).__await__())


class _HerePlace(Place):
    """There is room at once."""

    ready = _Value(None)

    @override
    def wait(self, timeout_s: float) -> bool:
        return True

    @override
    def give_back(self) -> None:
        pass


class _LocalHandle(Handle):
    def __init__(self, local: "InProcess", target: object, log: Path | None) -> None:
        self._local, self._target, self._log = local, target, log
        members = (getattr(type(target), name) for name in dir(type(target)))
        self._asynchronous = any(map(inspect.iscoroutinefunction, members))
        self.calls: set[asyncio.Future[Any]] = set()

    @override
    def __getattr__(self, method: str) -> "_LocalMethod":
        return _LocalMethod(self, method)

    def call(self, name: str, arguments: Sequence[Any], named: Mapping[str, Any]) -> _LocalCall:
        values = [self._local.resolved(argument) for argument in arguments]
        method = getattr(self._target, name)
        return _LocalCall(self._begun(lambda: method(*values, **named)), self._log)

    def _begun(self, method: Callable[[], Any]) -> "asyncio.Future[Any]":
        if self._asynchronous:
            task = self._local.begin(_awaited(method))
            self.calls.add(task)
            task.add_done_callback(self.calls.discard)
            return task
        return self._local.ended(method)


async def _awaited(method: Callable[[], Any]) -> Any:
    answer = method()
    return await answer if inspect.isawaitable(answer) else answer


@dataclass(frozen=True, slots=True)
class _LocalMethod:
    handle: _LocalHandle
    name: str
    num_returns: int = 1

    def options(self, num_returns: int) -> "_LocalMethod":
        """As Ray's: the answer is a tuple, and each of its members a call of its own."""
        return _LocalMethod(self.handle, self.name, num_returns)

    def remote(self, *arguments: Any, **named: Any) -> Any:
        call = self.handle.call(self.name, arguments, named)
        return call if self.num_returns == 1 else self.handle._local.members(call, self.num_returns)


class InProcess(Runtime):
    """Owner of the event loop, which runs whenever the driver waits. For one thread."""

    unreachable = ()
    lost = ()
    separate = False

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()

    @override
    def place(self, bundles: Sequence[Mapping[str, float]]) -> Place:
        return _HerePlace()

    @override
    def spawn(self, kind: Callable[..., object], *arguments: Any, options: ProcessOptions) -> Handle:
        os.environ.update(options.environment)
        return _LocalHandle(self, kind(*arguments), options.log)

    @override
    def wait(self, calls: Sequence[Call[Any]], timeout_s: float, count: int = 1) -> list[Call[Any]]:
        pending = [call.future for call in calls if isinstance(call, _LocalCall) and not call.future.done()]
        if pending and len(calls) - len(pending) < count:
            every = count == len(calls)
            self._run(_first(pending, timeout_s, asyncio.ALL_COMPLETED if every else asyncio.FIRST_COMPLETED))
        return [call for call in calls if not isinstance(call, _LocalCall) or call.future.done()][:count]

    @override
    def sleep(self, seconds: float) -> None:
        self._run(asyncio.sleep(seconds))

    @override
    def get(self, call: Call[Any], timeout_s: float) -> Any:
        if isinstance(call, _Value):
            return call.value
        assert isinstance(call, _LocalCall), f"{call!r} is no call of this process"
        if not self.wait([call], timeout_s):
            raise CallLate(f"no answer within {timeout_s:g} s")
        if call.future.cancelled():
            raise ProcessDied("it was ended")
        if (error := call.future.exception()) is None:
            return call.future.result()
        if isinstance(error, UserError):
            raise error
        _append_traceback(error, call.log)
        if isinstance(error, RunFailed):
            raise error
        raise CallRaised.of(error) from error

    @override
    def put(self, value: Any) -> Call[Any]:
        copy = value.copy()
        copy.flags.writeable = False
        return _Value(copy)

    @override
    def kill(self, handle: Handle, restart: bool = False) -> None:
        if not restart:  # an object that is there and works needs no other start
            for call in tuple(cast(_LocalHandle, handle).calls):
                call.cancel()

    @override
    def address(self) -> str:
        return LOOPBACK

    @override
    def nodes(self) -> int:
        return 1

    @override
    def free(self, bundle: Mapping[str, float]) -> dict[str, float]:
        return dict(bundle)

    def begin(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Future[Any]":
        """The work, as a task of the loop."""
        return self._loop.create_task(work)

    def ended(self, work: Callable[[], Any]) -> "asyncio.Future[Any]":
        """The work, done now in this thread, and what came of it."""
        future = self._loop.create_future()
        try:
            future.set_result(work())
        except Exception as error:
            future.set_exception(error)
        return future

    def members(self, call: _LocalCall, count: int) -> list[_LocalCall]:
        """Each of the `count` members of a tuple that a call answers."""

        async def member(index: int) -> Any:
            return (await call)[index]

        return [_LocalCall(self.begin(member(index)), call.log) for index in range(count)]

    def resolved(self, argument: Any) -> Any:
        """An argument, or what a call answered that is one."""
        return self.get(argument, _ARGUMENT_S) if isinstance(argument, _Value | _LocalCall) else argument

    def close(self) -> None:
        """Cancel what is under way, and end the loop."""
        for task in (tasks := asyncio.all_tasks(self._loop)):
            task.cancel()
        if tasks:
            self._run(asyncio.gather(*tasks, return_exceptions=True))
        self._run(self._loop.shutdown_default_executor())
        self._loop.close()

    def _run(self, work: "Coroutine[Any, Any, Any] | asyncio.Future[Any]") -> None:
        self._loop.run_until_complete(work)


async def _first(calls: Sequence["asyncio.Future[Any]"], timeout_s: float, when: str) -> None:
    await asyncio.wait(calls, timeout=max(0.0, timeout_s), return_when=when)


def _append_traceback(error: BaseException, log: Path | None) -> None:
    """Where the sentence about a failure says that more is."""
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as file:
            file.writelines(traceback.format_exception(error))
