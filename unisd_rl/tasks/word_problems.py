"""Problems of mathematics in words: records that are put with the form of the answer that is graded."""

from collections.abc import Sequence

from typing_extensions import override

from unisd_rl.tasks.answer_rules import AnswerRule
from unisd_rl.tasks.records import Records
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
