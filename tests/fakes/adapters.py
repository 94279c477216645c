"""The oracle for adapters: peft itself on a plain transformers model, and factors that make a difference."""

from pathlib import Path

import torch
from peft import LoraConfig as PeftConfig
from peft import PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from transformers import AutoModelForCausalLM

from tests.fakes.snapshots import take_snapshot
from unisd_rl.types import PolicyVersion

LORA = {
    "rank": 6,  # not one of the ranks that vLLM provides for: it makes room for 8
    "alpha": 9,
    "targets": ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"],  # of packed layers only a part
}
BUCKET_BYTES = 10_000  # several buckets even for a tiny adapter

Factors = dict[str, torch.Tensor]


def adapted_base(path: Path) -> PeftModel:
    """The model with a blank adapter of `LORA` on it, float32."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    config = PeftConfig(r=LORA["rank"], lora_alpha=LORA["alpha"], target_modules=LORA["targets"], task_type="CAUSAL_LM")
    return get_peft_model(model, config).eval()


def with_factors(path: Path, factors: Factors) -> PeftModel:
    """The model with these factors, put in their places by peft."""
    model = adapted_base(path)
    set_peft_model_state_dict(model, factors)
    return model


def random_factors(path: Path, seed: int) -> Factors:
    """Factors that move log-probs by whole nats, named by peft."""
    torch.manual_seed(seed)
    named = get_peft_model_state_dict(adapted_base(path))
    return {name: torch.randn_like(factor) * 0.1 for name, factor in named.items()}


def blank_factors(path: Path) -> Factors:
    """An adapter as training begins with it: B = 0, A is not."""
    return {
        name: torch.zeros_like(factor) if "lora_B" in name else factor
        for name, factor in random_factors(path, seed=0).items()
    }


def adapter_snapshot(factors: Factors, number: int):
    """The manifest and the buckets in which these factors travel."""
    return take_snapshot(PolicyVersion(0, number), factors.items(), BUCKET_BYTES)
