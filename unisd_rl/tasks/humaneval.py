"""HumanEval: Python functions from their signature and docstring, for evaluation only (Chen et al., 2021).

A completion may give the whole function, with or without the imports and earlier functions of the stub, or without a
fence the body alone, as the reference solutions do.
"""

from unisd_rl.config.task import HumanEvalTask
from unisd_rl.tasks.benchmark_data import from_file, from_hub, take_first
from unisd_rl.tasks.programs import ProgrammingTask, Reference, fenced
from unisd_rl.tasks.source_records import SourceRecord
from unisd_rl.types import Example

FULL = {"test": 164}
_FIELDS = ("task_id", "prompt", "entry_point", "canonical_solution", "test")


def load(config: HumanEvalTask) -> ProgrammingTask:
    """The task of a `humaneval` section; it has no training problems.

    Raises:
        UserError: missing data or a bad record.
    """
    records = from_file(config.data) if config.data else from_hub(config.hub, None, "test", _FIELDS)
    splits = {"test": [to_example(record) for record in records]}
    taken = take_first(config, config.data or config.hub, splits, FULL)
    return ProgrammingTask(*taken, grade_thinking=config.grade_thinking)


def to_example(record: SourceRecord) -> Example:
    """One record as an example.

    Raises:
        UserError: it lacks a field, or its stub does not define its entry point.
    """
    stub, entry = record.text("prompt"), record.text("entry_point")
    if f"def {entry}(" not in stub:
        raise record.wrong(f"prompt does not define entry_point = {entry!r}")
    tests = Reference(stub, stub, (entry,), f"{record.text('test')}\n\ncheck({entry})\n")
    question = f"Complete this Python function so that it does what its docstring says:\n\n{stub.strip()}"
    return Example(record.text("task_id"), question, fenced(stub + record.text("canonical_solution")), tests.to_json())
