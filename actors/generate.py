"""Rollouts from prompts: tokenised with their views, completed, put together.

```
unit --groups--> prompt tokens --G completions, a seed each--> rollouts, in order
                 view tokens    (meanwhile, once a group)  --^
```

Text ends here: a rollout has token ids of the prompt, of every view and of the completion. A gold completion is not
generated but tokenised.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from actors.engines.engine import PromptFailed, RolloutEngine
from unisd_rl.config.rollout import RolloutConfig
from unisd_rl.models.tokenizer import ChatTokenizer
from unisd_rl.types import INITIAL_VERSION, Generation, NumberedPrompt, Rollout, Sampling, Source, Tokens, TokenView


class CompletionFailed(Exception):
    """The engine could not answer the prompt of one `number`; it says why."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(reason)
        self.number = number


@dataclass(frozen=True, slots=True)
class _Completion:
    """What the learner will train on; `sampled` is there only where the policy wrote it."""

    tokens: Tokens
    finish_reason: str
    finished_s: float
    sampled: Generation | None


@dataclass(frozen=True, slots=True)
class _Group:
    """The answers to one problem, on their way."""

    prompts: Sequence[NumberedPrompt]
    prompt_tokens: Tokens
    completions: Sequence["asyncio.Task[_Completion]"]


class RolloutGenerator:
    """Makes rollouts with one engine, in the name of one actor."""

    def __init__(self, name: str, config: RolloutConfig, engine: RolloutEngine, tokenizer: ChatTokenizer) -> None:
        self._name, self._config, self._engine, self._tokenizer = name, config, engine, tokenizer

    async def generate(self, unit: Sequence[NumberedPrompt], on_answer: Callable[[], None]) -> list[Rollout]:
        """The rollouts of a unit, in order; `on_answer` is called as each completion ends.

        Raises:
            CompletionFailed: the engine refuses one prompt. The others of the unit are cancelled.
        """
        started_s = time.time()
        numbered = groupby(unit, key=lambda prompt: prompt.number // self._config.answers_per_prompt)
        groups = [self._start(list(prompts), on_answer) for _, prompts in numbered]
        tasks = [completion for group in groups for completion in group.completions]
        try:
            await asyncio.sleep(0)  # the engine begins while the views are tokenised
            views = [self._views(group.prompts[0]) for group in groups]
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        return [
            self._rollout(prompt, group.prompt_tokens, views_of_group, completion.result(), started_s)
            for group, views_of_group in zip(groups, views, strict=True)
            for prompt, completion in zip(group.prompts, group.completions, strict=True)
        ]

    def _start(self, prompts: Sequence[NumberedPrompt], on_answer: Callable[[], None]) -> _Group:
        tokens = self._tokenizer.encode(prompts[0].prompt.messages)
        tasks = [asyncio.create_task(self._complete(prompt, tokens, on_answer)) for prompt in prompts]
        return _Group(prompts, tokens, tasks)

    def _views(self, numbered: NumberedPrompt) -> tuple[TokenView, ...]:
        views = numbered.prompt.views
        return tuple(TokenView(view.kind, self._tokenizer.encode_view(view.messages)) for view in views)

    async def _complete(
        self, numbered: NumberedPrompt, prompt_tokens: Tokens, on_answer: Callable[[], None]
    ) -> _Completion:
        if numbered.source is Source.GOLD:
            assert numbered.prompt.gold is not None, f"prompt {numbered.number} has no gold completion"
            tokens = self._tokenizer.encode_completion(numbered.prompt.gold)
            on_answer()
            return _Completion(tokens, "stop", time.time(), None)
        try:
            answer = await self._engine.generate(prompt_tokens, self._sampling(numbered))
        except PromptFailed as error:
            raise CompletionFailed(numbered.number, str(error)) from error
        on_answer()
        if numbered.source is Source.BASE:
            initial = (answer.versions == INITIAL_VERSION.number).all()  # of any lineage: a rollback may go back to it
            assert initial, f"prompt {numbered.number} has tokens of a trained model"
            return _Completion(answer.tokens, answer.finish_reason, time.time(), None)
        return _Completion(answer.tokens, answer.finish_reason, time.time(), answer)

    def _sampling(self, numbered: NumberedPrompt) -> Sampling:
        config = self._config
        return Sampling(
            config.temperature,
            config.top_p,
            config.max_completion_tokens,
            numbered.seed,
            config.top_k,
            numbered.number,
        )

    def _rollout(
        self,
        numbered: NumberedPrompt,
        prompt_tokens: Tokens,
        views: tuple[TokenView, ...],
        completion: _Completion,
        started_s: float,
    ) -> Rollout:
        sampled = completion.sampled
        return Rollout(
            number=numbered.number,
            id=numbered.prompt.id,
            source=numbered.source,
            prompt_tokens=prompt_tokens,
            views=views,
            completion_tokens=completion.tokens,
            logprobs=sampled.logprobs if sampled else None,
            lineages=sampled.lineages if sampled else None,
            versions=sampled.versions if sampled else None,
            finish_reason=completion.finish_reason,
            seed=numbered.seed,
            actor=self._name,
            started_s=started_s,
            finished_s=completion.finished_s,
        )
