"""Settings of rollouts: engine, actors, sampling, sources, staleness, and how weights reach the actors."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator
from typing_extensions import override

from unisd_rl.config.base import (
    Cores,
    Count,
    CountOrNone,
    Decides,
    Gpus,
    OpenFraction,
    Processes,
    Resources,
    Seconds,
    Section,
    Share,
    Temperature,
    expand_home,
)


class Engine(Section):
    """What a run asks any engine's configuration: only `actors.engines.build` asks for its type."""

    takes_pushed_weights: ClassVar[bool] = False
    """Whether the learner can push weights into it (`weights.transport` nccl and ipc)."""
    frees_gpu: ClassVar[bool] = False
    """Whether it can give the memory of its GPU back between turns (`run.placement` colocated)."""
    largest_lora_rank: ClassVar[int | None] = None
    """Largest adapter it serves; None is any."""
    pads_batches: ClassVar[bool] = False
    """Whether the model reads prompts of different lengths padded to one."""
    in_process: ClassVar[bool] = False
    """Whether the model computes in the process that calls it (`run.placement` in_process)."""
    cpu_environment: ClassVar[Mapping[str, str]] = {}
    """Environment variables that it needs where it computes on the CPU."""

    @property
    def weight_shards(self) -> int:
        """Processes, each with a GPU's share, that hold a part of the weights of one rollout actor."""
        return 1

    @property
    def cache_gib(self) -> float | None:
        """Memory that it sets aside for keys and values on the CPU (GiB); None: none before it is needed."""
        return None

    @property
    def gpu_share(self) -> float | None:
        """Share of a GPU's memory that it fills; None: what it needs."""
        return None

    def model_length(self, longest: int) -> int:
        """Longest prompt plus completion it takes (tokens), in a run whose limits allow `longest`."""
        return longest

    def without_length_limit(self) -> Self:
        """The same engine, as long as the run's limits ask for."""
        return self


class VllmEngine(Engine):
    """vLLM's AsyncLLM inside the rollout actor."""

    takes_pushed_weights = True
    frees_gpu = True
    largest_lora_rank = 512  # of vLLM 0.32's list of adapter ranks
    # One process for scheduler and model: a second one would only spin on a queue between the two. And vLLM turns its
    # single-process executor into a multi-process one on the CPU, to bind the threads itself, unless it is told that it
    # must not: the rollout actor has bound them already. And on the CPU it would compile two small functions of its
    # sampler when the first token is computed, for which a machine needs a compiler and Python's headers.
    cpu_environment = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "TORCH_COMPILE_DISABLE": "1",
    }

    type: Literal["vllm"] = "vllm"
    kv_cache_gib: Annotated[float, Field(gt=0.0, le=65536.0), Decides.NOTHING] = 0.5
    """Memory for keys and values, CPU only (GiB)."""
    gpu_memory_utilization: Annotated[OpenFraction, Decides.NOTHING] = 0.85
    """Share of a GPU's memory the engine may take. Colocated, in its own turn; the learner's states lie beside it."""
    tensor_parallel: Annotated[Processes, Decides.NOTHING] = 1
    """GPUs per rollout actor."""
    max_model_len: Count | None = None
    """Longest prompt plus completion. Absent: the sum of the two limits."""

    @property
    @override
    def cache_gib(self) -> float | None:
        return self.kv_cache_gib

    @property
    @override
    def gpu_share(self) -> float | None:
        return self.gpu_memory_utilization

    @property
    @override
    def weight_shards(self) -> int:
        return self.tensor_parallel

    @override
    def model_length(self, longest: int) -> int:
        return self.max_model_len or longest

    @override
    def without_length_limit(self) -> Self:
        return self.model_copy(update={"max_model_len": None})


class TransformersEngine(Engine):
    """Generation by transformers: for machines without vLLM, exact runs and fast tests."""

    pads_batches = True
    in_process = True

    type: Literal["transformers"]


EngineConfig = Annotated[VllmEngine | TransformersEngine, Field(discriminator="type")]


