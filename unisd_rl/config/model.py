"""The section `model`: the model that is trained."""

from typing import Annotated, Literal

from pydantic import Field

from unisd_rl.config.base import Count, Decides, Section


class LoraConfig(Section):
    """Low-rank adapters (peft): the base stays as it is, student and teacher are two adapters on it."""

    rank: Count = 64
    """r, the rank of the factors A and B."""
    alpha: Count = 128
    """The adapter's output is scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Dropout on the student's adapter input. Above 0 the gradient depends on the layout of ranks and micro-batches."""
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )
    """Names of the linear layers that get an adapter."""


class ModelConfig(Section):
    """The model that is student, teacher and rollout policy at once."""

    path: str | None = None
    """Model folder or hub name. Absent: the embedded tiny base model, trained at first use."""
    dtype: Annotated[Literal["float32", "bfloat16"], Decides.LOSS] = "float32"
    """Type of the weights the engines and the learner compute with; masters and EMA are float32."""
    base_seed: int = 0
    """Seed of the embedded base model's training (unused with `path`)."""
    lora: Annotated[LoraConfig | None, Decides.LOSS] = None
    """Train low-rank adapters. Absent: all weights are trained."""
