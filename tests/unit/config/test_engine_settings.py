import json
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from pydantic import ValidationError

from unisd_rl.config import Config
from unisd_rl.config.rollout import TransformersEngine, VllmEngine


def refused(settings, match):
    with pytest.raises(ValidationError, match=match):
        Config.model_validate({"objective": {"divergence": {}}, **settings})


@pytest.mark.parametrize("transport", ["nccl", "ipc"])
def test_gpu_transports_need_gpus_on_both_sides_and_vllm(transport):
    weights, gpus = {"weights": {"transport": transport}}, {"learner": {"gpus_per_rank": 1}}
    refused(weights, f'weights.transport = "{transport}" needs')
    refused({**weights, "rollout": {"gpus_per_actor": 1}}, "gpus_per_rank")
    refused({**weights, **gpus, "rollout": {"gpus_per_actor": 1, "engine": {"type": "transformers"}}}, "vllm engine")
    complete = {**weights, **gpus, "rollout": {"gpus_per_actor": 1}, "objective": {"divergence": {}}}
    assert Config.model_validate(complete).weights.transport == transport


def test_a_model_length_below_prompt_and_completion_is_refused():
    engine = {"type": "vllm", "max_model_len": 90}
    limits = {"max_prompt_tokens": 64, "max_completion_tokens": 32}
    refused({"rollout": {"engine": engine, **limits}}, r"max_model_len = 90 is less than .* = 96")


@pytest.mark.parametrize("transport", ["nccl", "ipc"])
def test_an_adapter_travels_by_the_object_store_only(transport):
    gpus = {"rollout": {"gpus_per_actor": 1}, "learner": {"gpus_per_rank": 1}}
    settings = {"model": {"lora": {}}, "weights": {"transport": transport}, **gpus}
    refused(settings, f'"{transport}" sends whole models .* set weights.transport to "object_store"')
    complete = {**settings, "weights": {}, "objective": {"divergence": {}}}
    assert Config.model_validate(complete).model.lora is not None


def test_an_engine_says_itself_how_long_requests_may_be_and_how_its_weights_are_spread():
    vllm, limited = VllmEngine(tensor_parallel=2), VllmEngine(max_model_len=90)
    assert (vllm.weight_shards, vllm.model_length(96), limited.model_length(80)) == (2, 96, 90)
    assert limited.without_length_limit().model_length(80) == 80
    transformers = TransformersEngine(type="transformers")
    assert (transformers.weight_shards, transformers.model_length(96)) == (1, 96)
    assert transformers.without_length_limit() == transformers


def test_a_rank_that_vllm_does_not_serve_is_refused():
    lora = {"model": {"path": "a", "lora": {"rank": 513}}}
    refused(lora, "model.lora.rank = 513 is more than the 512 that vLLM serves")
    other = {**lora, "rollout": {"engine": {"type": "transformers"}}, "objective": {"divergence": {}}}
    assert Config.model_validate(other).model.lora.rank == 513


def test_the_largest_rank_is_that_of_the_installed_vllm():
    """Read from its source: to import it takes seconds."""
    (package,) = find_spec("vllm").submodule_search_locations
    source = Path(package, "config", "lora.py").read_text()
    (ranks,) = re.findall(r"^MaxLoRARanks = Literal(\[.*\])$", source, re.MULTILINE)
    assert max(json.loads(ranks)) == VllmEngine.largest_lora_rank
