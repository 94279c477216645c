"""Every knob: one frozen tree, read from a TOML recipe and the command line (decision 13).

Unknown keys are refused. A mechanism that is off is a section that is absent. What follows from
other numbers is derived, not asked. Nothing here imports torch, Ray, vLLM or DeepSpeed.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
OpenFraction = Annotated[float, Field(gt=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of the configuration: immutable, and unknown keys are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class RunConfig(Section):
    """Name, place, length and patience of a run."""

    name: Annotated[str, Field(pattern=r"^[^/.][^/]*$")] = "arithmetic"
    """Name of the run; its files go to DIR/NAME."""
    dir: Path = Path("runs")
    """Folder for runs. Must be absolute under a Ray job, whose working directory is thrown away."""
    steps: Count = 40
    """Optimiser steps."""
    seed: int = 0
    """Seeds the order of prompts, the choice of contexts, sampling and initial weights."""
    checkpoint_every: Count | None = None
    """Steps between checkpoints; the last step always leaves one."""
    step_timeout_s: Positive = 900.0
    """How long the loop waits for one batch or one optimiser step before it gives up."""
    start_timeout_s: Positive = 600.0
    """How long an engine or a learner may take to start."""
    cluster_timeout_s: Positive = 60.0
    """How long to wait for a cluster to offer the resources asked for."""


class ModelConfig(Section):
    """The model that is student, teacher and rollout policy at once."""

    path: str | None = None
    """Model folder or hub name. Absent: the embedded tiny base model, trained at first use."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the weights the engines and the learner compute with; masters and EMA are float32."""
    base_seed: int = 0
    """Seed of the embedded base model's training (unused with `path`)."""


class ArithmeticTask(Section):
    """The embedded task: two-digit sums and differences with written-out carries."""

    type: Literal["arithmetic"] = "arithmetic"
    train_examples: Count = 4000
    """Training problems."""
    eval_examples: Count = 512
    """Held-out problems, disjoint from training."""
    seed: int = 0
    """Seed of the split and of the problems' order."""


class Fields(Section):
    """Names of a record's fields."""

    prompt: str = "prompt"
    """Name of the field the student reads."""
    demonstration: str = "demonstration"
    """Name of the field with a worked solution, which only teachers read."""
    answer: str = "answer"
    """Name of the field with the reference answer that completions are graded against."""
    id: str | None = None
    """Name of the field that identifies a record. Absent: its position."""


class JsonlTask(Section):
    """A user's own JSON Lines files."""

    type: Literal["jsonl"]
    train: Path
    """JSON Lines file with the training records."""
    evaluation: Path | None = None
    """JSON Lines file with held-out records. Absent: the last `eval_examples` training records are held out."""
    eval_examples: Count = 500
    """At most so many held-out records are evaluated."""
    fields: Fields = Fields()
    """Which field is which."""


class DatasetsTask(Section):
    """Anything `datasets.load_dataset` loads."""

    type: Literal["datasets"]
    path: str
    """What `datasets.load_dataset` takes: a hub name, a local folder, or a file format."""
    name: str | None = None
    """Configuration of the data set."""
    train_split: str = "train"
    """Split to train on."""
    eval_split: str | None = None
    """Held-out split. Absent: the last `eval_examples` training records are held out."""
    eval_examples: Count = 500
    """At most so many held-out records are evaluated."""
    fields: Fields = Fields()
    """Which field is which."""


TaskConfig = Annotated[ArithmeticTask | JsonlTask | DatasetsTask, Field(discriminator="type")]


class AuxiliaryConfig(Section):
    """Views that read another problem's solution."""

    views: Count = 3
    """K, the number of auxiliary views; each reads one solved example of another problem."""


class NegativeConfig(Section):
    """The view that reads a wrong demonstration."""

    attempts: Count = 8
    """Candidates tried for a demonstration that the grader finds wrong; without one a problem has no negative view."""


