"""The model that is trained."""

from typing import Literal

from unisd_rl.config.section import Section


class ModelConfig(Section):
    """The model that is student, teacher and rollout policy at once."""

    path: str | None = None
    """Model folder or hub name. Absent: the embedded tiny base model, trained at first use."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the weights the engines and the learner compute with; masters and EMA are float32."""
    base_seed: int = 0
    """Seed of the embedded base model's training (unused with `path`)."""
