"""Donors of a step: one small pool for all its problems, and for each of them what it may read of it."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unisd_rl.config import Config
from unisd_rl.config.contexts import ContextsConfig, RandomAuxiliary, RetrievalAuxiliary
from unisd_rl.config.learner import LearnerConfig
from unisd_rl.config.objective import JensenShannon, ObjectiveConfig, TokenAgreement
from unisd_rl.contexts.auxiliary import StepDonors, random_order, reference_of
from unisd_rl.contexts.leakage import contains_answer
from unisd_rl.contexts.prompts import PreparationReport, Prepared, PromptStream
from unisd_rl.contexts.retrieval import Bm25
from unisd_rl.contexts.views import Contexts, step_donors
from unisd_rl.seeds import derive_seed
from unisd_rl.types import Example, Message, ViewKind

EXAMPLES = [Example(f"id-{n}", f"question {n}", f"work {n}", f"answer {n}") for n in range(60)]
BATCH, DONORS, VIEWS = 10, 6, 2


class Records:
    """A task of records whose answers stand nowhere else."""

    train, evaluation = EXAMPLES, ()

    def student_messages(self, example):
        return (Message("user", example.question),)


def donors_of(auxiliary=None, fits=lambda example, reference: True, size=DONORS, task=None, seed=0):
    config = ContextsConfig(auxiliary=auxiliary or RandomAuxiliary(views=VIEWS), donors_per_step=size)
    return step_donors(config, task or Records(), seed, fits)


def own(example, count=VIEWS):
    """What was prepared for the problem alone: references that no pool has."""
    return tuple(f"prepared for {example.id}, {number}" for number in range(count))


def stream(size=DONORS, seed=0, batch=BATCH, answers=1):
    auxiliary = RandomAuxiliary(views=VIEWS)
    config = Config(
        contexts=ContextsConfig(auxiliary=auxiliary, donors_per_step=size),
        objective=ObjectiveConfig(divergence=JensenShannon(), agreement=TokenAgreement()),
        learner=LearnerConfig(batch_size=batch),
        rollout={"answers_per_prompt": answers},
        run={"seed": seed},
    )
    contexts = tuple(Contexts(own(example)) for example in EXAMPLES)
    donors = None if size is None else donors_of(auxiliary, size=size, seed=seed)
    return PromptStream(Records(), config, Prepared(tuple(EXAMPLES), contexts, PreparationReport(60, 60), donors))


def read_by(prompts, numbers):
    """What the auxiliary views of these prompts read, without the questions."""
    return {
        view.messages[-1].content.rpartition("\n\n---\n\n")[0]
        for number in numbers
        for view in prompts.prompt(number).prompt.views
        if view.kind is ViewKind.AUXILIARY
    }


def pool(step, seed=0, size=DONORS):
    """The references of a step's pool, written out anew."""
    drawn = random.Random(derive_seed(seed, "donor pool", step)).sample(range(len(EXAMPLES)), size)
    return {reference_of(EXAMPLES[index]) for index in drawn}


def test_the_problems_of_a_step_read_that_steps_pool_and_nothing_else():
    prompts = stream()
    for step in range(12):  # two epochs
        read = read_by(prompts, range(step * BATCH, (step + 1) * BATCH))
        assert read <= pool(step)
        assert len(read) > VIEWS, "not the same donors for every problem"
    assert len(set(map(frozenset, map(pool, range(12))))) == 12, "every step has a pool of its own"


def test_the_step_of_a_prompt_is_its_number_by_the_batch_size():
    prompts = stream(batch=4)
    assert read_by(prompts, range(4)) <= pool(0)
    assert read_by(prompts, [4]) <= pool(1)
    assert not read_by(prompts, [4]) <= pool(0)


def test_with_several_answers_a_step_has_fewer_problems_and_still_a_pool_of_its_own():
    """Eight completions are two problems."""
    prompts = stream(batch=8, answers=4)
    for step in range(6):
        assert read_by(prompts, range(8 * step, 8 * step + 8)) <= pool(step)
    assert not read_by(prompts, [8]) <= pool(0)


