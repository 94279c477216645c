"""Every knob: one frozen tree, read from a TOML recipe and the command line (decision 13), one module a section.

Unknown keys are refused. A mechanism that is off is a section that is absent. What follows from
other numbers is derived, not asked. Nothing here imports torch, Ray, vLLM or DeepSpeed.
"""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated

from pydantic import model_validator

from unisd_rl.config.base import Decides, Section
from unisd_rl.config.contexts import ContextsConfig
from unisd_rl.config.evaluation import EvaluationConfig
from unisd_rl.config.learner import Layout, LearnerConfig
from unisd_rl.config.model import ModelConfig
from unisd_rl.config.objective import ObjectiveConfig, ObjectiveSettings, TermConfig
from unisd_rl.config.rollout import AutoActors, RolloutConfig, WeightsConfig
from unisd_rl.config.run import AlarmsConfig, FaultsConfig, RunConfig
from unisd_rl.config.task import ArithmeticTask, TaskConfig
from unisd_rl.config.tracking import TrackingConfig
from unisd_rl.types import ViewKind


class Config(Section):
    """The whole configuration of a run. What `python -m unisd_rl.run` runs is `load.load_recipe("unisd_star")`."""

    run: RunConfig = RunConfig()
    model: ModelConfig = ModelConfig()
    task: TaskConfig = ArithmeticTask()
    contexts: Annotated[ContextsConfig, Decides.LOSS] = ContextsConfig()
    rollout: RolloutConfig = RolloutConfig()
    weights: WeightsConfig = WeightsConfig()
    learner: Annotated[LearnerConfig, Decides.LOSS] = LearnerConfig()
    objective: Annotated[ObjectiveConfig, Decides.LOSS]
    evaluation: EvaluationConfig = EvaluationConfig()
    faults: Annotated[FaultsConfig, Decides.NOTHING] = FaultsConfig()
    alarms: Annotated[AlarmsConfig, Decides.NOTHING] = AlarmsConfig()
    tracking: Annotated[TrackingConfig, Decides.NOTHING] = TrackingConfig()

    @model_validator(mode="after")
    def _parts_fit_together(self) -> "Config":
        for check in (
            _agreement_has_views,
            _negatives_are_given,
            _publication_keeps_up,
            _model_fits_task,
            _adapters_can_travel,
            _transport_has_gpus,
            _engine_takes_the_longest,
            _base_actors_keep_the_initial_weights,
            _groups_are_sampled,
            _units_fill_batches,
            _sides_can_take_turns,
            _checkpoints_let_rollouts_go,
        ):
            check(self)
        return self

    def counted(self, problems: int) -> "Config":
        """The same configuration with `run.epochs` as `run.steps`, for so many training problems that are kept."""
        completions = problems * self.rollout.answers_per_prompt
        return self.model_copy(update={"run": self.run.counted(completions, self.learner.batch_size)})

    def describe_batch(self) -> str:
        """What a step trains on, for people: `64 prompts`, or `16 prompts, 4 answers each`."""
        answers = self.rollout.answers_per_prompt
        prompts = self.learner.batch_size // answers
        return f"{prompts} prompts" + (f", {answers} answers each" if answers > 1 else "")

    @property
    def run_dir(self) -> Path:
        """Where this run leaves its files."""
        return self.run.dir / self.run.name

    def with_clock_stopped(self, now: datetime) -> "Config":
        """The same, with `now` for the clock of chat templates unless they have a time already."""
        template = self.model.chat_template
        if template.time is not None:
            return self
        template = template.model_copy(update={"time": now.replace(microsecond=0)})
        return self.model_copy(update={"model": self.model.model_copy(update={"chat_template": template})})

    def made_from(self, recipes: str) -> "Config":
        """The same, with these recipes noted unless it names some already, as a run's config.toml does."""
        if self.run.recipe is not None:
            return self
        return self.model_copy(update={"run": self.run.model_copy(update={"recipe": recipes})})

    @property
    def logprob_tolerance(self) -> float:
        """The mismatch of engine and learner at which the run stops: as set, or what rounding cannot reach."""
        return self.learner.logprob_tolerance or {"float32": 0.005, "bfloat16": 0.3}[self.model.dtype]

    @property
    def temperature(self) -> float:
        """The objective's temperature: its own setting, or the sampling temperature."""
        return self.objective.temperature or self.rollout.temperature

    @property
    def evaluation_temperature(self) -> float:
        """The evaluation's temperature: its own setting, or 0 (greedy) for one answer a problem and the rollouts' for
        several."""
        if self.evaluation.temperature is not None:
            return self.evaluation.temperature
        return self.rollout.temperature if self.evaluation.samples > 1 else 0.0

    @property
    def objective_settings(self) -> ObjectiveSettings:
        """The objective with what this configuration says elsewhere: its temperatures, and the size of a chunk."""
        given = {name: getattr(self.objective, name) for name in ObjectiveConfig.model_fields}
        return ObjectiveSettings.model_validate(
            given
            | {
                "temperature": self.temperature,
                "auxiliary_temperature": self.objective.auxiliary_temperature or self.temperature,
                "chunk_tokens": self.learner.chunk_tokens,
            }
        )

    @property
    def best_layout(self) -> Layout:
        """`learner.layout`, but no tree under an adapter with dropout, where answers that share a token would share
        what is dropped of it."""
        dropped = self.model.lora is not None and self.model.lora.dropout
        return "packed" if dropped and self.learner.layout == "tree" else self.learner.layout

    @property
    def zero_stage(self) -> int:
        """The ZeRO stage that is run: at least 1 with bfloat16, where DeepSpeed then keeps float32 masters that can be
        read (on one rank the two are the same), and for an optimiser in CPU memory."""
        least = 1 if self.model.dtype == "bfloat16" or self.learner.offload_optimizer else 0
        return max(self.learner.zero_stage, least)

    @property
    def may_be_colocated(self) -> bool:
        """Whether `run.placement` may be "colocated", all else being the same."""
        return not any(_objections_to_turns(self))

    @property
    def turns_on_gpu(self) -> bool:
        """Whether generation and learning take turns on one GPU: each has its memory in its own turn."""
        return self.run.colocated and self.rollout.on_gpu

    @property
    def reads_teacher(self) -> bool:
        """Whether any term reads a teacher. Where none does, no view is built, tokenised or scored."""
        return bool(self.objective.needs.views)

    @property
    def contexts_read(self) -> ContextsConfig:
        """Those contexts that a term reads beside the primary view: nothing else is built."""
        views = self.objective.needs.views
        return ContextsConfig(
            primary=self.contexts.primary,
            auxiliary=self.contexts.auxiliary if ViewKind.AUXILIARY in views else None,
            negative=self.contexts.negative if ViewKind.NEGATIVE in views else None,
            order=self.contexts.order,
            donors_per_step=self.contexts.donors_per_step,
        )


