"""The words of the system: everything that crosses a process, as frozen dataclasses.

A `Prompt` is one task example with the contexts (`View`s) a teacher will read; it gets its
number at admission. A `Rollout` is a numbered prompt with the completion the student sampled.

| wire | types (unisd_rl/transport has its own, and its calls) |
|---|---|
| driver -> queue -> actor | `NumberedPrompt` |
| actor -> queue -> learner | `Rollout` as a row of an Arrow batch; `PolicyVersion`s in it |
| learner -> driver, after a step | `TokenSample` |
| driver -> actor, evaluations | `Message`s, `Sampling`, `PolicyVersion`; back a `Generation` |
| actor -> driver | `ActorReport`, `Pulse` |
| driver -> console and events.jsonl | `Failure`, `Recovery`, `Notice`, `Scaling`, `Stop`, `Resumption` |

No torch and no Ray here: every package may import this module at no cost.

Token arrays are one-dimensional numpy arrays: int32 for ids and versions, float32 for log-probs.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int32]

Logprobs = NDArray[np.float32]


class Source(StrEnum):
    """The origin of a completion. Only `POLICY` rows have versions and a staleness bound."""

    POLICY = "policy"
    GOLD = "gold"
    BASE = "base"


class ViewKind(StrEnum):
    """The kind of context a teacher reads in front of the completion (method.md, section 5)."""

    PRIMARY = "primary"  # the gold demonstration of this very problem
    AUXILIARY = "auxiliary"  # a solved example of another problem
    NEGATIVE = "negative"  # a demonstration verified to be wrong


TOOLS = "tools"
"""The role of a first turn that declares tools: a JSON list of functions, which the chat template writes."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat."""

    role: str
    content: str
    extra: str = ""
    """What else the chat template is given of the turn, a JSON object: `tool_calls`, `tool_call_id`, `name`, ...; empty
    for nothing."""

    @property
    def texts(self) -> tuple[str, ...]:
        """All that the turn says."""
        return (self.role, self.content, self.extra) if self.extra else (self.role, self.content)


@dataclass(frozen=True, slots=True)
class View:
    """One context: the messages a teacher reads in front of a completion."""

    kind: ViewKind
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Example:
    """One record of a task: the question, a worked solution, and the reference answer.

    The demonstration is written as an answer to the prompt would be: it is also the gold completion.
    """

    id: str
    question: str
    demonstration: str
    answer: str
    chat: tuple[Message, ...] = ()
    """What the student reads where that is more than the question: history, a system turn, tools. `question` is then
    what the chat asks, as one text."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """The messages the student reads, and every view of the problem. Still text, not yet numbered."""

    id: str
    messages: tuple[Message, ...]
    views: tuple[View, ...]
    gold: str | None = None
    """The problem's gold completion; None where the run trains on none."""


@dataclass(frozen=True, slots=True)
class NumberedPrompt:
    """An admitted prompt: its position in the training order, the seed of its sampling, and who completes it.

    One completion each: of G answers to a problem there are G of these, with consecutive numbers, that share `prompt`.
    """

    number: int
    seed: int
    prompt: Prompt
    source: Source = Source.POLICY


@dataclass(frozen=True, slots=True, order=True)
class PolicyVersion:
    """A version of the student. `number` counts optimiser steps; `lineage` rises when the learner rolls back."""

    lineage: int
    number: int


INITIAL_VERSION = PolicyVersion(lineage=0, number=0)
"""The model before its first optimiser step: what `BASE` rows are sampled from."""


@dataclass(frozen=True, slots=True)
class TokenView:
    """A view after tokenisation."""

    kind: ViewKind
    tokens: Tokens


@dataclass(frozen=True, slots=True)
class Rollout:
    """A numbered prompt with its completion (end-of-sequence token included).

    `logprobs`, `lineages` and `versions` have one entry per completion token and are None
    unless `source` is `POLICY`. Times are seconds since the epoch.
    """

    number: int
    id: str
    source: Source
    prompt_tokens: Tokens
    views: tuple[TokenView, ...]
    completion_tokens: Tokens
    logprobs: Logprobs | None
    lineages: Tokens | None
    versions: Tokens | None
    finish_reason: str
    seed: int
    actor: str
    started_s: float
    finished_s: float

    @property
    def truncated(self) -> bool:
        """Whether the limit on tokens ended the completion."""
        return self.finish_reason == "length"

    def view(self, kind: ViewKind) -> TokenView | None:
        """The first view of this kind, or None."""
        return next((view for view in self.views if view.kind is kind), None)

    def views_of(self, kind: ViewKind) -> tuple[TokenView, ...]:
        """All views of this kind, in order."""
        return tuple(view for view in self.views if view.kind is kind)


