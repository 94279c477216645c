"""GSM8K: grade-school mathematics in words (Cobbe et al., 2021; openai/grade-school-math).

A source's solution has calculator notes (`<<48/2=24>>`), which are left out, and ends with `#### 24`, which becomes the
answer's line. Graded by the number.
"""

import re

from unisd_rl.config.grader import NumberGrader
from unisd_rl.config.task import GSM8KTask
from unisd_rl.tasks.benchmark_data import from_hub
from unisd_rl.tasks.source_records import SourceRecord
from unisd_rl.tasks.word_problems import ANSWER_LINE, WordProblems, local_records, word_problems
from unisd_rl.types import Example

FULL = {"train": 7473, "test": 1319}
_NOTE = re.compile(r"<<[^<>]*>>")
_END = re.compile(r"\n?####\s*(\S[^\n]*?)\s*\Z")


def load(config: GSM8KTask) -> WordProblems:
    """The task of a `gsm8k` section.

    Raises:
        UserError: missing data or a bad record.
    """
    if config.data is None:
        records = {split: from_hub(config.hub, "main", split, ("question", "answer")) for split in FULL}
    else:
        records = local_records(config.data, tuple(FULL))
    grader = NumberGrader(type="number", grade_thinking=config.grade_thinking)
    return word_problems(config, records, FULL, to_example, grader, ANSWER_LINE)


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