def _agreement_has_views(config: Config) -> None:
    views = config.contexts.auxiliary.views if config.contexts.auxiliary else 0
    if config.objective.agreement is not None and views < 2:
        raise ValueError(
            f"contexts.auxiliary.views = {views}: agreement compares views, so it needs at least 2; "
            "raise it or leave out objective.agreement"
        )


def _negatives_are_given(config: Config) -> None:
    readers = [f"objective.{name}" for name, term in config.objective if _reads_negative(term)]
    if readers and config.contexts.negative is None:
        raise ValueError(f"{readers[0]} needs the negative view: add contexts.negative or leave the term out")


def _reads_negative(section: object) -> bool:
    return isinstance(section, TermConfig) and ViewKind.NEGATIVE in section.needs.views


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


def _adapters_can_travel(config: Config) -> None:
    lora, transport = config.model.lora, config.weights.transport
    if lora is not None and config.weights.pushed:
        raise ValueError(
            f'weights.transport = "{transport}" sends whole models and model.lora trains an adapter: '
            'set weights.transport to "object_store" or leave out model.lora'
        )
    largest = config.rollout.engine.largest_lora_rank
    if lora is not None and largest is not None and lora.rank > largest:
        raise ValueError(
            f"model.lora.rank = {lora.rank} is more than the {largest} that vLLM serves; "
            'lower it or set rollout.engine.type to "transformers"'
        )


def _transport_has_gpus(config: Config) -> None:
    gpus = min(config.rollout.gpus_per_actor, config.learner.gpus_per_rank)
    if config.weights.pushed and (not gpus or not config.rollout.engine.takes_pushed_weights):
        raise ValueError(
            f'weights.transport = "{config.weights.transport}" needs the vllm engine, rollout.gpus_per_actor and '
            'learner.gpus_per_rank; set it to "object_store" or give both sides GPUs'
        )


