"""A rollout from a prompt: tokenised with its views, completed, put together.

Text ends here: a rollout has token ids of the prompt, of every view and of the completion. A gold completion is not
generated but tokenised.
"""

import asyncio
import time
from dataclasses import dataclass

from actors.engines.engine import RolloutEngine
from unisd_rl.config.rollout import RolloutConfig
from unisd_rl.models.tokenizer import ChatTokenizer
from unisd_rl.types import INITIAL_VERSION, Generation, NumberedPrompt, Rollout, Sampling, Source, Tokens, TokenView


@dataclass(frozen=True, slots=True)
class _Completion:
    """What the learner will train on; `sampled` is there only where the policy wrote it."""

    tokens: Tokens
    finish_reason: str
    sampled: Generation | None


class RolloutGenerator:
    """Makes rollouts with one engine, in the name of one actor."""

    def __init__(self, name: str, config: RolloutConfig, engine: RolloutEngine, tokenizer: ChatTokenizer) -> None:
        self._name, self._config, self._engine, self._tokenizer = name, config, engine, tokenizer

    async def generate(self, numbered: NumberedPrompt) -> Rollout:
        """The rollout of a prompt. Raises PromptFailed when the engine refuses it."""
        started_s = time.time()
        prompt_tokens = self._tokenizer.encode(numbered.prompt.messages)
        completing = asyncio.create_task(self._complete(numbered, prompt_tokens))
        try:
            await asyncio.sleep(0)  # the engine begins while the views are tokenised
            views = tuple(
                TokenView(view.kind, self._tokenizer.encode_view(view.messages)) for view in numbered.prompt.views
            )
            completion = await completing
        finally:
            completing.cancel()
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
            finished_s=time.time(),
        )

    async def _complete(self, numbered: NumberedPrompt, prompt_tokens: Tokens) -> _Completion:
        if numbered.source is Source.GOLD:
            assert numbered.prompt.gold is not None, f"prompt {numbered.number} has no gold completion"
            return _Completion(self._tokenizer.encode_completion(numbered.prompt.gold), "stop", None)
        config, seed = self._config, numbered.seed
        sampling = Sampling(
            config.temperature, config.top_p, config.max_completion_tokens, seed, config.top_k, numbered.number
        )
        answer = await self._engine.generate(prompt_tokens, sampling)
        if numbered.source is Source.BASE:
            initial = (answer.versions == INITIAL_VERSION.number).all()  # of any lineage: a rollback may go back to it
            assert initial, f"prompt {numbered.number} has tokens of a trained model"
            return _Completion(answer.tokens, answer.finish_reason, None)
        return _Completion(answer.tokens, answer.finish_reason, answer)
