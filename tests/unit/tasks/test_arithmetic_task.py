"""The arithmetic task: true solutions, verified mistakes, disjoint splits, and a grader that any text may meet."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unisd_rl.config.task import ArithmeticTask
from unisd_rl.errors import UserError
from unisd_rl.tasks.arithmetic import (
    Arithmetic,
    Problem,
    held_out_pool,
    problem_of,
    solution,
    stated_integer,
    training_pool,
)
from unisd_rl.tasks.load import load_task
from unisd_rl.types import Example

TASK = Arithmetic(train_examples=400, eval_examples=100, seed=0)
EQUATION = re.compile(r"([0-9+-]+)=(\d+)")
EXAMPLE = Example("47+36", "What is 47+36?", "unused", "83")


def key(problem: Problem) -> tuple[str, frozenset[int]]:
    """Mirror images are one problem."""
    return problem.operator, frozenset((problem.left, problem.right))


def every_problem() -> list[Problem]:
    return [*training_pool(), *held_out_pool()]


def test_every_line_of_every_solution_is_true_and_its_answer_is_right():
    for problem in every_problem():
        text = solution(problem)
        terms = [(re.findall(r"[+-]?\d+", left), int(right)) for left, right in EQUATION.findall(text)]
        assert len(terms) == 2
        assert all(sum(map(int, left)) == right for left, right in terms)
        exact = problem.left + problem.right if problem.operator == "+" else problem.left - problem.right
        assert text.splitlines()[-1] == f"Answer: {exact}"


def test_a_dropped_carry_is_wrong_by_ten():
    for problem in every_problem():
        if problem.carries:
            off = stated_integer(solution(problem, carry=0)) - problem.result
            assert off == (-10 if problem.operator == "+" else 10)


def test_a_carry_or_borrow_is_written_out_exactly_where_there_is_one():
    for problem in every_problem():
        ones = problem.left % 10, problem.right % 10
        needed = sum(ones) > 9 if problem.operator == "+" else ones[0] < ones[1]
        word = "carry 1" if problem.operator == "+" else "borrow 1"
        assert (word in solution(problem)) == problem.carries == needed


def test_no_held_out_problem_is_in_the_training_pool_even_with_its_numbers_swapped():
    assert {key(problem) for problem in training_pool()}.isdisjoint(key(problem) for problem in held_out_pool())


def test_the_pools_hold_each_problem_once_and_only_two_digit_numbers():
    problems = every_problem()
    assert len({key(problem) for problem in problems}) == len(problems)
    assert all(10 <= number <= 99 for problem in problems for number in (problem.left, problem.right))
    assert all(problem.result >= 0 for problem in problems)


@given(st.integers(0, 2**31), st.integers(0, 2**31))
def test_held_out_problems_of_any_seed_are_disjoint_from_training_problems_of_any_seed(one, other):
    train, held_out = Arithmetic(300, 100, one).train, Arithmetic(300, 100, other).evaluation
    assert {key(problem_of(e.question)) for e in train}.isdisjoint(key(problem_of(e.question)) for e in held_out)


def test_examples_are_distinct_and_a_function_of_the_seed():
    again, other = Arithmetic(400, 100, seed=0), Arithmetic(400, 100, seed=1)
    assert TASK.train == again.train
    assert TASK.evaluation == again.evaluation
    assert TASK.train != other.train
    assert len({example.id for example in (*TASK.train, *TASK.evaluation)}) == 500


def test_the_default_configuration_has_at_least_500_held_out_problems():
    task = load_task(ArithmeticTask())
    assert len(task.evaluation) >= 500
    assert len(task.train) == ArithmeticTask().train_examples


def test_more_problems_than_there_are_is_refused_with_the_setting_and_the_number():
    with pytest.raises(UserError, match=r"task\.train_examples = 100000.*only \d+"):
        Arithmetic(100_000, 10, 0)


def test_gold_demonstrations_are_graded_right_and_students_never_read_them():
    for example in TASK.train:
        assert TASK.grade(example.demonstration, example)
        (message,) = TASK.student_messages(example)
        assert message.role == "user"
        assert example.demonstration not in message.content


def test_every_problem_has_a_wrong_demonstration_and_the_dropped_carry_comes_first():
    for example in TASK.train:
        candidates = list(TASK.wrong_demonstrations(example, seed=5))
        assert not any(TASK.grade(candidate, example) for candidate in candidates)
        if problem_of(example.question).carries:
            assert candidates[0] == solution(problem_of(example.question), carry=0)
        assert candidates == list(TASK.wrong_demonstrations(example, seed=5))


@pytest.mark.parametrize(
    ("completion", "right"),
    [
        ("Answer: 83", True),
        ("Answer: 83.", True),
        ("answer:83", True),
        ("Answer: 83 because", True),
        ("Answer: 73\nAnswer: 83", True),
        ("Answer: 83\nAnswer: 73", False),
        ("Answer: 83\nAnswer: none", False),
        ("Answer: 830", False),
        ("Answer: 83.5", False),
        ("Answer: 83,000", False),
        ("Answer: 83rd", False),
        ("Answer: -83", False),
        ("Nonanswer: 83", False),
        ("83", False),
        ("", False),
        ("Answer: " + "9" * 5000, False),
    ],
)
def test_the_last_stated_answer_counts_as_an_exact_integer(completion, right):
    assert TASK.grade(completion, EXAMPLE) is right


@given(st.text())
def test_any_text_can_be_graded(text):
    assert TASK.grade(text, EXAMPLE) in (True, False)
    assert TASK.grade(f"{text}\nAnswer: 83", EXAMPLE)
