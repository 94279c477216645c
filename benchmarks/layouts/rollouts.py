"""Rollouts as actors make them: real problems with their views, and answers that the model itself sampled.

```
records --task--> problems --contexts, templates, tokenizer--> prompt and views, in either order
                                    prompt --transformers' generate--> its own answers --> steps of rollouts
```
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter
from transformers import AutoModelForCausalLM

from benchmarks.learner_step import aligned, gold_rollout
from unisd_rl.config import Config
from unisd_rl.config.load import load_recipe, overlay
from unisd_rl.config.task import TaskConfig
from unisd_rl.contexts.prepare import ContextBuilder
from unisd_rl.contexts.prompts import prompt_of
from unisd_rl.contexts.selection import measure_with
from unisd_rl.models.tokenizer import ChatTokenizer
from unisd_rl.tasks.load import load_task
from unisd_rl.tasks.task import grade_all
from unisd_rl.types import Rollout, Tokens, TokenView

MADE_UP = ("tool_use", "multiples")
"""Tasks that need no records."""
VIEWS = 3
PROMPTS = 4
"""Distinct prompts that are measured at least."""


@dataclass(frozen=True)
class Case:
    """One way to make a step: `answers` to each prompt, and views in this order."""

    name: str
    order: str
    answers: int


CASES = {
    case.name: case
    for case in (
        Case("g1", "reference_first", 1),
        Case("g4", "reference_first", 4),
        Case("question_first_g1", "question_first", 1),
        Case("question_first_g4", "question_first", 4),
    )
}


@dataclass(frozen=True)
class Problem:
    """One problem's prompt and views, as tokens."""

    id: str
    prompt: Tokens
    views: tuple[TokenView, ...]


def unisd_star(model: Path, sections: dict[str, Any]) -> Config:
    """The recipe UniSD* on this model, with K = 3."""
    ours = {"model": {"path": str(model)}, "run": {"steps": 1}, "contexts": {"auxiliary": {"views": VIEWS}}}
    return load_recipe("unisd_star", overlay(ours, sections))


def texts_of(tasks: Iterable[dict[str, Any]]) -> list[str]:
    """Questions and solutions of the training problems."""
    problems = [
        problem for settings in tasks for problem in load_task(TypeAdapter(TaskConfig).validate_python(settings)).train
    ]
    return [text for problem in problems for text in (problem.question, problem.demonstration)]


def problems_of(task_settings: dict[str, Any], model: Path, order: str, count: int) -> list[Problem]:
    """`count` training problems, drawn; donors are all of the others."""
    contexts: dict[str, Any] = {"order": order}
    if task_settings["type"] in MADE_UP:
        contexts["auxiliary"] = {"type": "random", "views": VIEWS}  # retrieval asks for a package more
    config = unisd_star(model, {"task": task_settings, "contexts": contexts})
    task, tokenizer = load_task(config.task), ChatTokenizer(model)
    drawn = np.random.default_rng(0).permutation(len(task.train))[:count]
    examples = [task.train[index] for index in drawn]
    builder = ContextBuilder(config, task, tuple, None, partial(grade_all, task), measure_with(tokenizer))
    problems = []
    for example, row in zip(examples, builder.rows(examples, "benchmark"), strict=True):
        prompt = prompt_of(task, config, example, row.contexts)
        views = tuple(TokenView(view.kind, tokenizer.encode_view(view.messages)) for view in prompt.views)
        problems.append(Problem(example.id, tokenizer.encode(prompt.messages), views))
    return problems


class Answers:
    """Answers of the model itself."""

    def __init__(self, model: Path, device: str, dtype: str, longest: int, ends: bool) -> None:
        """`ends` False: the model has random weights and never ends an answer, so lengths are drawn."""
        self._model = AutoModelForCausalLM.from_pretrained(model, dtype=dtype).to(device)
        self._stops = list(ChatTokenizer(model).stop_tokens)
        self._device, self._longest, self._ends = device, longest, ends

    @torch.no_grad()
    def sample(self, prompts: Sequence[Tokens], counts: Sequence[int]) -> list[list[Tokens]]:
        """So many answers to each prompt, at temperature 0.7, end of turn included."""
        asked = [prompt for prompt, count in zip(prompts, counts, strict=True) for _ in range(count)]
        ids, real = aligned(asked, left=True)
        width = ids.shape[1]
        torch.manual_seed(0)
        found = self._model.generate(
            input_ids=ids.to(self._device),
            attention_mask=real.to(self._device),
            do_sample=True,
            temperature=0.7,
            top_k=0,
            top_p=1.0,
            max_new_tokens=self._longest,
            eos_token_id=self._stops if self._ends else None,
            pad_token_id=0,
        )
        lengths = np.random.default_rng(0).integers(self._longest // 3, self._longest + 1, len(asked))
        answers = [
            self._ended(answer, int(length))
            for answer, length in zip(found[:, width:].cpu().numpy().astype(np.int32), lengths, strict=True)
        ]
        return [answers[end - count : end] for end, count in zip(np.cumsum(counts), counts, strict=True)]

    def _ended(self, answer: Tokens, drawn: int) -> Tokens:
        if not self._ends:
            return answer[:drawn]
        stops = np.flatnonzero(np.isin(answer, self._stops))
        return answer[: stops[0] + 1] if len(stops) else answer


def steps_of(
    case: Case, problems: Sequence[Problem], answers: Sequence[Sequence[Tokens]], size: int
) -> list[list[Rollout]]:
    """Steps of `size` answers over at least `PROMPTS` distinct prompts; `answers` are those of each problem."""
    prompts = size // case.answers
    return [
        [
            gold_rollout(
                number,
                problems[index].id,
                problems[index].prompt,
                problems[index].views,
                answers[index][number % case.answers],
            )
            for number, index in enumerate(np.repeat(np.arange(start, start + prompts), case.answers))
        ]
        for start in range(0, max(PROMPTS, prompts), prompts)
    ]


def answers_needed(cases: Sequence[Case], size: int) -> list[int]:
    """How many answers each problem needs, so that every case has its steps."""
    most: Counter[int] = Counter()
    for case in cases:
        for index in range(max(PROMPTS, size // case.answers)):
            most[index] = max(most[index], case.answers)
    return [most[index] for index in range(len(most))]
