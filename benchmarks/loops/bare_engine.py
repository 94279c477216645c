"""vLLM alone, on the cores and with the settings of a rollout actor: no leases, no versions, no commits."""

import asyncio
import itertools
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import ray
from ray.actor import ActorHandle

from actors.engines.build import build_engine
from actors.engines.vllm_engine import VllmRolloutEngine
from actors.process import actor_environment
from benchmarks.scale import here
from unisd_rl.cluster.cores import Cores, bind_to
from unisd_rl.config import Config
from unisd_rl.models.tokenizer import ChatTokenizer
from unisd_rl.storage.logs import redirect_output
from unisd_rl.types import NumberedPrompt, Sampling, Tokens

START_S = 300.0


class BareEngine:
    """An `AsyncLLM` and `rollout.concurrency` requests at a time."""

    def __init__(self, config: Config, cores: Cores, model_path: Path, log: Path) -> None:
        redirect_output(log)
        bind_to(cores)
        self._config, self._tokenizer = config, ChatTokenizer(model_path)
        engine = build_engine(config, cores, model_path, self._tokenizer)
        assert isinstance(engine, VllmRolloutEngine)
        self._engine, self._names, self._finished = engine, itertools.count(), 0

    async def start(self) -> None:
        await self._engine.start()

    async def generate(self, prompts: Sequence[NumberedPrompt]) -> tuple[int, float]:
        """Tokens sampled for these prompts, and the seconds they took."""
        asked = [(self._tokenizer.encode(one.prompt.messages), self._sampling(one)) for one in prompts]
        before, started = self._finished, time.perf_counter()
        await self._in_flight(iter(asked))
        return self._finished - before, time.perf_counter() - started

    async def go_round(self, prompts: Sequence[NumberedPrompt]) -> None:
        """Generate for these prompts again and again, until the process is killed."""
        await self._in_flight(
            itertools.cycle([(self._tokenizer.encode(one.prompt.messages), self._sampling(one)) for one in prompts])
        )

    async def tokens(self) -> tuple[int, float]:
        """Tokens sampled so far, those of unfinished requests included, and when that was."""
        requests = self._engine.llm.output_processor.request_states.values()
        unfinished = sum(one.detokenizer.num_output_tokens() for one in requests if one.detokenizer)
        return self._finished + unfinished, time.perf_counter()

    async def _in_flight(self, asked: Iterable[tuple[Tokens, Sampling]]) -> None:
        async def one_after_the_other() -> None:
            for tokens, sampling in asked:
                await self._generate(tokens, sampling)

        await asyncio.gather(*(one_after_the_other() for _ in range(self._config.rollout.concurrency)))

    async def _generate(self, tokens: Tokens, sampling: Sampling) -> None:
        from vllm.inputs.engine import tokens_input

        prompt = tokens_input(tokens.tolist())
        request = self._engine.llm.generate(prompt, self._engine._sampling(sampling), f"bare-{next(self._names)}")
        outputs = [output async for output in request]
        self._finished += len(outputs[-1].outputs[0].token_ids)

    def _sampling(self, prompt: NumberedPrompt) -> Sampling:
        rollout = self._config.rollout
        return Sampling(rollout.temperature, rollout.top_p, rollout.max_completion_tokens, prompt.seed, rollout.top_k)


def spawn_bare_engine(config: Config, cores: Cores, model_path: Path, folder: Path) -> ActorHandle:
    """Started and idle."""
    environment = {"env_vars": {**actor_environment(config, cores, model_path), **here()["env_vars"]}}
    spawned = ray.remote(BareEngine).options(num_cpus=0, max_concurrency=10, runtime_env=environment)
    engine = spawned.remote(config, cores, model_path, folder / "bare.log")
    ray.get(engine.start.remote(), timeout=START_S)
    return engine
