"""vLLM inside a rollout actor: tokens in, tokens out, weights replaced while it generates.

An update pauses the scheduler, keeps the requests, drops their keys and values (they are computed
again under the new weights), loads, and resumes. All that can be done before the pause is done
before: copying to shared memory and the checks (the transport's `VllmWeightLoader`).

Where it takes turns with a learner on one GPU, it sleeps in the learner's turn, and wakes by itself:

```
 sleep                  weights and keys and values leave the GPU; nothing may be in flight
 receive                asleep: the snapshot is remembered, the memory stays the learner's
 generate               asleep, the first one: memory for the weights -> load the snapshot -> memory for keys and values
 pause ... resume       asleep (weights are pushed): the same, with what is pushed in the middle
```

vLLM reads its environment when it is imported, so `actors.process` must have been applied to
the process first; nothing of vLLM is imported before `start`.
"""

import asyncio
import itertools
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from typing_extensions import override

from actors.engines.engine import (
    NO_WEIGHTS,
    EngineDied,
    EngineProcessDied,
    EngineRefused,
    EngineSpec,
    PauseReport,
    PromptFailed,
    RolloutEngine,
)
from actors.engines.reaper import Reaper
from unisd_rl.config.rollout import VllmEngine
from unisd_rl.transport.weights.manifest import Bytes, SnapshotManifest, label, parse_label
from unisd_rl.transport.weights.transport import FetchedSnapshot, VllmHost, VllmWeightLoader
from unisd_rl.types import Generation, PolicyVersion, Sampling, Tokens

if TYPE_CHECKING:
    from vllm import AsyncEngineArgs, CompletionOutput, SamplingParams
    from vllm.v1.engine.async_llm import AsyncLLM

_GIB = 1 << 30
_PREFILL_TOKENS = 4096  # prompts and answers of one scheduler step, where prompts are prefilled whole
_CPU_BLOCK_TOKENS = 32  # the fewest that vLLM's attention on a CPU takes
_PROCESS_DIED = "vLLM's process died"
_CORE_FAILED = "Engine core initialization failed"  # vLLM's own words; what it died of stands in the log only