class ContextsConfig(Section):
    """What the teachers read beside the prompt."""

    auxiliary: AuxiliaryConfig | None = None
    """Views that read another problem's solution (for agreement). Absent: none."""
    negative: NegativeConfig | None = None
    """The view that reads a wrong demonstration (for the contrastive term). Absent: none."""


class VllmEngine(Section):
    """vLLM's AsyncLLM inside the rollout actor."""

    type: Literal["vllm"] = "vllm"
    kv_cache_gib: Positive = 0.5
    """Memory for keys and values, CPU only (GiB)."""
    gpu_memory_utilization: OpenFraction = 0.85
    """Share of a GPU's memory the engine may take."""
    tensor_parallel: Count = 1
    """GPUs per rollout actor."""
    max_model_len: Count | None = None
    """Longest prompt plus completion. Absent: the sum of the two limits."""


class TransformersEngine(Section):
    """Generation by transformers: for machines without vLLM, exact runs and fast tests."""

    type: Literal["transformers"]


EngineConfig = Annotated[VllmEngine | TransformersEngine, Field(discriminator="type")]


class RolloutConfig(Section):
    """Who generates, how, and how stale it may get."""

    engine: EngineConfig = VllmEngine()
    """The generator inside each rollout actor."""
    actors: Count = 1
    """Rollout actors."""
    gpus_per_actor: NonNegative = 0.0
    """GPUs each rollout actor asks Ray for; 0 runs on the CPU."""
    resources: dict[str, float] = {}
    """Custom Ray resources each rollout actor asks for."""
    cores: Annotated[tuple[int, ...], Field(min_length=1)] | None = None
    """CPU cores of the rollout actors on a shared machine. Absent: derived, and printed at start."""
    concurrency: Count = 64
    """Prompts an actor has in flight."""
    temperature: Positive = 0.7
    """Sampling temperature."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Nucleus sampling; 1 is off."""
    max_prompt_tokens: Count = 512
    """A problem any of whose views is longer is dropped in preparation and counted."""
    max_completion_tokens: Count = 64
    """Longest completion."""
    max_staleness: Annotated[int, Field(ge=0)] = 1
    """Largest number of optimiser steps between the version of a token and the step that trains on it."""
    lease_s: Positive = 300.0
    """A prompt whose actor has not renewed its lease for so long is issued again."""
    max_attempts: Count = 3
    """A prompt that failed so often is quarantined."""
    fsync: bool = False
    """Sync each ledger segment to the disk: survives power loss, not only killed processes."""


class WeightsConfig(Section):
    """How and when weights reach the rollout actors."""

    transport: Literal["object_store", "nccl", "ipc"] = "object_store"
    """How weights travel: `object_store` works anywhere, `nccl` between GPUs, `ipc` on one GPU."""
    publish_every: Count = 1
    """Optimiser steps between publications; at most max_staleness + 1."""
    bucket_mib: Count = 256
    """Tensors are packed into buckets of about this size (MiB)."""
    checksum: bool = True
    """Verify an xxh3 checksum after each update."""
    timeout_s: Positive = 300.0
    """How long one update may take before the run stops."""


class LearnerConfig(Section):
    """Who trains, and how."""

    ranks: Count = 1
    """Learner processes."""
    gpus_per_rank: NonNegative = 0.0
    """GPUs each rank asks Ray for; 0 runs on the CPU."""
    resources: dict[str, float] = {}
    """Custom Ray resources each rank asks for."""
    cores: Annotated[tuple[int, ...], Field(min_length=1)] | None = None
    """CPU cores of the learner on a shared machine. Absent: derived, and printed at start."""
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 0
    """DeepSpeed ZeRO stage."""
    batch_size: Count = 64
    """Prompts per optimiser step, over all ranks."""
    micro_batch_size: Count = 16
    """Sequences per forward pass on one rank; does not change the gradient."""
    learning_rate: Positive = 3e-4
    """Peak learning rate of AdamW (betas 0.9, 0.999)."""
    weight_decay: NonNegative = 0.0
    """AdamW's decoupled weight decay."""
    warmup_fraction: Fraction = 0.1
    """Share of the steps that warm up; a cosine to zero follows."""
    max_grad_norm: Positive = 1.0
    """Gradients are clipped to this norm."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass."""
    chunk_tokens: Count = 256
    """Tokens whose vocabulary-wide logits exist at one time."""
    logprob_tolerance: Positive | None = None
    """Largest gap (nats) between engine and learner log-probs of the same tokens under the same version. Absent: 0.02
    for float32, 0.5 for bfloat16, whose kernels round differently."""


