"""Many candidates graded at once: a thread a core, each waiting for its grade.

A grader that runs programs waits for their processes, so all cores work; one that only reads text is quick anyway.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from unisd_rl.contexts.build import Problems
from unisd_rl.contexts.negative import GradeMany
from unisd_rl.types import Example


def grader_of(task: Problems) -> GradeMany:
    """The task's own grade, of many texts side by side. A grader that fails ends the preparation."""

    def grade(pair: tuple[str, Example]) -> bool:
        text, example = pair
        return task.grade(text, example)

    def grade_many(pairs: Sequence[tuple[str, Example]]) -> list[bool]:
        with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0)), thread_name_prefix="grade") as threads:
            return list(threads.map(grade, pairs))

    return grade_many
