"""The process of the tested program: loads it, then answers the calls of its tests."""

import importlib
import os
import sys
import types
from collections.abc import Callable
from itertools import islice
from typing import Any

from unisd_rl.tasks.sandbox.wire import Channel, Ended, NotPlain, packed, unpacked

LONGEST_ITERATION = 1_000_000
_OPERATIONS: dict[str, Callable[..., Any]] = {
    "call": lambda function, arguments, keywords: function(*arguments, **keywords),
    "get attribute": getattr,
    "set attribute": setattr,
    "get item": lambda container, key: container[key],
    "iterate": lambda iterable: list(islice(iterable, LONGEST_ITERATION)),
    "length": len,
    "truth": bool,
}


def serve(channel: Channel, source: bytes) -> None:
    """Run the program as a module that is not `__main__`, then do what the tests ask until they are through.

    The first message, before anything of the program has run, only says that this process came so far.
    """
    channel.send(b"")
    held: list[object] = []
    module = types.ModuleType("solution")
    sys.modules["solution"] = module

    def number_of(value: object) -> int:
        held.append(value)
        return len(held) - 1

    def asked(message: bytes) -> bytes:
        operation, *operands = unpacked(message, held.__getitem__)
        if operation == "global" and operands[0] not in module.__dict__:
            raise NameError(f"the program does not define {operands[0]}")
        if operation == "global":
            return packed(("returned", module.__dict__[operands[0]], ()), number_of)
        result = _OPERATIONS[operation](*operands)
        changed = operands[1] if operation == "call" else ()  # a function may change its arguments in place
        return packed(("returned", result, changed), number_of)

    def loaded(_: bytes) -> bytes:
        text = source.decode("utf-8", "surrogatepass").removeprefix("\ufeff")
        exec(compile(text, "solution.py", "exec"), module.__dict__)
        return packed(("returned", None, ()), number_of)

    answer: Callable[[bytes], bytes] = loaded
    message = b""
    try:
        while True:
            try:
                channel.send(_guarded(answer, message, number_of))
            except NotPlain as error:  # too large to pass
                channel.send(packed(("raised", "ValueError", str(error)), number_of))
            message, answer = channel.receive(), asked
    except Ended:
        pass


def _guarded(answer: Callable[[bytes], bytes], message: bytes, number_of: Callable[[object], int]) -> bytes:
    """The answer, or what went wrong: nothing the program raises may end this loop, `SystemExit` neither."""
    try:
        return answer(message)
    except BaseException as error:
        try:
            text = str(error)[:200]
        except BaseException:
            text = ""
        return packed(("raised", type(error).__name__, text), number_of)


def preload() -> None:
    """Import what programs usually import, once, before any is started."""
    for name in _USUAL:
        importlib.import_module(name)


_USUAL = (
    *(
        "abc",
        "argparse",
        "array",
        "ast",
        "base64",
        "binascii",
        "bisect",
        "calendar",
        "cmath",
        "collections",
        "contextlib",
    ),
    *("copy", "csv", "dataclasses", "datetime", "decimal", "difflib", "enum", "fractions", "functools", "hashlib"),
    *("heapq", "inspect", "io", "itertools", "json", "keyword", "math", "numbers", "operator", "os", "pprint", "queue"),
    *("random", "re", "secrets", "statistics", "string", "struct", "sys", "textwrap", "threading", "time", "traceback"),
    *("types", "typing", "unicodedata", "urllib.parse", "uuid", "weakref", "zlib"),
)


def discard_output() -> None:
    """Nothing to read, and what is printed goes nowhere."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)
