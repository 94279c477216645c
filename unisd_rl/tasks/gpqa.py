"""GPQA: graduate-level questions, for evaluation only (Rein et al., 2023; idavidrein/gpqa).

Read from the CSV file that a user has obtained from its authors, who ask that examples be not shown in the open:
nothing of it is shipped or downloaded here. Columns other than those named below are ignored.
"""

from unisd_rl.config.task import GPQATask
from unisd_rl.errors import UserError
from unisd_rl.tasks.benchmark_data import take_first
from unisd_rl.tasks.data_files import read_csv
from unisd_rl.tasks.multiple_choice import MultipleChoice, reshuffled, to_example
from unisd_rl.tasks.source_records import SourceRecord
from unisd_rl.types import Example

SIZES = {"gpqa_main": 448, "gpqa_diamond": 198, "gpqa_extended": 546}
_CHOICES = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
_COLUMNS = ("Question", *_CHOICES, "Explanation", "Record ID")


def load(config: GPQATask) -> MultipleChoice:
    """The task of a `gpqa` section; it has no training problems.

    Raises:
        UserError: no file is named, or it lacks a column or a cell.
    """
    if config.data is None:
        raise UserError(
            "task.data is not set: GPQA is not shipped; download gpqa_main.csv from its authors and give its path"
        )
    if not config.data.is_file():
        raise UserError(f"task.data = {str(config.data)!r} is not a file; give the path of gpqa_main.csv")
    records = read_csv(config.data, _COLUMNS, "; is it a GPQA file?")
    examples = [_example(record, config.seed) for record in records]
    full = {"test": SIZES.get(config.data.stem, len(examples))}
    splits = take_first(config, config.data, {"test": examples}, full)
    return MultipleChoice(*splits, grade_thinking=config.grade_thinking)


def _example(record: SourceRecord, seed: int) -> Example:
    name = record.text("Record ID")
    question = reshuffled(record.text("Question"), [record.text(column) for column in _CHOICES], 0, seed, name)
    return to_example(name, question, record.text("Explanation", may_be_empty=True))
