"""Views: what each of them holds, and above all what it must not hold."""

import re
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unisd_rl.config.contexts import ContextsConfig, PrimaryContext, RandomAuxiliary, RetrievalAuxiliary
from unisd_rl.contexts.auxiliary import shuffled
from unisd_rl.contexts.leakage import contains_answer, non_leaking_examples
from unisd_rl.contexts.templates import (
    other_example,
    with_demonstration,
    with_other_example,
    with_reference,
    with_reference_below,
)
from unisd_rl.contexts.views import Contexts, auxiliary_contexts, prompt_for
from unisd_rl.errors import UserError
from unisd_rl.tasks.arithmetic import Arithmetic, training_pool
from unisd_rl.types import Example, Message, ViewKind

TASK = Arithmetic(len(training_pool()), 500, seed=0)
CHAT = (Message("system", "Be brief."), Message("user", "Why?"))
seeds = st.integers(0, 2**31)
examples = st.sampled_from([*TASK.train, *TASK.evaluation])


def random_donors(example, pool, count, seed):
    return non_leaking_examples(example, shuffled(pool, seed), count, contains_answer)


def no_instructions():
    raise AssertionError("only induction reads instructions")


def test_templates_change_the_last_turn_alone_and_keep_the_prompt_whole():
    for chat in (
        with_demonstration(CHAT, "So."),
        with_other_example(CHAT, "Where?", "There."),
        with_reference(CHAT, "!"),
        with_reference_below(CHAT, "!"),
    ):
        assert chat[:-1] == CHAT[:-1]
        assert chat[-1].role == "user"
        assert "Why?" in chat[-1].content


def test_the_auxiliary_view_ends_with_the_prompt_and_says_the_example_is_for_reference():
    content = with_other_example(CHAT, "Where?", "There.")[-1].content
    assert content == with_reference(CHAT, other_example("Where?", "There."))[-1].content
    assert content.endswith("\n\nWhy?")
    assert "reference only" in content.splitlines()[0]
    assert "Where?\nThere.\n" in content


def test_with_the_question_first_every_view_begins_as_the_students_prompt_and_holds_the_same_reference():
    example = TASK.train[0]
    question = TASK.student_messages(example)[-1].content
    contexts = Contexts(("one", "two"), "wrong")
    default, first = (prompt_for(TASK, example, contexts, order) for order in ("reference_first", "question_first"))
    assert all(view.messages[-1].content.startswith(f"{question}\n\n") for view in first.views)
    auxiliary = [view for view in first.views if view.kind is ViewKind.AUXILIARY]
    assert [view.messages[-1].content.split("\n\n---\n\n")[1] for view in auxiliary] == ["one", "two"]
    assert [view.kind for view in first.views] == [view.kind for view in default.views]
    others = [(a, b) for a, b in zip(first.views, default.views, strict=True) if a.kind is not ViewKind.AUXILIARY]
    assert len(others) == 2
    assert all(a == b for a, b in others), "primary and negative have one order"
    assert prompt_for(TASK, example, contexts) == default


@given(st.text(), st.text())
def test_primary_and_negative_are_equal_but_for_the_demonstration_byte_for_byte(right, wrong):
    example = Example("0", "q", right, "a")
    prompt = prompt_for(TASK, example, Contexts(negative=wrong))
    primary, negative = (view.messages[-1].content for view in prompt.views)
    before, after = with_demonstration(TASK.student_messages(example), "\0")[-1].content.split("\0")
    assert (primary, negative) == (before + right + after, before + wrong + after)


def test_a_prompt_has_its_views_in_order():
    example = TASK.train[0]
    prompt = prompt_for(TASK, example, Contexts(("one", "two", "three"), "wrong"))
    assert prompt.messages == TASK.student_messages(example)
    kinds = [view.kind for view in prompt.views]
    assert kinds == [ViewKind.PRIMARY, *[ViewKind.AUXILIARY] * 3, ViewKind.NEGATIVE]
    read = [view.messages[-1].content for view in prompt.views]
    assert example.demonstration in read[0]
    assert [text.split("\n")[0] for text in read[1:4]] == ["one", "two", "three"]
    assert "wrong" in read[4]


def test_contexts_that_are_left_out_leave_only_the_primary_view():
    assert [view.kind for view in prompt_for(TASK, TASK.train[0], Contexts()).views] == [ViewKind.PRIMARY]


def test_as_controls_the_primary_view_reads_another_problems_demonstration_or_nothing():
    example, contexts = TASK.train[0], Contexts(negative="wrong", another="another")
    views = {kind: prompt_for(TASK, example, contexts, primary=kind).views for kind in get_args(PrimaryContext)}
    chat = TASK.student_messages(example)
    assert {kind: read[0].messages for kind, read in views.items()} == {
        "demonstration": with_demonstration(chat, example.demonstration),
        "another": with_demonstration(chat, "another"),
        "nothing": chat,
    }
    assert len({read[1:] for read in views.values()}) == 1, "other views are as ever"


@pytest.fixture(scope="module", params=[RandomAuxiliary(), RetrievalAuxiliary()], ids=lambda config: config.type)
def chosen(request):
    return auxiliary_contexts(request.param, TASK, 7, no_instructions)


@given(example=examples)
def test_no_auxiliary_view_of_arithmetic_contains_its_own_answer(chosen, example):
    answer = re.compile(rf"(?<!\d){example.answer}(?!\d)")
    texts = chosen.for_example(example)
    assert len(set(texts)) == 3
    assert texts == chosen.for_example(example)
    assert not any(answer.search(text) or f"\n{example.question}\n" in text for text in texts), texts


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
    assert set(random_donors(example, [example, *twins, *honest], 3, 0)) == set(honest)


def test_donors_that_say_the_answer_are_never_taken_even_where_too_few_are_left():
    example = Example("0", "q", "d", "7")
    telling = [Example(f"t{n}", f"telling {n}", "it is 7", "8") for n in range(20)]
    silent = [Example(f"s{n}", f"silent {n}", "it is 78", "9") for n in range(2)]
    assert set(random_donors(example, [*telling, *silent], 3, 3)) == set(silent)


def test_the_same_question_twice_in_the_pool_gives_one_donor():
    pool = [Example(str(n), "same", "work", f"answer {n}") for n in range(4)]
    assert len(random_donors(Example("x", "other", "d", "z"), pool, 3, 0)) == 1


def test_every_possible_set_of_donors_can_be_drawn():
    pool = [Example(str(n), f"question {n}", "work", f"answer {n}") for n in range(5)]
    drawn = {frozenset(donor.id for donor in random_donors(pool[0], pool, 2, seed)) for seed in range(200)}
    assert len(drawn) == 6  # pairs out of the four others


def test_a_section_without_a_type_is_of_the_usual_kind_and_an_absent_one_stays_absent():
    config = ContextsConfig.model_validate({"auxiliary": {"views": 2}, "negative": {}})
    assert (config.auxiliary, config.negative.type) == (RandomAuxiliary(views=2), "task")
    assert (ContextsConfig().auxiliary, ContextsConfig.model_validate({"negative": None}).negative) == (None, None)


def test_an_embedding_model_that_does_not_load_is_refused_with_its_name():
    with pytest.raises(UserError, match=r"contexts\.auxiliary\.model = '/nowhere'.* BM25"):
        auxiliary_contexts(RetrievalAuxiliary(model="/nowhere"), TASK, 0, no_instructions)