def _base_actors_keep_the_initial_weights(config: Config) -> None:
    share, every = config.rollout.sources.base, config.evaluation.every
    if share and every:
        raise ValueError(
            f"rollout.sources.base = {share:g} needs actors that keep the initial weights, and evaluation.every = "
            f"{every} would give them others in mid-run: leave out evaluation.every"
        )


def _engine_takes_the_longest(config: Config) -> None:
    rollout = config.rollout
    longest = rollout.longest_request
    if (length := rollout.engine.model_length(longest)) < longest:
        raise ValueError(
            f"rollout.engine.max_model_len = {length} is less than max_prompt_tokens + "
            f"max_completion_tokens = {longest}; raise it, lower those, or leave it out"
        )


def _groups_are_sampled(config: Config) -> None:
    answers, gold = config.rollout.answers_per_prompt, config.rollout.sources.gold
    if answers > 1 and gold:
        raise ValueError(
            f"rollout.answers_per_prompt = {answers} and rollout.sources.gold = {gold:g}: a problem has one gold "
            f"completion, which a step would train on {answers} times; set the first to 1 or the second to 0"
        )


def _units_fill_batches(config: Config) -> None:
    rollout, batch = config.rollout, config.learner.batch_size
    unit, answers = rollout.unit_size, rollout.answers_per_prompt
    if unit % answers:
        raise ValueError(
            f"rollout.lease_unit = {unit} is no multiple of rollout.answers_per_prompt = {answers}: a group would have "
            "two leases; choose one that is, or leave it out"
        )
    if batch % unit:
        name = "answers_per_prompt" if rollout.lease_unit is None else "lease_unit"
        raise ValueError(
            f"rollout.{name} = {unit} does not divide learner.batch_size = {batch}: a unit would be of two steps; "
            "choose one that does"
        )


def _sides_can_take_turns(config: Config) -> None:
    objections = (
        *(_objections_to_one_process(config) if config.run.in_process else ()),
        *(_objections_to_turns(config) if config.run.colocated else ()),
    )
    if objections:
        raise ValueError(f'run.placement = "{config.run.placement}": {objections[0]}; or set run.placement to "apart"')


def _objections_to_one_process(config: Config) -> Iterator[str]:
    """Why a run cannot be in one process, each with its remedy."""
    if not config.rollout.engine.in_process:
        yield 'rollout.engine.type = "vllm" computes in processes of its own: set it to "transformers"'
    if config.learner.ranks > 1:
        yield f"learner.ranks = {config.learner.ranks}, and each rank is a process: set it to 1"
    if config.rollout.gpus_per_actor or config.learner.gpus_per_rank:
        yield f"{_gpus(config)}, and one process computes on the CPU: set both to 0"


def _objections_to_turns(config: Config) -> Iterator[str]:
    """Why generation and learning cannot take turns, each with its remedy."""
    rollout, learner, transport = config.rollout, config.learner, config.weights.transport
    if isinstance(rollout.actors, AutoActors):
        yield (
            f"rollout.actors.max = {rollout.actors.max} asks for more actors while the learner waits, and colocated it "
            "waits at every step: set rollout.actors to 1"
        )
    elif rollout.actors > 1:
        yield f"rollout.actors = {rollout.actors}, and in its turn one has all cores: set it to 1"
    if transport == "nccl":
        yield 'weights.transport = "nccl" sends between GPUs that are apart: set it to "object_store"'
    if rollout.gpus_per_actor or learner.gpus_per_rank:
        yield from _objections_to_one_gpu(config)
    if rollout.max_staleness > 1:
        yield (
            f"rollout.max_staleness = {rollout.max_staleness} lets rollouts run ahead of a learner at work, and they "
            "sleep then: set it to 0 or 1"
        )


