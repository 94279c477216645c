"""The rollout actor: one engine, the loop that serves the queue, weight updates, evaluations.

A plain class that `actors.group` spawns as an asynchronous actor; all methods run in one event
loop, so an update or an evaluation goes on while `run` serves the queue.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from actors.engines.build import build_engine
from actors.engines.engine import EngineDied, EngineProcessDied, EngineRefused, PauseReport, PromptFailed
from actors.engines.stall_guard import StallGuard
from actors.service import RolloutService
from unisd_rl.cluster.cores import Cores, bind_to
from unisd_rl.cluster.processes import Handle
from unisd_rl.cluster.resources import keep_compiler_caches, missing_to_compile
from unisd_rl.cluster.runtime import runtime
from unisd_rl.cluster.shared_model import check_model_seen
from unisd_rl.config import Config
from unisd_rl.errors import PermanentFailure, RunFailed
from unisd_rl.models.tokenizer import ChatTokenizer
from unisd_rl.storage.logs import innermost_cause, log_path, redirect_output
from unisd_rl.storage.timeline import Activity, Track
from unisd_rl.transport.rollouts.actor_client import QueueProcess
from unisd_rl.transport.weights.build import weight_transport
from unisd_rl.transport.weights.manifest import UpdateRefused
from unisd_rl.transport.weights.store import StoreClient
from unisd_rl.transport.weights.transport import FetchedSnapshot, VllmHost
from unisd_rl.transport.weights.vllm_trainer import VllmPushEndpoint
from unisd_rl.types import ActorReport, Generation, Message, PolicyVersion, Pulse, Sampling, Tokens

Chat = tuple[Message, ...]
ChatRequest = tuple[Chat, Sampling]
_NO_TOKENS = np.empty(0, np.int32)
_NOTHING = Generation(_NO_TOKENS, np.empty(0, np.float32), _NO_TOKENS, _NO_TOKENS, "length")


@dataclass(frozen=True, slots=True)
class ChoiceRequest:
    """A chat, and answers of which the likeliest is wanted: by the first token in which they differ."""

    chat: Chat
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ActorSpec:
    """What the rollout actors of a group have in common. Without a queue they only answer: `run` is then a mistake."""

    config: Config
    model_path: Path
    run_dir: Path
    queue: Handle | None
    store: StoreClient


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """One prompt outside the queue: what the engine read, what it wrote, and that as text."""

    prompt_tokens: Tokens
    text: str
    generation: Generation


class RolloutActor(VllmPushEndpoint):
    """Generates with one engine. `cores` are those of this actor; empty leaves them to the system."""

    def __init__(self, name: str, cores: Cores, spec: ActorSpec) -> None:
        check_model_seen(name, spec.model_path)
        config = spec.config
        self._name, self._config = name, config
        self._log = log_path(spec.run_dir, name)
        if runtime().separate:
            redirect_output(self._log)
            bind_to(cores)
        keep_compiler_caches()
        self._tokenizer = ChatTokenizer(spec.model_path, config.model.chat_template)
        engine = build_engine(config, cores, spec.model_path, self._tokenizer)
        self._engine = StallGuard(engine, config.faults.stall_s)
        leases = QueueProcess(spec.queue, config.faults)
        self._service = RolloutService(
            name, config.rollout, self._engine, self._tokenizer, leases, on_change=self._note_activity
        )
        self._activity = Activity(Track(spec.run_dir, name) if spec.queue is not None else None)
        self._asleep = self._evaluating = False
        self._receiver = weight_transport(config).receiver(spec.store)
        self._updating = asyncio.Lock()  # updates one after the other, and none during an evaluation
        self._applied = asyncio.Condition()
        self._pauses: list[PauseReport] = []
        self._answered = 0
        self._running: asyncio.Task[None] | None = None
        # The configuration refuses to push weights (nccl, ipc) into another engine than vLLM's.
        super().__init__(cast(VllmHost, engine), self._updating, self._announce)

    async def start(self) -> PolicyVersion:
        """Start the engine and apply the newest weights, if any were published; returns the version it is at.

        Raises:
            RunFailed: the engine does not start; the sentence names the cause and the log. `PermanentFailure` where it
                never would.
        """
        if self._config.rollout.on_gpu and (lacking := missing_to_compile()):
            raise self._failed(EngineRefused(lacking))
        self._activity.begin("starting the engine")
        try:
            await self._engine.start()
            if (snapshot := await self._receiver.newest()) is not None:
                await self._apply(snapshot)
        except (EngineDied, UpdateRefused) as error:
            raise self._failed(error) from error
        self._note_activity()
        return self._engine.version

    def ping(self) -> Pulse:
        """That this process lives, and what it is at."""
        return Pulse(self._engine.version, self._service.usage.served_s, self._service.usage.busy_s)

    async def run(self) -> None:
        """Serve the queue until `stop` or `drain`.

        Raises:
            RunFailed: the engine or the queue died.
        """
        self._running = asyncio.create_task(self._service.serve())
        try:
            await self._running
        except ExceptionGroup as failures:
            raise self._failed(_first(failures)) from failures
        except asyncio.CancelledError:
            return

    async def stop(self) -> None:
        """End `run`; prompts in flight are given back to the queue."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])

    async def drain(self, limit_s: float) -> ActorReport:
        """Lease nothing more, complete what is in flight, and end `run`; after `limit_s` seconds the rest is given
        back. Returns what this actor counted."""
        self._service.drain()
        if self._running is not None:
            await asyncio.wait([self._running], timeout=limit_s)
        await self.stop()
        return self.report()

    async def close(self) -> None:
        """End everything."""
        await self.stop()
        await self._engine.close()

    async def update(self, version: PolicyVersion) -> PolicyVersion:
        """Apply the newest weights, at least `version`, as soon as they are in the store; returns the applied version.

        Raises:
            RunFailed: the weights were refused, the update failed half way, or they did not come within
                `weights.timeout_s`.
        """
        try:
            if (snapshot := await self._receiver.fetch(version)) is not None:
                await self._apply(snapshot)
        except (EngineDied, UpdateRefused, TimeoutError) as error:
            raise self._failed(error) from error
        async with self._applied:
            await self._applied.wait_for(lambda: self._engine.version >= version)
        return self._engine.version

    def pause_leases(self) -> None:
        """Start no prompt of the queue from now on; those in flight are completed."""
        self._service.pause()

    async def sleep(self) -> None:
        """Lease nothing from now on; returns when what is in flight is completed and committed."""
        await self._service.sleep()
        self._asleep = True
        self._note_activity()

    async def free_gpu(self) -> None:
        """Let the engine, with nothing in flight, give back its memory of a GPU that the learner computes on next. It
        takes it again by itself when it is asked to answer.

        Raises:
            RunFailed: it did not; its process was ended.
        """
        async with self._updating:
            try:
                await self._engine.sleep()
            except EngineDied as error:
                raise self._failed(error) from error

    def resume_leases(self) -> None:
        """Serve the queue again."""
        self._asleep = False
        self._note_activity()
        self._service.resume()

    async def answer(self, requests: Sequence[ChatRequest | ChoiceRequest], version: PolicyVersion) -> list[ChatAnswer]:
        """Answer chats outside the queue, in order, every token by `version`; updates wait meanwhile. The answer to a
        choice is one of its texts.

        Raises:
            RunFailed: the engine is not at `version`, or died.
        """
        in_flight = asyncio.Semaphore(self._config.evaluation.concurrency)
        async with self._updating:
            if self._engine.version != version:
                raise RunFailed(f"{self._name} was asked for answers of {version} but is at {self._engine.version}")
            self._evaluating = True
            self._note_activity()
            try:
                async with asyncio.TaskGroup() as tasks:
                    work = [tasks.create_task(self._answer_one(request, in_flight)) for request in requests]
            except ExceptionGroup as failures:
                raise self._failed(_first(failures)) from failures
            finally:
                self._evaluating = False
                self._note_activity()
        answers = [task.result() for task in work]
        for answer in answers:
            assert (answer.generation.versions == version.number).all(), "an answer of another version"
            assert (answer.generation.lineages == version.lineage).all(), "an answer of another lineage"
        self._answered += len(answers)
        return answers

    def report(self) -> ActorReport:
        """What this actor counted since it started."""
        self._activity.flush()
        return ActorReport(
            name=self._name,
            version=self._engine.version,
            rollouts=self._service.committed,
            answered=self._answered,
            pauses_ms=tuple(pause.pause_ms for pause in self._pauses),
        )

    async def _apply(self, snapshot: FetchedSnapshot) -> None:
        """Give the engine these weights, unless it has them or newer ones already.

        Those of a higher lineage are another policy's: what is in flight is given back first.
        """
        version = snapshot.manifest.version
        async with self._updating:
            if version > self._engine.version:
                if version.lineage > self._engine.version.lineage:
                    await self._service.abandon(version.lineage)
                self._pauses.append(await self._engine.receive(snapshot.manifest, snapshot.buckets))
                began_s = time.time() - self._pauses[-1].pause_ms / 1e3
                self._activity.begin("pause for new weights", began_s, version=version.number, lineage=version.lineage)
        self._note_activity()
        await self._announce()

    def _note_activity(self) -> None:
        """One thing at a time, for the timeline: under an evaluation, say, what is in flight goes on beside it."""
        version = self._engine.version
        match (self._evaluating, self._service.usage.busy, self._asleep):
            case (True, _, _):
                name = "evaluation"
            case (_, True, _):
                name = "generation"
            case (_, _, True):
                name = "asleep in the learner's turn"
            case _:
                name = "waiting for prompts"
        self._activity.begin(name, version=version.number, lineage=version.lineage)

    async def _announce(self) -> None:
        self._service.weights_changed()
        async with self._applied:
            self._applied.notify_all()

    async def _answer_one(self, request: ChatRequest | ChoiceRequest, in_flight: asyncio.Semaphore) -> ChatAnswer:
        async with in_flight:
            if isinstance(request, ChoiceRequest):
                return await self._choose(request)
            chat, sampling = request
            prompt_tokens = self._tokenizer.encode(chat)
            generation = await self._engine.generate(prompt_tokens, sampling)
        return ChatAnswer(prompt_tokens, self._tokenizer.decode(generation.tokens), generation)

    async def _choose(self, request: ChoiceRequest) -> ChatAnswer:
        choice = self._tokenizer.encode_choices(request.chat, request.texts)
        if choice is None:
            return ChatAnswer(_NO_TOKENS, "", _NOTHING)
        prompt_tokens, following = choice
        greedy = Sampling(temperature=0.0, top_p=1.0, max_tokens=1, allowed=following)
        try:
            generation = await self._engine.generate(prompt_tokens, greedy)
        except PromptFailed:  # no room for the answer's line: no choice, and no fault
            return ChatAnswer(prompt_tokens, "", _NOTHING)
        return ChatAnswer(prompt_tokens, request.texts[following.index(int(generation.tokens[0]))], generation)

    def _failed(self, error: BaseException) -> RunFailed:
        reason = str(error) or type(error).__name__
        if isinstance(error, EngineProcessDied):
            reason += f": {innermost_cause(self._log) or 'it says nothing of why; was it killed, for want of memory?'}"
        kind = PermanentFailure if isinstance(error, EngineRefused) else RunFailed
        return kind(f"{self._name} stopped: {reason}; its log is {self._log}")


def _first(failures: BaseExceptionGroup) -> BaseException:
    """The first plain exception inside a group of groups."""
    inner = failures.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner
