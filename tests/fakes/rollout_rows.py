"""Rollouts made by hand, and what it means for two of them to be equal."""

import asyncio
from dataclasses import fields

import numpy as np

from unisd_rl.transport.rollouts.schema import encode
from unisd_rl.types import Message, NumberedPrompt, Prompt, Rollout, Source, TokenView, View, ViewKind


def numbered(number: int, source: Source = Source.POLICY) -> NumberedPrompt:
    """A prompt as the driver admits it."""
    message = (Message("user", f"question {number}"),)
    prompt = Prompt(f"p{number}", message, (View(ViewKind.PRIMARY, message),), gold=f"answer {number}")
    return NumberedPrompt(number, 1000 + number, prompt, source)


def rollout(
    number: int,
    versions: tuple[int, ...] = (0,),
    actor: str = "a",
    lineage: int = 0,
    source: Source = Source.POLICY,
) -> Rollout:
    """A row with one completion token per entry of `versions`, which only a policy row keeps."""
    length, sampled = len(versions), source is Source.POLICY
    return Rollout(
        number=number,
        id=f"p{number}",
        source=source,
        prompt_tokens=np.array([1, 2, number], np.int32),
        views=(TokenView(ViewKind.PRIMARY, np.array([7, number], np.int32)),),
        completion_tokens=np.arange(length, dtype=np.int32),
        logprobs=np.full(length, -0.5, np.float32) if sampled else None,
        lineages=np.full(length, lineage, np.int32) if sampled else None,
        versions=np.array(versions, np.int32) if sampled else None,
        finish_reason="stop",
        seed=1000 + number,
        actor=actor,
        started_s=1.0,
        finished_s=2.0,
    )


def same_rollouts(left: list[Rollout], right: list[Rollout]) -> bool:
    """Equal in every field, and arrays in their type too."""
    return len(left) == len(right) and all(map(_same_rollout, left, right))


def _same_rollout(left: Rollout, right: Rollout) -> bool:
    names = [field.name for field in fields(Rollout) if field.name != "views"]
    views = [(view.kind, view.tokens) for view in left.views], [(view.kind, view.tokens) for view in right.views]
    return (
        all(_same(_value(left, name), _value(right, name)) for name in names)
        and len(views[0]) == len(views[1])
        and all(kind == other and _same(tokens, others) for (kind, tokens), (other, others) in zip(*views, strict=True))
    )


def _value(row: Rollout, name: str) -> object:
    return Rollout.__dict__[name].__get__(row)


def _same(left: object, right: object) -> bool:
    if isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
        return left.dtype == right.dtype and np.array_equal(left, right)
    return type(left) is type(right) and left == right


class HandClock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def append(ledger, *rows, barred=()):
    return asyncio.run(ledger.append(encode(rows), barred))
