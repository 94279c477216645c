"""Rollouts and prompts of any size and any number, made here."""

import numpy as np

from unisd_rl.types import Message, NumberedPrompt, Prompt, Rollout, Source, TokenView, ViewKind


def rollout(prompt: NumberedPrompt, version: int, actor: str, row_bytes: int) -> Rollout:
    """A row of about `row_bytes`: half of it completion (token, log-prob, lineage, version), half five views."""
    tokens, view = row_bytes // 32, row_bytes // 40
    return Rollout(
        number=prompt.number,
        id=prompt.prompt.id,
        source=Source.POLICY,
        prompt_tokens=np.zeros(16, np.int32),
        views=tuple(TokenView(ViewKind.AUXILIARY, np.zeros(view, np.int32)) for _ in range(5)),
        completion_tokens=np.zeros(tokens, np.int32),
        logprobs=np.zeros(tokens, np.float32),
        lineages=np.zeros(tokens, np.int32),
        versions=np.full(tokens, version, np.int32),
        finish_reason="stop",
        seed=prompt.seed,
        actor=actor,
        started_s=0.0,
        finished_s=1.0,
    )


def prompts(first: int, end: int) -> list[NumberedPrompt]:
    message = (Message("user", "what is asked"),)
    return [NumberedPrompt(number, number, Prompt(f"p{number}", message, ())) for number in range(first, end)]
