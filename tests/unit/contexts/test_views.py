"""Views: what each of them holds, and above all what it must not hold."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unisd_rl.config import AuxiliaryConfig, ContextsConfig, NegativeConfig
from unisd_rl.contexts.auxiliary import random_donors
from unisd_rl.contexts.build import prompt_for
from unisd_rl.contexts.negative import wrong_demonstration
from unisd_rl.contexts.templates import with_demonstration, with_other_example
from unisd_rl.errors import UserError
from unisd_rl.tasks.arithmetic import Arithmetic, stated_integer
from unisd_rl.tasks.problems import training_pool
from unisd_rl.types import Example, Message, ViewKind

TASK = Arithmetic(len(training_pool()), 500, seed=0)
ALL_VIEWS = ContextsConfig(auxiliary=AuxiliaryConfig(views=3), negative=NegativeConfig())
CHAT = (Message("system", "Be brief."), Message("user", "Why?"))
seeds = st.integers(0, 2**31)
examples = st.sampled_from([*TASK.train, *TASK.evaluation])


def test_templates_change_the_last_turn_alone_and_keep_the_prompt_whole():
    for chat in (with_demonstration(CHAT, "So."), with_other_example(CHAT, "Where?", "There.")):
        assert chat[:-1] == CHAT[:-1]
        assert chat[-1].role == "user"
        assert "Why?" in chat[-1].content


def test_the_auxiliary_view_ends_with_the_prompt_and_says_the_example_is_for_reference():
    content = with_other_example(CHAT, "Where?", "There.")[-1].content
    assert content.endswith("\n\nWhy?")
    assert "reference only" in content.splitlines()[0]
    assert "Where?\nThere.\n" in content


@given(st.text(), st.text())
def test_primary_and_negative_are_equal_but_for_the_demonstration(right, wrong):
    before, after = with_demonstration(CHAT, "\0")[-1].content.split("\0")
    assert with_demonstration(CHAT, right)[-1].content == before + right + after
    assert with_demonstration(CHAT, wrong)[-1].content == before + wrong + after


@given(examples, seeds)
def test_a_prompt_has_its_views_in_order_each_with_the_right_worth(example, seed):
    prompt = prompt_for(TASK, example, ALL_VIEWS, seed)
    kinds = [view.kind for view in prompt.views]
    assert kinds == [ViewKind.PRIMARY, *[ViewKind.AUXILIARY] * 3, ViewKind.NEGATIVE]
    assert prompt.messages == TASK.student_messages(example)
    primary, negative = prompt.views[0].messages[-1].content, prompt.views[-1].messages[-1].content
    assert example.demonstration in primary
    wrong = next(text for text in TASK.wrong_demonstrations(example, seed) if not TASK.grade(text, example))
    assert primary.replace(example.demonstration, wrong) == negative
    assert stated_integer(negative) != int(example.answer)


@settings(max_examples=300)
@given(examples, seeds)
def test_no_auxiliary_view_contains_its_own_problems_answer(example, seed):
    answer = re.compile(rf"(?<!\d){example.answer}(?!\d)")
    for view in prompt_for(TASK, example, ALL_VIEWS, seed).views[1:4]:
        donor = view.messages[-1].content.removesuffix(example.question)
        assert not answer.search(donor), donor


def test_contexts_that_are_left_out_leave_only_the_primary_view():
    prompt = prompt_for(TASK, TASK.train[0], ContextsConfig(), 0)
    assert [view.kind for view in prompt.views] == [ViewKind.PRIMARY]


@given(examples, seeds)
def test_donors_are_distinct_other_problems_and_a_function_of_the_seed(example, seed):
    donors = random_donors(example, TASK.train, 5, seed)
    assert donors == random_donors(example, TASK.train, 5, seed)
    assert len({donor.id for donor in donors}) == 5
    assert all(donor.id != example.id and donor.answer != example.answer for donor in donors)


def test_donors_depend_on_the_seed():
    drawn = {random_donors(TASK.train[0], TASK.train, 3, seed) for seed in range(20)}
    assert len(drawn) == 20


def test_identical_questions_and_answers_are_no_donors_whatever_their_case_and_spaces():
    example = Example("0", "Which  city?", "Think. Answer: Paris", "Paris")
    twins = [Example("1", "which city?", "other", "Rome"), Example("2", "Capital?", "other", " PARIS ")]
    honest = [Example("3", "Where?", "There", "Bonn"), Example("4", "Who?", "Me", "me")]
    assert set(random_donors(example, [example, *twins, *honest], 2, 0)) == set(honest)
    with pytest.raises(UserError, match=r"views = 3.*'0' has only 2 others"):
        random_donors(example, [example, *twins, *honest], 3, 0)


def test_donors_that_say_the_answer_come_last():
    example = Example("0", "q", "d", "7")
    telling = [Example(f"t{n}", f"telling {n}", "it is 7", "8") for n in range(20)]
    silent = [Example(f"s{n}", f"silent {n}", "it is 78", "9") for n in range(2)]
    assert set(random_donors(example, [*telling, *silent], 2, 3)) == set(silent)
    assert set(silent) < set(random_donors(example, [*telling, *silent], 3, 3))


def test_every_possible_set_of_donors_can_be_drawn():
    pool = [Example(str(n), f"question {n}", "work", f"answer {n}") for n in range(5)]
    drawn = {frozenset(donor.id for donor in random_donors(pool[0], pool, 2, seed)) for seed in range(200)}
    assert len(drawn) == 6  # pairs out of the four others


def test_a_negative_is_the_first_candidate_that_the_grader_finds_wrong():
    example = Example("0", "q", "gold", "1")

    def grade(text: str, example: Example) -> bool:
        return text == "right"

    assert wrong_demonstration(example, ["right", "gold", "wrong", "worse"], grade, attempts=8) == "wrong"
    assert wrong_demonstration(example, ["right", "gold", "wrong"], grade, attempts=2) is None
    assert wrong_demonstration(example, [], grade, attempts=8) is None


def test_a_problem_without_a_wrong_demonstration_keeps_its_other_views():
    class Lenient(Arithmetic):
        def grade(self, completion: str, example: Example) -> bool:
            return True

    task = Lenient(100, 10, 0)
    kinds = {view.kind for view in prompt_for(task, task.train[0], ALL_VIEWS, 0).views}
    assert kinds == {ViewKind.PRIMARY, ViewKind.AUXILIARY}
