"""ScienceQA: school science with lectures and worked solutions (Lu et al., 2022; lupantech/ScienceQA).

Only questions without an image. The hint, often the passage that a question is about, is part of the question; the
lecture is if the configuration says so; the solution is the rationale of the demonstration.
"""

from pathlib import Path

from unisd_rl.config.task import ScienceQATask
from unisd_rl.tasks.benchmark_data import (
    NO_FILE,
    by_split,
    from_file,
    from_hub,
    take_first,
)
from unisd_rl.tasks.multiple_choice import MultipleChoice, reshuffled, to_example
from unisd_rl.tasks.source_records import SourceRecord, read_object
from unisd_rl.types import Example

FULL = {"train": 6508, "test": 2224}
_FIELDS = ("question", "choices", "answer", "hint", "lecture", "solution")
_SPLITS = ("train", "val", "test")


def load(config: ScienceQATask) -> MultipleChoice:
    """The task of a `scienceqa` section.

    Raises:
        UserError: missing data or a bad record.
    """
    examples = {split: _examples(records, split, config) for split, records in _records(config).items()}
    splits = {split: examples[split] for split in FULL}
    split = take_first(config, config.data or config.hub, splits, FULL)
    return MultipleChoice(*split, grade_thinking=config.grade_thinking)


def _records(config: ScienceQATask) -> dict[str, list[SourceRecord]]:
    if config.data is None:
        return {split: from_hub(config.hub, None, split, _FIELDS, ("image",)) for split in FULL}
    if config.data.is_dir():
        return _from_source(config.data)
    return by_split(from_file(config.data), _SPLITS)


def _from_source(folder: Path) -> dict[str, list[SourceRecord]]:
    problems = read_object(folder / "problems.json", NO_FILE)
    splits = read_object(folder / "pid_splits.json", NO_FILE)
    return {split: [problems.inner(number) for number in splits.texts(split)] for split in FULL}


def _examples(records: list[SourceRecord], split: str, config: ScienceQATask) -> list[Example]:
    return [
        _example(record, f"{split}-{number}", config)
        for number, record in enumerate(records)
        if record.values.get("image") is None
    ]


def _example(record: SourceRecord, name: str, config: ScienceQATask) -> Example:
    choices, right = record.texts("choices"), record.integer("answer")
    if not 0 <= right < len(choices) <= 26:
        raise record.wrong(f"answer = {right} must be the position of one of its {len(choices)} choices")
    name = str(record.values.get("pid", name))
    parts = (record.text("question"), record.text("hint", may_be_empty=True), _lecture(record, config))
    stem = "\n\n".join(part.strip() for part in parts if part.strip())
    question = reshuffled(stem, choices, right, config.seed, name)
    return to_example(name, question, record.text("solution", may_be_empty=True))


def _lecture(record: SourceRecord, config: ScienceQATask) -> str:
    lecture = record.text("lecture", may_be_empty=True)
    return f"Background:\n{lecture}" if config.lecture and lecture.strip() else ""
