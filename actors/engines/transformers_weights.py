"""How new weights get into a transformers model: all of them, or those of a low-rank adapter on a base that stays."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from actors.engines.engine import EngineDied
from unisd_rl.transport.weights.manifest import Bytes, SnapshotManifest, UpdateRefused, label
from unisd_rl.transport.weights.snapshot import unpack

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ADAPTER = "student"


@torch.no_grad()
def replace_adapter(model: "PreTrainedModel", manifest: SnapshotManifest, buckets: Sequence[Bytes]) -> None:
    """Copy a snapshot of factors into the model's adapter.

    Raises:
        UpdateRefused: it holds other tensors than this adapter has; nothing was changed.
    """
    from unisd_rl.transport.weights.adapter import describe_mismatch, factors

    own, sent = factors(model, ADAPTER), dict(unpack(manifest.buckets, buckets))
    shapes = {name: tuple(tensor.shape) for name, tensor in sent.items()}
    if objection := describe_mismatch(shapes, {name: tuple(parameter.shape) for name, parameter in own.items()}):
        raise UpdateRefused(f"the adapter of version {label(manifest.version)} is refused: {objection}")
    for name, parameter in own.items():
        parameter.copy_(sent[name])


@torch.no_grad()
def replace_model(model: "PreTrainedModel", manifest: SnapshotManifest, buckets: Sequence[Bytes]) -> None:
    """Copy a snapshot of all weights into the model.

    Raises:
        EngineDied: it holds other tensors than the model has; some may have been copied.
    """
    weights = model.state_dict(keep_vars=True)  # with buffers that are stored, which parameters alone leave out
    left = {id(weight): name for name, weight in weights.items()}
    for name, tensor in unpack(manifest.buckets, buckets):
        if name not in weights or weights[name].shape != tensor.shape:
            raise EngineDied(f"version {label(manifest.version)} holds {name}, which this model does not")
        weights[name].copy_(tensor)
        left.pop(id(weights[name]), None)
    if left:
        raise EngineDied(f"version {label(manifest.version)} leaves out {len(left)} weights: {min(left.values())}")
