import pytest
from pydantic import ValidationError

from unisd_rl.config import Config


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
