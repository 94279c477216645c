"""The student examined on held-out problems: greedy, through the rollout actors, of one version (decision 14)."""

import time
from collections.abc import Sequence
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


def evaluate(group: RolloutGroup, task: Task, config: Config, version: PolicyVersion) -> Evaluation:
    """Let the actors answer every held-out problem with the weights of `version`; ungraded are none."""
    started = time.monotonic()
    greedy = Sampling(temperature=0.0, top_p=1.0, max_tokens=config.rollout.max_completion_tokens)
    prompts = [task.student_messages(example) for example in task.evaluation]
    answered = group.answer(prompts, greedy, version)
    return Evaluation(version, _graded(task, task.evaluation, answered), time.monotonic() - started)


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
