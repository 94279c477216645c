"""What passes between a tested program and its tests: plain values, copied; everything else, by number.

Numbers, strings, bytes, None, ranges and the built-in containers arrive as copies, subclasses of them as their plain
kind (a named tuple as a tuple): the receiver compares real values with real `==`. Anything else the program returns,
a function, an iterator, an object of its own class, stays where it is; the tests hold a `Remote`. Copies travel as
pickles, read by an unpickler that constructs nothing but the types named here. Tests can pass a program plain values,
those types themselves and what it returned before, but no functions of their own.
"""

import datetime
import decimal
import fractions
import io
import pickle
import socket
import struct
from collections.abc import Callable
from typing import Any

_CONTAINERS: tuple[type[Any], ...] = (
    *(int, float, complex, str, bytes, bytearray),
    *(tuple, list, dict, set, frozenset),
)
_VALUES: tuple[type[Any], ...] = (
    *(range, slice, datetime.date, datetime.datetime, datetime.time, datetime.timedelta, datetime.timezone),
    *(decimal.Decimal, fractions.Fraction),
)
_PLAIN = frozenset((*_CONTAINERS, *_VALUES, bool, type(None)))
_CONSTRUCTED = {(kind.__module__, kind.__name__): kind for kind in (*_CONTAINERS, *_VALUES, bool)}
_LENGTH = struct.Struct("=Q")


class NotPlain(ValueError):
    """Bytes that are no pickle of plain values."""


class Ended(Exception):
    """The other side has gone."""


class Channel:
    """Messages in both directions over a stream socket."""

    def __init__(self, stream: socket.socket, largest: int) -> None:
        self._stream = stream
        self._largest = largest

    def send(self, message: bytes) -> None:
        """Send one message.

        Raises:
            NotPlain: it is too large.
            Ended: nobody listens.
        """
        if len(message) > self._largest:
            raise NotPlain(f"{len(message)} bytes pass between program and tests, at most {self._largest} may")
        try:
            self._stream.sendall(_LENGTH.pack(len(message)) + message)
        except OSError as error:
            raise Ended from error

    def receive(self) -> bytes:
        """The next message.

        Raises:
            NotPlain: it is too large.
            Ended: there will be none.
        """
        (length,) = _LENGTH.unpack(self._exactly(_LENGTH.size))
        if length > self._largest:
            raise NotPlain(f"{length} bytes pass between program and tests, at most {self._largest} may")
        return self._exactly(length)

    def _exactly(self, length: int) -> bytes:
        parts = bytearray()
        while len(parts) < length:
            try:
                part = self._stream.recv(min(length - len(parts), 1 << 20))
            except OSError as error:
                raise Ended from error
            if not part:
                raise Ended
            parts += part
        return bytes(parts)


class _Writer(pickle.Pickler):
    def __init__(self, file: io.BytesIO, number_of: Callable[[object], object]) -> None:
        super().__init__(file, protocol=5)
        self._number_of = number_of

    def persistent_id(self, value: Any) -> object:
        kind = type(value)
        if kind is type and _CONSTRUCTED.get((value.__module__, value.__name__)) is value:  # the types themselves
            return None
        return None if kind in _PLAIN or issubclass(kind, _CONTAINERS) else self._number_of(value)

    def reducer_override(self, value: Any) -> Any:
        kind = type(value)
        if kind in _PLAIN or kind is type:
            return NotImplemented
        plain = next(kind for kind in _CONTAINERS if isinstance(value, kind))
        return plain, (_as_plain(value, plain),)


def _as_plain(value: Any, plain: type[Any]) -> Any:
    """The same value without its subclass, however that redefines its methods."""
    immutable = (int, float, complex, str, bytes, tuple, frozenset)
    return plain.__new__(plain, value) if plain in immutable else plain(value)


class _Reader(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, value_of: Callable[[Any], object]) -> None:
        super().__init__(file)
        self._value_of = value_of

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _CONSTRUCTED:
            raise NotPlain(f"{module}.{name} is no plain type")
        return _CONSTRUCTED[module, name]

    def persistent_load(self, number: Any) -> object:
        return self._value_of(number)


def packed(value: object, number_of: Callable[[object], object]) -> bytes:
    """A value as bytes; `number_of` names whatever is not plain."""
    file = io.BytesIO()
    _Writer(file, number_of).dump(value)
    return file.getvalue()


def unpacked(message: bytes, value_of: Callable[[Any], object]) -> Any:
    """The value in a message; `value_of` says what a number stands for.

    Raises:
        NotPlain: the bytes are no pickle of plain values, whatever else is wrong with them.
    """
    try:
        return _Reader(io.BytesIO(message), value_of).load()
    except (MemoryError, NotPlain):
        raise
    except Exception as error:  # a hostile pickle may fail in any way; it constructs plain types only
        raise NotPlain(f"no plain value: {type(error).__name__}") from error
