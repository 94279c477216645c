"""The `object_store` backend of vLLM's weight transfer: any machine, CPU too.

```
rollout actor: buckets from Ray's object store --> shared memory --paths--> this engine, in vLLM's own process
```

vLLM's process learns of the backend because its worker extension is a class of this module (`object_store.py` names
it): importing the module registers the engine.

Promises: every parameter of the model is renewed or the update fails loudly; tied heads are renewed too. The rollout
actor has checked what lies in the shared memory before.
"""

import time
from dataclasses import dataclass
from typing import Any

import torch
from vllm.distributed.weight_transfer import WeightTransferEngine, WeightTransferEngineFactory
from vllm.distributed.weight_transfer.base import WeightTransferInitInfo, WeightTransferUpdateInfo
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from unisd_rl.transport.weights.manifest import SnapshotManifest
from unisd_rl.transport.weights.shared_memory import Mappings
from unisd_rl.transport.weights.snapshot import unpack


class ObjectStoreExtension:
    """What the rollout actor may call in vLLM's process besides vLLM's own methods, which vLLM mixes it into."""

    def load_snapshot(self, manifest: str, paths: list[str]) -> float:
        """A whole update in one call, since each takes a millisecond of the pause; the seconds it took here."""
        worker: Any = self
        started = time.perf_counter()
        worker.start_weight_update()
        worker.update_weights({"manifest": manifest, "paths": paths})
        worker.finish_weight_update()
        return time.perf_counter() - started


@dataclass
class ObjectStoreInitInfo(WeightTransferInitInfo):
    """Nothing to agree on beforehand."""


@dataclass
class ObjectStoreUpdateInfo(WeightTransferUpdateInfo):
    """One whole snapshot: its manifest as JSON, and the path of each bucket's shared memory."""

    manifest: str
    paths: list[str]


class ObjectStoreEngine(WeightTransferEngine[ObjectStoreInitInfo, ObjectStoreUpdateInfo]):
    """Loads a snapshot out of shared memory through vLLM's layerwise reload."""

    init_info_cls = ObjectStoreInitInfo
    update_info_cls = ObjectStoreUpdateInfo
    _mappings: Mappings | None = None

    def init_transfer_engine(self, init_info: ObjectStoreInitInfo) -> None:
        """No rendezvous is needed."""

    def start_weight_update(self) -> None:
        """Prepare every layer for new weights; plain `load_weights` on a live model corrupts some kinds of layer."""
        self._expected = {name for name, _ in self.model.named_parameters()}
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, object]) -> None:
        """Load one snapshot. The base class would also wait for an accelerator, which a CPU has not."""
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: ObjectStoreUpdateInfo) -> None:
        """Load all tensors of the snapshot.

        Raises:
            RuntimeError: naming a parameter of the model that the snapshot does not renew.
        """
        manifest = SnapshotManifest.from_json(update_info.manifest)
        self._mappings = self._mappings or Mappings()
        loaded = self.model.load_weights(unpack(manifest.buckets, self._mappings.map(update_info.paths)))
        missing = sorted(self._expected - loaded) if loaded is not None else []
        if missing:
            raise RuntimeError(f"the snapshot leaves {len(missing)} parameters as they were, {missing[0]} first")

    def finish_weight_update(self) -> None:
        """Put the new weights in their places. The mapped memory may change after this."""
        finalize_layerwise_reload(self.model, self.model_config)
        if self.device.type == "cpu":
            renew_tied_heads(self.model)
        else:
            torch.accelerator.synchronize()

    def shutdown(self) -> None:
        """Let go of the mapped memory."""
        self._mappings = None


def renew_tied_heads(model: torch.nn.Module) -> None:
    """Pack the weights of output heads again that share their storage with an embedding.

    On the CPU vLLM's linear layers compute with a packed copy of their weights. An update fills the
    embedding, sees no tensor for the head, and would leave the head's packed copy of the old weights in use.
    """
    embeddings = [
        module
        for module in model.modules()
        if isinstance(module, VocabParallelEmbedding) and not isinstance(module, ParallelLMHead)
    ]
    shared = {module.weight.data_ptr() for module in embeddings}
    for module in model.modules():
        if isinstance(module, ParallelLMHead) and module.weight.data_ptr() in shared:
            module.quant_method.process_weights_after_loading(module)


WeightTransferEngineFactory.register_engine("object_store", ObjectStoreEngine)
