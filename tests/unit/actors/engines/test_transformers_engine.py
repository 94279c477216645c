"""What the transformers engine says of its own end."""

import asyncio

import numpy as np
import pytest

from actors.engines.engine import EngineDied, EngineRefused, EngineSpec
from actors.engines.transformers_engine import TransformersRolloutEngine
from tests.fakes.tiny_chat_model import save_model
from unisd_rl.types import Sampling

POSITIONS = 16


@pytest.fixture(scope="module")
def short_model(tmp_path_factory):
    """A model whose position embedding is a table: a longer text has no row there."""
    from transformers import GPT2Config, GPT2LMHeadModel

    path = tmp_path_factory.mktemp("short")
    config = GPT2Config(
        vocab_size=32, n_positions=POSITIONS, n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2
    )
    GPT2LMHeadModel(config).save_pretrained(path)
    return path


def spec(model):
    return EngineSpec(
        model_path=model, dtype="float32", cores=(0,), max_model_len=64, concurrency=4, stop_tokens=(2,), verify=False,
        seed=0, adapter=None,
    )  # fmt: skip


async def answers(engine, *lengths):
    """What each of these prompts, asked one after the other, is answered, or what it fails of."""
    await engine.start()
    ends = []
    for length in lengths:
        try:
            ends.append(await engine.generate(np.full(length, 5, np.int32), Sampling(1.0, 1.0, 4, seed=1)))
        except Exception as error:
            ends.append(error)
    await engine.close()
    return ends


def test_a_position_that_the_model_has_not_got_is_told_as_the_cause_and_as_certain_to_come_again(short_model):
    ends = asyncio.run(answers(TransformersRolloutEngine(spec(short_model)), 4, POSITIONS + 4, 4))
    assert len(ends[0].tokens) >= 1
    for error in ends[1:]:  # also of what is asked after the end
        assert isinstance(error, EngineRefused)
        assert "the model cannot compute this: IndexError: index out of range" in str(error)


def test_a_model_that_does_not_load_is_certain_to_fail_again(tmp_path):
    with pytest.raises(EngineRefused, match="transformers does not load"):
        asyncio.run(answers(TransformersRolloutEngine(spec(tmp_path))))


def test_an_engine_that_was_closed_says_so(tmp_path):
    save_model(tmp_path, tied=True)

    async def ask_after_the_end():
        engine = TransformersRolloutEngine(spec(tmp_path))
        await engine.start()
        await engine.close()
        await engine.generate(np.full(4, 5, np.int32), Sampling(1.0, 1.0, 4))

    with pytest.raises(EngineDied, match="was closed"):
        asyncio.run(ask_after_the_end())
