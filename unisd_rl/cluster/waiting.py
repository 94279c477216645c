"""Waiting for calls of Ray actors, what became of them, looking after the others meanwhile, and an actor that hangs.

Ray starts a queue or a store again when its process ends, and does nothing about one that hangs: whoever finds it
unresponsive ends it.
"""

import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError, GetTimeoutError, RayActorError, RayTaskError

from unisd_rl.errors import PermanentFailure, RunFailed, UserError
from unisd_rl.terminal import say
from unisd_rl.types import OnWait, no_op

CHECK_S = 1.0
"""How often a wait looks after the others."""
FETCH_S = 60.0
"""How long the answer of an ended call may take to come: it is small, but may lie on another machine."""
_EXPECTED = {kind.__name__: kind for kind in (UserError, RunFailed, PermanentFailure)}
_RAISED = re.compile(rf"^unisd_rl\.errors\.({'|'.join(_EXPECTED)}): ", re.MULTILINE)

Answer = TypeVar("Answer")


def wait(
    calls: "Sequence[ray.ObjectRef[Any]]", timeout_s: float, on_wait: OnWait = no_op
) -> "list[ray.ObjectRef[Any]]":
    """The call that has ended, as soon as one has; empty after `timeout_s` seconds.

    `on_wait` is called about once a second meanwhile; what it raises ends the wait.
    """
    end_s = time.monotonic() + timeout_s
    while (left_s := end_s - time.monotonic()) > 0.0:
        if not calls:
            time.sleep(min(CHECK_S, left_s))
        elif ended := ray.wait(list(calls), timeout=min(CHECK_S, left_s))[0]:
            return ended
        on_wait()
    return ray.wait(list(calls), timeout=0)[0] if calls else []


class CallFailed(Exception):
    """A call of a Ray actor has no answer, because the actor cannot be reached or as the subclass says.

    The text is a reason without a full stop, to stand behind `the rollout queue could not admit prompts: `.
    """


class CallLate(CallFailed):
    """The answer did not come in time: the actor may hang."""


class ActorDied(CallFailed):
    """The actor's process has ended, or never began."""


class CallRaised(CallFailed):
    """The method raised `cause` (None: something that could not be sent)."""

    def __init__(self, error: RayTaskError) -> None:
        self.cause: Exception | None = error.cause
        known = f"{type(error.cause).__name__}: {error.cause}"
        super().__init__(known if error.cause is not None else str(error).splitlines()[-1])


def fetch(call: "ray.ObjectRef[Any]", timeout_s: float = FETCH_S) -> Any:
    """The answer to a call of an actor that has ended, or is expected to end within `timeout_s` seconds.

    Raises:
        UserError, RunFailed: the method, or the actor's constructor, raised that; with its own words alone.
        CallFailed: there is no answer for another reason.
    """
    try:
        return ray.get(call, timeout=timeout_s)
    except RayTaskError as error:
        if isinstance(error.cause, RunFailed | UserError):
            raise type(error.cause)(str(error.cause)) from None
        raise CallRaised(error) from error
    except GetTimeoutError as error:
        raise CallLate(f"no answer within {timeout_s:g} s") from error
    except ActorDiedError as error:
        if expected := _raised_by_constructor(error):
            raise expected from None
        raise ActorDied(f"its process died: {_sentence(error)}") from error
    except RayActorError as error:
        raise CallFailed(f"its process cannot be reached: {_sentence(error)}") from error


def _raised_by_constructor(error: ActorDiedError) -> Exception | None:
    """What a constructor raised, if it is an error of ours: of that Ray keeps the traceback's text alone."""
    raised = list(_RAISED.finditer(str(error))) if error.actor_init_failed else []
    return _EXPECTED[raised[-1][1]](str(error)[raised[-1].end() :].strip()) if raised else None


def _sentence(error: RayActorError) -> str:
    """Ray's own first line; of an actor that could not be made the last one, which says why."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if "creation task" in lines[0] else lines[0]).rstrip(".")


def wait_until(
    ready: Callable[[], bool], limit_s: float, awaited: str, look: Callable[[], None], quiet_s: float = 0.0
) -> bool:
    """Whether `ready()` within `limit_s` seconds; `look`, which takes a moment, is called between two tries.

    After `quiet_s` seconds the console says once what is waited for: a job whose nodes never come looks alike.
    """
    began_s, said = time.monotonic(), False
    while not ready():
        waited_s = time.monotonic() - began_s
        if waited_s > limit_s:
            return False
        if not said and waited_s >= quiet_s:
            say(f"waiting up to {limit_s:g} s for {awaited}")
            said = True
        look()
    return True


def pause(seconds: float, on_wait: OnWait = no_op) -> None:
    """Sleep, calling `on_wait` as `wait` does."""
    wait((), seconds, on_wait)


class Heartbeat(Generic[Answer]):
    """Keeps one question with an actor and never waits for the answer: an actor that is stopped looks just like one
    that has nothing to say. `clock` returns seconds."""

    def __init__(
        self, ask: "Callable[[], ray.ObjectRef[Answer]]", silent_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask, self.silent_s, self._clock = ask, silent_s, clock
        self._asked: ray.ObjectRef[Answer] | None = None
        self._asked_s = 0.0
        self._unanswered_since_s: float | None = None
        self.answer: Answer | None = None

    @property
    def unanswered_s(self) -> float:
        """Seconds since the first question after the last answer; 0 while none is open."""
        return 0.0 if self._unanswered_since_s is None else self._clock() - self._unanswered_since_s

    def unresponsive(self) -> bool:
        """Whether a question has had no answer for `silent_s`; said once, then the next one is asked.

        An actor that died as it answered hangs no more, but that is no answer either. The last one is `answer`.
        """
        if self._asked is None:
            self._asked, self._asked_s = self._ask(), self._clock()
            if self._unanswered_since_s is None:
                self._unanswered_since_s = self._asked_s
        ended = bool(ray.wait([self._asked], timeout=0)[0])
        if ended:
            with suppress(RayActorError):
                self.answer, self._unanswered_since_s = ray.get(self._asked, timeout=self.silent_s), None
        hung = not ended and self._clock() > self._asked_s + self.silent_s
        if ended or hung:
            self._asked = None
        return hung


def kill_hung(actor: ActorHandle) -> None:
    """End a process that does not answer; Ray starts it again, as often as its `max_restarts` says."""
    ray.kill(actor, no_restart=False)
