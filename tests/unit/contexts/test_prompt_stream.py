"""The stream of prompts: each number is one prompt for ever, and every epoch holds every example once."""

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.prepared import prepared_stream
from unisd_rl.config import Config
from unisd_rl.config.contexts import ContextsConfig, RandomAuxiliary, TaskNegative
from unisd_rl.config.objective import JensenShannon, LogprobContrast, ObjectiveConfig, TokenAgreement
from unisd_rl.config.rollout import RolloutConfig
from unisd_rl.config.run import RunConfig
from unisd_rl.contexts.prompts import PreparationReport, PromptStream
from unisd_rl.errors import UserError
from unisd_rl.seeds import derive_seed
from unisd_rl.tasks.arithmetic import Arithmetic

TASK = Arithmetic(train_examples=40, eval_examples=5, seed=0)


def stream(seed: int = 0, fits=lambda prompt: True, answers: int = 1) -> PromptStream:
    contexts = ContextsConfig(auxiliary=RandomAuxiliary(views=2), negative=TaskNegative())
    objective = ObjectiveConfig(divergence=JensenShannon(), agreement=TokenAgreement(), contrastive=LogprobContrast())
    rollout = RolloutConfig(answers_per_prompt=answers)
    config = Config(run=RunConfig(seed=seed), contexts=contexts, rollout=rollout, objective=objective)
    return prepared_stream(config, TASK, fits=fits)


@settings(max_examples=25)
@given(st.lists(st.integers(0, 500), min_size=1, max_size=8))
def test_a_prompt_depends_on_its_number_alone_not_on_what_was_asked_before(numbers):
    once = stream()
    assert [once.prompt(number) for number in numbers] == [stream().prompt(number) for number in numbers]


def test_every_epoch_holds_every_example_once_in_an_order_of_its_own():
    prompts = stream()
    epochs = [[prompts.prompt(number).prompt.id for number in range(start, start + 40)] for start in (0, 40, 80)]
    everything = {example.id for example in TASK.train}
    assert all(set(epoch) == everything for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_a_second_epoch_has_the_same_contexts_but_samples_anew():
    prompts = stream()
    first = {prompts.prompt(number).prompt.id: prompts.prompt(number) for number in range(40)}
    again = [prompts.prompt(number) for number in range(40, 80)]
    assert all(later.prompt == first[later.prompt.id].prompt for later in again)
    assert all(later.seed != first[later.prompt.id].seed for later in again)


def test_numbers_seeds_and_order_follow_the_runs_seed():
    prompts, others = stream(0), stream(1)
    assert [prompts.prompt(number).number for number in range(40)] == list(range(40))
    assert len({prompts.prompt(number).seed for number in range(40)}) == 40
    assert [prompts.prompt(n).prompt.id for n in range(40)] != [others.prompt(n).prompt.id for n in range(40)]


def test_with_four_answers_four_numbers_are_one_problem_with_a_seed_each_and_an_epoch_counts_problems():
    one, four = stream(), stream(answers=4)
    for number in (*range(12), 158, 160, 321):  # 40 problems are 160 numbers
        single, answer = one.prompt(number // 4), four.prompt(number)
        assert (answer.number, answer.prompt, answer.source) == (number, single.prompt, single.source)
        assert answer.seed == derive_seed(0, "sampling", number)
    assert len(four) == 40
    assert len({four.prompt(number).seed for number in range(320)}) == 320


def test_a_group_shares_one_object_which_is_pickled_once():
    four = stream(answers=4)
    first, *others = (four.prompt(number).prompt for number in range(4, 8))
    assert all(other is first for other in others)
    assert four.prompt(8).prompt is not first
    group, one = (pickle.dumps([four.prompt(number) for number in numbers]) for numbers in (range(4, 8), [4]))
    assert len(group) < 1.5 * len(one)


def test_a_problem_and_its_reference_answer_stand_at_the_same_place():
    four = stream(answers=4)
    assert all(four.problem(place).id == four.example(place).id for place in range(80))


def test_prompts_that_do_not_fit_are_counted_and_leave_no_hole():
    unfit = {TASK.train[3].id, TASK.train[7].id}
    prompts = stream(fits=lambda prompt: prompt.id not in unfit)
    assert prompts.preparation == PreparationReport(
        examples=40, kept=38, too_long=2, held_out=5, longest=10**6, longest_id=TASK.train[3].id
    )
    assert prompts.preparation.dropped == 2
    assert len(prompts) == 38
    assert {prompts.prompt(number).prompt.id for number in range(38)}.isdisjoint(unfit)


def test_dropping_more_than_one_in_twenty_is_refused_with_the_limit():
    unfit = {example.id for example in TASK.train[:3]}
    with pytest.raises(UserError, match=r"3 of 40 .*rollout\.max_prompt_tokens = 512"):
        stream(fits=lambda prompt: prompt.id not in unfit)


def test_derived_seeds_tell_parts_apart():
    seeds = {derive_seed(*parts) for parts in ((1, "a"), ("1", "a"), (1, "a", ""), ("1a",), (11, "a"), (1, "1a"))}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert derive_seed(0, "donors", "47+36") == derive_seed(0, "donors", "47+36")