class DivergenceConfig(Section):
    """The main term: a divergence between student and teacher at every token."""

    alpha: Fraction = 0.5
    """0 is the forward KL, 1 the reverse KL, in between the generalised Jensen-Shannon divergence."""


class ClippingConfig(Section):
    """Divergence clipping: at a constant or at a quantile."""

    threshold: Positive | None = None
    """Clip each token's divergence at this many nats."""
    quantile: OpenFraction | None = None
    """Clip at this quantile of the whole step's divergences instead."""

    @model_validator(mode="after")
    def _one_of_two(self) -> "ClippingConfig":
        if (self.threshold is None) == (self.quantile is None):
            raise ValueError("give either `threshold` (nats) or `quantile`, not both and not neither")
        return self


class TokenAgreement(Section):
    """One agreement weight per token."""

    level: Literal["token"] = "token"
    gamma: NonNegative = 1.0
    """How strongly disagreement lowers a weight; 0 switches the mechanism off."""
    statistic: Literal["variance", "range"] = "variance"
    """Disagreement of the views' log-probs: population variance, or max - min."""
    scale_quantile: OpenFraction = 0.95
    """Disagreement is measured against this quantile of the whole step ..."""
    scale: Positive | None = None
    """... or, where this is set, against this absolute number."""
    cap: Positive = 10.0
    """Largest scaled disagreement."""
    floor: OpenFraction = 0.01
    """Smallest weight."""


class SequenceAgreement(Section):
    """One agreement weight per completion."""

    level: Literal["sequence"]
    gamma: NonNegative = 1.0
    """Weight = exp(-gamma * disagreement of the views' mean log-probs)."""
    statistic: Literal["variance", "range"] = "variance"
    """Disagreement: population variance, or max - min."""


AgreementConfig = Annotated[TokenAgreement | SequenceAgreement, Field(discriminator="level")]


class ContrastiveConfig(Section):
    """Pull to the right demonstration, push from the wrong one."""

    weight: Positive = 0.1
    """lambda_c."""
    margin: NonNegative = 0.5
    """Margin of the hinge (nats)."""


class MatchingConfig(Section):
    """Feature matching of final hidden states."""

    weight: Positive = 0.1
    """lambda_f. Without a `divergence` section this is the representation-only variant."""


class EmaConfig(Section):
    """The teacher follows the student as an exponential moving average."""

    beta: Fraction = 0.9
    """Share of the old teacher that an update keeps; 1 never moves."""
    every: Count = 1
    """Optimiser steps between updates."""


class ObjectiveConfig(Section):
    """UniSD*: the mechanisms that are on are the sections that are there."""

    temperature: Positive | None = None
    """Softmax temperature of every distribution. Absent: the sampling temperature."""
    divergence: DivergenceConfig | None = None
    """The main term. Absent: none."""
    clipping: ClippingConfig | None = None
    """Clipping of rare outlier tokens. Absent: none."""
    agreement: AgreementConfig | None = None
    """Multi-teacher agreement weights. Absent: all tokens weigh the same."""
    contrastive: ContrastiveConfig | None = None
    """Right against wrong demonstrations. Absent: none."""
    matching: MatchingConfig | None = None
    """Feature matching. Absent: none."""
    ema: EmaConfig | None = None
    """The moving teacher. Absent: the teacher stays the initial model."""

    @model_validator(mode="after")
    def _something_to_minimise(self) -> "ObjectiveConfig":
        if self.divergence is None and self.contrastive is None and self.matching is None:
            raise ValueError("nothing to minimise: give `divergence`, `contrastive` or `matching`")
        return self


