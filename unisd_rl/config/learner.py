"""Who trains, and how."""

from typing import Annotated

from pydantic import Field

from unisd_rl.config.section import Count, Fraction, NonNegative, Positive, Section


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
