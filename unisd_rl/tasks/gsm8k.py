"""GSM8K: grade-school mathematics in words (Cobbe et al., 2021; openai/grade-school-math).

A source's solution has calculator notes (`<<48/2=24>>`), which are left out, and ends with `#### 24`, which becomes the
answer's line. Graded by the number.
"""

import re

from unisd_rl.config.grader import NumberGrader
from unisd_rl.config.task import GSM8KTask
from unisd_rl.tasks.answer_rules import answer_rule
from unisd_rl.tasks.benchmark_data import NO_FILE, by_split, from_file, from_hub, take_first
from unisd_rl.tasks.source_records import SourceRecord, read_records
from unisd_rl.tasks.word_problems import ANSWER_LINE, WordProblems
from unisd_rl.types import Example

FULL = {"train": 7473, "test": 1319}
_NOTE = re.compile(r"<<[^<>]*>>")
_END = re.compile(r"\n?####\s*(\S[^\n]*?)\s*\Z")


def load(config: GSM8KTask) -> WordProblems:
    """The task of a `gsm8k` section.

    Raises:
        UserError: missing data or a bad record.
    """
    examples = {
        split: [to_example(record, f"{split}-{number}") for number, record in enumerate(records)]
        for split, records in _records(config).items()
    }
    splits = take_first(config, config.data or config.hub, examples, FULL)
    rule = answer_rule(NumberGrader(type="number", grade_thinking=config.grade_thinking))
    return WordProblems(*splits, rule, ANSWER_LINE)


def _records(config: GSM8KTask) -> dict[str, list[SourceRecord]]:
    if config.data is None:
        return {split: from_hub(config.hub, "main", split, ("question", "answer")) for split in FULL}
    if config.data.is_dir():
        return {split: read_records(config.data / f"{split}.jsonl", NO_FILE) for split in FULL}
    return by_split(from_file(config.data), tuple(FULL))


def to_example(record: SourceRecord, name: str) -> Example:
    """One record as an example.

    Raises:
        UserError: it lacks a field, or its solution does not end with `#### ` and a number.
    """
    solution = _NOTE.sub("", record.text("answer"))
    end = _END.search(solution)
    if end is None or not re.search(r"\d", end[1]):
        raise record.wrong(f"answer must end with `#### ` and a number, but ends {solution[-40:]!r}")
    worked = solution[: end.start()].strip()
    return Example(name, record.text("question").strip(), f"{worked}\nAnswer: {end[1]}", end[1])