class EvaluationConfig(Section):
    """When and how the student is examined on held-out problems."""

    every: Count | None = None
    """Steps between evaluations. Absent: before the first step and after the last."""
    concurrency: Count = 128
    """Problems in flight."""


class Config(Section):
    """The whole configuration of a run. What `python -m unisd_rl.run` runs is `settings.load_recipe("arithmetic")`."""

    run: RunConfig = RunConfig()
    model: ModelConfig = ModelConfig()
    task: TaskConfig = ArithmeticTask()
    contexts: ContextsConfig = ContextsConfig()
    rollout: RolloutConfig = RolloutConfig()
    weights: WeightsConfig = WeightsConfig()
    learner: LearnerConfig = LearnerConfig()
    objective: ObjectiveConfig
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _parts_fit_together(self) -> "Config":
        for check in (
            _agreement_has_views,
            _contrast_has_negatives,
            _publication_keeps_up,
            _model_fits_task,
            _transport_has_gpus,
            _engine_takes_the_longest,
        ):
            check(self)
        return self

    @property
    def run_dir(self) -> Path:
        """Where this run leaves its files."""
        return self.run.dir / self.run.name

    @property
    def logprob_tolerance(self) -> float:
        """The gap at which the run stops: as set, or what the model's type makes plausible."""
        return self.learner.logprob_tolerance or {"float32": 0.02, "bfloat16": 0.5}[self.model.dtype]

    @property
    def temperature(self) -> float:
        """The objective's temperature: its own setting, or the sampling temperature."""
        return self.objective.temperature or self.rollout.temperature


def _agreement_has_views(config: Config) -> None:
    views = config.contexts.auxiliary.views if config.contexts.auxiliary else 0
    if config.objective.agreement is not None and views < 2:
        raise ValueError(
            f"contexts.auxiliary.views = {views}: agreement compares views, so it needs at least 2; "
            "raise it or leave out objective.agreement"
        )


def _contrast_has_negatives(config: Config) -> None:
    if config.objective.contrastive is not None and config.contexts.negative is None:
        raise ValueError("objective.contrastive needs the negative view: add contexts.negative or leave the term out")


def _publication_keeps_up(config: Config) -> None:
    every, staleness = config.weights.publish_every, config.rollout.max_staleness
    if every > staleness + 1:
        raise ValueError(
            f"weights.publish_every = {every} needs rollout.max_staleness >= {every - 1}, but it is {staleness}: "
            "no rollout could start; lower the first or raise the second"
        )


def _model_fits_task(config: Config) -> None:
    if config.model.path is None and config.task.type != "arithmetic":
        raise ValueError(
            f'task.type = "{config.task.type}" needs a model: set model.path (the embedded model only knows arithmetic)'
        )


def _transport_has_gpus(config: Config) -> None:
    gpus = min(config.rollout.gpus_per_actor, config.learner.gpus_per_rank)
    if config.weights.transport != "object_store" and (not gpus or config.rollout.engine.type != "vllm"):
        raise ValueError(
            f'weights.transport = "{config.weights.transport}" needs the vllm engine, rollout.gpus_per_actor and '
            'learner.gpus_per_rank; set it to "object_store" or give both sides GPUs'
        )


def _engine_takes_the_longest(config: Config) -> None:
    rollout = config.rollout
    longest = rollout.max_prompt_tokens + rollout.max_completion_tokens
    if isinstance(rollout.engine, VllmEngine) and (rollout.engine.max_model_len or longest) < longest:
        raise ValueError(
            f"rollout.engine.max_model_len = {rollout.engine.max_model_len} is less than max_prompt_tokens + "
            f"max_completion_tokens = {longest}; raise it, lower those, or leave it out"
        )
