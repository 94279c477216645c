"""The transformers engine with groups of one shape: a rollout's bits follow from its prompt and the weights alone."""

import asyncio
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

from actors.engines.engine import PromptFailed
from tests.fakes.engine_process import EngineProcess
from tests.fakes.engine_scenarios import changed, gap, generate_all, prompts, sampling, snapshot_of, update
from tests.fakes.engine_started import engine_config
from unisd_rl.config import Config

UNIT, LIMIT = 8, 64


def config(**rollout) -> Config:
    plain = engine_config({"type": "transformers"}, {})
    tree = plain.model_dump(exclude_none=True)
    return Config.model_validate({**tree, "rollout": {**tree["rollout"], "lease_unit": UNIT, **rollout}})


@pytest.fixture(scope="module")
def model(tied_model_path):
    return changed(AutoModelForCausalLM.from_pretrained(tied_model_path).eval(), seed=5)


@pytest.fixture(scope="module")
def engines(tied_model_path, model, tmp_path_factory):
    """Two processes with the same weights, of version 3."""
    logs = tmp_path_factory.mktemp("logs")
    both = [EngineProcess(config(), tied_model_path, logs / f"{name}.log") for name in "ab"]
    for engine in both:
        engine.call(update, *snapshot_of(model, 3))
    yield both
    for engine in both:
        engine.close()


def unit(index):
    """Prompts of unit `index` by number; the first fills its row to the last column."""
    found = dict(zip(range(index * UNIT, (index + 1) * UNIT), prompts(UNIT, seed=100 + index), strict=True))
    found[index * UNIT] = np.resize(found[index * UNIT], LIMIT)
    return found


def drawn(number):
    """Rows of a unit end at different times."""
    return replace(sampling(20 + 11 * (number % UNIT), seed=1000 + number), number=number)


async def generate_in_order(engine, asked, others):
    """Answers by number; `others` (prompt, sampling) are asked in between, and their answers thrown away."""
    calls = {number: engine.generate(prompt, drawn(number)) for number, prompt in asked}
    noise = [engine.generate(*one) for one in others]
    order = [one for pair in zip(calls.values(), noise, strict=False) for one in pair]
    order += [*list(calls.values())[len(noise) :], *noise[len(calls) :]]
    answers = dict(zip(map(id, order), await asyncio.gather(*order), strict=True))
    return {number: answers[id(call)] for number, call in calls.items()}


def same_bits(left, right):
    names = ("tokens", "logprobs", "lineages", "versions")
    return left.finish_reason == right.finish_reason and all(
        getattr(left, name).tobytes() == getattr(right, name).tobytes() for name in names
    )


def test_a_units_bits_do_not_depend_on_process_order_or_company(engines):
    alone = engines[0].call(generate_in_order, list(unit(3).items()), [])
    assert len({len(answer.tokens) for answer in alone.values()}) > 1  # rows end at different times
    backwards = list(chain(unit(4).items(), unit(3).items()))[::-1]
    greedy = [(prompt, sampling(20, temperature=0.0)) for prompt in prompts(5, seed=8)]
    cut = [(prompt, sampling(7, top_k=3, top_p=0.9, seed=2)) for prompt in prompts(6, seed=9)]
    beside = engines[1].call(generate_in_order, backwards, greedy + cut)
    assert all(same_bits(alone[number], beside[number]) for number in unit(3))


def test_part_of_a_unit_generated_again_has_the_same_bits(engines):
    whole = engines[0].call(generate_in_order, list(unit(5).items()), [])
    part = [(number, prompt) for number, prompt in unit(5).items() if number % 3]
    again = engines[1].call(generate_in_order, part, [])
    assert all(same_bits(whole[number], answer) for number, answer in again.items())


def test_rows_without_padding_are_computed_as_with_it(engines):
    full = {number: np.resize(prompt, LIMIT) for number, prompt in unit(8).items()}
    together = engines[0].call(generate_in_order, list(full.items()), [])
    for number in (8 * UNIT, 8 * UNIT + 5):
        alone = engines[1].call(generate_in_order, [(number, full[number])], [])
        assert same_bits(alone[number], together[number])


def test_a_units_answers_come_together(engines):
    assert engines[0].call(answered_before_the_last, list(unit(6).items())) == 0


async def answered_before_the_last(engine, asked):
    """How many answers are there before all are, seen between any two turns of the event loop."""
    tasks = [asyncio.create_task(engine.generate(prompt, drawn(number))) for number, prompt in asked]
    early = 0
    while not all(task.done() for task in tasks):
        early = max(early, sum(task.done() for task in tasks))
        await asyncio.sleep(0)
    return early


def test_log_probs_are_those_of_a_forward_pass(engines, model):
    answers = engines[0].call(generate_in_order, list(unit(7).items()), [])
    assert max(gap(model, prompt, answers[number]) for number, prompt in unit(7).items()) < 1e-4


def test_more_prompts_without_a_number_than_rows_are_all_answered(engines, model):
    asked = prompts(3 * UNIT + 1, seed=11)
    answers = engines[0].call(generate_all, asked, [sampling(9, seed=seed) for seed in range(len(asked))])
    assert max(gap(model, prompt, answer) for prompt, answer in zip(asked, answers, strict=True)) < 1e-4


def test_a_prompt_longer_than_a_row_is_refused_and_the_others_go_on(engines):
    asked = [np.zeros(LIMIT + 1, np.int32), prompts(1)[0]]
    refused, answered = engines[0].call(outcomes_of, asked)
    assert isinstance(refused, PromptFailed)
    assert len(answered.tokens) > 0


async def outcomes_of(engine, asked):
    calls = [engine.generate(prompt, sampling(3)) for prompt in asked]
    return await asyncio.gather(*calls, return_exceptions=True)
