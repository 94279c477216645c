"""The worker extension for adapters, in vLLM's own process: a blank one to begin with, and checks of each new one.

vLLM loads an adapter by itself (`LoRARequest`), but silently leaves out a layer that it does not know, and tells
nobody what it computes with. The rollout actor asks here, before the load and after it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from vllm.lora.request import LoRARequest
from vllm.lora.utils import parse_fine_tuned_lora_name

from unisd_rl.transport.weights.adapter import Shape, describe_mismatch
from unisd_rl.transport.weights.manifest import checksum
from unisd_rl.transport.weights.shared_memory import map_shared

if TYPE_CHECKING:
    from vllm.lora.model_manager import LoRAModelManager


@dataclass(frozen=True, slots=True)
class _LayerFactors:
    """The tensors in which vLLM keeps one layer's factors: A [slots, 1, >= rank, in] and B [slots, 1, out, >= rank].

    None where this process holds a slice of the layer, or keeps its factors in another form.
    """

    name: str
    factors: tuple[torch.Tensor, torch.Tensor] | None


class AdapterExtension:
    """What the rollout actor may call in vLLM's process besides vLLM's own methods."""

    model_runner: Any  # of vLLM's own class, into which vLLM mixes this one

    def hold_blank_adapter(self, name: str, adapter_id: int, folder: str, rank: int) -> None:
        """Give the adapter that requests name all-zero factors: with it the model is its base.

        Raises:
            ValueError: no layer of the model can have one.
        """
        if not self._adapters().modules:
            raise ValueError("this model has no layer of the names in model.lora.targets")
        request = LoRARequest(lora_name=name, lora_int_id=adapter_id, lora_path=folder)
        self.model_runner.lora_manager.add_dummy_lora(request, rank=rank)

    def adapter_mismatch(self, path: str, sent_checksum: str | None, targets: Sequence[str], rank: int) -> str | None:
        """Why the adapter in this file must not be loaded; None if it may."""
        if sent_checksum is not None and checksum(map_shared(path)) != sent_checksum:
            return "vLLM's process reads other bytes than were written"
        try:
            sent = {name: tuple(tensor.shape) for name, tensor in self._factors(path).items()}
        except ValueError as error:  # a name that is none of a factor
            return str(error)
        return describe_mismatch(sent, self._expected(targets, rank))

    def adapter_differences(self, path: str, adapter_id: int, scaling: float) -> list[str]:
        """Layers that compute with other factors than those of the file. With tensor parallelism none is compared."""
        sent, slot = self._factors(path), self._adapters().lora_index_to_id.index(adapter_id)
        return [
            layer.name
            for layer in self._layers()
            if layer.factors is not None and f"{layer.name}.lora_A" in sent
            if not _same(sent[f"{layer.name}.lora_A"], layer.factors[0][slot, 0], 1.0)
            or not _same(sent[f"{layer.name}.lora_B"], layer.factors[1][slot, 0], scaling)
        ]

    def _expected(self, targets: Sequence[str], rank: int) -> dict[str, Shape | None]:
        """Shapes of all factors that belong to an adapter on `targets`."""
        shapes: dict[str, Shape | None] = {}
        for layer in self._layers():
            if any(f".{layer.name}".endswith(f".{target}") for target in targets):
                shapes[f"{layer.name}.lora_A"] = (rank, layer.factors[0].shape[-1]) if layer.factors else None
                shapes[f"{layer.name}.lora_B"] = (layer.factors[1].shape[-2], rank) if layer.factors else None
        return shapes

    def _layers(self) -> list[_LayerFactors]:
        """One a layer of the model's files; vLLM computes some of them together (query, key and value)."""
        layers: list[_LayerFactors] = []
        for name, module in self._adapters().modules.items():
            names = self._adapters().packed_modules.get(name, [name])
            stacked = (module.lora_a_stacked, module.lora_b_stacked)
            complete = module.tp_size == 1 and isinstance(stacked[0], tuple) and len(stacked[0]) == len(names)
            pairs = zip(*stacked, strict=True) if complete else [None] * len(names)
            layers += [_LayerFactors(layer, pair) for layer, pair in zip(names, pairs, strict=True)]
        return layers

    def _factors(self, path: str) -> dict[str, torch.Tensor]:
        """The file's tensors by vLLM's name of their layer: `<layer>.lora_A` and `<layer>.lora_B`.

        Raises:
            ValueError: a tensor is not called like a factor.
        """
        mapper = getattr(self._adapters().model, "hf_to_vllm_mapper", None)
        renames = mapper.get_rename_mapper() if mapper is not None else None
        factors = {}
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a dictionary)
                layer, is_a = parse_fine_tuned_lora_name(name, renames)
                factors[f"{layer}.lora_{'A' if is_a else 'B'}"] = file.get_tensor(name)
        return factors

    def _adapters(self) -> "LoRAModelManager":
        return self.model_runner.lora_manager._adapter_manager  # vLLM has no public way to what it computes with


def _same(sent: torch.Tensor, used: torch.Tensor, scaling: float) -> bool:
    """vLLM rounds factors to the dtype it computes with, and then multiplies B by alpha / rank."""
    rows, columns = sent.shape
    return torch.equal(used[:rows, :columns].cpu(), sent.to(used.dtype) * scaling)
