"""The loop inside a rollout actor: lease, tokenise, generate, commit.

```
queue --lease--> prompt -> tokens --> engine ---> finished --commit (some ms together)--> queue
        ^                                 |
        +---- a free place among `concurrency`, or newer weights (more prompts may start)
```

Text ends here: what is committed is token ids of the prompt, of every view and of the completion. A gold
completion is not generated but tokenised.
"""

import asyncio
import time
from dataclasses import dataclass

from actors.engines.engine import NOTHING_APPLIED, PromptFailed, RolloutEngine
from actors.lease_queue import LeaseQueue
from actors.places import Places
from unisd_rl.chat import ChatTokenizer
from unisd_rl.config import RolloutConfig
from unisd_rl.transport.rollouts.schema import encode
from unisd_rl.types import (
    INITIAL_VERSION,
    Generation,
    NumberedPrompt,
    Rollout,
    Sampling,
    Source,
    Tokens,
    TokenView,
)

_LEASE_WAIT_S = 10.0  # how long the queue may hold a call that it cannot serve yet
_GROUP_S = 0.005  # rollouts that finish within this time are committed together


@dataclass(slots=True)
class ServiceCounts:
    """What happened since the service began: committed tokens and rollouts, prompts given back."""

    tokens: int = 0
    rollouts: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class _Completion:
    """What the learner will train on; `sampled` is there only where the policy wrote it."""

    tokens: Tokens
    finish_reason: str
    sampled: Generation | None


class RolloutService:
    """Serves one queue with one engine; `serve` runs until it is cancelled."""

    def __init__(
        self, name: str, config: RolloutConfig, engine: RolloutEngine, tokenizer: ChatTokenizer, queue: LeaseQueue
    ) -> None:
        self._name, self._config, self._engine = name, config, engine
        self._tokenizer, self._queue = tokenizer, queue
        self._places = Places(config.concurrency)
        self._open = asyncio.Event()
        self._open.set()
        self._version_changed = asyncio.Event()
        self._finished: list[Rollout] = []
        self._some_finished = asyncio.Event()
        self.counts = ServiceCounts()
        self._in_flight: set[asyncio.Task[None]] = set()

    @property
    def busy_fraction(self) -> float:
        """Share of the serving time, 0 to 1, with at least one prompt in flight."""
        return self._places.busy_fraction

    def pause(self) -> None:
        """Lease and start nothing from now on; what is in flight goes on."""
        self._open.clear()

    def resume(self) -> None:
        """Lease again."""
        self._open.set()

    def weights_changed(self) -> None:
        """The engine has newer weights: a lease that waits asks again, since more prompts may start."""
        self._version_changed.set()
        self._version_changed = asyncio.Event()

    async def abandon(self) -> None:
        """Give back everything in flight: the learner fell back, and no completion has tokens of two lineages."""
        abandoned, self._in_flight = self._in_flight, set()
        for task in abandoned:
            task.cancel()
        if abandoned:
            await asyncio.wait(abandoned)
        await self._queue.release(self._name)

    async def serve(self) -> None:
        """Work until cancelled; then leased prompts are given back.

        Raises:
            ExceptionGroup: with `EngineDied`, or what the queue's end raised.
        """
        self._places.begin()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._renew_leases())
                tasks.create_task(self._commit_finished())
                await self._lease_prompts(tasks)
        finally:
            await self._queue.release(self._name)

    async def _lease_prompts(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            if self._engine.version == NOTHING_APPLIED:
                await self._version_changed.wait()
                continue
            await self._open.wait()
            await self._places.wait_for_one()
            for prompt in await self._lease(self._places.free):
                self._places.take()
                rolling = tasks.create_task(self._roll_out(prompt))
                self._in_flight.add(rolling)
                rolling.add_done_callback(self._in_flight.discard)

    async def _lease(self, wanted: int) -> list[NumberedPrompt]:
        """Ask for prompts, and ask again whenever newer weights arrive: the queue ends the earlier call then."""
        calls = [self._ask(wanted)]
        try:
            while not calls[-1].done():
                changed = asyncio.create_task(self._version_changed.wait())
                try:
                    await asyncio.wait({calls[-1], changed}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    changed.cancel()
                if not calls[-1].done():
                    calls.append(self._ask(wanted))
            return [prompt for call in calls for prompt in await call]
        finally:
            for call in calls:
                call.cancel()

    def _ask(self, wanted: int) -> "asyncio.Task[list[NumberedPrompt]]":
        return asyncio.create_task(self._queue.lease(self._name, self._engine.version, wanted, _LEASE_WAIT_S))

    async def _roll_out(self, numbered: NumberedPrompt) -> None:
        try:
            await self._answer(numbered)
        finally:
            self._places.give_up()

    async def _answer(self, numbered: NumberedPrompt) -> None:
        await self._open.wait()
        started_s = time.time()
        prompt_tokens = self._tokenizer.encode(numbered.prompt.messages)
        completing = asyncio.create_task(self._complete(numbered, prompt_tokens))
        try:
            await asyncio.sleep(0)  # the engine begins while the views are tokenised
            views = self._views(numbered)
            completion = await completing
        except PromptFailed as error:
            self.counts.failed += 1
            await self._queue.fail(self._name, numbered.number, str(error))
            return
        finally:
            completing.cancel()
        self._finish(numbered, prompt_tokens, views, completion, started_s)

    async def _complete(self, numbered: NumberedPrompt, prompt_tokens: Tokens) -> _Completion:
        if numbered.source is Source.GOLD:
            assert numbered.prompt.gold is not None, f"prompt {numbered.number} has no gold completion"
            return _Completion(self._tokenizer.encode_completion(numbered.prompt.gold), "stop", None)
        answer = await self._engine.generate(prompt_tokens, self._sampling(numbered.seed))
        if numbered.source is Source.BASE:
            initial = (answer.versions == INITIAL_VERSION.number).all()
            assert initial, f"prompt {numbered.number} has tokens of a trained model"
            return _Completion(answer.tokens, answer.finish_reason, None)
        return _Completion(answer.tokens, answer.finish_reason, answer)

    def _views(self, numbered: NumberedPrompt) -> tuple[TokenView, ...]:
        return tuple(TokenView(view.kind, self._tokenizer.encode(view.messages)) for view in numbered.prompt.views)

    def _sampling(self, seed: int) -> Sampling:
        config = self._config
        return Sampling(config.temperature, config.top_p, config.max_completion_tokens, seed, config.top_k)

    def _finish(
        self,
        numbered: NumberedPrompt,
        prompt_tokens: Tokens,
        views: tuple[TokenView, ...],
        completion: _Completion,
        started_s: float,
    ) -> None:
        sampled = completion.sampled
        rollout = Rollout(
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
        self._finished.append(rollout)
        self._some_finished.set()

    async def _commit_finished(self) -> None:
        while True:
            await self._some_finished.wait()
            await asyncio.sleep(_GROUP_S)
            self._some_finished.clear()
            batch, self._finished = self._finished, []
            await self._queue.commit(self._name, encode(batch))
            self.counts.rollouts += len(batch)
            self.counts.tokens += sum(len(rollout.completion_tokens) for rollout in batch)

    async def _renew_leases(self) -> None:
        while True:
            await asyncio.sleep(self._config.lease_s / 3)
            await self._queue.renew(self._name)
