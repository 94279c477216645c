"""A user's own data: files of records or anything `datasets` loads, with fields named in the configuration.

Nothing heavy is imported for files that are text, so that a missing one or a bad record is refused before anything is.
"""

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

from unisd_rl.config.task import DatasetsTask, Fields, JsonlTask
from unisd_rl.errors import UserError
from unisd_rl.seeds import derive_seed
from unisd_rl.tasks.corruption import Corruption
from unisd_rl.tasks.data_files import load_split, names_files, read_files
from unisd_rl.tasks.programs import mutated_demonstrations
from unisd_rl.tasks.source_records import SourceRecord, print_once, read_records
from unisd_rl.tasks.task import normalized
from unisd_rl.types import Example, Message

_OWN_MISTAKES = 4  # tried before another problem's solution: half of the attempts that are the default
_ANSWER = re.compile(r"\banswer:", re.IGNORECASE)
_MOST_HELD_OUT = 500
_NO_FIELD = " (see task.fields)"


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
        """The demonstration corrupted, or with a mutation in its program; behind a few of these, so only where they do
        not serve, the solutions of other training problems with another reference answer. In seeded orders."""
        corrupted = Corruption(self.train, seed).candidates(example)
        mutated = mutated_demonstrations(example.demonstration, derive_seed(seed, "mutations", example.id))
        yield from islice(chain(corrupted, mutated), _OWN_MISTAKES)
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
    train = _read_jsonl(config.train, config.fields)
    evaluation = _read_jsonl(config.evaluation, config.fields) if config.evaluation else None
    return records_of(train, evaluation, config.eval_examples, str(config.train))


def load_datasets(config: DatasetsTask) -> Records:
    """The task of a `datasets` section: of files, or of what `datasets` loads.

    Raises:
        UserError: there is no such data, a record is bad, or there are too few.
    """
    load = _from_files if names_files(config.path) else _from_splits
    return records_of(*load(config), config.eval_examples, config.path)


def _from_files(config: DatasetsTask) -> tuple[list[Example], list[Example] | None]:
    given = {"name": config.name, "train_split": config.train_split, "eval_split": config.eval_split}
    for field, value in given.items():
        if value != DatasetsTask.model_fields[field].default:
            raise UserError(
                f"task.{field} = {value!r}: task.path = {config.path!r} names files, which have no splits; leave it "
                "out, or name their folder"
            )

    def read(setting: str, path: str) -> list[Example]:
        return _examples(read_files(setting, path, _names(config.fields), _NO_FIELD), config.fields)

    return read("task.path", config.path), read("task.evaluation", config.evaluation) if config.evaluation else None


def _from_splits(config: DatasetsTask) -> tuple[list[Example], list[Example] | None]:
    if config.evaluation is not None:
        raise UserError(
            f"task.evaluation = {config.evaluation!r} goes with files, and task.path = {config.path!r} names none; "
            "name the held-out split as task.eval_split"
        )
    fields = config.fields

    def read(split: str) -> list[Example]:
        records = load_split("task.path", config.path, config.name, split, _names(fields), no_field=_NO_FIELD)
        return _examples(records, fields)

    return read(config.train_split), read(config.eval_split) if config.eval_split else None


def check_files(config: JsonlTask | DatasetsTask) -> None:
    """Read every record of the files that are named.

    Raises:
        UserError: for the first missing file or bad record.
    """
    if isinstance(config, JsonlTask):
        load_jsonl(config)
    elif names_files(config.path):
        load_datasets(config)


def records_of(train: list[Example], evaluation: list[Example] | None, count: int | None, origin: str) -> Records:
    """Training records, and at most `count` held-out ones; where there are none, the last training records.

    Without a `count` that is at most 500, and of training records at most a fifth, which is said on stderr.

    Raises:
        UserError: one of the two would be empty.
    """
    if evaluation is not None:
        if not train or not evaluation:
            raise UserError(
                f"{origin}: no {'training' if not train else 'held-out'} records; name a split that has some"
            )
        held_out = evaluation[: count or _MOST_HELD_OUT]
        if count is None and len(held_out) < len(evaluation):
            print_once(
                f"{origin}: the first {_MOST_HELD_OUT} of {len(evaluation)} held-out records are evaluated "
                "(task.eval_examples says how many)"
            )
        return Records(train, held_out)
    size = count or max(1, min(_MOST_HELD_OUT, len(train) // 5))
    if len(train) <= size:
        raise UserError(
            f"{origin} has {len(train)} records and the last task.eval_examples = {size} would be held out, which "
            "leaves none to train on: lower it, add records, or name held-out ones"
        )
    if count is None:
        print_once(f"{origin}: the last {size} of {len(train)} records are held out (task.eval_examples says how many)")
    return Records(train[:-size], train[-size:])


def _read_jsonl(path: Path, fields: Fields) -> list[Example]:
    return _examples(read_records(path, "task.train and task.evaluation take JSON Lines files", _NO_FIELD), fields)


def _names(fields: Fields) -> list[str]:
    return [name for name in (fields.prompt, fields.demonstration, fields.answer, fields.id) if name]


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
