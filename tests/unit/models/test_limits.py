"""What is beyond a model's embeddings is refused before anything is generated."""

import json

import pytest

from tests.fakes.chat_tokenizers import TURNS, ChatFolder
from unisd_rl.errors import UserError
from unisd_rl.models.check import ModelLimits, model_limits
from unisd_rl.models.tokenizer import ChatTokenizer
from unisd_rl.types import Message

CHAT = (Message("user", "12 + 34 = ?"),)


@pytest.mark.parametrize("read", ["encode", "encode_view", "encode_completion", "check"])
def test_a_token_that_the_model_has_no_embedding_for_is_refused(tmp_path, read):
    folder = ChatFolder(added=["<|new|>"], template="<|new|>" + TURNS).save(tmp_path)
    chat = ChatTokenizer(folder)
    calls = {"encode": CHAT, "encode_view": CHAT, "encode_completion": "<|new|>"}
    with pytest.raises(UserError, match=r"writes token 261 \('<\|new\|>'\), and the model has 261 embeddings"):
        chat.check() if read == "check" else getattr(chat, read)(calls[read])


def test_a_token_beyond_the_embedding_that_nobody_writes_harms_nobody(tmp_path):
    assert ChatTokenizer(ChatFolder(added=["<|new|>"]).save(tmp_path)).check() == ()


@pytest.mark.parametrize(
    "changes,positions",
    [
        ({}, 2048),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, 2048),
        ({"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}}, 8192),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, 4096),
        (
            {
                "rope_parameters": {
                    "rope_type": "yarn",
                    "factor": 4.0,
                    "rope_theta": 1e4,
                    "original_max_position_embeddings": 512,
                }
            },
            2048,
        ),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, 8192),
        ({"model_type": "gpt2", "n_positions": 64, "max_position_embeddings": None}, 64),
        ({"model_type": "bloom", "max_position_embeddings": None}, None),
        ({"model_type": "no such"}, None),
    ],
    ids=lambda value: str(value)[:40],
)
def test_positions_are_the_models_own_stretched_as_its_rope_says(tmp_path, changes, positions):
    ChatFolder().save(tmp_path)
    file = tmp_path / "config.json"
    merged = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({name: value for name, value in merged.items() if value is not None}))
    assert model_limits(tmp_path).positions == positions


def test_a_folder_without_a_configuration_has_no_limits(tmp_path):
    assert model_limits(tmp_path) == ModelLimits(tmp_path, None, None)


def test_a_prompt_and_the_longest_answer_have_a_position_for_each_token(tmp_path):
    limits = ModelLimits(tmp_path, None, 100)
    limits.check_prompts("a view", 36, 64)
    with pytest.raises(UserError) as refused:
        limits.check_prompts("a view", 37, 64)
    assert str(refused.value) == (
        f"a view of 37 tokens and rollout.max_completion_tokens = 64 are more than the 100 positions of model.path = "
        f"{tmp_path}: lower rollout.max_completion_tokens or rollout.max_prompt_tokens, or shorten the records"
    )
    ModelLimits(tmp_path, None, None).check_prompts("a view", 10**6, 64)
