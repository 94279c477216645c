"""The transformers engine: the model in the rollout actor's own process, for machines without vLLM and for exact runs.

```
generate --> waiting --(up to `concurrency`)--> group: one token for every row --> finished answers
                                                  ^ between two tokens: receive(weights)
```

A group runs to its end; prompts that arrive meanwhile form the next one. With `EngineSpec.group` every group has the
same shape, each numbered prompt its own row of it, and all rows of a group are answered at its end, together: what is
leased as a unit is generated as one. The model computes in one thread of its own, so the actor goes on answering calls.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from typing_extensions import override

from actors.engines.engine import (
    NO_WEIGHTS,
    EngineDied,
    EngineRefused,
    EngineSpec,
    PauseReport,
    PromptFailed,
    RolloutEngine,
)
from unisd_rl.errors import UserError
from unisd_rl.transport.weights.manifest import Bytes, SnapshotManifest
from unisd_rl.types import Generation, PolicyVersion, Sampling, Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from actors.engines.decoding import Row

    _Request = tuple[Row, asyncio.Future[Generation]]

_GATHER_S = 0.005  # prompts that are leased together arrive within this time and share a group
Result = TypeVar("Result")


class TransformersRolloutEngine(RolloutEngine):
    """`RolloutEngine` on a transformers causal language model, on the CPU."""

    version: PolicyVersion = NO_WEIGHTS
    tokens: int = 0
    paused: bool = False

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self._waiting: deque[_Request] = deque()
        self._arrived = asyncio.Event()
        self._between_tokens = asyncio.Lock()  # fair: an update waits for one token, not for a group
        self._weights_replaced = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._model: PreTrainedModel | None = None
        self._serving: asyncio.Task[None] | None = None
        self._why_not_served = EngineDied("the model is not served: the engine was not started, or was closed")

    @override
    async def start(self) -> None:
        self._model = await self._compute(self._load_model)
        self._serving = asyncio.create_task(self._serve())

    @override
    async def generate(self, tokens: Tokens, sampling: Sampling) -> Generation:
        """Answers do not depend on the group but for float rounding; where groups have a shape, not at all."""
        from actors.engines.decoding import Row

        shape = self._spec.group
        if shape is not None and len(tokens) > shape.prompt_tokens:
            raise PromptFailed(f"a prompt of {len(tokens)} tokens is longer than rows of {shape.prompt_tokens}")
        if len(tokens) + sampling.max_tokens > self._spec.max_model_len or not len(tokens):
            raise PromptFailed(
                f"a prompt of {len(tokens)} tokens and {sampling.max_tokens} more do not fit between 1 and "
                f"{self._spec.max_model_len}"
            )
        if self._serving is None or self._serving.done():
            raise self._why_not_served
        answered: asyncio.Future[Generation] = asyncio.get_running_loop().create_future()
        self._waiting.append((Row.start(tokens, sampling), answered))
        self._arrived.set()
        return await answered

    @override
    async def receive(self, manifest: SnapshotManifest, buckets: Sequence[Bytes]) -> PauseReport:
        if self._spec.verify:
            manifest.verify(buckets)
        async with self._between_tokens:
            started, self.paused = time.perf_counter(), True
            try:
                await self._compute(lambda: self._load_weights(manifest, buckets))
            finally:
                self.paused = False
            self.version, self._weights_replaced = manifest.version, True
            elapsed_ms = (time.perf_counter() - started) * 1e3
        return PauseReport(manifest.version, elapsed_ms, elapsed_ms, manifest.nbytes)

    @override
    async def sleep(self) -> None:
        """Nothing to give back: it computes on the CPU."""

    @override
    async def close(self) -> None:
        """Stop serving; calls in flight fail with `EngineDied`."""
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.wait([self._serving])
        self._thread.shutdown(wait=True)
        self._model = None

    async def _serve(self) -> None:
        taken: dict[int, _Request] = {}
        try:
            while True:
                await self._arrived.wait()
                await asyncio.sleep(_GATHER_S)
                self._arrived.clear()
                while self._waiting:
                    taken = self._next_group()
                    await self._run_group(taken)
        except (RuntimeError, EngineDied) as error:  # torch raises RuntimeError for most of what goes wrong inside
            self._why_not_served = EngineDied(f"the model is no longer served: {error}")
            raise
        except Exception as error:  # a token or a position that the model has not got: an IndexError, for example
            self._why_not_served = EngineRefused(f"the model cannot compute this: {type(error).__name__}: {error}")
            raise
        finally:
            for _, answered in (*taken.values(), *self._waiting):
                if not answered.done():
                    answered.set_exception(self._why_not_served)

    def _next_group(self) -> "dict[int, _Request]":
        """Those that are computed next, by their row in the group; the others go on waiting, in their order."""
        taken: dict[int, _Request] = {}
        waiting: deque[_Request] = deque()
        for row, answered in self._waiting:
            index = next((index for index in self._rows_for(row) if index not in taken), None)
            if index is None:
                waiting.append((row, answered))
            else:
                taken[index] = row, answered
        self._waiting = waiting
        return taken

    def _rows_for(self, row: "Row") -> range:
        shape, number = self._spec.group, row.sampling.number
        if shape is None:
            return range(self._spec.concurrency)
        return range(shape.rows) if number is None else range(number % shape.rows, number % shape.rows + 1)

    async def _run_group(self, taken: "dict[int, _Request]") -> None:
        from actors.engines.decoding import DecodingGroup

        shape, waiting_for = self._spec.group, {id(row): answered for row, answered in taken.values()}
        rows = {index: row for index, (row, _) in taken.items()}
        group = DecodingGroup(self._loaded(), rows, frozenset(self._spec.stop_tokens), shape)
        done: list[Row] = []
        while group.active:
            async with self._between_tokens:
                if self._weights_replaced:
                    group.forget_cache()
                    self._weights_replaced = False
                generating = len(group.active)
                finished = await self._compute(lambda: group.step(self.version))
                self.tokens += generating
            done += finished
            if shape is None or not group.active:
                for row in done:
                    if not (answered := waiting_for[id(row)]).done():
                        answered.set_result(row.generation())
                done = []

    async def _compute(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _load_model(self) -> "PreTrainedModel":
        import torch

        from actors.engines.decoding import check_decoding
        from actors.engines.transformers_weights import ADAPTER
        from unisd_rl.models.load import add_adapter, load_causal_lm

        if self._spec.cores:
            torch.set_num_threads(len(self._spec.cores))
        try:
            model = load_causal_lm(self._spec.model_path, self._spec.dtype)
            if self._spec.adapter is not None:
                add_adapter(model, self._spec.adapter, ADAPTER)
        except UserError as error:
            raise EngineRefused(str(error)) from error
        check_decoding(model.eval())
        return model

    def _load_weights(self, manifest: SnapshotManifest, buckets: Sequence[Bytes]) -> None:
        from actors.engines.transformers_weights import replace_adapter, replace_model

        replace = replace_model if self._spec.adapter is None else replace_adapter
        replace(self._loaded(), manifest, buckets)

    def _loaded(self) -> "PreTrainedModel":
        if self._model is None:
            raise EngineDied("the model is not loaded")
        return self._model