class SourcesConfig(Section):
    """Where completions come from: shares that add up to 1. A prompt's source follows from its number and the seed."""

    policy: Share = 1.0
    """Sampled by the student as it is: on-policy."""
    gold: Share = 0.0
    """The demonstration itself, as the task states it."""
    base: Share = 0.0
    """Sampled by the initial model. Not together with `policy`: an actor serves one set of weights at a time."""

    @model_validator(mode="after")
    def _shares_add_up(self) -> "SourcesConfig":
        total = self.policy + self.gold + self.base
        if abs(total - 1.0) > 1e-6:
            raise ValueError(f"policy + gold + base = {total:g}: the shares must add up to 1")
        if self.policy and self.base:
            raise ValueError(
                f"policy = {self.policy:g} and base = {self.base:g}: an actor serves one set of weights at a time; "
                "take one of the two, with or without gold"
            )
        return self

    @property
    def on_policy(self) -> bool:
        """Whether the student samples any completion: only then must the actors follow it."""
        return self.policy > 0.0


class AutoActors(Section):
    """As many rollout actors as keep the learner busy, between two bounds: `actors.scaling` has the rule."""

    min: Processes = 1
    """Fewest actors; the run starts with so many."""
    max: Processes
    """Most actors. Cores of this machine are dealt for so many."""
    wait_share: OpenFraction = 0.1
    """An actor is added while the learner waits for rollouts for more than this share of a step."""
    patience: Count = 3
    """Steps in a row that must ask for the same before an actor comes or goes."""

    @model_validator(mode="after")
    def _bounds_are_in_order(self) -> "AutoActors":
        if self.min > self.max:
            raise ValueError(f"min = {self.min} is above max = {self.max}: raise the second or lower the first")
        return self


def _require_bounds(given: object) -> object:
    if given == "auto":
        raise ValueError("'auto' needs its bounds: rollout.actors.max, and rollout.actors.min unless it is 1")
    return given


def _kind_of_actors(given: object) -> str:
    return "bounds" if isinstance(given, Mapping | AutoActors) else "number"


ActorsConfig = Annotated[
    Annotated[Processes, Tag("number")] | Annotated[AutoActors, Tag("bounds")],
    Discriminator(_kind_of_actors),
    BeforeValidator(_require_bounds),
]


def _kept(given: object) -> str:
    return "all" if given == "all" else "steps"


