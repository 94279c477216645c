"""Tool calls: which ones a completion makes, and when they are the wanted ones."""

import json
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unisd_rl.tasks.calls import Call, calls_in, same_calls, same_json, stated_calls, to_json, to_react
from unisd_rl.tasks.tool_calling import ToolCalling
from unisd_rl.types import Example

WANTED = [Call("find", {"name": "Ada", "limit": 3, "deep": {"tags": ["x", None], "on": True}})]
GOLD = '{"name": "find", "arguments": {"name": "Ada", "limit": 3, "deep": {"tags": ["x", null], "on": true}}}'
REACT = 'Action: find\nAction Input: {"name": "Ada", "limit": 3, "deep": {"tags": ["x", null], "on": true}}'
INPUT = REACT.partition("Input: ")[2]
EXAMPLE = Example("e", "?", GOLD, to_json(WANTED))
TASK = ToolCalling([], [], to_json)

COMPLETIONS = [
    (GOLD, True),
    (f"[{GOLD}]", True),
    (f"```json\n{GOLD}\n```", True),
    (f"I call {GOLD} and hope for the best.", True),
    (f"Not {{this}} [one] but\n{GOLD}", True),
    (f"{GOLD.replace('find', 'lose')}\nNo:\n{GOLD}", True),
    (f"{GOLD}\nNo:\n{GOLD.replace('find', 'lose')}", False),
    (f"{GOLD}\nThe reply will be [1, 2] or {{}}.", True),  # no call comes after it
    (GOLD.replace(", ", ",\n   "), True),
    (GOLD.replace("3", "3.0"), True),
    (GOLD.replace("3", "3e0"), True),
    (GOLD.replace("Ada", "\\u0041da"), True),
    (json.dumps({"arguments": WANTED[0].arguments, "name": "find"}), True),
    (REACT, True),
    (f"Thought: find her\n{REACT}\nObservation: ...", True),
    (f"**Action:** find\n**Action Input:** {REACT.partition('Input: ')[2]}", True),
    (REACT.replace("Action Input", "Action_Input"), True),
    (REACT.replace("find", "find  "), True),
    # Markdown as models write it
    (REACT.replace("find", "`find`"), True),
    (f"**Action: find**\n**Action Input:** `{INPUT}`", True),
    (f"**Action:** `find`\n**Action Input:**\n```json\n{INPUT}\n```", True),
    (f"```\n{REACT}\n```", True),
    (f"- Action: find\n- Action Input: {INPUT}", True),
    (f"1. **Action:** find\n   **Action Input:** {INPUT}", True),
    (f"> Action: find\n> Action Input: {INPUT}", True),
    (REACT.replace("find", "`fin`d"), False),
    (REACT.replace("find", "find()"), False),
    (REACT.replace("find", "find or lose"), False),
    (f"Action: find\nAction Input: ```python\n{INPUT}\n```", False),
    (f"Action: find\nAction Input: the input is {INPUT}", False),
    (f"Action: ``\nAction Input: {INPUT}", False),
    # extra, missing or other arguments, and other types
    (GOLD.replace('"limit": 3', '"limit": 3, "offset": 0'), False),
    (GOLD.replace('"limit": 3, ', ""), False),
    (GOLD.replace('"on": true', '"on": true, "off": false'), False),
    (GOLD.replace("3", '"3"'), False),
    (GOLD.replace("3", "4"), False),
    (GOLD.replace("3", "true"), False),
    (GOLD.replace("true", "1"), False),
    (GOLD.replace("null", '"None"'), False),
    (GOLD.replace('["x", null]', '[null, "x"]'), False),
    (GOLD.replace('["x", null]', '"x"'), False),
    (GOLD.replace("Ada", "ada"), False),
    (GOLD.replace("find", "Find"), False),
    (GOLD.replace('"name": "Ada", ', '"name": "", '), False),
    (GOLD.replace('"limit": 3', '"limit": 3, "offset": ""'), True),  # an empty text counts as not given
    # other calls
    (f"[{GOLD}, {GOLD}]", False),
    ("[]", False),
    (REACT + "\n" + REACT, False),
    (f"{GOLD}\n{REACT.replace('Ada', 'Ben')}", False),  # ReAct lines count where there are any
    # malformed
    (GOLD[:-1], False),
    (GOLD.replace('"', "'"), False),
    (GOLD.replace("3", "NaN"), False),
    (GOLD.replace("3", "Infinity"), False),
    (GOLD.replace("3", "0x3"), False),
    (GOLD.replace("3", "\u0663"), False),
    (GOLD.replace("3", "3" * 5000), False),
    (GOLD.replace('"limit": 3', '"limit": 9, "limit": 3'), False),
    (GOLD.replace('"limit": 3', '"limit": 3,'), False),
    (GOLD[:-1] + ', "optional": true}', False),
    (GOLD.replace('"arguments"', '"parameters"'), False),
    (f'{{"tool_calls": [{GOLD}]}}', False),
    (json.dumps({"name": "find", "arguments": json.dumps(WANTED[0].arguments)}), False),
    (json.dumps(GOLD), False),
    ("Action: find", False),
    ("Action: find\nAction Input: Ada", False),
    ("Action: find\nAction Input: [1]", False),
    ("Action:\nAction Input: {}", False),
    ('{"a":' * 100_000, False),
    ("[" * 100_000 + "]" * 100_000, False),
    ("find(name='Ada', limit=3)", False),
    ("find", False),
    ("", False),
]


