"""The student's weights for others: what travels to the rollout actors, and the whole model for a checkpoint.

Everything here is a collective under ZeRO-3: all ranks iterate to the end, and each tensor is valid until the next.
"""

from collections.abc import Iterator

from torch import Tensor

from learner.lora import STUDENT, base_name, factors, factors_of, merged
from learner.sharding import gathered, named_weights, whole
from learner.student import Student
from unisd_rl.config import LoraConfig


def travelling(student: Student, lora: LoraConfig | None) -> Iterator[tuple[str, Tensor]]:
    """Every weight under its Hugging Face name, tied ones once; under LoRA only the factors, as peft names them."""
    model = student.reader.model
    return whole(named_weights(model) if lora is None else factors(model, STUDENT).items())


def whole_model(student: Student, lora: LoraConfig | None) -> Iterator[tuple[str, Tensor]]:
    """Every weight under its Hugging Face name; under LoRA the adapter is merged into a float32 copy of each."""
    model = student.reader.model
    return whole(named_weights(model)) if lora is None else _merged_model(student, lora)


def _merged_model(student: Student, lora: LoraConfig) -> Iterator[tuple[str, Tensor]]:
    adapter = factors(student.reader.model, STUDENT)
    for name, weight in named_weights(student.reader.model):
        plain = base_name(name)
        if plain is None:
            continue
        pair = factors_of(plain, adapter)
        with gathered((weight, *pair)):
            yield plain, merged(weight.detach(), pair[0], pair[1], lora) if pair else weight.detach()