def _objections_to_one_gpu(config: Config) -> Iterator[str]:
    """Why an actor and the learner cannot take turns on one GPU, each with its remedy."""
    engine, shares = config.rollout.engine, (config.rollout.gpus_per_actor, config.learner.gpus_per_rank)
    if not min(shares) or round(sum(shares), 4) > 1.0:  # Ray counts in 0.0001
        yield (
            f"{_gpus(config)}, and turns are taken on CPUs or on one GPU, of which each side has a share: set both to "
            "0, or both to 0.5"
        )
    if not engine.frees_gpu:
        yield f'rollout.engine.type = "{engine.type}" gives no memory of a GPU back between turns: set it to "vllm"'
    if config.learner.ranks > 1:
        yield f"learner.ranks = {config.learner.ranks}, and turns on a GPU are taken with one rank: set it to 1"
    if engine.weight_shards > 1:
        yield f"rollout.engine.tensor_parallel = {engine.weight_shards}, and turns are taken on one GPU: set it to 1"


def _gpus(config: Config) -> str:
    gpus = config.rollout.gpus_per_actor, config.learner.gpus_per_rank
    return f"rollout.gpus_per_actor = {gpus[0]:g} and learner.gpus_per_rank = {gpus[1]:g}"


def _checkpoints_let_rollouts_go(config: Config) -> None:
    keep, every = config.rollout.keep, config.run.checkpoint_every
    if keep != "all" and not every:
        raise ValueError(
            f"rollout.keep = {keep} throws away what no checkpoint needs, and run.checkpoint_every = 0 leaves none: "
            "raise the second, or leave out the first"
        )


def ineffective_settings(config: Config) -> tuple[str, ...]:
    """One sentence for every setting that is on but cannot change the gradient; empty when all of them act.

    It is the mistake that no loss curve shows: with a threshold above the divergence's bound, agreement whose weights
    are all one, or a context that no term reads, the run looks as if a mechanism were part of it. What depends on the
    number of steps is said once `run.epochs` are counted.
    """
    objective = config.objective
    mechanisms = (sentence for section in objective.mechanisms for sentence in section.ineffective(objective))
    return (*mechanisms, *_auxiliary_temperature(config), *_ema(config), *_contexts(config))


def slower_settings(config: Config) -> tuple[str, ...]:
    """One sentence for every setting that leaves a rank without work or keeps a GPU from the fast path."""
    return (*_idle_ranks(config), *_without_kernel(config))


def _idle_ranks(config: Config) -> Iterator[str]:
    ranks, prompts = config.learner.ranks, config.learner.batch_size // config.rollout.answers_per_prompt
    if prompts < ranks:
        yield (
            f"learner.ranks = {ranks}: a step has {config.describe_batch()}, and a prompt's answers are on one rank; "
            f"{ranks - prompts} would have nothing to do"
        )


def _without_kernel(config: Config) -> Iterator[str]:
    divergence = config.objective.divergence
    if config.learner.gpus_per_rank and divergence is not None and not divergence.has_triton_kernel:
        yield f"objective.divergence: {divergence.title} has no Triton kernel; it runs in plain torch, which is slower"


def _auxiliary_temperature(config: Config) -> Iterator[str]:
    own = config.objective.auxiliary_temperature
    if own is not None and own != config.temperature and ViewKind.AUXILIARY not in config.objective.needs.views:
        yield f"auxiliary temperature {own:g} is of views that only agreement on a divergence term reads"


def _ema(config: Config) -> Iterator[str]:
    ema, run = config.objective.ema, config.run
    if ema is not None and run.epochs is None and run.total_steps <= ema.every:
        yield (
            f"objective.ema has no effect: its first update comes after {ema.every} steps, and the run ends with "
            f"step {run.total_steps}"
        )


def _contexts(config: Config) -> Iterator[str]:
    given, read = config.contexts, config.contexts_read
    if given.primary != "demonstration" and not config.reads_teacher:
        yield f'contexts.primary = "{given.primary}" has no effect: no term reads a teacher'
    if given.auxiliary and not read.auxiliary:
        yield "contexts.auxiliary gives views that no term reads (agreement with a divergence would): none is built"
    if given.negative and not read.negative:
        yield "contexts.negative gives views that no term reads (objective.contrastive would): none is built"
    if not read.auxiliary and given.order != "reference_first":
        yield f'contexts.order = "{given.order}" has no effect: no term reads an auxiliary view'
    if not read.auxiliary and given.donors_per_step is not None:
        yield f"contexts.donors_per_step = {given.donors_per_step} has no effect: no term reads an auxiliary view"
