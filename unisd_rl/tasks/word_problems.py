"""Problems of mathematics in words: records that are put with the form of the answer that is graded."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from typing_extensions import override

from unisd_rl.config.grader import GraderConfig
from unisd_rl.config.task import GSM8KTask, MATHTask
from unisd_rl.tasks.answer_rules import AnswerRule, answer_rule
from unisd_rl.tasks.benchmark_data import NO_FILE, by_split, from_file, take_first
from unisd_rl.tasks.records import Records
from unisd_rl.tasks.source_records import SourceRecord, read_records
from unisd_rl.types import Example, Message

ANSWER_LINE = (
    "Think it through step by step. Then end with a line of its own that reads\n"
    "Answer: X\n"
    "where X is the number. Write nothing after that line."
)
BOX = "Think it through step by step, and put the final answer into \\boxed{}."


class WordProblems(Records):
    """Records whose prompt ends with the form of the answer."""

    def __init__(self, train: Sequence[Example], evaluation: Sequence[Example], rule: AnswerRule, form: str) -> None:
        super().__init__(train, evaluation, rule)
        self._form = form

    @override
    def student_messages(self, example: Example) -> tuple[Message, ...]:
        """The problem, and the form of the answer."""
        return (Message("user", f"{example.question}\n\n{self._form}"),)


def word_problems(
    config: GSM8KTask | MATHTask,
    records: Mapping[str, Sequence[SourceRecord]],
    full: Mapping[str, int],
    to_example: Callable[[SourceRecord, str], Example],
    grader: GraderConfig,
    form: str,
) -> WordProblems:
    """The task of a source's records by split; `to_example` is given each with its name, `full` are the sizes of all.

    Raises:
        UserError: a record is bad, or nothing is held out.
    """
    examples = {
        split: [to_example(record, f"{split}-{number}") for number, record in enumerate(records_of_split)]
        for split, records_of_split in records.items()
    }
    splits = take_first(config, config.data or config.hub, examples, full)
    return WordProblems(*splits, answer_rule(grader), form)


def local_records(data: Path, splits: Sequence[str], optional: Collection[str] = ()) -> dict[str, list[SourceRecord]]:
    """The records of a local copy by split: of a folder with a file SPLIT.jsonl for each, of which those of `optional`
    splits may be missing, or of one file whose records name their split.

    Raises:
        UserError: a file is missing or bad.
    """
    if not data.is_dir():
        return by_split(from_file(data), splits)
    files = {split: data / f"{split}.jsonl" for split in splits}
    return {
        split: [] if split in optional and not file.exists() else read_records(file, NO_FILE)
        for split, file in files.items()
    }
