"""How new weights get into a transformers model: all of them, or those of a low-rank adapter on a base that stays."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from actors.engines.engine import EngineDied
from unisd_rl.config.model import LoraConfig
from unisd_rl.transport.weights.manifest import Bytes, SnapshotManifest, UpdateRefused, label
from unisd_rl.transport.weights.snapshot import unpack

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ADAPTER = "student"


def add_adapter(model: "PreTrainedModel", adapter: LoraConfig) -> None:
    """Give the model a blank adapter (B = 0), in place; until the first snapshot it answers as its base.

    Raises:
        EngineDied: the model has no layer of the names in `model.lora.targets`.
    """
    from peft import inject_adapter_in_model

    from unisd_rl.transport.weights.adapter import peft_config

    try:
        inject_adapter_in_model(peft_config(adapter, model.name_or_path), model, adapter_name=ADAPTER)
    except ValueError as error:
        raise EngineDied(f"model.lora.targets = {list(adapter.targets)} do not fit this model: {error}") from error


@torch.no_grad()
def replace_adapter(model: "PreTrainedModel", manifest: SnapshotManifest, buckets: Sequence[Bytes]) -> None:
    """Copy a snapshot of factors into the model's adapter.

    Raises:
        UpdateRefused: it holds other tensors than this adapter has; nothing was changed.
    """
    from unisd_rl.transport.weights.adapter import factors, misfit

    own, sent = factors(model, ADAPTER), dict(unpack(manifest.buckets, buckets))
    shapes = {name: tuple(tensor.shape) for name, tensor in sent.items()}
    if objection := misfit(shapes, {name: tuple(parameter.shape) for name, parameter in own.items()}):
        raise UpdateRefused(f"the adapter of version {label(manifest.version)} is refused: {objection}")
    for name, parameter in own.items():
        parameter.copy_(sent[name])


@torch.no_grad()
def replace_model(model: "PreTrainedModel", manifest: SnapshotManifest, buckets: Sequence[Bytes]) -> None:
    """Copy a snapshot of all weights into the model.

    Raises:
        EngineDied: it holds other tensors than the model has; some may have been copied.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    left = {parameter.data_ptr(): name for name, parameter in parameters.items()}
    for name, tensor in unpack(manifest.buckets, buckets):
        if name not in parameters or parameters[name].shape != tensor.shape:
            raise EngineDied(f"version {label(manifest.version)} holds {name}, which this model does not")
        parameters[name].copy_(tensor)
        left.pop(parameters[name].data_ptr(), None)
    if left:
        raise EngineDied(f"version {label(manifest.version)} leaves out {len(left)} parameters: {min(left.values())}")
