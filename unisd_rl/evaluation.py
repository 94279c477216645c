"""The student examined on held-out problems: greedy, through the rollout actors, of one version (decision 14)."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from actors.group import RolloutGroup
from unisd_rl.config import Config
from unisd_rl.tasks.task import Task
from unisd_rl.types import Answer, Example, Generation, PolicyVersion, Sampling


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Every answer of one version, in the order of the held-out problems."""

    version: PolicyVersion
    answers: tuple[Answer, ...]
    wall_s: float

    @property
    def correct(self) -> int:
        """Number of right answers."""
        return sum(answer.correct for answer in self.answers)

    @property
    def accuracy(self) -> float:
        """Share of right answers, 0 to 1."""
        return self.correct / len(self.answers)


def evaluate(
    group: RolloutGroup, task: Task, config: Config, version: PolicyVersion, progress: Callable[[float, str], None]
) -> Evaluation:
    """Let the actors answer every held-out problem with the weights of `version`; ungraded are none.

    The problems go out in slices, each as large as what the actors answer at a time; `progress` is told after each.
    """
    started = time.monotonic()
    greedy = Sampling(temperature=0.0, top_p=1.0, max_tokens=config.rollout.max_completion_tokens)
    size, examples = config.evaluation.concurrency * config.rollout.actors, task.evaluation
    answers: tuple[Answer, ...] = ()
    for start in range(0, len(examples), size):
        asked = examples[start : start + size]
        answered = group.answer([task.student_messages(example) for example in asked], greedy, version)
        answers += _graded(task, asked, answered)
        progress(len(answers) / len(examples), f"{len(answers)} of {len(examples)}")
    return Evaluation(version, answers, time.monotonic() - started)


def _graded(task: Task, examples: Sequence[Example], answered: Sequence[tuple[str, Generation]]) -> tuple[Answer, ...]:
    return tuple(
        Answer(
            id=example.id,
            completion=text,
            tokens=len(generation.tokens),
            reference=example.answer,
            correct=task.grade(text, example),
        )
        for example, (text, generation) in zip(examples, answered, strict=True)
    )