@settings(max_examples=25)
@given(st.lists(st.integers(0, 200), min_size=1, max_size=8))
def test_a_prompt_depends_on_its_number_alone_not_on_what_was_asked_before(numbers):
    once = stream()
    assert [once.prompt(number) for number in numbers] == [stream().prompt(number) for number in numbers]


def test_pools_follow_the_runs_seed():
    assert read_by(stream(seed=1), range(BATCH)) <= pool(0, seed=1)
    assert pool(0, seed=1) != pool(0)


def test_without_a_pool_each_problem_reads_what_was_prepared_for_it():
    prompts = stream(size=None)
    for number in range(20):
        example_id = prompts.prompt(number).prompt.id
        assert all(text.startswith(f"prepared for {example_id},") for text in read_by(prompts, [number]))


def test_no_problem_is_its_own_donor_and_its_own_prepared_donors_fill_up():
    donors = donors_of(size=len(EXAMPLES), auxiliary=RandomAuxiliary(views=len(EXAMPLES)))
    for example in EXAMPLES[:10]:
        read = donors.for_example(example, 0, own(example, len(EXAMPLES)))
        assert reference_of(example) not in read
        assert set(read) == {reference_of(other) for other in EXAMPLES if other is not example} | {own(example)[0]}


def test_a_donor_that_contains_the_answer_is_passed_over():
    telling = [Example(f"t{n}", f"telling {n}", "it is 7", f"{n} pears") for n in range(5)]
    silent = Example("s", "silent", "it is 78", "9")
    pool = [*telling, silent]
    donors = StepDonors(6, 6, 2, lambda indices: random_order(pool, 0), contains_answer, lambda *_: True, 0)
    assert donors.for_example(Example("x", "q", "d", "7"), 0, ("one", "two")) == (reference_of(silent), "one")


def test_a_donor_beside_which_the_problem_is_too_long_is_passed_over():
    long = {reference_of(EXAMPLES[index]) for index in range(0, 60, 2)}
    donors = donors_of(fits=lambda example, reference: reference not in long)
    read = {text for step in range(20) for text in donors.for_example(EXAMPLES[1], step, own(EXAMPLES[1]))}
    assert read.isdisjoint(long)
    assert len(read) > 10


def test_prepared_donors_that_are_in_the_pool_are_not_read_twice():
    donors = donors_of(size=2)
    example = next(each for each in EXAMPLES if reference_of(each) not in pool(3, size=2))
    prepared = (*pool(3, size=2), "another")[:2]
    assert sorted(donors.for_example(example, 3, prepared)) == sorted(pool(3, size=2))


def test_retrieval_reads_the_nearest_of_the_steps_pool():
    words = ("cat", "dog", "cow", "hen", "owl", "fox")
    examples = [
        Example(f"{n}", f"which {words[n % 6]} and which {words[n // 6]} {n}", f"w{n}", f"a{n}") for n in range(36)
    ]
    task = Records()
    task.train = examples
    donors = donors_of(RetrievalAuxiliary(views=3), size=12, task=task)
    similarity = Bm25([example.question for example in examples])
    for step, example in enumerate(examples):
        drawn = random.Random(derive_seed(0, "donor pool", step)).sample(range(36), 12)
        scores = similarity.scores(example.question)
        left = sorted((float(scores[index]) for index in drawn if examples[index] is not example), reverse=True)
        read = donors.for_example(example, step, own(example, 3))
        found = [next(n for n in drawn if reference_of(examples[n]) == text) for text in read]
        assert [float(scores[n]) for n in found] == left[:3]
    assert np.ptp(similarity.scores("which cat and which dog")) > 0.5, "scores that tell donors apart"


@pytest.mark.parametrize("auxiliary", [RandomAuxiliary(views=3), RetrievalAuxiliary(views=3)])
def test_a_pool_larger_than_the_data_is_all_of_it(auxiliary):
    donors = donors_of(auxiliary, size=1000)
    read = donors.for_example(EXAMPLES[0], 0, own(EXAMPLES[0], 3))
    assert len(set(read)) == 3
    assert set(read) <= {reference_of(each) for each in EXAMPLES[1:]}


def test_without_a_pool_or_without_auxiliary_views_there_are_no_donors_of_a_step():
    assert donors_of(size=None) is None
    assert step_donors(ContextsConfig(donors_per_step=8), Records(), 0, lambda *_: True) is None
