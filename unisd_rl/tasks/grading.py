"""Many completions graded at a time."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from unisd_rl.tasks.task import Task
from unisd_rl.types import Example


def grade_all(task: Task, answers: Iterable[tuple[str, Example]]) -> list[bool]:
    """Whether each completion is right, in order; where grading runs programs, one on every core.

    Raises:
        SandboxError: the sandbox failed, so there are no grades.
    """
    with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as threads:
        return list(threads.map(lambda answer: task.grade(*answer), answers))
