"""GSM8K and MATH-500 on records of their sources' schema: what is read, put and graded, and what is refused."""

import json

import pytest

from unisd_rl.config.task import GSM8KTask, MATHTask
from unisd_rl.errors import UserError
from unisd_rl.tasks import answer_rules
from unisd_rl.tasks.load import load_task
from unisd_rl.tasks.multiple_choice import MultipleChoice, Question, to_example
from unisd_rl.types import Example

GRADE_SCHOOL = [
    {
        "question": f"Ann has {n} bags of 12 apples. How many apples?",
        "answer": f"A bag has 12.\n{n} bags have {n}*12=<<{n}*12={12 * n}>>{12 * n}.\n#### {12 * n:,}",
    }
    for n in range(90, 96)
]
COMPETITION = [
    {
        "problem": f"What is ${n}/2$?",
        "solution": f"Halve it: $\\boxed{{\\frac{{{n}}}{{2}}}}$.",
        "answer": f"\\frac{{{n}}}{{2}}",
        "subject": "Algebra",
        "level": 1,
        "unique_id": f"test/algebra/{n}.json",
    }
    for n in range(1, 7, 2)
]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def gsm8k(tmp_path):
    write(tmp_path / "train.jsonl", GRADE_SCHOOL[:4])
    write(tmp_path / "test.jsonl", GRADE_SCHOOL[4:])
    return tmp_path


@pytest.fixture
def math(tmp_path):
    write(tmp_path / "test.jsonl", COMPETITION)
    return tmp_path


@pytest.fixture(autouse=True)
def _text_alone(monkeypatch):
    """What is equal as it is written needs no process; nothing else is equal here."""
    monkeypatch.setattr(answer_rules, "mathematically_equal", lambda *_: False)


def test_gsm8k_loses_its_calculator_notes_and_ends_with_the_answers_line(gsm8k):
    task = load_task(GSM8KTask(type="gsm8k", data=gsm8k))
    assert [example.id for example in (*task.train, *task.evaluation)] == [
        "train-0", "train-1", "train-2", "train-3", "test-0", "test-1",
    ]  # fmt: skip
    first = task.train[0]
    assert first.demonstration == "A bag has 12.\n90 bags have 90*12=1080.\nAnswer: 1,080"
    assert first.answer == "1,080"
    (turn,) = task.student_messages(first)
    assert turn.content.startswith("Ann has 90 bags of 12 apples. How many apples?\n\nThink it through step by step.")


@pytest.mark.parametrize(
    ("completion", "right"),
    [("So 1080.", True), ("Answer: 1,080.00 apples", True), ("#### 1080", True), ("Answer: 108", False), ("", False)],
)
def test_gsm8k_is_graded_by_the_number(gsm8k, completion, right):
    task = load_task(GSM8KTask(type="gsm8k", data=gsm8k))
    assert task.grade(completion, task.train[0]) is right


def test_gsm8k_as_one_file_names_the_split_of_each_record(tmp_path):
    path = tmp_path / "all.jsonl"
    write(path, [{**row, "split": "test" if n > 3 else "train"} for n, row in enumerate(GRADE_SCHOOL)])
    task = load_task(GSM8KTask(type="gsm8k", data=path, train_examples=2))
    assert (len(task.train), len(task.evaluation)) == (2, 2)


@pytest.mark.parametrize("answer", ["It is 5", "Work\n#### five", "#### "])
def test_a_solution_without_its_last_line_is_refused(gsm8k, answer):
    write(gsm8k / "test.jsonl", [{"question": "?", "answer": answer}])
    with pytest.raises(UserError, match=r"line 1: answer must end with `#### ` and a number"):
        load_task(GSM8KTask(type="gsm8k", data=gsm8k))


def test_math_is_only_evaluated_unless_there_are_records_to_train_on(math):
    task = load_task(MATHTask(type="math", data=math), for_training=False)
    assert (len(task.train), len(task.evaluation)) == (0, 3)
    assert task.evaluation[0] == Example(
        "test/algebra/1.json", "What is $1/2$?", "Halve it: $\\boxed{\\frac{1}{2}}$.", "\\frac{1}{2}"
    )
    assert task.student_messages(task.evaluation[0])[0].content.endswith("into \\boxed{}.")
    with pytest.raises(UserError, match="it has no training problems"):
        load_task(MATHTask(type="math", data=math))
    write(math / "train.jsonl", [{"problem": "1+1?", "solution": "\\boxed{2}"}])
    assert load_task(MATHTask(type="math", data=math)).train[0].answer == "2"


def test_math_is_graded_by_its_last_box_and_thinking_may_be_cut(math):
    task = load_task(MATHTask(type="math", data=math), for_training=False)
    problem = task.evaluation[0]
    assert task.grade("<think>\\boxed{3}</think> \\boxed{ \\frac{1}{2} }", problem)
    assert not task.grade("<think>\\boxed{\\frac{1}{2}}</think> \\boxed{3}", problem)
    assert task.grade("<think>\\boxed{\\frac{1}{2}}", problem)
    strict = load_task(MATHTask(type="math", data=math, grade_thinking=False), for_training=False)
    assert not strict.grade("<think>\\boxed{\\frac{1}{2}}", problem)


def test_a_solution_without_an_answer_is_refused(math):
    write(math / "test.jsonl", [{"problem": "?", "solution": "Nothing"}])
    with pytest.raises(UserError, match=r"line 1: it has no answer, and its solution no \\boxed\{\}"):
        load_task(MATHTask(type="math", data=math), for_training=False)


def test_thinking_may_be_cut_from_an_option_too():
    problem = to_example("p", Question("?", ("x", "y"), 1), "")
    thought = "<think>Answer: A</think>B is it.\n(B)"
    for grade_thinking, right in ((True, False), (False, True)):
        assert MultipleChoice((), (problem,), grade_thinking).grade(thought, problem) is right
