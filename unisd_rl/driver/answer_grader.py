"""Grades of the answers that a step trains on: how many are right, and of how many prompts at least one.

```
batch of step k --start--> thread: rows --text--> task.grade --> result, after the learner's step
```

Only where a prompt has several answers, and where a grade is text compared: programs would take the cores that engines
and learner need. A grade is a figure to look at. Nothing is trained by it, and no run ends for want of one.
"""

from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from unisd_rl.config import Config
from unisd_rl.contexts.prompts import PromptStream
from unisd_rl.metrics import AnswerMetrics
from unisd_rl.models.tokenizer import ChatTokenizer
from unisd_rl.tasks.load import runs_programs
from unisd_rl.tasks.task import Task
from unisd_rl.transport.rollouts.driver_client import Batch, rollouts_of
from unisd_rl.types import Example

_RESULT_S = 60.0  # how long a step's line waits for grades that take longer than the step


class AnswerGrader:
    """Grades one batch at a time, beside the driver's thread. `group_size`: answers per prompt."""

    def __init__(self, group_size: int, task: Task, prompts: PromptStream, tokenizer: ChatTokenizer) -> None:
        self._group_size, self._task, self._prompts, self._tokenizer = group_size, task, prompts, tokenizer
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="grades")
        self._grading: Future[AnswerMetrics] | None = None

    def start(self, batch: Batch) -> None:
        """Begin to grade the answers of this batch."""
        groups = sorted({number // self._group_size for number in batch.numbers})
        examples = {group: self._prompts.example(group) for group in groups}
        self._grading = self._thread.submit(self._grade, batch, examples)

    def result(self) -> AnswerMetrics:
        """The grades of the batch that was begun last; nan where they take too long."""
        assert self._grading is not None, "start() comes first"
        with suppress(TimeoutError):
            return self._grading.result(_RESULT_S)
        return AnswerMetrics.of(self._group_size, [])

    def close(self) -> None:
        """Grade nothing more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _grade(self, batch: Batch, examples: Mapping[int, Example]) -> AnswerMetrics:
        grades: defaultdict[int, list[bool]] = defaultdict(list)
        for rollout in rollouts_of(batch):
            group = rollout.number // self._group_size
            text = self._tokenizer.decode(rollout.completion_tokens)
            grades[group].append(self._task.grade(text, examples[group]))
        return AnswerMetrics.of(self._group_size, list(grades.values()))


def answer_grader(config: Config, task: Task, prompts: PromptStream, model: Path) -> AnswerGrader | None:
    """None where a prompt has one answer, or a grade may take a program that is run."""
    if config.rollout.answers_per_prompt == 1 or runs_programs(config.task):
        return None
    tokenizer = ChatTokenizer(model, config.model.chat_template)
    return AnswerGrader(config.rollout.answers_per_prompt, task, prompts, tokenizer)
