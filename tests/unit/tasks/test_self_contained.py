"""The self-contained tasks: right solutions, disjoint splits, an out-of-domain split, and wrong demonstrations."""

import json
import re

import pytest

from unisd_rl.config.task import ArithmeticTask, MultiplesTask, ToolUseTask
from unisd_rl.errors import UserError
from unisd_rl.tasks.load import load_task
from unisd_rl.tasks.multiple_choice import options_of
from unisd_rl.tasks.tool_use import TOOLS, UNSEEN_TOOLS

KINDS = {
    "arithmetic": lambda **settings: ArithmeticTask(**settings),
    "multiples": lambda **settings: MultiplesTask(type="multiples", **settings),
    "tool_use": lambda **settings: ToolUseTask(type="tool_use", **settings),
}


def loaded(kind, **settings):
    return load_task(KINDS[kind](**{"train_examples": 300, "eval_examples": 100, **settings}))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("domain", ["in_domain", "out_of_domain"])
def test_every_gold_solution_is_right_and_every_wrong_one_wrong(kind, domain):
    task = loaded(kind, evaluation=domain)
    assert (len(task.train), len(task.evaluation)) == (300, 100)
    for example in (*task.train, *task.evaluation):
        assert task.grade(example.demonstration, example)
        wrong = list(task.wrong_demonstrations(example, seed=0))
        assert wrong
        assert not any(task.grade(text, example) for text in wrong)


@pytest.mark.parametrize("kind", ["multiples", "tool_use"])
def test_what_a_model_thinks_is_graded_unless_that_is_cut(kind):
    for grade_thinking in (True, False):
        task = loaded(kind, grade_thinking=grade_thinking)
        example = task.evaluation[0]
        assert task.grade(f"<think>{example.demonstration}", example) is grade_thinking
        assert task.grade(f"<think>Hm.</think>{example.demonstration}", example)


@pytest.mark.parametrize("kind", ["multiples", "tool_use"])
def test_training_problems_of_any_seed_are_held_out_of_no_evaluation(kind):
    def key(example):  # the problem without the order of its parts
        return re.sub(r"[A-D]\. ", "", "".join(sorted(example.question.split("\n"))))

    def requests(examples):
        return {example.id if kind == "tool_use" else key(example) for example in examples}

    for seed in range(3):
        assert requests(loaded(kind, seed=seed).train).isdisjoint(requests(loaded(kind, seed=seed + 1).evaluation))


@pytest.mark.parametrize("kind", KINDS)
def test_examples_follow_the_seed(kind):
    assert loaded(kind, seed=1).train == loaded(kind, seed=1).train
    assert loaded(kind, seed=1).train != loaded(kind, seed=2).train
    outside = [loaded(kind, seed=seed, evaluation="out_of_domain").evaluation for seed in (1, 1, 2)]
    assert outside[0] == outside[1] != outside[2]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_share_of_wrong_demonstrations_is_exact_and_nothing_else_changes(kind, share):
    task, clean = loaded(kind, wrong_demonstrations=share), loaded(kind)
    assert sum(not task.grade(example.demonstration, example) for example in task.train) == round(300 * share)
    for one, other in zip(task.train, clean.train, strict=True):
        assert (one.id, one.question, one.answer) == (other.id, other.question, other.answer)
    assert task.evaluation == clean.evaluation


def test_out_of_domain_sums_have_three_digits_and_a_solution_that_adds_up():
    for example in loaded("arithmetic", evaluation="out_of_domain").evaluation:
        left, operator, right = re.fullmatch(r"What is (\d{3})([+-])(\d{3})\?", example.question).groups()
        assert int(example.answer) == (int(left) + int(right) if operator == "+" else int(left) - int(right)) >= 0
        *rows, last = example.demonstration.split("\n")
        assert last == f"Answer: {example.answer}"
        digits = []
        for row in rows:
            terms, result = re.sub(r" (carry|borrow) 1", "", row).split("=")
            assert eval(terms) == int(result)
            digits.append(int(result) % 10 if len(digits) < 2 else int(result))
        assert sum(digit * 10**place for place, digit in enumerate(digits)) == int(example.answer)


@pytest.mark.parametrize(("domain", "digits"), [("in_domain", 2), ("out_of_domain", 4)])
def test_exactly_one_option_is_a_multiple_and_the_divisions_say_so(domain, digits):
    for example in loaded("multiples", evaluation=domain).evaluation:
        divisor = int(re.search(r"multiple of (\d)", example.question)[1])
        numbers = {letter: int(text) for letter, text in options_of(example).items()}
        assert [letter for letter, number in numbers.items() if number % divisor == 0] == [example.answer[0]]
        assert all(len(str(number)) == digits for number in numbers.values())
        for line in example.demonstration.split("\n")[:-1]:
            number, division = line.split(" = ")
            assert eval(division) == int(number)


def test_a_wrong_division_leads_to_the_wrong_option():
    task = loaded("multiples")
    for example in task.train:
        for text in task.wrong_demonstrations(example, 0):
            wrong = [line for line in text.split("\n")[:-1] if eval(line.replace("=", "!="))]
            assert len(wrong) == 2
            claimed = options_of(example)[text[-1]]
            assert any(line.startswith(f"{claimed} = ") and line.endswith("+ 0") for line in wrong)


def test_unseen_tools_are_in_no_training_prompt_and_the_wanted_tool_is_always_shown():
    task = loaded("tool_use", evaluation="out_of_domain")
    seen, unseen = ({tool.name for tool in tools} for tools in (TOOLS, UNSEEN_TOOLS))
    assert seen.isdisjoint(unseen)
    assert not any(f"- {name}(" in example.question for example in task.train for name in unseen)
    for example in task.evaluation:
        (call,) = json.loads(example.answer)
        assert call["name"] in unseen
        assert f"- {call['name']}(" in example.question
        assert example.question.count("\n- ") == 3


def test_every_argument_can_be_read_from_the_request():
    for example in loaded("tool_use").train:
        (call,) = json.loads(example.answer)
        request = example.question.rpartition("Request: ")[2]
        assert all(str(value) in request for value in call["arguments"].values() if not isinstance(value, bool))


def test_more_problems_than_the_templates_give_is_refused():
    with pytest.raises(UserError, match=r"task\.eval_examples = 1000000, but only about \d+"):
        loaded("tool_use", train_examples=10, eval_examples=1_000_000, evaluation="out_of_domain")
