"""Many completions graded at once: in parallel where a task can, one after the other where it cannot."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from unisd_rl.tasks.task import Task
from unisd_rl.types import Example


@runtime_checkable
class GradesBatches(Protocol):
    """What a task offers beside `grade` when a grade takes long, as one that runs programs does."""

    def grade_batch(self, completions: Sequence[str], examples: Sequence[Example]) -> Sequence[bool]:
        """`grade` of each completion for the example at the same place."""
        ...


def grades(task: Task, completions: Sequence[str], examples: Sequence[Example]) -> tuple[bool, ...]:
    """Whether each completion is right, in order."""
    if isinstance(task, GradesBatches):
        return tuple(task.grade_batch(completions, examples))
    return tuple(task.grade(completion, example) for completion, example in zip(completions, examples, strict=True))
