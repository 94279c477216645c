"""The process of the tests: they run here, next to the program and out of its reach."""

import builtins
import json
from collections.abc import Iterator
from typing import Any

from unisd_rl.tasks.sandbox.limits import Verdict
from unisd_rl.tasks.sandbox.wire import Channel, Ended, NotPlain, packed, unpacked

LONGEST_REASON = 300
PROGRAM_ENDED = "the program ended before its tests did"


class ProgramError(Exception):
    """The program raised something that is no ordinary exception, such as SystemExit."""


class Remote:
    """Something of the program that is no plain value. It is equal to nothing but itself."""

    def __init__(self, program: "Program", number: int) -> None:
        object.__setattr__(self, "_program", program)
        object.__setattr__(self, "_number", number)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """The result of the call, made where the program is."""
        return self._program.ask("call", self, arguments, keywords)

    def __getattr__(self, name: str) -> Any:
        return self._program.ask("get attribute", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._program.ask("set attribute", self, name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._program.ask("get item", self, key)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._program.ask("iterate", self))

    def __len__(self) -> int:
        return int(self._program.ask("length", self))

    def __bool__(self) -> bool:
        return self._program.ask("truth", self) is True


class Program:
    """The tested program, as its tests see it."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def wait_until_loaded(self) -> None:
        """Return when the program's module has run.

        Raises:
            Exception: what the module raised.
        """
        self._reply(())

    def ask(self, operation: str, *operands: Any) -> Any:
        """What the program answers; what a call changed in its arguments is changed here as well."""
        self._channel.send(packed((operation, *operands), self._number))
        return self._reply(operands[1] if operation == "call" else ())

    def _reply(self, arguments: tuple[Any, ...]) -> Any:
        reply = unpacked(self._channel.receive(), lambda number: Remote(self, int(number)))
        match reply:
            case ("returned", result, tuple(changed)):
                for mine, theirs in zip(arguments, changed, strict=False):
                    _update(mine, theirs)
                return result
            case ("raised", str(name), str(text)):
                raise _exception(name, text)
        raise NotPlain("no reply")

    def _number(self, value: object) -> int:
        if isinstance(value, Remote):
            return int(value._number)
        raise NotPlain(f"a {type(value).__name__} cannot be passed to a program")


def _update(mine: Any, theirs: Any) -> None:
    if type(mine) is not type(theirs) or mine == theirs:
        return
    if isinstance(mine, list):
        mine[:] = theirs
    elif isinstance(mine, dict | set):
        mine.clear()
        mine.update(theirs)


def _exception(name: str, text: str) -> Exception:
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            return kind(text)
        except TypeError:  # some want more arguments, e.g. UnicodeDecodeError
            pass
    return ProgramError(f"{name}: {text}")


def verdict(channel: Channel, request: bytes) -> Verdict:
    """Run the tests of one trial against the program at the other end of the channel.

    Raises:
        Ended: the other process was gone before it had begun to load the program, so this is no fault of the program.
    """
    trial = json.loads(request)
    channel.receive()
    try:
        namespace: dict[str, Any] = {"__name__": "tests"}
        exec(trial["setup"], namespace)
        program = Program(channel)
        program.wait_until_loaded()
        for name in trial["names"]:
            namespace[name] = program.ask("global", name)
        exec(trial["tests"], namespace)
    except Ended:
        return Verdict(False, PROGRAM_ENDED)
    except BaseException as error:  # a test that fails, in whichever way
        return Verdict(False, _described(error))
    return Verdict(True, "passed")


def _described(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:LONGEST_REASON]
    except Exception:
        return type(error).__name__
