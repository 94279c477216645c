"""Evaluation of one version of a model on held-out problems, through the rollout actors (decision 14)."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from actors.group import RolloutGroup
from actors.rollout_actor import ChatAnswer, ChoiceRequest
from unisd_rl.config import Config
from unisd_rl.evaluation.choices import ChoiceScores, choice_scores, options_of_task
from unisd_rl.evaluation.retention import Retention
from unisd_rl.evaluation.statistics import EvaluationSummary, Interval, pass_at_k, wilson_interval
from unisd_rl.seeds import derive_seed
from unisd_rl.tasks.task import HasOptions, StatesAnswers, Task, grade_all
from unisd_rl.types import Answer, Example, OnWait, PolicyVersion, ReportProgress, Sampling, no_op


@dataclass(frozen=True, slots=True)
class PassRate:
    """pass@k: the chance (0 to 1) that one of `k` answers is right, mean over problems, with Wilson's 95 % interval.

    What varies is taken to be the problems, however often each was answers.
    """

    k: int
    rate: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Every answer of one version: problem by problem, in the order of the task, each `samples` times in a row."""

    version: PolicyVersion
    samples: int
    answers: tuple[Answer, ...]
    wall_s: float
    retention: Retention | None = None
    """None where it was not measured."""
    choice: ChoiceScores | None = None
    """None of tasks that are not multiple choice."""

    @property
    def problems(self) -> int:
        """Number of held-out problems."""
        return len(self.answers) // self.samples

    @property
    def correct(self) -> int:
        """Number of right answers."""
        return sum(answer.correct for answer in self.answers)

    @property
    def accuracy(self) -> float:
        """Share of right answers, 0 to 1; it is pass@1."""
        return self.correct / len(self.answers)

    @property
    def cut(self) -> int:
        """Number of answers that the limit on tokens ended."""
        return sum(answer.generation.finish_reason == "length" for answer in self.answers)

    @property
    def silent(self) -> int:
        """Number of answers in which the grader read none, right or wrong; 0 of tasks that do not say."""
        says = any(answer.stated is not None for answer in self.answers)
        return sum(answer.stated is None for answer in self.answers) if says else 0

    @property
    def mean_tokens(self) -> float:
        """Mean length of an answer."""
        return sum(len(answer.generation.tokens) for answer in self.answers) / len(self.answers)

    def scores(self, k: int = 1) -> list[float]:
        """pass@k of each problem, in order."""
        starts = range(0, len(self.answers), self.samples)
        right = [sum(answer.correct for answer in self.answers[start : start + self.samples]) for start in starts]
        return [pass_at_k(self.samples, correct, k) for correct in right]

    def pass_rate(self, k: int = 1) -> PassRate:
        """pass@k over all problems; `k` is at most `samples`."""
        scores = self.scores(k)
        return PassRate(k, sum(scores) / len(scores), wilson_interval(sum(scores), len(scores)))

    def summary(self) -> EvaluationSummary:
        """The numbers that a run's summary needs."""
        retention = self.retention.to_json() if self.retention else None
        rate, version = self.pass_rate(), self.version
        return EvaluationSummary(
            lineage=version.lineage,
            version=version.number,
            problems=self.problems,
            samples=self.samples,
            cut=self.cut,
            accuracy=self.accuracy,
            interval=rate.interval,
            retention=retention,
            choice=asdict(self.choice) if self.choice else None,
        )

    def to_json(self, ks: Sequence[int]) -> dict[str, Any]:
        """Its numbers, without the answers."""
        return {
            "problems": self.problems,
            "samples": self.samples,
            "correct": self.correct,
            "accuracy": self.accuracy,
            "pass_at_k": [asdict(self.pass_rate(k)) for k in ks],
            "cut": self.cut,
            "mean_tokens": self.mean_tokens,
            "wall_s": self.wall_s,
            "choice": asdict(self.choice) if self.choice else None,
            "retention": self.retention.to_json() if self.retention else None,
        }


def evaluate(
    group: RolloutGroup,
    task: Task,
    config: Config,
    version: PolicyVersion,
    progress: ReportProgress,
    on_wait: OnWait = no_op,
) -> Evaluation:
    """Let the actors answer every held-out problem with the weights of `version`, and grade every answer.

    The problems go out in slices, each as large as what the actors answer at a time; `progress` is told after each.
    `on_wait` is that of `RolloutGroup.answers`.
    How a sample is drawn depends on the seed, the problem's place and the sample's number, not on actors and slices.
    """
    started, samples = time.monotonic(), config.evaluation.samples
    requests = [(example, sample) for example in task.evaluation for sample in range(samples)]
    answers, letters = list[ChatAnswer](), list[str | None]()
    with group.leases_paused():
        while (start := len(answers)) < len(requests):
            size = config.evaluation.concurrency * max(1, group.serving)
            chats = [task.student_messages(example) for example, _ in requests[start : start + size]]
            answers += group.answers(chats, _sampling(config, start), version, on_wait)
            progress(len(answers), len(requests), "")
        if (options := options_of_task(task)) is not None:
            while (start := len(letters)) < len(task.evaluation):
                size = config.evaluation.concurrency * max(1, group.serving)
                examples = task.evaluation[start : start + size]
                letters += _likeliest(group, task, options, examples, version, on_wait)
                progress(len(letters), len(task.evaluation), "the likelihood of options")
    graded = _graded(task, requests, answers)
    scores = None if options is None else choice_scores(options, task.evaluation, graded, letters)
    return Evaluation(version, samples, graded, time.monotonic() - started, choice=scores)


def _likeliest(
    group: RolloutGroup,
    task: Task,
    options: HasOptions,
    examples: Sequence[Example],
    version: PolicyVersion,
    on_wait: OnWait,
) -> list[str | None]:
    """Of each problem the letter of its likeliest option; None where no token tells the options apart."""
    answers = [options.option_answers(example) for example in examples]
    requests = [
        ChoiceRequest(task.student_messages(example), tuple(texts.values()))
        for example, texts in zip(examples, answers, strict=True)
    ]
    found = group.choices(requests, version, on_wait)
    return [
        next((letter for letter, text in texts.items() if text == likeliest), None)
        for texts, likeliest in zip(answers, found, strict=True)
    ]


def _sampling(config: Config, start: int) -> Sampling:
    """For the answers from `start` on: the i-th of a group's answers is drawn with the seed plus i."""
    temperature, limit = config.evaluation_temperature, config.rollout.max_completion_tokens
    seed = derive_seed(config.run.seed, "evaluation") + start if temperature else None
    return Sampling(temperature=temperature, top_p=1.0, max_tokens=limit, seed=seed)


def _graded(task: Task, requests: Sequence[tuple[Example, int]], answers: Sequence[ChatAnswer]) -> tuple[Answer, ...]:
    right = grade_all(task, [(answer.text, example) for answer, (example, _) in zip(answers, requests, strict=True)])
    states = task if isinstance(task, StatesAnswers) else None
    return tuple(
        Answer(
            id=example.id,
            sample=sample,
            prompt_tokens=answer.prompt_tokens,
            completion=answer.text,
            generation=answer.generation,
            reference=example.answer,
            correct=correct,
            question=example.question,
            stated=states.stated(answer.text, example) if states else None,
        )
        for (example, sample), answer, correct in zip(requests, answers, right, strict=True)
    )
