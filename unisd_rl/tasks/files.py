"""Records checked one by one: from a JSON object, or a row of a data set, to an `Example`.

Nothing heavy is imported here, so that a missing file or a bad record is refused before anything is.
Every error names the file, the line and the field.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from unisd_rl.config import Fields, JsonlTask
from unisd_rl.errors import UserError
from unisd_rl.types import Example


def check_files(config: JsonlTask) -> None:
    """Read every record of a `jsonl` section.

    Raises:
        UserError: for the first missing file or bad record.
    """
    read_examples(config.train, config.fields)
    if config.evaluation is not None:
        read_examples(config.evaluation, config.fields)


def read_examples(path: Path, fields: Fields) -> list[Example]:
    """The records of a JSON Lines file, in order; blank lines are skipped.

    Raises:
        UserError: for a missing or empty file, a line that is no JSON object, or a bad record.
    """
    examples: dict[str, Example] = {}
    for place, record in _records(path):
        example = to_example(record, fields, place, str(len(examples)))
        if example.id in examples:
            raise UserError(f"{place}: the id {example.id!r} occurs twice; ids must differ, or leave out fields.id")
        examples[example.id] = example
    if not examples:
        raise UserError(f"{path} holds no records")
    return list(examples.values())


def to_example(record: Mapping[str, object], fields: Fields, place: str, position: str) -> Example:
    """One record as an `Example`; `place` says where it stands, `position` is its id where no field has one.

    Raises:
        UserError: for a field that is missing, empty or of another type. Ids and answers may be whole numbers.
    """
    return Example(
        id=_text(record, fields.id, place, numbers=True) if fields.id else position,
        question=_text(record, fields.prompt, place),
        demonstration=_text(record, fields.demonstration, place),
        answer=_text(record, fields.answer, place, numbers=True),
    )


def _text(record: Mapping[str, object], field: str, place: str, numbers: bool = False) -> str:
    if field not in record:
        raise UserError(
            f"{place}: no field {field!r}; it has {', '.join(map(repr, record)) or 'none'} (see task.fields)"
        )
    value = record[field]
    if numbers and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        allowed = "text or a whole number" if numbers else "text"
        raise UserError(f"{place}: field {field!r} must be {allowed}, but it is {value!r:.80}")
    if not value.strip():
        raise UserError(f"{place}: field {field!r} is empty")
    return value


def _records(path: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    if not path.is_file():
        raise UserError(f"{path} is not a file; task.train and task.evaluation take JSON Lines files")
    try:
        lines = path.open("rb")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    with lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                place = f"{path}, line {number}"
                yield place, _parse(line, place)


def _parse(line: bytes, place: str) -> Mapping[str, object]:
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except ValueError as error:  # neither UTF-8 nor JSON
        raise UserError(f"{place}: not a JSON object ({error})") from error
    if not isinstance(record, dict):
        raise UserError(f"{place}: not a JSON object but {type(record).__name__}; each line must be one object")
    return record
