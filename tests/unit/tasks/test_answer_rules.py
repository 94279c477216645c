"""Answer rules: right, wrong and hostile completions of each grader."""

import json
import time

import pytest
from pydantic import TypeAdapter

from unisd_rl.config.grader import GraderConfig
from unisd_rl.config.task import Fields, JsonlTask
from unisd_rl.errors import UserError
from unisd_rl.tasks import answer_rules
from unisd_rl.tasks.answer_rules import answer_rule, last_boxed
from unisd_rl.tasks.load import load_task
from unisd_rl.tasks.thinking import after_thinking
from unisd_rl.types import Example

LONG = "9" * 10_000
HOSTILE = {
    "nothing": "",
    "white space": " \n\t\n",
    "a number of 10,000 digits": f"Answer: {LONG}",
    "half a surrogate pair": "Answer: \ud800",
    "NUL": "Answer: \0",
    "unclosed thinking": "<think>Answer: 4",
    "open boxes": "\\boxed{" * 1000,
    "closed boxes": "}" * 10_000,
    "deep JSON": "[" * 10_000 + "]" * 10_000,
    "half JSON": '{"a": [1, {"b": ' * 1000,
    "labels": "Answer: " * 2000,
    "one over nothing": "1/0",
    "a large exponent": "1e9999",
    "brackets and letters": "(A)" * 3000,
}
QUESTION = "Capital of France?\nA. Rome\nB. Paris\nC. Paris"


def grader(kind, **settings):
    return answer_rule(TypeAdapter(GraderConfig).validate_python({"type": kind, **settings}))


def example(answer, question="Question?"):
    return Example("0", question, "work", answer)


def matches_hostile_patterns(completion, answer):
    return answer in completion


RULES = {
    "stated": {},
    "exact": {},
    "number": {},
    "math": {},
    "choice": {},
    "regex": {"pattern": "#### (.*)"},
    "json": {},
    "python": {"function": f"{__name__}:matches_hostile_patterns"},
}


@pytest.fixture
def no_process(monkeypatch):
    """Mathematics that is equal as it is written needs no process; what else is asked is noted."""
    asked = []
    monkeypatch.setattr(answer_rules, "mathematically_equal", lambda *pair: asked.append(pair) or False)
    return asked


@pytest.mark.parametrize("kind", RULES)
@pytest.mark.parametrize("completion", HOSTILE.values(), ids=HOSTILE)
def test_no_completion_raises_or_takes_long_or_is_right_by_accident(kind, completion, no_process):
    rule, started = grader(kind, **RULES[kind]), time.perf_counter()
    reference = example("7", QUESTION if kind == "choice" else "Question?")
    if kind != "python":
        assert not rule.is_right(completion, reference)
    rule.stated(completion, reference)
    assert time.perf_counter() - started < 2.0


def test_every_kind_of_grader_is_tried():
    kinds = [kind.model_fields["type"].annotation.__args__[0] for kind in GraderConfig.__args__[0].__args__]
    assert kinds == list(RULES)


EXACT = [("Paris", True), (" Paris\n", True), ("paris", False), ("It is Paris", False), ("", False)]


@pytest.mark.parametrize(("completion", "right"), EXACT)
def test_exact_takes_the_whole_completion(completion, right):
    assert grader("exact").is_right(completion, example("Paris")) is right
    assert grader("exact", ignore_case=True).is_right("new\n york", example("New York"))
    assert grader("exact").stated(completion, example("Paris")) == (completion.strip() or None)


