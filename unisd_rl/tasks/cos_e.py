"""CoS-E v1.11: common sense questions with people's explanations (Rajani et al., 2019; salesforce/cos-e).

The rationale of a demonstration is the open-ended explanation. The published data names the right choice by its text,
which some questions have twice: either position counts. The source's own files are joined on their ids.
"""

from pathlib import Path

from unisd_rl.config.task import CosETask
from unisd_rl.tasks.benchmark_data import by_split, from_file, from_hub, take_first
from unisd_rl.tasks.multiple_choice import MultipleChoice, reshuffled, to_example
from unisd_rl.tasks.source_records import SourceRecord
from unisd_rl.types import Example

FULL = {"train": 9741, "validation": 1221}
_FIELDS = ("id", "question", "choices", "answer", "abstractive_explanation")
_SOURCE = {"train": "train", "validation": "dev"}  # our split, and its name in the source's files


def load(config: CosETask) -> MultipleChoice:
    """The task of a `cos_e` section.

    Raises:
        UserError: missing data or a bad record.
    """
    splits = take_first(config, config.data or config.hub, _examples(config), FULL)
    return MultipleChoice(*splits, grade_thinking=config.grade_thinking)


def _examples(config: CosETask) -> dict[str, list[Example]]:
    if config.data is not None and config.data.is_dir():
        return {split: _joined(config.data, name, config.seed) for split, name in _SOURCE.items()}
    if config.data is not None:
        records = by_split(from_file(config.data), tuple(FULL))
    else:
        records = {split: from_hub(config.hub, "v1.11", split, _FIELDS) for split in FULL}
    return {split: [_published(record, config.seed) for record in records[split]] for split in FULL}


def _published(record: SourceRecord, seed: int) -> Example:
    choices, answer = record.texts("choices"), record.text("answer")
    if answer not in choices:
        raise record.wrong(f"answer = {answer!r} is none of its choices")
    question = reshuffled(record.text("question"), choices, choices.index(answer), seed, record.text("id"))
    return to_example(record.text("id"), question, record.text("abstractive_explanation", may_be_empty=True))


def _joined(folder: Path, name: str, seed: int) -> list[Example]:
    questions = dict[str, SourceRecord]()
    for record in from_file(folder / f"{name}_rand_split.jsonl"):
        if questions.setdefault(record.text("id"), record) is not record:
            raise record.wrong(f"the id {record.text('id')!r} occurs twice")
    examples = []
    for record in from_file(folder / f"cose_{name}_v1.11_processed.jsonl"):
        if record.text("id") not in questions:
            raise record.wrong(f"no question has the id {record.text('id')!r}")
        explanation = record.inner("explanation").text("open-ended", may_be_empty=True)
        examples.append(_of_source(questions[record.text("id")], explanation, seed))
    return examples


def _of_source(record: SourceRecord, explanation: str, seed: int) -> Example:
    question, key = record.inner("question"), record.text("answerKey")
    choices = [SourceRecord(question.location, choice) for choice in question.items("choices")]
    labels = [choice.text("label") for choice in choices]
    if key not in labels:
        raise record.wrong(f"answerKey = {key!r} is none of its labels {', '.join(labels)}")
    texts, name = [choice.text("text") for choice in choices], record.text("id")
    return to_example(name, reshuffled(question.text("stem"), texts, labels.index(key), seed, name), explanation)