class VllmRolloutEngine(RolloutEngine, VllmHost):
    """`RolloutEngine` on vLLM's `AsyncLLM`; its scheduler and model live in a process of their own."""

    version: PolicyVersion = NO_WEIGHTS
    paused: bool = False

    def __init__(
        self, spec: EngineSpec, settings: VllmEngine, weights: VllmWeightLoader, on_gpu: bool, sleeps: bool = False
    ) -> None:
        """`sleeps`: a learner shares its GPU, and `sleep` gives the memory back."""
        self._spec, self._settings, self._on_gpu, self._sleeps = spec, settings, on_gpu, sleeps
        self._weights = weights
        self._asleep = False
        self._snapshot: FetchedSnapshot | None = None  # the newest, kept where the engine sleeps
        self._switching = asyncio.Lock()  # one at a time falls asleep, wakes or loads
        self._llm: AsyncLLM | None = None
        self._reaper: Reaper | None = None
        self._numbers = itertools.count()
        self._finished_tokens = 0

    @property
    @override
    def tokens(self) -> int:
        """Read from vLLM's own book of requests, so that counting costs nothing."""
        if self._llm is None:
            return self._finished_tokens
        requests = self._llm.output_processor.request_states.values()
        return self._finished_tokens + sum(
            request.detokenizer.num_output_tokens() for request in requests if request.detokenizer
        )

    @override
    async def start(self) -> None:
        """Start vLLM: 13 s, imports included, on an idle CPU machine, and up to 40 s on a busy one.

        Raises:
            EngineRefused: vLLM takes neither the model nor these settings, with its reason.
            EngineDied: it does not start for another reason.
        """
        from vllm.v1.engine.async_llm import AsyncLLM

        self._reaper = Reaper()  # first: this process may be killed while vLLM's starts
        try:
            self._llm = AsyncLLM.from_engine_args(self._arguments())
        except ValueError as error:  # pydantic's are ValueErrors too
            raise EngineRefused(f"vLLM does not start: {error}") from error
        except RuntimeError as error:
            if _CORE_FAILED in str(error):
                raise EngineProcessDied("vLLM does not start") from error
            raise EngineDied(f"vLLM does not start: {error}") from error
        await self._weights.start(self)
        await self._llm.update_weight_version(label(self.version))
        # What the CPU kernels do not support (some head sizes) shows only when a token is computed.
        await self.generate(np.zeros(1, np.int32), Sampling(temperature=1.0, top_p=1.0, max_tokens=1))

    @override
    async def generate(self, tokens: Tokens, sampling: Sampling) -> Generation:
        """Cancelling the call aborts the request."""
        if self._asleep:  # shielded: others wait for the same, and half a load would leave the engine paused
            await asyncio.shield(self._wake())
        return await self._answer(tokens, sampling)

    async def _answer(self, tokens: Tokens, sampling: Sampling) -> Generation:
        from vllm.exceptions import VLLMClientError
        from vllm.inputs.engine import tokens_input
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        prompt, name = tokens_input(tokens.tolist()), str(next(self._numbers))
        request = self.llm.generate(prompt, self._sampling(sampling), name, lora_request=self._weights.adapter)
        try:
            answers = [output.outputs[0] async for output in request]
        except EngineDeadError as error:
            raise EngineProcessDied(_PROCESS_DIED) from error
        except (VLLMClientError, EngineGenerateError, ValueError) as error:
            raise PromptFailed(f"vLLM refuses a prompt of {len(tokens)} tokens: {error}") from error
        if not answers or answers[-1].finish_reason not in ("stop", "length"):
            raise PromptFailed("vLLM ended a request without an answer")
        self._finished_tokens += len(answers[-1].token_ids)
        return _generation(answers[-1])

    @override
    async def receive(self, manifest: SnapshotManifest, buckets: Sequence[Bytes]) -> PauseReport:
        """`pause_ms` ends with the scheduler's resumption: requests in flight then
        prefill again, which is not in it."""
        async with self._switching:
            if self._asleep:
                report = PauseReport(manifest.version, 0.0, 0.0, manifest.nbytes)
                self.version = manifest.version
            else:
                report = await self._replace_weights(manifest, buckets)
            if self._sleeps:
                self._snapshot = FetchedSnapshot(manifest, tuple(buckets))
        return report

    @override
    async def sleep(self) -> None:
        async with self._switching:
            if self._sleeps and not self._asleep:
                # Level 2 discards the weights, level 1 keeps them in CPU memory: for what no snapshot would bring back,
                # which is the base under an adapter, and weights that were pushed or are still the model folder's.
                whole = self._snapshot is not None and self._spec.adapter is None
                try:
                    await self.llm.sleep(level=2 if whole else 1, mode="keep")
                except Exception as error:  # vLLM tells what failed in its process as a bare Exception
                    await self.close()  # else it would hold the memory that the learner takes next
                    raise EngineDied(f"vLLM did not fall asleep: {error}") from error
                self._asleep = True

    async def _wake(self) -> None:
        async with self._switching:
            if not self._asleep or self.paused:  # paused: what is pushed now wakes it, and answers what waits
                return
            try:
                if self._snapshot is not None:
                    await self._replace_weights(self._snapshot.manifest, self._snapshot.buckets)
                else:
                    await self.llm.wake_up()
                    self._asleep = False
            except Exception as error:  # see `sleep`
                await self.close()  # else each prompt that waits would try again
                raise EngineDied(f"vLLM did not wake up: {error}") from error

    async def _replace_weights(self, manifest: SnapshotManifest, buckets: Sequence[Bytes]) -> PauseReport:
        async with self._weights.prepare(self, manifest, buckets) as load:
            started = time.perf_counter()
            try:
                await self.pause()
                loading = time.perf_counter()
                await load()
                load_ms = _milliseconds_since(loading)
                await self.resume(manifest.version)
            except Exception as error:  # vLLM tells what failed in its process as a bare Exception
                raise EngineDied(f"vLLM's update to version {label(manifest.version)} failed: {error}") from error
        return PauseReport(manifest.version, _milliseconds_since(started), load_ms, manifest.nbytes)

    @override
    async def close(self) -> None:
        if self._llm is not None:
            llm, self._llm = self._llm, None
            # Killed at once: it keeps nothing, and would take three to five seconds to end by itself.
            llm.shutdown(timeout=0.0)
        if self._reaper is not None:
            self._reaper.close()
        self._weights.close()

    @override
    async def call_workers(self, method: str, *arguments: Any) -> list[Any]:
        """Raises:
        EngineDied: vLLM's process is gone, or the method failed there.
        """
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            return await self.llm.collective_rpc(method, args=arguments)
        except EngineDeadError as error:
            raise EngineProcessDied(_PROCESS_DIED) from error
        except Exception as error:  # vLLM tells what failed in its process as a bare Exception
            raise EngineDied(f"{method} failed in vLLM's process: {error}") from error

    @override
    async def pause(self) -> None:
        self.paused = True
        if self._asleep:
            await self.llm.wake_up(["weights"])  # not yet those for keys and values: loading takes memory of its own
        # Without clear_cache, keys and values of the old weights would stay in use after the update.
        # vLLM's own `pause_generation` also sleeps 20 ms, so that answers that ended just before come first.
        await self.llm.engine_core.pause_scheduler_async(mode="keep", clear_cache=True)

    @override
    async def resume(self, version: PolicyVersion) -> None:
        await self.llm.update_weight_version(label(version))
        self.version = version
        if self._asleep:
            await self.llm.wake_up(["kv_cache"])  # vLLM resumes with it, so the version was named before
            self._asleep = False
        await self.llm.resume_generation()
        self.paused = False

    @property
    @override
    def llm(self) -> "AsyncLLM":
        """Raises EngineDied before `start` and after `close`."""
        if self._llm is None:
            raise EngineDied("vLLM is not running")
        return self._llm

    def _arguments(self) -> "AsyncEngineArgs":
        from vllm import AsyncEngineArgs

        spec, settings = self._spec, self._settings
        arguments = AsyncEngineArgs(
            model=str(spec.model_path),
            dtype=spec.dtype,
            seed=spec.seed,
            max_model_len=spec.max_model_len,
            max_num_seqs=spec.concurrency,
            # A CPU's random generator cannot be wound back, which vLLM does for a seeded request whose prompt is
            # prefilled in pieces; it would die. So prompts are prefilled whole there.
            enable_chunked_prefill=self._on_gpu,
            max_num_batched_tokens=None if self._on_gpu else max(_PREFILL_TOKENS, spec.max_model_len),
            # Answers to one prompt share its keys and values in whole blocks; few prompts fill one of the CPU's 128.
            block_size=None if self._on_gpu else _CPU_BLOCK_TOKENS,
            skip_tokenizer_init=True,  # tokens in, tokens out
            generation_config="vllm",  # sampling is ours, not the model folder's
            enforce_eager=not self._on_gpu,
            enable_sleep_mode=self._sleeps,
            disable_log_stats=True,
            logprobs_mode="processed_logprobs",
            tensor_parallel_size=settings.tensor_parallel,
            distributed_executor_backend="uni" if settings.tensor_parallel == 1 else "mp",
            gpu_memory_utilization=settings.gpu_memory_utilization,
            kv_cache_memory_bytes=None if self._on_gpu else int(settings.kv_cache_gib * _GIB),
        )
        self._weights.configure(arguments)
        return arguments

    def _sampling(self, sampling: Sampling) -> "SamplingParams":
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k or 0,  # 0 is all
            max_tokens=sampling.max_tokens,
            seed=sampling.seed if sampling.temperature > 0 else None,
            logprobs=0,  # of the sampled token only
            flat_logprobs=True,
            stop_token_ids=list(self._spec.stop_tokens),
            allowed_token_ids=None if sampling.allowed is None else list(sampling.allowed),
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )


def _generation(output: "CompletionOutput") -> Generation:
    tokens = np.asarray(output.token_ids, np.int32)
    lineages, versions = np.empty_like(tokens), np.empty_like(tokens)
    assert output.weight_versions is not None, "every token carries a version: start() sets the first"
    for span in output.weight_versions:
        version = parse_label(span.version)
        lineages[span.start : span.end], versions[span.start : span.end] = version.lineage, version.number
    logprobs = np.asarray(output.logprobs.logprobs, np.float32)
    assert len(logprobs) == len(tokens), "one log-prob per sampled token"
    return Generation(tokens, logprobs, lineages, versions, output.finish_reason)


def _milliseconds_since(started: float) -> float:
    return (time.perf_counter() - started) * 1e3
