"""A rollout engine in a process of its own, as in production, that runs the coroutines a test sends it.

Works without Ray, so that one engine can serve tests that each start a Ray of their own.
"""

import asyncio
import multiprocessing
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from actors.engines.build import build_engine
from actors.process import actor_environment
from unisd_rl.cluster.cores import bind_to
from unisd_rl.config import Config
from unisd_rl.models.tokenizer import ChatTokenizer
from unisd_rl.storage.logs import redirect_output

START_S = 240.0
CALL_S = 120.0
CORES = (0,)


class EngineProcess:
    """`call(scenario, ...)` runs `await scenario(engine, ...)` beside the engine and returns its result."""

    def __init__(self, config: Config, model_path: Path, log: Path) -> None:
        self.log = log
        context = multiprocessing.get_context("spawn")  # vLLM reads its environment at import
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(config, model_path, log, theirs))
        self._process.start()
        self._answer(START_S)

    def call(self, scenario: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        self._pipe.send((scenario, arguments))
        return self._answer(CALL_S)

    def close(self) -> None:
        if self._process.is_alive():
            self._pipe.send(None)
        self._process.join(30.0)
        self._process.kill()

    def _answer(self, timeout_s: float) -> Any:
        assert self._pipe.poll(timeout_s), f"the engine did not answer within {timeout_s} s, see {self.log}"
        failed, answer = self._pipe.recv()
        if failed:
            raise answer
        return answer


def _serve(config: Config, model_path: Path, log: Path, pipe: Any) -> None:
    redirect_output(log)
    os.environ.update(actor_environment(config, CORES, model_path))
    bind_to(CORES)
    asyncio.run(_answer_calls(config, model_path, pipe))


async def _answer_calls(config: Config, model_path: Path, pipe: Any) -> None:
    engine = build_engine(config, CORES, model_path, ChatTokenizer(model_path))
    await engine.start()
    pipe.send((False, None))
    while (call := await asyncio.to_thread(pipe.recv)) is not None:
        scenario, arguments = call
        try:
            answer = (False, await scenario(engine, *arguments))
        except Exception as error:  # whatever it is, it is for the test to judge
            answer = (True, error)
        pipe.send(answer)
    await engine.close()
