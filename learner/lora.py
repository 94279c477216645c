"""LoRA: student and teacher as two adapters on one frozen base.

```
              +-- student: A, B  trained        \
 base (frozen)                                   > one is switched on at a time
              +-- teacher: A, B  their average  /
```

Both start equal, with B = 0: version 0 is the base itself. The base is never written; where a full model is wanted,
`merged` adds the product to a float32 copy.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from peft import LoraConfig as PeftConfig
from peft import inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from unisd_rl.config.model import LoraConfig
from unisd_rl.errors import UserError
from unisd_rl.transport.weights.adapter import FILE_PREFIX, factors

STUDENT, TEACHER = "student", "teacher"
_BASE_LAYER = ".base_layer"


def add_adapters(model: PreTrainedModel, lora: LoraConfig, seed: int) -> None:
    """Give `model` both adapters, in place; only the student's factors need a gradient from then on.

    Raises:
        UserError: the model has no layer of the names in `model.lora.targets`, or one of them is the head.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _inject(model, lora, STUDENT, lora.dropout)
        _inject(model, lora, TEACHER, dropout=0.0)
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


def factors_of(weight: str, adapter: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """A and B of the layer whose weight has this Hugging Face name; nothing if it has no adapter."""
    layer = FILE_PREFIX + weight.removesuffix(".weight")
    names = (f"{layer}.lora_A.weight", f"{layer}.lora_B.weight")
    return tuple(adapter[name] for name in names) if names[0] in adapter and weight.endswith(".weight") else ()


def merged(weight: Tensor, factor_a: Tensor, factor_b: Tensor, lora: LoraConfig) -> Tensor:
    """`W + alpha / r * B A`, formed in float32 and returned in the dtype of `weight`, which is not written."""
    product = factor_b.detach().float() @ factor_a.detach().float()
    return weight.float().add(product, alpha=lora.scaling).to(weight.dtype)


def _inject(model: PreTrainedModel, lora: LoraConfig, adapter: str, dropout: float) -> None:
    config = PeftConfig(
        r=lora.rank, lora_alpha=lora.effective_alpha, lora_dropout=dropout, target_modules=list(lora.targets)
    )
    try:
        with warnings.catch_warnings():  # peft warns of a second adapter, which is what we want
            warnings.simplefilter("ignore", UserWarning)
            inject_adapter_in_model(config, model, adapter_name=adapter)
    except ValueError as error:
        raise UserError(
            f"model.lora.targets = {list(lora.targets)} cannot be adapted in {type(model).__name__}: {error}"
        ) from None
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        if isinstance(layer, BaseTunerLayer):
            raise UserError(
                f"model.lora.targets = {list(lora.targets)} names the embedding or the output head: both are shared by "
                "student and teacher as they are; leave it out"
            )


def _switch(model: nn.Module, adapter: str) -> None:
    """Not peft's own `set_adapter`: that turns `requires_grad` on and off, which DeepSpeed looked at long ago."""
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module._active_adapter = [adapter]
