"""Hand-made ends for the service: an engine whose answers are released one by one, a tokenizer of bytes, a queue."""

import asyncio

import numpy as np

from actors.engines.engine import NO_WEIGHTS, PromptFailed
from unisd_rl.transport.rollouts.dispatch import CommitAnswer
from unisd_rl.transport.rollouts.schema import decode
from unisd_rl.types import Generation, Message, NumberedPrompt, PolicyVersion, Prompt, Source, View, ViewKind

WAIT_S = 10.0
VERSION_0 = PolicyVersion(0, 0)


END_OF_TURN = 0


def numbered(number: int, source: Source = Source.POLICY, answers: int = 1) -> NumberedPrompt:
    """Of `answers` answers to each prompt the one with this number."""
    group = number // answers
    view = View(ViewKind.PRIMARY, (Message("user", f"view of {group}"),))
    prompt = Prompt(f"id-{group}", (Message("user", f"q{group}"),), (view,), gold=f"gold of {group}")
    return NumberedPrompt(number, 100 + number, prompt, source)


async def until(condition) -> None:
    """Let other tasks run until `condition()`; fails after a while."""
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.001)


class ByteTokenizer:
    """One token per byte of all messages; a byte of zero ends a turn. `encoded` are the texts of all calls."""

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def encode(self, messages) -> np.ndarray:
        self.encoded += [message.content for message in messages]
        return np.frombuffer("".join(message.content for message in messages).encode(), np.uint8).astype(np.int32)

    encode_view = encode

    def encode_completion(self, text) -> np.ndarray:
        return np.append(self.encode((Message("assistant", text),)), np.int32(END_OF_TURN))

    def decode(self, tokens) -> str:
        return bytes(tokens.tolist()).decode()


class HeldEngine:
    """Echoes a prompt once `release` says so; a prompt that contains `poison`, or has `poisoned` for its number, cannot
    be answered."""

    def __init__(self, version=VERSION_0, poison: str = "no prompt", poisoned: int | None = None) -> None:
        self.version, self.poison, self.poisoned = version, poison, poisoned
        self.started: list[str] = []
        self.samplings = []
        self.cancelled = self.finished = 0
        self.tokens, self.paused = 0, False
        self.failure: Exception | None = None
        self._released = asyncio.Semaphore(0)

    def release(self, count: int) -> None:
        for _ in range(count):
            self._released.release()

    async def start(self) -> None:
        """Nothing to load."""

    async def close(self) -> None:
        """Nothing to give up."""

    async def sleep(self) -> None:
        """Nothing to give back."""

    async def generate(self, tokens, sampling) -> Generation:
        text = bytes(tokens.tolist()).decode()
        self.started.append(text)
        self.samplings.append(sampling)
        if self.failure is not None:
            raise self.failure
        if self.poison in text or (self.poisoned is not None and sampling.number == self.poisoned):
            raise PromptFailed(f"{text} is poison")
        try:
            await self._released.acquire()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.finished += 1
        same = np.full(len(tokens), self.version.number, np.int32)
        return Generation(tokens, np.zeros(len(tokens), np.float32), np.zeros_like(same), same, "stop")


class ListQueue:
    """Leases numbers in order and whole groups to versions >= number // batch; remembers every call."""

    def __init__(self, prompts: int, batch: int = 1000, source: Source = Source.POLICY, answers: int = 1) -> None:
        self.waiting = [numbered(number, source, answers) for number in range(prompts)]
        self.answers = answers
        self.batch = batch
        self.leases: list[tuple[PolicyVersion, int]] = []
        self.requests: list[tuple[PolicyVersion, int]] = []  # what commits asked for
        self.learner_waits = True
        self.commits: list[list[int]] = []
        self.rollouts = []
        self.failed: list[tuple[int, str]] = []
        self.released = 0
        self.renewed = 0
        self.held = ()
        self.storing = asyncio.Event()
        self.storing.set()
        self.gives_on_end: list[NumberedPrompt] = []
        self._newer_call = asyncio.Event()
        self._given: list[NumberedPrompt] = []

    def answer_now(self, prompts) -> None:
        """Let the call that waits return these."""
        self._given = prompts
        self._newer_call.set()

    async def lease(self, actor, applied, wanted, timeout_s):
        self.leases.append((applied, wanted))
        self._newer_call.set()
        self._newer_call = mine = asyncio.Event()
        may = self._next(applied, wanted)
        if wanted and not may:
            await mine.wait()
            may, self._given, self.gives_on_end = self._given + self.gives_on_end, [], []
            self.waiting = [prompt for prompt in self.waiting if prompt not in may]
        return may

    def _next(self, applied, wanted):
        """What may start now; it waits no longer."""
        whole = -(-wanted // self.answers) * self.answers
        may = [prompt for prompt in self.waiting if prompt.number // self.batch <= applied.number][:whole]
        self.waiting = [prompt for prompt in self.waiting if prompt not in may]
        return may

    async def renew(self, actor, numbers):
        self.renewed += 1
        self.held = tuple(numbers)

    async def commit(self, actor, data, request):
        rollouts = decode(data)
        self.commits.append([rollout.number for rollout in rollouts])
        await self.storing.wait()
        self.rollouts += rollouts
        if request is None:
            return CommitAnswer([], self.learner_waits)
        self.requests.append((request.applied, request.wanted))
        return CommitAnswer(self._next(request.applied, request.wanted), self.learner_waits)

    async def fail(self, actor, number, reason):
        self.failed.append((number, reason))

    async def release(self, actor):
        self.released += 1


NO_VERSION = NO_WEIGHTS
