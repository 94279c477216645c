r"""MATH-500: 500 competition problems of MATH (Hendrycks et al., 2021; the split of Lightman et al., 2023).

A solution puts its answer into `\boxed{}`; graded as mathematics, by math-verify. Trained on what other records of the
same fields there are: the 12,000 others of MATH, for example.
"""

from unisd_rl.config.grader import MathGrader
from unisd_rl.config.task import MATHTask
from unisd_rl.tasks.answer_rules import last_boxed
from unisd_rl.tasks.benchmark_data import from_hub
from unisd_rl.tasks.source_records import SourceRecord
from unisd_rl.tasks.word_problems import BOX, WordProblems, local_records, word_problems
from unisd_rl.types import Example

FULL = {"test": 500}
_FIELDS, _OPTIONAL = ("problem", "solution"), ("answer", "unique_id")


def load(config: MATHTask) -> WordProblems:
    """The task of a `math` section.

    Raises:
        UserError: missing data or a bad record.
    """
    if config.data is None:
        test = from_hub(config.hub, None, "test", _FIELDS, _OPTIONAL)
        train = from_hub(config.train_hub, None, "train", _FIELDS, _OPTIONAL) if config.train_hub else []
        records = {"train": train, "test": test}
    else:
        records = local_records(config.data, ("train", "test"), optional=("train",))
    grader = MathGrader(type="math", grade_thinking=config.grade_thinking)
    return word_problems(config, records, FULL, to_example, grader, BOX)


def to_example(record: SourceRecord, name: str) -> Example:
    r"""One record as an example; the answer is its field, or what its solution puts into `\boxed{}`.

    Raises:
        UserError: it lacks a field, or has neither.
    """
    solution = record.text("solution").strip()
    answer = record.text("answer") if record.values.get("answer") is not None else last_boxed(solution)
    if not answer:
        raise record.wrong(r"it has no answer, and its solution no \boxed{}")
    name = record.text("unique_id") if record.values.get("unique_id") is not None else name
    return Example(name, record.text("problem").strip(), solution, answer.strip())
