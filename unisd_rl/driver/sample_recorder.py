"""The tokens that a run keeps for people to look at: samples.jsonl, from which the report colours answers.

```
 numbers of few rollouts --step--> learner: numbers per token --TokenSample--> here: text of the tokens, views' texts
```

Which rollouts they are follows from the configuration and the number of problems, so a run that is resumed goes on with
the same. Of the first problems every answer in up to 16 of the run's epochs is kept, so that one sees what became of an
answer; a long epoch is seen through the first problems of some steps. So the file has at most 160 rows.
"""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from unisd_rl.config import Config
from unisd_rl.contexts.prompts import PromptStream
from unisd_rl.models.tokenizer import ChatTokenizer
from unisd_rl.tasks.load import runs_programs
from unisd_rl.tasks.task import Task
from unisd_rl.types import PolicyVersion, TokenSample

PROBLEMS, EPOCHS, STEPS, PER_STEP = 8, 16, 16, 2
_VIEW_CHARACTERS = 20_000


class Places(Protocol):
    """The part of a `PromptStream` that says where problems stand."""

    def __len__(self) -> int: ...

    def index(self, place: int) -> int:
        """As `PromptStream.index`."""
        ...

    def places(self, problem: int, epochs: Any) -> list[int]:
        """As `PromptStream.places`."""
        ...


def sampled_numbers(prompts: Places, config: Config) -> Mapping[int, frozenset[int]]:
    """Step -> numbers of the rollouts of which tokens are kept."""
    answers, batch = config.rollout.answers_per_prompt, config.learner.batch_size
    places = config.run.total_steps * batch // answers
    epochs = _spread(-(-places // len(prompts)), EPOCHS)
    followed = [prompts.index(place) for place in range(min(PROBLEMS, places, len(prompts)))]
    chosen = {place for problem in followed for place in prompts.places(problem, epochs) if place < places}
    per_step = batch // answers
    chosen |= {
        step * per_step + index for step in _spread(config.run.total_steps, STEPS) for index in range(PER_STEP)
    } & set(range(places))
    by_step: defaultdict[int, set[int]] = defaultdict(set)
    for place in chosen:
        by_step[place * answers // batch].add(place * answers)
    return {step: frozenset(numbers) for step, numbers in by_step.items()}


def _spread(count: int, most: int) -> list[int]:
    """At most `most` of 0 .. count - 1, evenly spread, the first and the last among them."""
    return sorted({int(number) for number in np.linspace(0, count - 1, min(count, most)).round()})


class SampleRecorder:
    """Says which rollouts are sampled, and makes the lines of samples.jsonl."""

    def __init__(self, config: Config, prompts: PromptStream, model: Path, task: Task) -> None:
        self._numbers = sampled_numbers(prompts, config)
        self._prompts, self._answers_per_prompt = prompts, config.rollout.answers_per_prompt
        self._task = None if runs_programs(config.task) else task  # a program would take the engines' cores
        self._tokenizer = ChatTokenizer(model, config.model.chat_template)

    def numbers(self, step: int) -> frozenset[int]:
        """Of the rollouts of `step`; mostly none."""
        return self._numbers.get(step, frozenset())

    def line(self, version: PolicyVersion, sample: TokenSample) -> dict[str, Any]:
        """The line of one rollout of the step that led to `version`; numbers have four digits."""
        prompt = self._prompts.prompt(sample.number).prompt
        return {
            "lineage": version.lineage,
            "step": version.number - 1,
            "number": sample.number,
            "id": prompt.id,
            "source": sample.source.value,
            "finish_reason": sample.finish_reason,
            "correct": self._grade(sample),
            "messages": [_message(message.role, message.content) for message in prompt.messages],
            "views": [
                {"kind": view.kind.value, "messages": [_message(each.role, each.content) for each in view.messages]}
                for view in prompt.views
            ],
            "length": sample.length,
            "tokens": self._tokenizer.pieces(sample.tokens),
            "versions": None if sample.versions is None else sample.versions.tolist(),
            "values": {name: [_rounded(value) for value in values] for name, values in sample.values.items()},
        }

    def _grade(self, sample: TokenSample) -> bool | None:
        """Whether the answer is right; None where it is not whole here, or where programs would tell."""
        if self._task is None or sample.length > len(sample.tokens):
            return None
        example = self._prompts.example(sample.number // self._answers_per_prompt)
        return self._task.grade(self._tokenizer.decode(sample.tokens), example)


def _message(role: str, content: str) -> dict[str, str]:
    cut = content if len(content) <= _VIEW_CHARACTERS else content[:_VIEW_CHARACTERS] + " [...]"
    return {"role": role, "content": cut}


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
