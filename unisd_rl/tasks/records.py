"""A user's own data: JSON Lines files or anything `datasets` loads, with fields named in the configuration.

Nothing heavy is imported here, so that a missing file or a bad record is refused before anything is.
"""

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from unisd_rl.config.task import DatasetsTask, Fields, JsonlTask
from unisd_rl.errors import UserError
from unisd_rl.seeds import derive_seed
from unisd_rl.tasks.source_records import SourceRecord, load_split, read_records
from unisd_rl.tasks.task import normalized
from unisd_rl.types import Example, Message

_ANSWER = re.compile(r"\banswer:", re.IGNORECASE)


class Records:
    """A task of records. One user turn a problem; answers are compared as text."""

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


def _stated(completion: str) -> tuple[str, ...]:
    ends = [match.end() for match in _ANSWER.finditer(completion)]
    stated = completion[ends[-1] :].strip() if ends else completion.strip()
    lines = stated.splitlines()
    if not lines:
        return ()
    return (stated, lines[0]) if ends else (lines[-1],)


def load_jsonl(config: JsonlTask) -> Records:
    """The task of a `jsonl` section.

    Not read with the JSON reader of `datasets`, which guesses types from all fields, used or not (an answer
    `2019-05-04` may become a time), refuses blank lines and does not say which line is wrong.

    Raises:
        UserError: for a missing file, a bad record, or too few records.
    """
    train = _read_examples(config.train, config.fields)
    evaluation = _read_examples(config.evaluation, config.fields) if config.evaluation else None
    return records_of(train, evaluation, config.eval_examples, str(config.train))


def check_files(config: JsonlTask) -> None:
    """Read every record of a `jsonl` section.

    Raises:
        UserError: for the first missing file or bad record.
    """
    for path in filter(None, (config.train, config.evaluation)):
        _read_examples(path, config.fields)


def load_datasets(config: DatasetsTask) -> Records:
    """The task of a `datasets` section.

    Raises:
        UserError: where `datasets` finds no such data, a record is bad, or there are too few.
    """

    def examples(split: str) -> list[Example]:
        fields = config.fields
        columns = [name for name in (fields.prompt, fields.demonstration, fields.answer, fields.id) if name]
        return _examples(load_split("task.path", config.path, config.name, split, columns), fields)

    train = examples(config.train_split)
    evaluation = examples(config.eval_split) if config.eval_split else None
    return records_of(train, evaluation, config.eval_examples, config.path)


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


def _read_examples(path: Path, fields: Fields) -> list[Example]:
    records = read_records(path, "task.train and task.evaluation take JSON Lines files", " (see task.fields)")
    return _examples(records, fields)


def _examples(records: Iterable[SourceRecord], fields: Fields) -> list[Example]:
    """Records as examples, in order; where no field is named, the id of one is its position."""
    examples: dict[str, Example] = {}
    for position, record in enumerate(records):
        example = Example(
            id=record.text_or_integer(fields.id) if fields.id else str(position),
            question=record.text(fields.prompt),
            demonstration=record.text(fields.demonstration),
            answer=record.text_or_integer(fields.answer),
        )
        if example.id in examples:
            raise record.wrong(f"the id {example.id!r} occurs twice; ids must differ, or leave out fields.id")
        examples[example.id] = example
    return list(examples.values())
