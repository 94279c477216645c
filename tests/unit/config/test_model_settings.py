"""What a model's settings derive from one another."""

import pytest
from peft import LoraConfig as PeftConfig

from unisd_rl.config.load import load_recipe
from unisd_rl.config.model import LoraConfig
from unisd_rl.transport.weights.adapter import peft_config

SETUPS = ["unisd_star", ["unisd_star", "qwen2_5_7b"], "released_code_parity"]


@pytest.mark.parametrize("layers", SETUPS, ids=str)
@pytest.mark.parametrize("rank", [1, 8, 64, 256])
def test_alpha_follows_the_rank_unless_it_is_set(layers, rank):
    """The scale of an adapter's product stays 2, the paper's 128 / 64, whatever the rank."""
    lora = load_recipe(layers, {"model": {"lora": {"rank": rank}}}).model.lora
    assert (lora.effective_alpha, lora.scaling) == (2 * rank, 2.0)
    own = load_recipe(layers, {"model": {"lora": {"rank": rank, "alpha": 16}}}).model.lora
    assert (own.effective_alpha, own.scaling) == (16, 16 / rank)


@pytest.mark.parametrize(
    ("asked", "dropout", "best"),
    [("tree", 0.0, "tree"), ("tree", 0.05, "packed"), ("packed", 0.05, "packed"), ("padded", 0.05, "padded")],
)
def test_no_answers_share_a_token_of_which_dropout_would_drop_the_same_for_all(asked, dropout, best):
    fields = {"learner": {"layout": asked}, "model": {"lora": {"dropout": dropout}}}
    assert load_recipe("unisd_star", fields).best_layout == best
    assert load_recipe("unisd_star", {"learner": {"layout": asked}}).best_layout == asked


def test_an_engine_is_told_the_alpha_that_the_learner_computes_with():
    assert peft_config(LoraConfig(rank=8), "model").lora_alpha == 16
    assert peft_config(LoraConfig(rank=8, alpha=3), "model").lora_alpha == 3
    assert PeftConfig(r=8).lora_alpha == 8  # peft's own default is another: it must be told