NUMBERS = [
    ("That makes 12.", "12", True),
    ("First 3, then 4: 12", "12", True),
    ("12 apples and 13 pears", "12", False),
    ("Answer: 12 (3 * 4)", "12", True),
    ("Answer: 13\nAnswer: 12 of 40", "12", True),
    ("It costs $1,234.50.", "1234.5", True),
    ("1,234", "1234", True),
    ("1,2", "1", False),
    ("+12", "12.0", True),
    ("-12", "12", False),
    ("\u221212", "-12", True),
    ("20-12", "12", True),
    ("(3)-12", "12", True),
    ("#### 72", "72", True),
    ("\\boxed{72}", "72", True),
    ("**72**", "72", True),
    ("72km", "72", True),
    ("x72", "72", False),
    ("3/4", "0.75", True),
    ("3 / 4", "6/8", True),
    ("1/3", "0.3333333333333333333333333333333333", False),
    ("1.2e3", "1200", True),
    (".5", "0.5", True),
    ("0.5.", "0.5", True),
    ("7.", "7", True),
    ("no number", "7", False),
    (f"{LONG}", LONG, True),
    (f"{LONG}1", f"{LONG}2", False),
    (f"1{'0' * 5000}", "1", False),
]


@pytest.mark.parametrize(("completion", "reference", "right"), NUMBERS)
def test_the_last_number_is_compared_as_a_number(completion, reference, right):
    assert grader("number").is_right(completion, example(reference)) is right