@pytest.mark.parametrize(("completion", "right"), COMPLETIONS)
def test_exactly_the_wanted_call_is_right(completion, right):
    assert TASK.grade(completion, EXAMPLE) is right


@pytest.mark.parametrize(
    ("completion", "graded_with", "graded_without"),
    [
        (f"<think>{GOLD}</think>I cannot.", True, False),
        (f"<think>\n{REACT}\n</think>\n{GOLD.replace('Ada', 'Ben')}", True, False),
        (f"<think>\n{REACT.replace('Ada', 'Ben')}\n</think>\n{GOLD}", False, True),
        (f"<think>{GOLD}", True, False),  # cut at the limit before it answered
        (GOLD, True, True),
    ],
)
def test_a_call_that_is_only_thought_of_counts_unless_thinking_is_cut(completion, graded_with, graded_without):
    for grade_thinking, right in ((True, graded_with), (False, graded_without)):
        assert ToolCalling([], [], to_json, grade_thinking).grade(completion, EXAMPLE) is right


def test_the_time_of_an_answer_of_brackets_grows_with_its_length_and_not_with_its_square():
    def seconds(pairs):
        before = process_time()
        assert stated_calls("[{" * pairs) is None
        return process_time() - before

    assert seconds(80_000) < 20 * min(seconds(10_000) for _ in range(3))  # 8 times; the square would be 64


@given(st.text())
def test_any_text_can_be_graded(text):
    assert TASK.grade(text, EXAMPLE) in (True, False)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
CALLS = st.lists(
    st.builds(Call, st.sampled_from(["f", "g"]), st.dictionaries(st.text(), JSON, max_size=3)), min_size=1, max_size=3
)


@given(CALLS)
def test_calls_survive_both_written_forms(calls):
    assert stated_calls(to_json(calls)) == calls
    assert stated_calls(to_react(calls)) == calls
    assert calls_in(to_json(calls)) == calls


@given(JSON, JSON)
def test_equality_is_that_of_the_written_value_but_for_numbers(one, other):
    assert same_json(one, one)
    if json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True):
        assert same_json(one, other)
    assert same_json(one, other) == same_json(other, one)
    assert not same_json([one], [one, other])
    assert not same_json({"k": one}, {"k": one, "l": other})


def test_an_optional_call_may_be_made_or_left_out_but_not_changed():
    wanted = [Call("get", {}), Call("put", {"x": 1}, optional=True), Call("end", {})]
    get, put, end, other = Call("get", {}), Call("put", {"x": 1}), Call("end", {}), Call("put", {"x": 2})
    assert same_calls([get, put, end], wanted)
    assert same_calls([get, end], wanted)
    assert not same_calls([get, other, end], wanted)
    assert not same_calls([get, put], wanted)
    assert not same_calls([put, get, end], wanted)
    assert not same_calls(None, wanted)


def test_every_wrong_demonstration_is_wrong_and_the_gold_one_is_right():
    calls = [
        Call("get", {"id": 7}),
        Call("set", {"id": 7, "name": "a b", "on": False, "tags": ["x"], "more": {"k": 1}}),
    ]
    example = Example("e", "?", to_json(calls), to_json(calls))
    wrong = list(TASK.wrong_demonstrations(example, 1))
    assert len(set(wrong)) > 10
    assert not any(TASK.grade(text, example) for text in wrong)
    assert TASK.grade(example.demonstration, example)
