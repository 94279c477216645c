"""What the engine is asked to write, and what of it comes back."""

from pathlib import Path

import numpy as np
import pytest

from actors.rollout_actor import ChatAnswer
from unisd_rl.config.contexts import GeneratedNegative, InductionAuxiliary
from unisd_rl.config.load import load_recipe
from unisd_rl.driver.context_generation import EngineGenerator, engine_config, longest_request
from unisd_rl.errors import UserError
from unisd_rl.models.check import ModelLimits
from unisd_rl.types import Generation, Message


class Words:
    """A tokenizer of one token a word."""

    def __init__(self, positions=None):
        self.limits = ModelLimits(Path("model"), None, positions)

    def encode(self, chat):
        return chat[-1].content.split()


class Group:
    """Answers each chat with its own words; those that say "long" are cut."""

    def __init__(self):
        self.asked = []

    def answers(self, chats, sampling, version):
        self.asked.append((len(chats), sampling))
        nothing = np.zeros(0, np.int32)
        texts = [chat[-1].content for chat in chats]
        ends = ("length" if "long" in text else "stop" for text in texts)
        generations = (Generation(nothing, nothing, nothing, nothing, end) for end in ends)
        return [ChatAnswer(nothing, text, generation) for text, generation in zip(texts, generations, strict=True)]


def chats(*texts):
    return [(Message("user", text),) for text in texts]


CONFIG = load_recipe("unisd_star", {"contexts": {"negative": {"type": "generated", "max_tokens": 9}}})
SETTINGS = GeneratedNegative(type="generated", max_prompt_tokens=3, temperature=0.5, max_tokens=9)


def test_too_long_a_request_is_not_made_and_a_cut_text_is_not_used():
    group = Group()
    writer = EngineGenerator(CONFIG, group, Words())
    texts = writer.generate(chats("one", "a b c d", "long one", "a b c"), SETTINGS, seed=4)
    assert texts == ["one", None, None, "a b c"]
    ((count, sampling),) = group.asked
    assert (count, sampling.temperature, sampling.max_tokens, sampling.seed) == (3, 0.5, 9, 4)


def test_a_request_leaves_the_model_positions_for_what_it_writes():
    group = Group()
    assert EngineGenerator(CONFIG, group, Words(11)).generate(chats("a b c", "a b"), SETTINGS, seed=4) == [None, "a b"]
    with pytest.raises(UserError, match=r"max_tokens = 9 leaves no room for a request in the model's 9 positions"):
        EngineGenerator(CONFIG, group, Words(9)).generate(chats("a"), SETTINGS, seed=4)


def test_every_request_has_a_seed_of_its_own_however_many_there_are():
    group = Group()
    EngineGenerator(CONFIG, group, Words()).generate(chats(*map(str, range(150))), SETTINGS, seed=2**31 - 10)
    seeds = [(sampling.seed + place) for count, sampling in group.asked for place in range(count)]
    assert [count for count, _ in group.asked] == [64, 64, 22]
    assert len(set(seeds)) == 150


def test_requests_may_be_a_little_longer_than_prompts_unless_a_limit_is_given():
    assert longest_request(CONFIG, GeneratedNegative(type="generated")) == 512 + 256
    assert longest_request(CONFIG, InductionAuxiliary(type="induction", max_prompt_tokens=99)) == 99


@pytest.mark.parametrize("transport", ["object_store", "nccl"])
def test_the_engine_that_writes_takes_no_updates_and_no_adapters_and_holds_the_longest(transport):
    given = {"contexts": {"negative": {"type": "generated", "max_tokens": 300}}, "weights": {"transport": transport}}
    given |= {"rollout": {"gpus_per_actor": 1}, "learner": {"gpus_per_rank": 1}}
    engine = engine_config(load_recipe("unisd_star", given))
    assert (engine.rollout.max_prompt_tokens, engine.rollout.max_completion_tokens) == (768, 300)
    assert (engine.model.lora, engine.weights.transport, engine.rollout.gpus_per_actor) == (None, "object_store", 1)
