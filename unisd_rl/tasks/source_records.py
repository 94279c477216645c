"""Records as their source has them, and one careful way to take a field out of them.

Nothing heavy is imported: what is wrong with a file is said at once, and every error names the file, the line and the
field. `data_files.py` reads what is no JSON.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from unisd_rl.errors import UserError
from unisd_rl.terminal import say

_MARK = b"\xef\xbb\xbf"  # a byte order mark


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """One record and where it stands. Every method raises a UserError that names both."""

    location: str
    values: Mapping[str, Any]
    remedy: str = ""
    """Ends the sentence about a field that is missing."""

    def text(self, field: str, may_be_empty: bool = False) -> str:
        """A field that is text."""
        kind = "text" if may_be_empty else "text that is not empty"
        return self._field(field, kind, lambda value: _is_text(value, may_be_empty))

    def text_or_integer(self, field: str) -> str:
        """A field that is text, not empty, or a whole number; as text."""
        kind = "text or a whole number, not empty"
        return str(self._field(field, kind, lambda value: _is_text(value) or _is_integer(value)))

    def texts(self, field: str) -> list[str]:
        """A field that is a list of texts."""

        def is_right(value: object) -> bool:
            return isinstance(value, list) and all(_is_text(item, may_be_empty=True) for item in value)

        return self._field(field, "a list of texts", is_right)

    def integer(self, field: str) -> int:
        """A field that is a whole number."""
        return self._field(field, "a whole number", _is_integer)

    def items(self, field: str) -> list[Any]:
        """A field that is a list of anything."""
        return self._field(field, "a list", lambda value: isinstance(value, list))

    def inner(self, field: str) -> "SourceRecord":
        """A field that is a record itself."""
        value = self._field(field, "an object", lambda value: isinstance(value, Mapping))
        return SourceRecord(f"{self.location}, {field}", value)

    def wrong(self, reason: str) -> UserError:
        """An error that names this record."""
        return UserError(f"{self.location}: {reason}")

    def _field(self, field: str, kind: str, is_right: Callable[[Any], bool]) -> Any:
        if field not in self.values:
            present = ", ".join(map(repr, self.values)) or "none"
            raise self.wrong(f"no field {field!r}; it has {present:.300}{self.remedy}")
        if not is_right(self.values[field]):
            raise self.wrong(f"field {field!r} must be {kind}, but it is {self.values[field]!r:.80}")
        if half := half_of_a_pair(self.values[field]):
            raise self.wrong(f"field {field!r} holds {half!r}, half of a surrogate pair, which is no character")
        return self.values[field]


def half_of_a_pair(value: object) -> str | None:
    """The first lone surrogate in a text, or in a list of texts: JSON can write it, UTF-8 and tokenizers cannot."""
    texts = value if isinstance(value, list) else [value]
    found = (re.search(r"[\ud800-\udfff]", text) for text in texts if isinstance(text, str))
    return next((match[0] for match in found if match), None)


@cache
def print_once(sentence: str) -> None:
    """Say something on stderr, once in a process: a run reads its data once to check it and once to use it."""
    say(f"note: {sentence}")


def _is_text(value: object, may_be_empty: bool = False) -> bool:
    return isinstance(value, str) and (may_be_empty or bool(value.strip()))


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def read_records(path: Path, no_file: str, no_field: str = "") -> list[SourceRecord]:
    """All of `iter_records`.

    Raises:
        UserError: see there.
    """
    return list(iter_records(path, no_file, no_field))


def iter_records(path: Path, no_file: str, no_field: str = "") -> Iterator[SourceRecord]:
    """The records of a JSON Lines file, read line by line, blank lines skipped, or of a file that is one JSON array.

    `no_file` and `no_field` are the remedies where the file, or a field of a record, is missing.

    Raises:
        UserError: the file is missing or empty, or something in it is no JSON object.
    """
    numbered = _array(path, _content(path, no_file)) if _is_array(path, no_file) else _lines(path)
    record = None
    for location, value in numbered:
        record = _object_at(location, value, no_field)
        yield record
    if record is None:
        raise UserError(f"{path} holds no records")


def read_object(path: Path, no_file: str) -> SourceRecord:
    """The one JSON object that a file is.

    Raises:
        UserError: the file is missing or something else.
    """
    return _object_at(str(path), _parsed(_content(path, no_file), str(path), "object"))


def _object_at(location: str, value: Any, no_field: str = "") -> SourceRecord:
    record = SourceRecord(location, value, no_field)
    if not isinstance(value, Mapping):
        raise record.wrong(f"not a JSON object but {type(value).__name__}; each record must be one object")
    if isinstance(value, _WithRepeatedKeys):
        raise record.wrong(f"the field {value.repeated!r} occurs twice: leave out one of them")
    return record


def _content(path: Path, no_file: str) -> bytes:
    if not path.is_file():
        raise UserError(f"{path} is not a file; {no_file}")
    try:
        return path.read_bytes().removeprefix(_MARK)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def _array(path: Path, data: bytes) -> Iterator[tuple[str, Any]]:
    for number, value in enumerate(_parsed(data, str(path), "array")):
        yield f"{path}, record {number}", value


def _is_array(path: Path, no_file: str) -> bool:
    """Whether the first character of a file that is no white space opens an array."""
    if not path.is_file():
        raise UserError(f"{path} is not a file; {no_file}")
    with _opened(path) as file:
        first = next((line for line in file if line.removeprefix(_MARK).strip()), b"")
    return first.removeprefix(_MARK).lstrip()[:1] == b"["


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            line = line.removeprefix(_MARK) if number == 1 else line
            if line.strip():
                location = f"{path}, line {number}"
                yield location, _parsed(line.removesuffix(b"\n"), location, "object")


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def _parsed(data: bytes, location: str, kind: str) -> Any:
    try:
        return json.loads(data.decode(), object_pairs_hook=_with_each_key_once)
    except (ValueError, RecursionError) as error:  # neither UTF-8 nor JSON, or nested too deep
        raise UserError(f"{location}: not a JSON {kind} ({error})") from error


class _WithRepeatedKeys(dict[str, Any]):
    """A JSON object that has a key twice, of which a plain one would silently keep the last."""

    repeated: str


def _with_each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) == len(pairs):
        return values
    repeating = _WithRepeatedKeys(values)
    names = [name for name, _ in pairs]
    repeating.repeated = next(name for name in names if names.count(name) > 1)
    return repeating
