"""A user's own data: JSON Lines files or anything `datasets` loads, with fields named in the configuration.

Records checked one by one: from a JSON object, or a row of a data set, to an `Example`.

Nothing heavy is imported here, so that a missing file or a bad record is refused before anything is.
Every error names the file, the line and the field.
"""

import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from unisd_rl.config.task import DatasetsTask, Fields, JsonlTask
from unisd_rl.errors import UserError
from unisd_rl.seeds import derive_seed
from unisd_rl.tasks.task import normalized
from unisd_rl.types import Example, Message


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


_ANSWER = re.compile(r"\banswer:", re.IGNORECASE)


class Records:
    """Problems read from records. One user turn a problem; answers are compared as text."""

    def __init__(self, train: Sequence[Example], evaluation: Sequence[Example]) -> None:
        self.train, self.evaluation = train, evaluation

    def student_messages(self, example: Example) -> tuple[Message, ...]:
        """The prompt field as one user turn."""
        return (Message("user", example.question),)

    def grade(self, completion: str, example: Example) -> bool:
        """Whether the stated answer is the reference, but for case and white space.

        Stated is what follows the last `Answer:` (its first line, or all of it), or else the last non-empty line.
        """
        return normalized(example.answer) in map(normalized, _stated(completion))

    def wrong_demonstrations(self, example: Example, seed: int) -> Iterator[str]:
        """Solutions of other training problems whose reference answer differs, drawn by the seed."""
        draw = random.Random(derive_seed(seed, "wrong", example.id))
        for _ in self.train:
            other = draw.choice(self.train)
            if normalized(other.answer) != normalized(example.answer):
                yield other.demonstration


def load_jsonl(config: JsonlTask) -> Records:
    """The task of a `jsonl` section.

    Its own parser rather than the JSON reader of `datasets`, which guesses types from all fields, used or
    not (an answer `2019-05-04` may become a time), refuses blank lines and does not say which line is wrong.

    Raises:
        UserError: for a missing file, a bad record, or too few records.
    """
    train = read_examples(config.train, config.fields)
    evaluation = read_examples(config.evaluation, config.fields) if config.evaluation else None
    return records_of(train, evaluation, config.eval_examples, str(config.train))


def load_datasets(config: DatasetsTask) -> Records:
    """The task of a `datasets` section.

    Raises:
        UserError: where `datasets` finds no such data, a record is bad, or there are too few.
    """
    train = _load_split(config, config.train_split)
    evaluation = _load_split(config, config.eval_split) if config.eval_split else None
    return records_of(train, evaluation, config.eval_examples, config.path)


def _load_split(config: DatasetsTask, split: str) -> list[Example]:
    import datasets  # a second of imports, only for those who need it

    try:
        rows = datasets.load_dataset(config.path, config.name, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"task.path = {config.path!r}, split {split!r}: datasets could not load it ({reason})"
        ) from error
    rows = rows.select_columns([name for name in _names(config.fields) if name in rows.column_names])
    return [
        to_example(row, config.fields, f"{config.path}, split {split!r}, record {number}", str(number))
        for number, row in enumerate(rows)
    ]


def _names(fields: Fields) -> list[str]:
    return list(dict.fromkeys(filter(None, (fields.prompt, fields.demonstration, fields.answer, fields.id))))


def records_of(train: list[Example], evaluation: list[Example] | None, count: int, origin: str) -> Records:
    """Training and held-out records; without held-out ones the last `count` are held out.

    Raises:
        UserError: one of the two would be empty.
    """
    if evaluation is not None:
        if not train or not evaluation:
            raise UserError(
                f"{origin}: no {'training' if not train else 'held-out'} records; name a split that has some"
            )
        return Records(train, evaluation[:count])
    if len(train) <= count:
        raise UserError(
            f"{origin} has {len(train)} records and the last task.eval_examples = {count} would be held out, which "
            "leaves none to train on: lower it or name held-out records"
        )
    return Records(train[:-count], train[-count:])


def _stated(completion: str) -> tuple[str, ...]:
    ends = [match.end() for match in _ANSWER.finditer(completion)]
    stated = completion[ends[-1] :].strip() if ends else completion.strip()
    lines = stated.splitlines()
    if not lines:
        return ()
    return (stated, lines[0]) if ends else (lines[-1],)
