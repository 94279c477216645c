import ast
import asyncio
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import pytest

from unisd_rl.config import Config
from unisd_rl.config.rollout import WeightsConfig
from unisd_rl.transport.weights import adapter_loader, object_store
from unisd_rl.transport.weights.adapter_loader import AdapterLoader
from unisd_rl.transport.weights.build import TRANSPORTS, weight_transport
from unisd_rl.transport.weights.object_store import ObjectStoreTransport, WholeModelLoader
from unisd_rl.transport.weights.store import StoreClient
from unisd_rl.types import PolicyVersion

GPUS = {"rollout": {"gpus_per_actor": 1}, "learner": {"gpus_per_rank": 1}}


def config(**sections) -> Config:
    return Config.model_validate({"objective": {"divergence": {}}, **sections})


def test_every_name_of_a_transport_has_one():
    assert set(get_args(WeightsConfig.model_fields["transport"].annotation)) == set(TRANSPORTS)


@pytest.mark.parametrize("module", [object_store, adapter_loader])
def test_the_worker_extension_that_vllm_imports_by_name_is_there(module):
    name, _, class_name = module._EXTENSION.rpartition(".")
    spec = find_spec(name)
    assert spec is not None, f"vLLM would not find {name}"
    tree = ast.parse(Path(spec.origin).read_text())
    assert class_name in {node.name for node in tree.body if isinstance(node, ast.ClassDef)}


def test_the_object_store_loads_whole_models_or_adapters_as_the_model_is_trained():
    whole, lora = config(), config(model={"lora": {"rank": 4, "alpha": 8}})
    assert isinstance(weight_transport(whole).vllm_loader(Path("m")), WholeModelLoader)
    assert isinstance(weight_transport(lora).vllm_loader(Path("m")), AdapterLoader)


@pytest.mark.parametrize("name", ["nccl", "ipc"])
def test_with_pushed_weights_an_actor_fetches_nothing(name):
    transport = weight_transport(config(weights={"transport": name}, **GPUS))
    assert not isinstance(transport, ObjectStoreTransport)
    receiver = transport.receiver(StoreClient(handle=None))

    async def both():
        return await receiver.newest(), await receiver.fetch(PolicyVersion(0, 3))

    assert asyncio.run(both()) == (None, None)
