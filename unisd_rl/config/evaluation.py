"""The section `evaluation`: when and how a model is evaluated on held-out problems."""

from typing import Annotated

from pydantic import Field, model_validator

from unisd_rl.config.base import Count, Decides, Gpus, Section, TemperatureOrGreedy


class RetentionConfig(Section):
    """The likelihood of the gold completions, and the distance from the initial model (method.md, section 6).

    A process of its own reads with both models, while nothing is trained. Costs one read of the gold completions and
    two of the answers, and the weights of both models in memory.
    """

    examples: Count | None = None
    """At most so many held-out problems, the first ones. Absent: all of them."""
    batch_size: Count = 16
    """Completions per forward pass."""
    chunk_tokens: Count = 256
    """Tokens whose vocabulary-wide logits exist at one time."""
    gpus: Gpus = 0.0
    """GPUs the process asks Ray for; 0 runs on the CPU."""


class EvaluationConfig(Section):
    """When and how a model is evaluated on held-out problems."""

    every: Annotated[Count | None, Decides.NOTHING] = None
    """Steps between evaluations. Absent: before the first step and after the last."""
    concurrency: Annotated[Count, Decides.NOTHING] = 128
    """Problems in flight."""
    samples: Count = 1
    """Answers per problem."""
    k: Annotated[tuple[Count, ...], Field(min_length=1)] = (1,)
    """pass@k is reported for each of these; at most `samples`."""
    temperature: TemperatureOrGreedy | None = None
    """Sampling temperature, over the whole vocabulary. Absent: greedy for one answer a problem, `rollout.temperature`
    for several."""
    retention: RetentionConfig | None = None
    """Likelihood and retention at each evaluation. Absent: off."""

    @model_validator(mode="after")
    def _samples_are_enough_and_differ(self) -> "EvaluationConfig":
        if max(self.k) > self.samples:
            raise ValueError(
                f"k = {max(self.k)} needs at least as many answers a problem, but samples = {self.samples}: raise "
                "samples or leave out that k"
            )
        if self.samples > 1 and self.temperature == 0.0:
            raise ValueError(
                f"samples = {self.samples} greedy answers are {self.samples} times the same: raise temperature or "
                "leave out samples"
            )
        return self
