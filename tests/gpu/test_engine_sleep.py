"""On a GPU: vLLM gives the memory back while a learner computes, and wakes with the version it was given, or had."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from tests.fakes.engine_process import EngineProcess
from tests.fakes.engine_scenarios import changed, gap, generate_all, prompts, sampling, sleep, snapshot_of, update
from tests.fakes.tiny_chat_model import save_tokenizer
from unisd_rl.config import Config
from unisd_rl.types import PolicyVersion

pytestmark = pytest.mark.gpu
SHARE = 0.3
TOLERANCE = 0.1  # bfloat16


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    save_tokenizer(path)
    sizes = {"hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 64}
    layers = {"num_hidden_layers": 2, "intermediate_size": 512, "vocab_size": 512, "max_position_embeddings": 512}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**sizes, **layers)).to(torch.bfloat16).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def engine(folder, tmp_path_factory):
    pytest.importorskip("vllm.cumem_allocator", reason="needs vLLM for GPUs", exc_type=ImportError)
    limits = {"max_prompt_tokens": 64, "max_completion_tokens": 32}
    engine = {"type": "vllm", "gpu_memory_utilization": SHARE}
    config = Config.model_validate(
        {
            "run": {"placement": "colocated"},
            "model": {"dtype": "bfloat16"},
            "rollout": {"engine": engine, "gpus_per_actor": 0.5, **limits},
            "learner": {"gpus_per_rank": 0.5},
            "objective": {"divergence": {}},
        }
    )
    process = EngineProcess(config, folder, tmp_path_factory.mktemp("logs") / "engine.log")
    yield process
    process.close()


def used():
    """Share of the GPU's memory that all processes take."""
    free, total = torch.cuda.mem_get_info()
    return 1 - free / total


def agrees(engine, model):
    """Whether the engine answers with these weights."""
    tokens = prompts(4)
    answers = engine.call(generate_all, tokens, [sampling(16, seed=seed) for seed in range(4)])
    return max(gap(model, *pair) for pair in zip(tokens, answers, strict=True)) < TOLERANCE


def test_asleep_it_holds_little_memory_and_wakes_with_the_newest_weights_or_those_it_had(engine, folder):
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    first, second = changed(base, seed=1), changed(base, seed=2)
    engine.call(update, *snapshot_of(first.to(torch.bfloat16), 1))
    assert agrees(engine, first.float())
    awake = used()
    for model, number in ((second, 2), (second, None)):
        engine.call(sleep)
        assert used() < awake - SHARE / 2
        if number is not None:
            engine.call(update, *snapshot_of(model.to(torch.bfloat16), number))
            assert used() < awake - SHARE / 2, "it loads when it is asked to answer"
        assert agrees(engine, model.float())
        assert used() > awake - SHARE / 2
    assert not agrees(engine, base)
    _, version = engine.call(update, *snapshot_of(first.to(torch.bfloat16), 3))
    assert version == PolicyVersion(0, 3)
    assert agrees(engine, first.float())
