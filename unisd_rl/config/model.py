"""The section `model`: the model that is trained."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from unisd_rl.config.base import Count, Decides, ModelName, Section, Seed
from unisd_rl.config.contexts import ContextOrder


def _true_or_false(given: object) -> object:
    """The command line says `NAME=false`, and to a template every text is true."""
    return {"true": True, "false": False}.get(given, given) if isinstance(given, str) else given


TemplateArguments = dict[str, Annotated[bool | int | float | str, BeforeValidator(_true_or_false)]]


class ChatTemplateConfig(Section):
    """What the tokenizer's chat template is given beside the turns of a chat."""

    student: TemplateArguments = {}
    """Arguments by name for what the student reads, in an evaluation too, e.g. `{"enable_thinking": false}`."""
    teacher: TemplateArguments | None = None
    """The same for what the teacher reads. Absent: the student's."""
    time: datetime | None = None
    """What a template's clock shows (`strftime_now`). Absent: the start of the run, noted in its config.toml."""


class LoraConfig(Section):
    """Low-rank adapters (peft): the base stays as it is, student and teacher are two adapters on it."""

    rank: Count = 64
    """r, the rank of the factors A and B."""
    alpha: Count | None = None
    """The adapter's output is scaled by alpha / rank. Absent: twice the rank, as the paper's 128 is of its 64."""
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

    @property
    def effective_alpha(self) -> int:
        """`alpha`, or what it is where it is absent."""
        return self.alpha or 2 * self.rank

    @property
    def scaling(self) -> float:
        """What the product of the factors is multiplied by."""
        return self.effective_alpha / self.rank


class ModelConfig(Section):
    """The model that is student, teacher and rollout policy at once."""

    path: ModelName | None = None
    """Model folder or hub name. Absent: the embedded tiny base model."""
    dtype: Annotated[Literal["float32", "bfloat16"], Decides.LOSS] = "float32"
    """Type of the weights the engines and the learner compute with; masters and EMA are float32."""
    base_seed: Seed = 0
    """Seed of the embedded base model's training (unused with `path`)."""
    base_order: ContextOrder | None = None
    """Order of the auxiliary views that the embedded base model has learned to read beside the usual one. Absent: that
    of `contexts.order`. For runs of several orders that are to begin with one model."""
    chat_template: ChatTemplateConfig = ChatTemplateConfig()
    """Arguments and clock of the chat template."""
    lora: Annotated[LoraConfig | None, Decides.LOSS] = None
    """Train low-rank adapters. Absent: all weights are trained."""
