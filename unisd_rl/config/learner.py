"""The section `learner`: who trains, and how."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from unisd_rl.config.base import (
    Cores,
    Count,
    Decides,
    Fraction,
    Gpus,
    NonNegative,
    Positive,
    Processes,
    Resources,
    Section,
)

Layout = Literal["tree", "packed", "padded"]


class LearnerConfig(Section):
    """Who trains, and how."""

    ranks: Annotated[Processes, Decides.ROUNDING] = 1
    """Learner processes."""
    gpus_per_rank: Annotated[Gpus, Decides.ROUNDING] = 0.0
    """GPUs each rank asks Ray for; 0 runs on the CPU."""
    resources: Annotated[Resources, Decides.NOTHING] = {}
    """Custom Ray resources each rank asks for."""
    cores: Annotated[Cores | None, Decides.NOTHING] = None
    """CPU cores of the learner on a shared machine. Absent: derived, and printed at start."""
    zero_stage: Annotated[int, Field(ge=0, le=3), Decides.ROUNDING] = 0
    """DeepSpeed ZeRO stage."""
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    """AdamW with moments of 32 bits, or of 8 (bitsandbytes): a quarter of their memory, rounded at each step. With 8
    bits a run is resumed on as many ranks, and under the ZeRO stage, that it had."""
    offload_optimizer: Annotated[bool, Decides.ROUNDING] = False
    """Keep moments and float32 masters in CPU memory, and update there (DeepSpeed's offload): for a learner on GPUs.
    Runs ZeRO 1 at least."""
    batch_size: Count = 64
    """Completions per optimiser step, over all ranks: so many prompts with `rollout.answers_per_prompt` 1."""
    micro_batch_tokens: Annotated[Count, Decides.ROUNDING] = 4096
    """Tokens that one rank reads in one pass with gradient, shared ones once; does not change the gradient. Longer
    sequences go alone."""
    scoring_tokens: Annotated[Count | None, Decides.ROUNDING] = None
    """Tokens that one rank reads in one pass without gradient. Absent: four times `micro_batch_tokens`."""
    layout: Annotated[Layout, Decides.ROUNDING] = "tree"
    """How the sequences of a pass lie: `tree` in one row, in which what several begin with is read once; `packed` end
    to end in one row; `padded` to one length. From this one on, the first that the model's attention allows, and no
    tree under an adapter with dropout."""
    mask_truncated_completions: bool = False
    """Train on no token of a completion that `rollout.max_completion_tokens` cut: what came before the limit is half an
    answer. A step of which every completion was cut changes nothing."""
    learning_rate: Positive = 3e-4
    """Peak learning rate of AdamW (betas 0.9, 0.999)."""
    weight_decay: NonNegative = 0.0
    """AdamW's decoupled weight decay; of matrices alone, not of norms and biases."""
    warmup_fraction: Fraction = 0.1
    """Share of the steps that warm up; a cosine to zero follows."""
    warmup_from_zero: bool = False
    """Warm up as transformers does: steps rounded up, and a first step at rate 0. False: rounded, and every step
    moves."""
    max_grad_norm: Positive = 1.0
    """Gradients are clipped to this norm."""
    gradient_checkpointing: Annotated[bool, Decides.ROUNDING] = False
    """Recompute activations in the backward pass."""
    chunk_tokens: Annotated[Count, Decides.ROUNDING] = 128
    """Tokens whose vocabulary-wide logits exist at one time."""
    logprob_tolerance: Annotated[Positive | None, Decides.NOTHING] = None
    """Largest root mean square (nats) of engine minus learner log-prob, over tokens under the same version: above it
    the engine has other weights, and the run ends. Absent: 0.005 for float32, 0.3 for bfloat16, whose kernels round
    differently."""

    @model_validator(mode="after")
    def _eight_bits_stay_on_the_device(self) -> "LearnerConfig":
        if self.offload_optimizer and self.eight_bit_moments:
            raise ValueError(
                'optimizer = "adamw_8bit" and offload_optimizer = true: moments of 8 bits are updated on the device; '
                "leave out one of the two"
            )
        return self

    @property
    def eight_bit_moments(self) -> bool:
        """Whether AdamW's moments are of 8 bits."""
        return self.optimizer == "adamw_8bit"

    @property
    def scoring_budget(self) -> int:
        """Tokens of a pass without gradient: it keeps no activations."""
        return self.scoring_tokens or 4 * self.micro_batch_tokens
