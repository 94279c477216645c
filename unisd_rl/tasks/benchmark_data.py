"""Records as their source has them, and one careful way to take a field out of them.

Nothing heavy is imported before a hub is asked: what is wrong with a local file is said at once.

What a benchmark's loader hands on: training and held-out problems, capped, and compared with the paper's sizes.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from unisd_rl.config.task import Benchmark
from unisd_rl.errors import UserError
from unisd_rl.types import Example


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """One record and where it stands. Every method raises a UserError that names both."""

    place: str
    values: Mapping[str, Any]

    def text(self, field: str, may_be_empty: bool = False) -> str:
        """A field that is text."""
        value = self._value(field)
        if not isinstance(value, str) or not (may_be_empty or value.strip()):
            raise self._unlike(field, "text" if may_be_empty else "text that is not empty", value)
        return value

    def texts(self, field: str) -> list[str]:
        """A field that is a list of texts."""
        value = self._value(field)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._unlike(field, "a list of texts", value)
        return value

    def integer(self, field: str) -> int:
        """A field that is a whole number."""
        value = self._value(field)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._unlike(field, "a whole number", value)
        return value

    def items(self, field: str) -> list[Any]:
        """A field that is a list of anything."""
        value = self._value(field)
        if not isinstance(value, list):
            raise self._unlike(field, "a list", value)
        return value

    def inner(self, field: str) -> "SourceRecord":
        """A field that is a record itself."""
        value = self._value(field)
        if not isinstance(value, Mapping):
            raise self._unlike(field, "an object", value)
        return SourceRecord(f"{self.place}, {field}", value)

    def wrong(self, reason: str) -> UserError:
        """An error that names this record."""
        return UserError(f"{self.place}: {reason}")

    def _value(self, field: str) -> Any:
        if field not in self.values:
            present = ", ".join(map(repr, self.values)) or "none"
            raise self.wrong(f"no field {field!r}; it has {present:.300}")
        return self.values[field]

    def _unlike(self, field: str, kind: str, value: object) -> UserError:
        return self.wrong(f"field {field!r} must be {kind}, but it is {value!r:.80}")


def from_file(path: Path) -> list[SourceRecord]:
    """The records of a JSON Lines file, or of a file that is one JSON array.

    Raises:
        UserError: the file is missing or empty, or something in it is no JSON object.
    """
    text = _content(path)
    parsed = list(_array(path, text) if text.lstrip()[:1] == "[" else _lines(path, text))
    if not parsed:
        raise UserError(f"{path} holds no records")
    for raw in parsed:
        if not isinstance(raw.values, Mapping):
            raise raw.wrong(f"not a JSON object but {type(raw.values).__name__}")
    return parsed


def object_in(path: Path) -> SourceRecord:
    """The one JSON object that a file is.

    Raises:
        UserError: the file is missing or something else.
    """
    try:
        value = json.loads(_content(path))
    except ValueError as error:
        raise UserError(f"{path}: not a JSON object ({error})") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: not a JSON object but {type(value).__name__}")
    return SourceRecord(str(path), value)


def from_hub(hub: str, name: str | None, split: str, fields: Sequence[str]) -> list[SourceRecord]:
    """The records of one split, as `datasets.load_dataset` has them; of their fields those in `fields`.

    Raises:
        UserError: `datasets` cannot load them.
    """
    import datasets  # a second of imports, only for those who need it

    try:
        rows = datasets.load_dataset(hub, name, split=split)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise UserError(
            f"task.hub = {hub!r}, split {split!r}: datasets could not load it ({str(error).splitlines()[0]:.200}); "
            "set task.data to a local copy"
        ) from error
    for column in ("image",):  # only whether there is one matters
        if column in fields and isinstance(rows.features.get(column), datasets.Image):
            rows = rows.cast_column(column, datasets.Image(decode=False))
    rows = rows.select_columns([field for field in fields if field in rows.column_names])
    return [SourceRecord(f"{hub}, split {split!r}, record {number}", row) for number, row in enumerate(rows)]


def _content(path: Path) -> str:
    if not path.is_file():
        raise UserError(f"{path} is not a file; give task.data the path of one, or leave it out to load from the hub")
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as text: {error}") from error


def _array(path: Path, text: str) -> Iterator[SourceRecord]:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path}: not a JSON array ({error})") from error
    for number, value in enumerate(values):
        yield SourceRecord(f"{path}, record {number}", value)


def _lines(path: Path, text: str) -> Iterator[SourceRecord]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield SourceRecord(f"{path}, line {number}", json.loads(line))
            except ValueError as error:
                raise UserError(f"{path}, line {number}: not a JSON object ({error})") from error


def take_first(
    config: Benchmark, origin: object, train: list[Example], evaluation: list[Example]
) -> tuple[list[Example], list[Example]]:
    """The first `train_examples` and `eval_examples` of each.

    Raises:
        UserError: nothing is held out, or an id occurs twice.
    """
    if not evaluation:
        raise UserError(f"{origin} has no held-out records of {config.type}")
    seen = set[str]()
    for example in (*train, *evaluation):
        if example.id in seen:
            raise UserError(f"{origin}: the id {example.id!r} occurs twice")
        seen.add(example.id)
    return train[: config.train_examples], evaluation[: config.eval_examples]


def by_split(records: Iterable[SourceRecord], names: Sequence[str]) -> dict[str, list[SourceRecord]]:
    """Records by their field `split`; `names` are those a source may have.

    Raises:
        UserError: a record has no split, or one of another name.
    """
    sorted_out: dict[str, list[SourceRecord]] = {name: [] for name in names}
    for record in records:
        name = record.text("split")
        if name not in sorted_out:
            raise record.wrong(f"split = {name!r}, but it must be one of {', '.join(names)}")
        sorted_out[name].append(record)
    return sorted_out


def report_sizes(origin: object, found: Mapping[str, int], full: Mapping[str, int]) -> None:
    """Say on stderr where the data is not what the paper's figures come from."""
    for sentence in size_warnings(origin, found, full):
        print_once(sentence)


@cache
def print_once(sentence: str) -> None:
    """Say something on stderr, once in a process: a run reads its data once to check it and once to use it."""
    print(f"note: {sentence}", file=sys.stderr)


def size_warnings(origin: object, found: Mapping[str, int], full: Mapping[str, int]) -> list[str]:
    """One sentence for each split whose size is not the full data's."""
    return [
        f"{origin}: {found.get(split, 0):,} {split} problems, expected {size:,} in the full data; "
        "figures are not comparable with published ones"
        for split, size in full.items()
        if found.get(split, 0) != size
    ]