@dataclass(frozen=True, slots=True)
class TokenSample:
    """What a step measured at each token of one of its completions, its first tokens if it is long.

    `values`: name -> one float32 a token; nan where a number does not exist. `logprob`, `primary`, `negative` are
    log-probs of the token under the student and the teacher's views, `entropy` is the student's; the rest is said by
    the terms of the loss. All in nats but `weight`.
    """

    number: int
    source: Source
    finish_reason: str
    tokens: Tokens
    length: int
    """Tokens of the whole completion."""
    versions: Tokens | None
    values: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Sampling:
    """The settings of sampling. Temperature 0 is greedy. `seed` None leaves it to the engine.

    `top_k` keeps the likeliest tokens (None: all), then `top_p` the nucleus of what is left. `number` is the prompt's
    position in the training order, None for one that is not trained on. `allowed` are the tokens that may be sampled,
    None for all.
    """

    temperature: float
    top_p: float
    max_tokens: int
    seed: int | None = None
    top_k: int | None = None
    number: int | None = None
    allowed: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Generation:
    """The result of a rollout engine for one prompt; arrays have one entry per token."""

    tokens: Tokens
    logprobs: Logprobs
    lineages: Tokens
    versions: Tokens
    finish_reason: str


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of an evaluation: the prompt, the completion, and whether it was right.

    A problem answered several times has samples 0, 1, ...; `generation.logprobs` are of the distribution sampled from.
    """

    id: str
    sample: int
    prompt_tokens: Tokens
    completion: str
    generation: Generation
    reference: str
    correct: bool
    question: str = ""
    """What was asked, without what a chat template writes around it."""
    stated: str | None = None
    """The answer that the grader read in the completion; None where it read none, or does not say."""


@dataclass(frozen=True, slots=True)
class ActorReport:
    """What one actor did since it started.

    `rollouts`: committed to the queue. `answered`: prompts of evaluations and probes. `pauses_ms`: one entry per weight
    update, see `actors.engines.engine.PauseReport`.
    """

    name: str
    version: PolicyVersion
    rollouts: int
    answered: int
    pauses_ms: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Pulse:
    """The answer to a ping. `served_s`: seconds it has served the queue, `busy_s` of them with a prompt in flight."""

    version: PolicyVersion
    served_s: float
    busy_s: float


@dataclass(frozen=True, slots=True)
class Failure:
    """Something that broke: an event of the run.

    `component` is one of `rollout-2`, `learner`, `queue`, `store`, `checkpoint`, `evaluation`, `driver`; `reason` a
    sentence without a full stop; `restart` how many times in a row it has been started again; `wait_s` the back-off
    before that, in seconds."""

    component: str
    reason: str
    restart: int
    wait_s: float


@dataclass(frozen=True, slots=True)
class Recovery:
    """The component works again, `seconds` after it broke: an event of the run."""

    component: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Notice:
    """Something a person should know of that ended nothing: an event of the run; `reason` as in `Failure`."""

    component: str
    reason: str


@dataclass(frozen=True, slots=True)
class Alarm:
    """A number of a step passed its bar, which ended nothing: an event of the run; `reason` as in `Failure`."""

    component: str
    reason: str
    signal: str
    """Its name in metrics.jsonl."""
    step: int
    """Counted from 1, as on the screen."""
    value: float
    bar: float


@dataclass(frozen=True, slots=True)
class Scaling:
    """There shall be another number of rollout actors, `actors` instead of `before`: an event of the run."""

    component: str
    reason: str
    before: int
    actors: int


@dataclass(frozen=True, slots=True)
class Stop:
    """The run ends because it was asked to, by the signal `reason`: an event of the run, and no failure."""

    component: str
    reason: str


@dataclass(frozen=True, slots=True)
class Resumption:
    """A run that was stopped goes on, `seconds` after it was resumed: an event of the run."""

    component: str
    seconds: float


Event = Failure | Recovery | Alarm | Notice | Scaling | Stop | Resumption

Report = Callable[[Event], None]
"""Receives every event: the run's folder and the console."""


class Progress(Protocol):
    """A display of long work: the driver's console, or none."""

    def waiting(self, what: str) -> AbstractContextManager[None]:
        """Show that work of unknown length runs in this block."""
        ...

    def progress(self, what: str) -> AbstractContextManager["ReportProgress"]:
        """Show a bar; the block reports how many of how many are done, and a short note."""
        ...


ReportProgress: TypeAlias = Callable[[int, int, str], None]
"""A callback of long work: how many problems or steps are done, of how many, and a note, which may be empty."""

OnWait: TypeAlias = Callable[[], None]
"""A callback of a wait, called about once a second; what it raises ends the wait."""


def no_op() -> None:
    """The callback of a wait during which nothing else is checked."""
