"""A user's own data: files of records or anything `datasets` loads, with fields named in the configuration.

Nothing heavy is imported for files that are text, so that a missing one or a bad record is refused before anything is.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path

from unisd_rl.config.grader import ChoiceGrader, GraderConfig, StatedGrader
from unisd_rl.config.task import DatasetsTask, Fields, JsonlTask
from unisd_rl.errors import UserError
from unisd_rl.seeds import derive_seed
from unisd_rl.tasks.answer_rules import AnswerRule, Stated, answer_rule
from unisd_rl.tasks.chat_rows import Chat, asking, chat_of, is_chat, question_of, solved, tools_of
from unisd_rl.tasks.corruption import Corruption
from unisd_rl.tasks.data_files import iter_files, iter_split, names_files
from unisd_rl.tasks.mapped_examples import gathered
from unisd_rl.tasks.multiple_choice import ListedOptions
from unisd_rl.tasks.programs import mutated_demonstrations
from unisd_rl.tasks.source_records import SourceRecord, iter_records, print_once
from unisd_rl.tasks.task import normalized
from unisd_rl.types import Example, Message

_OWN_MISTAKES = 4  # tried before another problem's solution: half of the attempts that are the default
_MOST_HELD_OUT = 500
_NO_FIELD = " (see task.fields)"


class Records:
    """A task of records: what the student reads is a prompt or a chat, and answers are compared by a rule."""

    def __init__(self, train: Sequence[Example], evaluation: Sequence[Example], rule: AnswerRule | None = None) -> None:
        self.train, self.evaluation, self._rule = train, evaluation, rule or Stated()

    def student_messages(self, example: Example) -> tuple[Message, ...]:
        """The record's chat, or its prompt as one user turn."""
        return example.chat or (Message("user", example.question),)

    def grade(self, completion: str, example: Example) -> bool:
        """Whether the answer that the completion states is the reference (`task.grader`)."""
        return self._rule.is_right(completion, example)

    def stated(self, completion: str, example: Example) -> str | None:
        """The answer that the grader reads in the completion; None where it reads none."""
        return self._rule.stated(completion, example)

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


class ChoiceRecords(Records, ListedOptions):
    """Records of multiple choice: their prompts list options, of which the answer is one."""


def load_jsonl(config: JsonlTask) -> Records:
    """The task of a `jsonl` section.

    Not read with the JSON reader of `datasets`, which guesses types from all fields, used or not (an answer
    `2019-05-04` may become a time), refuses blank lines and does not say which line is wrong.

    Raises:
        UserError: for a missing file, a bad record, or too few records.
    """
    rule = answer_rule(config.grader)

    def read(path: Path) -> Sequence[Example]:
        records = iter_records(path, "task.train and task.evaluation take JSON Lines files", _NO_FIELD)
        return gathered(_examples(records, config.fields, rule))

    train, evaluation = read(config.train), read(config.evaluation) if config.evaluation else None
    return records_of(train, evaluation, config.eval_examples, str(config.train), config.grader)


def load_datasets(config: DatasetsTask) -> Records:
    """The task of a `datasets` section: of files, or of what `datasets` loads.

    Raises:
        UserError: there is no such data, a record is bad, or there are too few.
    """
    load, rule = _from_files if names_files(config.path) else _from_splits, answer_rule(config.grader)
    return records_of(*load(config, rule), config.eval_examples, config.path, config.grader)


def _from_files(config: DatasetsTask, rule: AnswerRule) -> tuple[Sequence[Example], Sequence[Example] | None]:
    given = {"name": config.name, "train_split": config.train_split, "eval_split": config.eval_split}
    for field, value in given.items():
        if value != DatasetsTask.model_fields[field].default:
            raise UserError(
                f"task.{field} = {value!r}: task.path = {config.path!r} names files, which have no splits; leave it "
                "out, or name their folder"
            )

    def read(setting: str, path: str) -> Sequence[Example]:
        records = iter_files(setting, path, _names(config.fields), _NO_FIELD)
        return gathered(_examples(records, config.fields, rule))

    return read("task.path", config.path), read("task.evaluation", config.evaluation) if config.evaluation else None