class RolloutConfig(Section):
    """Who generates, how, and how stale it may get."""

    engine: EngineConfig = VllmEngine()
    """The generator inside each rollout actor."""
    actors: Annotated[ActorsConfig, Decides.NOTHING] = 1
    """Rollout actors: a number, or a section with bounds (`actors.max`) between which the run chooses. The command
    `python -m unisd_rl.scale` changes it in mid-run."""
    gpus_per_actor: Annotated[Gpus, Decides.NOTHING] = 0.0
    """GPUs each rollout actor asks Ray for; 0 runs on the CPU."""
    resources: Annotated[Resources, Decides.NOTHING] = {}
    """Custom Ray resources each rollout actor asks for."""
    cores: Annotated[Cores | None, Decides.NOTHING] = None
    """CPU cores of the rollout actors on a shared machine. Absent: derived, and printed at start."""
    concurrency: Annotated[Count, Decides.NOTHING] = 64
    """Completions an actor has in flight. It leases whole units (`lease_unit`), so the last one may go over it."""
    answers_per_prompt: Annotated[Count, Decides.LOSS] = 1
    """Completions of each prompt (G), a group: one problem with its views, G seeds. `learner.batch_size` counts
    completions, so a step has batch_size / G prompts. A group is leased, committed and trained on as a whole, by one
    learner rank."""
    temperature: Annotated[Temperature, Decides.LOSS] = 0.7
    """Sampling temperature."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0), Decides.LOSS] = 1.0
    """Nucleus sampling; 1 is off."""
    top_k: Annotated[Count | None, Decides.LOSS] = None
    """Sample among so many likeliest tokens. Absent: all."""
    sources: SourcesConfig = SourcesConfig()
    """Where completions come from."""
    max_prompt_tokens: Count = 512
    """A problem any of whose views is longer is dropped in preparation and counted."""
    max_completion_tokens: Count = 64
    """Longest completion."""
    max_staleness: CountOrNone = 1
    """Largest number of optimiser steps between the version of a token and the step that trains on it."""
    lease_s: Annotated[Seconds, Decides.NOTHING] = 300.0
    """A prompt whose actor has not renewed its lease for so long is issued again."""
    lease_unit: Count | None = None
    """Completions are leased, and committed, in units of so many with consecutive numbers: all of a unit or none. A
    multiple of `answers_per_prompt` that divides `learner.batch_size`. Absent: `answers_per_prompt`. Where it is given,
    above 1, the transformers engine generates units in groups of so many rows, padded to max_prompt_tokens: with
    max_staleness 0 the bits of a rollout then follow from its prompt and its seed."""
    max_attempts: Annotated[Count, Decides.NOTHING] = 3
    """A prompt that failed so often is quarantined."""
    fsync: Annotated[bool, Decides.NOTHING] = False
    """Sync each commit to the disk: survives power loss, not only killed processes."""
    keep: Annotated[
        Annotated[Literal["all"], Tag("all")] | Annotated[Count, Tag("steps")], Discriminator(_kept), Decides.NOTHING
    ] = "all"
    """Rollouts that stay on storage: `all`, or those of so many steps before the newest checkpoint and of all since the
    oldest that is kept. Others are thrown away, 64 MiB at a time. Only with `all` can a run be replayed."""
    ledger: str | None = None
    """Where completed rollouts are kept: an absolute folder or an fsspec URL, e.g. s3://bucket/ledgers, under which
    this run gets a place of its own. Absent: RUN/rollouts."""

    @field_validator("ledger")
    @classmethod
    def _is_absolute(cls, location: str | None) -> str | None:
        location = location and expand_home(location)
        if location is not None and not location.startswith("/") and "://" not in location:
            raise ValueError(
                f"rollout.ledger = {location!r} means another folder to each process; give an absolute folder or an "
                "fsspec URL, e.g. s3://bucket/ledgers"
            )
        return location

    @property
    def actors_at_start(self) -> int:
        """Rollout actors the run begins with."""
        return self.actors.min if isinstance(self.actors, AutoActors) else self.actors

    @property
    def actors_at_most(self) -> int:
        """Rollout actors the configuration plans for."""
        return self.actors.max if isinstance(self.actors, AutoActors) else self.actors

    @property
    def unit_size(self) -> int:
        """Completions that are leased and committed together."""
        return self.lease_unit or self.answers_per_prompt

    @property
    def group_rows(self) -> int | None:
        """Rows of the fixed groups in which the transformers engine generates; None: as many as there is to do.

        Only a `lease_unit` that is given asks for them: they cost the padding of every row, and several answers to a
        prompt alone are no reason for that.
        """
        return self.lease_unit if self.lease_unit is not None and self.lease_unit > 1 else None

    @property
    def on_gpu(self) -> bool:
        """Whether the engines compute on GPUs."""
        return self.gpus_per_actor > 0.0

    @property
    def longest_request(self) -> int:
        """Longest prompt plus completion (tokens)."""
        return self.max_prompt_tokens + self.max_completion_tokens

    @property
    def truncated(self) -> bool:
        """Whether completions are sampled from a part of the vocabulary: their log-probs are renormalised over it."""
        return self.top_p < 1.0 or self.top_k is not None


class WeightsConfig(Section):
    """How and when weights reach the rollout actors."""

    transport: Annotated[Literal["object_store", "nccl", "ipc"], Decides.NOTHING] = "object_store"
    """How weights travel: `object_store` works anywhere, `nccl` between GPUs, `ipc` on one GPU."""
    publish_every: Count = 1
    """Optimiser steps between publications; at most max_staleness + 1."""
    bucket_mib: Annotated[Count, Decides.NOTHING] = 256
    """Tensors are packed into buckets of about this size (MiB)."""
    checksum: Annotated[bool, Decides.NOTHING] = True
    """Verify an xxh3 checksum after each update."""
    timeout_s: Annotated[Seconds, Decides.NOTHING] = 300.0
    """How long one update may take, the way to the actor included; one that takes longer is replaced."""

    @property
    def pushed(self) -> bool:
        """Whether the learner pushes whole models into the engines between GPUs: no actor fetches a snapshot."""
        return self.transport in ("nccl", "ipc")