BOXED = [
    (r"\boxed{5}", "5"),
    (r"\boxed{1} or \boxed{2}", "2"),
    (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    (r"\boxed{\boxed{5}}", "5"),
    (r"\boxed{ \fbox{5} }", "5"),
    (r"\boxed{x + \boxed{5}}", r"x + \boxed{5}"),
    (r"\boxed{1} + \boxed{2}} }", "2"),
    (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
    (r"\boxed {5}", "5"),
    (r"\boxed{3} and then \boxed{4", "3"),
    (r"\boxed{4", None),
    (r"\boxed{}", ""),
    ("no box", None),
]


@pytest.mark.parametrize(("text", "content"), BOXED)
def test_the_last_closed_box_counts_whatever_lies_in_it(text, content):
    assert last_boxed(text) == content


def test_mathematics_reads_the_box_before_the_answer_line_and_compares_text_without_a_process(no_process):
    rule = grader("math")
    assert rule.is_right(r"Answer: 4. So \boxed{ \frac12 }", example(r"\frac12"))
    assert rule.is_right("So.\nAnswer: $x + 1$\nDone", example("x+1"))
    assert rule.is_right(r"\boxed{5}", example(r"thus \boxed{5}"))
    assert no_process == []
    assert not rule.is_right(r"\boxed{0.5}", example(r"\frac12"))
    assert no_process == [("0.5", r"\frac12")]
    assert not rule.is_right(r"\boxed{} 5", example("5"))
    assert rule.stated("It is 5", example("5")) is None


CHOICES = [("Answer: B", True), ("Answer: C", True), ("Answer: A", False), ("It is B because", False), ("B", True)]


@pytest.mark.parametrize(("completion", "right"), CHOICES)
@pytest.mark.parametrize("reference", ["B", "B. Paris", "Paris"])
def test_a_choice_is_the_option_that_is_stated_last(completion, right, reference):
    assert grader("choice").is_right(completion, example(reference, QUESTION)) is right


def test_a_pattern_counts_by_its_first_group_and_its_last_match():
    rule = grader("regex", pattern=r"#### (.+)")
    assert rule.is_right("#### 1\n#### New  York", example("new york"))
    assert not rule.is_right("#### 7\n#### 8", example("7"))
    assert not rule.is_right("7", example("7"))
    assert grader("regex", pattern=r"\d+").is_right("1, 22", example("22"))
    assert grader("regex", pattern=r"(a)|b").stated("b", example("b")) is None


def test_a_pattern_that_takes_exponential_time_states_nothing(monkeypatch):
    monkeypatch.setattr(answer_rules, "_MATCH_S", 0.05)
    rule = grader("regex", pattern=r"(?:a|aa)+$")
    assert rule.stated("a" * 5000 + "b", example("a")) is None


JSONS = [
    ('{"b": [1, 2], "a": "x"}', True),
    ('I say:\n```json\n{"a": "x",\n "b": [1, 2.0]}\n```', True),
    ('{"a": "y"} no, {"a": "x", "b": [1, 2]}', True),
    ('{"a": "x", "b": [1, 2]} no, {"a": "y"}', False),
    ('{"a": "x", "b": [1, true]}', False),
    ('{"a": "x", "b": [2, 1]}', False),
    ('{"a": "x", "b": [1, 2]', False),
    ('{"a": "x", "a": "x", "b": [1, 2]}', False),
    ("x", False),
]


@pytest.mark.parametrize(("completion", "right"), JSONS)
def test_json_is_compared_by_value(completion, right):
    assert grader("json").is_right(completion, example('{"a": "x", "b": [1, 2]}')) is right


def test_a_json_answer_may_be_a_plain_value():
    assert grader("json").is_right(" 12.0 ", example("12"))
    assert not grader("json").is_right("true", example("1"))


def raises(completion, answer):
    raise KeyError(completion)


def ends_with(completion, answer):
    return completion.endswith(answer)


def test_a_function_of_ones_own_grades_and_what_it_raises_is_told_as_its_own():
    rule = grader("python", function=f"{__name__}:ends_with")
    assert rule.is_right("I say 4", example("4"))
    assert not rule.is_right("4, I say", example("4"))
    with pytest.raises(UserError, match=r"task.grader.function = .*raises'?: problem '0' raised KeyError: 'x'"):
        grader("python", function=f"{__name__}:raises").is_right("x", example("4"))
    with pytest.raises(UserError, match="cannot be imported"):
        grader("python", function="nowhere:function")


THINKING = [
    ("plain", "plain"),
    ("<think>no</think>yes", "yes"),
    ("no</think>yes", "yes"),  # the prompt opened it
    ("<think>a</think>b<think>c</think>d", "d"),
    ("<think>no", None),
    ("<think>a</think>b<think>c", None),
    ("</think>", ""),
]


@pytest.mark.parametrize(("completion", "said"), THINKING)
def test_what_is_thought_is_cut_and_what_is_still_thought_says_nothing(completion, said):
    assert after_thinking(completion) == said


def test_thinking_is_graded_unless_a_field_says_otherwise():
    thought = "<think>Answer: 4</think>\nI do not know"
    assert grader("number").is_right(thought, example("4"))
    assert not grader("number", grade_thinking=False).is_right(thought, example("4"))
    assert not grader("stated", grade_thinking=False).is_right("<think>\nAnswer: 4", example("4"))
    assert grader("stated", grade_thinking=False).is_right("<think>5?</think>Answer: 4", example("4"))


def load(tmp_path, rows, **grading):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_task(JsonlTask(type="jsonl", train=path, eval_examples=1, grader=grading))


UNUSABLE = {
    "number": ("four", "its answer 'four' holds no number"),
    "choice": ("B", "its prompt lists no options as lines `A. text`"),
    "json": ("{", "its answer '{' is no JSON"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_a_reference_that_no_completion_could_match_is_refused_with_its_record(tmp_path, kind):
    answer, reason = UNUSABLE[kind]
    row = {"prompt": "Q", "demonstration": f"Answer: {answer}", "answer": answer}
    with pytest.raises(UserError) as error:
        load(tmp_path, [row] * 3, type=kind)
    assert f"rows.jsonl, line 1: {reason}" in str(error.value)


def test_gold_that_the_grader_finds_wrong_is_refused_when_the_data_is_loaded(tmp_path):
    rows = [{"prompt": f"Q{n}", "demonstration": f"It is {n}, surely", "answer": str(n)} for n in range(10)]
    with pytest.raises(UserError, match="its grader finds 10 of 10 worked solutions wrong"):
        load(tmp_path, rows)
    assert len(load(tmp_path, rows, type="number").train) == 9


def test_a_chat_whose_last_turn_states_no_answer_is_refused(tmp_path):
    chat = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "I do not know"}]
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps({"messages": chat}) + "\n")
    config = JsonlTask(type="jsonl", train=path, fields=Fields(messages="messages"), grader={"type": "number"})
    with pytest.raises(UserError, match=r"line 1: its worked solution, which ends 'I do not know', states no answer"):
        load_task(config)


def test_a_pattern_that_is_none_is_refused():
    with pytest.raises(ValueError, match="no regular expression"):
        grader("regex", pattern="(")