def _from_splits(config: DatasetsTask, rule: AnswerRule) -> tuple[Sequence[Example], Sequence[Example] | None]:
    if config.evaluation is not None:
        raise UserError(
            f"task.evaluation = {config.evaluation!r} goes with files, and task.path = {config.path!r} names none; "
            "name the held-out split as task.eval_split"
        )
    fields = config.fields

    def read(split: str) -> Sequence[Example]:
        records = iter_split("task.path", config.path, config.name, split, _names(fields), no_field=_NO_FIELD)
        return gathered(_examples(records, fields, rule))

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


def records_of(
    train: Sequence[Example],
    evaluation: Sequence[Example] | None,
    count: int | None,
    origin: str,
    grader: GraderConfig | None = None,
) -> Records:
    """Training records, and at most `count` held-out ones; where there are none, the last training records.

    Without a `count` that is at most 500, and of training records at most a fifth, which is said on stderr.

    Raises:
        UserError: one of the two would be empty.
    """
    kind = ChoiceRecords if isinstance(grader, ChoiceGrader) else Records
    make = partial(kind, rule=answer_rule(grader or StatedGrader()))
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
        return make(train, held_out)
    size = count or max(1, min(_MOST_HELD_OUT, len(train) // 5))
    if len(train) <= size:
        raise UserError(
            f"{origin} has {len(train)} records and the last task.eval_examples = {size} would be held out, which "
            "leaves none to train on: lower it, add records, or name held-out ones"
        )
    if count is None:
        print_once(f"{origin}: the last {size} of {len(train)} records are held out (task.eval_examples says how many)")
    return make(train[:-size], train[-size:])


def _names(fields: Fields) -> list[str]:
    names = (fields.prompt, fields.messages, fields.demonstration, fields.answer, fields.tools, fields.id)
    return [name for name in names if name]


def _examples(records: Iterable[SourceRecord], fields: Fields, rule: AnswerRule) -> Iterator[Example]:
    """Records as examples, in order; where no field is named, the id of one is its position."""
    seen = set[str]()
    for position, record in enumerate(records):
        example = _example(record, fields, rule, str(position))
        if fields.id is not None:
            if example.id in seen:
                raise record.wrong(f"the id {example.id!r} occurs twice; ids must differ, or leave out fields.id")
            seen.add(example.id)
        if reason := rule.unusable(example):
            raise record.wrong(f"{reason}, which the grader needs (task.grader)")
        yield example


def _example(record: SourceRecord, fields: Fields, rule: AnswerRule, position: str) -> Example:
    """One record as an example. What `fields` leaves open is read from the chat."""
    question, chat, demonstration = _asked(record, fields)
    if fields.demonstration is not None:
        demonstration = _solution(record, fields.demonstration)
    assert demonstration is not None, "a chat that ends with an answer, or a field"
    example = Example(
        id=record.text_or_integer(fields.id) if fields.id else position,
        question=question,
        demonstration=demonstration,
        answer="" if fields.answer is None else record.text_or_integer(fields.answer),
        chat=chat,
    )
    if fields.answer is not None:
        return example
    stated = rule.stated(example.demonstration, example)
    if stated is None:
        raise record.wrong(
            f"its worked solution, which ends {demonstration.rstrip()[-40:]!r}, states no answer for the grader "
            "(task.grader): name the field that has it as task.fields.answer, or choose another grader"
        )
    return replace(example, answer=stated)


def _asked(record: SourceRecord, fields: Fields) -> tuple[str, Chat, str | None]:
    """What is asked as one text; the chat, where there is more to it; and the answer that the chat ends with."""
    field, demonstration = fields.messages or fields.prompt or "", None
    if fields.messages is None and not is_chat(record.values.get(field)):
        chat: Chat = (Message("user", record.text(field)),)
    elif fields.demonstration is None:
        chat, demonstration = solved(record, field, chat_of(record, field))
    else:
        chat = asking(record, field, chat_of(record, field))
    if fields.tools is not None:
        chat = (tools_of(record, fields.tools), *chat)
    question = question_of(chat)
    return question, () if chat == (Message("user", question),) else chat, demonstration


def _solution(record: SourceRecord, field: str) -> str:
    """A worked solution that is text, or one turn of the assistant."""
    if not is_chat(record.values.get(field)):
        return record.text(field)
    (turn, *more) = chat_of(record, field, asks=False)
    if more or turn.role != "assistant" or not turn.content.strip():
        raise record.wrong(f"field {field!r} must be text, or one turn of 'assistant' that says something")
    return turn.content
