"""The likeliest of several answers, by a real engine: the letter that a plain forward pass finds likeliest."""

import asyncio

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from actors.engines.engine import EngineSpec
from actors.engines.transformers_engine import TransformersRolloutEngine
from actors.rollout_actor import ChoiceRequest, RolloutActor
from tests.fakes.tiny_chat_model import save_model, save_tokenizer
from unisd_rl.models.tokenizer import ChatTokenizer
from unisd_rl.types import Message

CHAT = (Message("user", "Which one?"),)
SETS = [tuple(f"Answer: {letter}" for letter in letters) for letters in ("ABCD", "DBA", "EFGH", "AB", "XYZ", "BA")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    save_tokenizer(path)
    save_model(path, tied=False)
    return path


def chosen(folder, requests, most=512):
    """What an actor with this model answers."""
    actor = object.__new__(RolloutActor)  # without Ray, a queue and weights
    actor._tokenizer = ChatTokenizer(folder)
    spec = EngineSpec(
        model_path=folder, dtype="float32", cores=(0,), max_model_len=most, concurrency=8,
        stop_tokens=actor._tokenizer.stop_tokens, verify=False, seed=0, adapter=None,
    )  # fmt: skip
    actor._engine = TransformersRolloutEngine(spec)

    async def choose():
        await actor._engine.start()
        limit = asyncio.Semaphore(8)
        answers = await asyncio.gather(*(actor._answer_one(request, limit) for request in requests))
        await actor._engine.close()
        return [answer.text for answer in answers]

    return asyncio.run(choose())


def likeliest(folder, texts):
    """By the probability of each whole answer, token by token."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), ChatTokenizer(folder)
    prompt = tokenizer.encode(CHAT)
    logprobs = []
    for text in texts:
        tokens = np.concatenate([prompt, tokenizer.encode_completion(text)[:-1]])
        with torch.no_grad():
            logits_LV = model(torch.tensor(tokens).long()[None]).logits[0].log_softmax(-1)
        logprobs.append(sum(float(logits_LV[i - 1, tokens[i]]) for i in range(len(prompt), len(tokens))))
    return texts[int(np.argmax(logprobs))]


def test_the_likeliest_answer_is_that_of_a_forward_pass(folder):
    expected = [likeliest(folder, texts) for texts in SETS]
    assert chosen(folder, [ChoiceRequest(CHAT, texts) for texts in SETS]) == expected
    assert any(best != texts[0] for best, texts in zip(expected, SETS, strict=True))
    assert any(best == texts[0] for best, texts in zip(expected, SETS, strict=True))


def test_answers_that_begin_alike_and_answers_without_room_are_no_choice(folder):
    assert chosen(folder, [ChoiceRequest(CHAT, ("A", "A"))]) == [""]
    assert chosen(folder, [ChoiceRequest(CHAT, SETS[0])], most=8) == [""]
