"""LoRA: student and teacher as two adapters on one frozen base.

```
              +-- student: A, B  trained        \
 base (frozen)                                   > one is switched on at a time
              +-- teacher: A, B  their average  /
```

Both start equal, with B = 0: version 0 is the base itself. The base is never written; where a full model is wanted,
`merged` adds the product to a float32 copy.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from unisd_rl.config.model import LoraConfig
from unisd_rl.models.load import add_adapter
from unisd_rl.models.peft_import import BaseTunerLayer, LoraLinear
from unisd_rl.transport.weights.adapter import factors

STUDENT, TEACHER = "student", "teacher"
_BASE_LAYER = ".base_layer"


def add_adapters(model: PreTrainedModel, lora: LoraConfig, seed: int) -> None:
    """Give `model` both adapters, in place; only the student's factors need a gradient from then on.

    Raises:
        UserError: the layers in `model.lora.targets` cannot have adapters (see `add_adapter`).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        add_adapter(model, lora, STUDENT, lora.dropout)
        add_adapter(model, lora, TEACHER)
    student, teacher = factors(model, STUDENT), factors(model, TEACHER)
    with torch.no_grad():
        for name, parameter in teacher.items():
            parameter.copy_(student[name])
    model.requires_grad_(False)
    for parameter in student.values():
        parameter.requires_grad_(True)
    _switch(model, STUDENT)


@contextmanager
def use_adapter(model: nn.Module, adapter: str) -> Iterator[None]:
    """Within this context the model computes with `adapter`, afterwards with the student's."""
    _switch(model, adapter)
    try:
        yield
    finally:
        _switch(model, STUDENT)


def base_name(name: str) -> str | None:
    """The Hugging Face name of a weight of an adapted model; None for a factor."""
    return None if ".lora_" in name else name.replace(_BASE_LAYER, "")


def adapted_layers(model: nn.Module) -> dict[str, LoraLinear]:
    """The layers with adapters, by the name that the weight of their base has in the adapted model."""
    return {
        f"{name}{_BASE_LAYER}.weight": layer for name, layer in model.named_modules() if isinstance(layer, LoraLinear)
    }


def student_factors(layer: LoraLinear) -> tuple[nn.Parameter, nn.Parameter]:
    """The student's A [rank, in] and B [out, rank] of a layer."""
    return layer.lora_A[STUDENT].weight, layer.lora_B[STUDENT].weight


def merged(weight: Tensor, layer: LoraLinear) -> Tensor:
    """`W + alpha / r * B A` with the student's factors, formed in float32 and returned in the dtype of `weight`, which
    is not written (peft's own merge writes it, and rounds the product to the type of the factors)."""
    factor_a, factor_b = student_factors(layer)
    product = factor_b.detach().float() @ factor_a.detach().float()
    if layer.fan_in_fan_out:  # Conv1D, the linear layer of the GPT-2 family, stores its weight as [in, out]
        product = product.T
    return weight.float().add(product, alpha=layer.scaling[STUDENT]).to(weight.dtype)


def _switch(model: nn.Module, adapter: str) -> None:
    """Not peft's own `set_adapter`: that turns `requires_grad` on and off, which DeepSpeed looked at long ago."""
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module._active_adapter = [adapter]
