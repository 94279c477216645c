"""How long a step on GPUs takes, from the configuration and the shape of its model: an estimate, and no measurement.

```
 learner      floating-point operations of all passes, at the share of a GPU's arithmetic that training reaches
 generation   each token of an answer reads all weights once from the GPU's memory, for all answers in flight together
```

Both are of prompts and answers as long as the limits allow, every sequence read by itself: with shorter data, and where
views share what they begin with, a step is that much shorter. Attention's own arithmetic, a few percent at these
lengths, is left out, and so is what travels between processes.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from unisd_rl.config import Config
from unisd_rl.driver.memory import BYTES
from unisd_rl.models.shape import ModelShape

GPU_FLOPS, GPU_BYTES = 312e12, 2e12
"""Operations in bfloat16, and bytes of memory, a second of the GPU that is assumed: those of an A100."""
_REACHED = 0.4  # of the arithmetic, by passes over long rows
_FORWARD = 2.0  # operations for each weight and token: a multiplication and an addition


@dataclass(frozen=True, slots=True)
class StepSeconds:
    """Seconds of one optimiser step."""

    learner: float
    generation: float
    in_turns: bool
    """Whether one waits for the other (on-policy), or both go on at the same time."""

    @property
    def together(self) -> float:
        """Of the whole step."""
        return self.learner + self.generation if self.in_turns else max(self.learner, self.generation)


def step_seconds(config: Config, shape: ModelShape) -> StepSeconds:
    """A step of at most `rollout.longest_request` tokens a completion, on GPUs."""
    in_turns = config.rollout.max_staleness == 0
    return StepSeconds(_learner_s(config, shape), _generation_s(config, shape), in_turns)


def describe_duration(config: Config, shape: ModelShape) -> Iterator[str]:
    """A line for a person; none where a side computes on CPUs, whose speeds differ too much."""
    if not (config.rollout.on_gpu and config.learner.gpus_per_rank):
        return
    step = step_seconds(config, shape)
    steps = config.run.total_steps if config.run.epochs is None else None
    whole = "" if steps is None else f", {steps * step.together / 3600:.2g} hours for {steps:,} steps"
    yield (
        f"time, estimated and not measured: at most {step.together:.2g} s a step (learner {step.learner:.2g}, "
        f"generation {step.generation:.2g}){whole}, without evaluations, on GPUs of {GPU_FLOPS / 1e12:g} TFLOP/s and "
        f"{GPU_BYTES / 1e12:g} TB/s"
    )


def _learner_s(config: Config, shape: ModelShape) -> float:
    contexts, learner = config.contexts_read, config.learner
    auxiliary = contexts.auxiliary.views if contexts.auxiliary else 0
    views = 1 + auxiliary + bool(contexts.negative) if config.reads_teacher else 0
    # Backward, the gradient of what a layer read, and of its weights where these are trained and not an adapter's.
    backward = _FORWARD if config.model.lora is not None else 2 * _FORWARD
    again = _FORWARD if learner.gradient_checkpointing else 0.0
    operations = shape.parameters * ((1 + views) * _FORWARD + backward + again)
    tokens = learner.batch_size * config.rollout.longest_request / learner.ranks
    return operations * tokens / (GPU_FLOPS * _REACHED * learner.gpus_per_rank)


def _generation_s(config: Config, shape: ModelShape) -> float:
    rollout = config.rollout
    sampled = config.learner.batch_size * (rollout.sources.policy + rollout.sources.base)
    rounds = math.ceil(sampled / (rollout.actors_at_start * rollout.concurrency))
    read = shape.parameters * BYTES[config.model.dtype] / rollout.engine.weight_shards
    return rounds * rollout.max_completion_tokens * read / (GPU_BYTES * min(1.0, rollout.gpus_per_actor))
