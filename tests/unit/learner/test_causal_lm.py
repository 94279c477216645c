"""The head we apply is the model's own, or the model is refused."""

from pathlib import Path

import pytest
import torch
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from learner.batch import PackingConfig, Pass, RankBatch
from learner.layout import choose_layout
from learner.model import CausalLM, check_head, load_model
from tests.fakes.families import save_family
from unisd_rl.errors import UserError
from unisd_rl.models.check import check_arrangement
from unisd_rl.objective.kernels.chunked import token_logprobs
from unisd_rl.types import Rollout, Source

SIZES = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "initializer_range": 0.5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
HEADS = [
    Qwen2ForCausalLM(Qwen2Config(**SIZES, attention_dropout=0.5)),
    Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=2.0)),
    CohereForCausalLM(CohereConfig(**SIZES, logit_scale=0.25)),
    GraniteForCausalLM(GraniteConfig(**SIZES, logits_scaling=4.0)),
]


class Louder(Qwen2ForCausalLM):
    def forward(self, *arguments, **keywords):
        out = super().forward(*arguments, **keywords)
        out.logits = 2 * out.logits
        return out


def rank_batch(lengths, layout):
    rollouts = []
    for number, length in enumerate(lengths):
        ids = torch.randint(0, 32, (length + 3,), generator=torch.Generator().manual_seed(number)).int().numpy()
        source = Source.GOLD
        rollouts.append(
            Rollout(number, "", source, ids[:3], (), ids[3:], None, None, None, "stop", 0, "test", 0.0, 1.0)
        )
    return RankBatch(rollouts, torch.device("cpu"), PackingConfig(layout, 1000, 1000))


@pytest.mark.parametrize("model", HEADS, ids=lambda model: type(model).__name__)
@pytest.mark.parametrize("wanted", ["tree", "padded"])
def test_a_pass_gives_each_tokens_log_prob_under_the_models_own_logits(model, wanted, tmp_path):
    model.save_pretrained(tmp_path)
    model.set_attn_implementation("eager")
    lm = load_model(tmp_path, "float32")
    layout = choose_layout(lm.model, wanted)
    assert layout == ("padded" if isinstance(model, Gemma2ForCausalLM) else wanted)
    batch = rank_batch([5, 1, 3], layout)
    inputs = batch.collate(Pass(batch.student_sequences(), layout))
    found_N = lm.train()(inputs, lambda hidden_NH, head: token_logprobs(hidden_NH, head, inputs.targets_N, 0.7, 4))
    expected = []
    for rollout in batch.rollouts:
        ids = torch.tensor([*rollout.prompt_tokens, *rollout.completion_tokens], dtype=torch.long)
        logprob = torch.log_softmax(model.eval()(ids[None]).logits[0] / 0.7, -1)[2:-1]
        expected.append(logprob.gather(-1, ids[3:, None])[:, 0].detach())
    assert torch.allclose(found_N, torch.cat(expected), atol=1e-5)


def test_a_head_that_does_more_is_refused():
    with pytest.raises(UserError, match="the head of Louder does more to its logits"):
        check_head(CausalLM(Louder(Qwen2Config(**SIZES))), Path("here"))


def test_a_model_stored_otherwise_than_it_computes_is_refused(tmp_path):
    sizes = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8, "head_dim": 8}
    Qwen3MoeForCausalLM(Qwen3MoeConfig(**SIZES, **sizes)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="Qwen3MoeForCausalLM is stored in another arrangement"):
        load_model(tmp_path, "float32")


def test_a_dense_model_is_stored_as_it_computes():
    check_arrangement(Path("here"), HEADS[0])


def test_a_model_stored_under_other_names_is_not_called_a_mixture_of_experts(tmp_path):
    save_family("gemma3", tmp_path)
    with pytest.raises(UserError, match="is stored under other names than it computes with") as refused:
        load_model(tmp_path, "float32")
    assert "experts" not in str(refused.value)
