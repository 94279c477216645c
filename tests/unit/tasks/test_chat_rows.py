"""Chats of a user's own records: the turns before the last answer are the prompt, and every other form is refused."""

import csv
import json

import pytest

from unisd_rl.config.task import DatasetsTask, Fields, JsonlTask
from unisd_rl.contexts.cache import records_fingerprint
from unisd_rl.contexts.templates import with_demonstration, with_reference
from unisd_rl.contexts.views import Contexts, prompt_for
from unisd_rl.errors import UserError
from unisd_rl.tasks.load import load_task
from unisd_rl.tasks.records import Records
from unisd_rl.types import TOOLS, Example, Message

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "2 + 2?"}
ANSWER = {"role": "assistant", "content": "Two and two.\nAnswer: 4"}
MORE = {"role": "user", "content": "And 1 more?"}
LAST = {"role": "assistant", "content": "One more.\nAnswer: 5"}
CALL = {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": {"name": "add"}}]}
RESULT = {"role": "tool", "content": "4", "tool_call_id": "c1"}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def load(tmp_path, *rows, **fields):
    """The first training example; the rows are repeated, so that some can be held out."""
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows * 3))
    fields = Fields(**{"messages": "messages", **fields})
    task = load_task(JsonlTask(type="jsonl", train=path, eval_examples=1, fields=fields))
    return task, task.train[0]


def refusal(tmp_path, row, **fields):
    with pytest.raises(UserError) as error:
        load(tmp_path, row, **fields)
    assert "line 1" in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_last_assistant_turn_is_the_demonstration_and_its_answer_the_reference(tmp_path):
    task, example = load(tmp_path, {"messages": [USER, ANSWER]})
    assert example == Example("0", "2 + 2?", "Two and two.\nAnswer: 4", "4")
    assert task.student_messages(example) == (Message("user", "2 + 2?"),)


def test_history_and_system_turns_stay_in_front_and_the_question_tells_the_conversation(tmp_path):
    task, example = load(tmp_path, {"messages": [SYSTEM, USER, ANSWER, MORE, LAST]})
    assert task.student_messages(example) == (
        Message("system", "Be brief."),
        Message("user", "2 + 2?"),
        Message("assistant", "Two and two.\nAnswer: 4"),
        Message("user", "And 1 more?"),
    )
    assert example.question == "User: 2 + 2?\n\nAssistant: Two and two.\nAnswer: 4\n\nUser: And 1 more?"
    assert (example.demonstration, example.answer) == ("One more.\nAnswer: 5", "5")


def test_an_answer_and_a_solution_that_are_named_come_from_their_fields(tmp_path):
    row = {"messages": [SYSTEM, USER], "worked": "So.\nAnswer: 4", "gold": 4}
    task, example = load(tmp_path, row, demonstration="worked", answer="gold")
    assert (example.demonstration, example.answer, example.question) == ("So.\nAnswer: 4", "4", "2 + 2?")
    assert [turn.role for turn in task.student_messages(example)] == ["system", "user"]


def test_a_prompt_and_a_completion_may_be_lists_of_turns(tmp_path):
    row = {"prompt": [SYSTEM, USER], "completion": [ANSWER], "answer": "4"}
    fields = {"messages": None, "prompt": "prompt", "demonstration": "completion", "answer": "answer"}
    task, example = load(tmp_path, row, **fields)
    assert example.demonstration == ANSWER["content"]
    assert len(task.student_messages(example)) == 2
    assert "one turn of 'assistant'" in refusal(tmp_path, {**row, "completion": [USER]}, **fields)


def test_tools_and_calls_travel_to_the_template_as_they_are(tmp_path):
    task, example = load(tmp_path, {"messages": [USER, CALL, RESULT, ANSWER], "tools": [TOOL]}, tools="tools")
    declared, asked, called, returned = task.student_messages(example)
    assert (declared.role, json.loads(declared.content)) == (TOOLS, [TOOL])
    assert (asked.content, called.content) == ("2 + 2?", "")
    assert json.loads(called.extra) == {"tool_calls": CALL["tool_calls"]}
    assert (returned.role, returned.content, json.loads(returned.extra)) == ("tool", "4", {"tool_call_id": "c1"})


def test_views_change_the_last_user_turn_and_leave_calls_and_results_below_it(tmp_path):
    task, example = load(tmp_path, {"messages": [USER, CALL, RESULT, ANSWER], "tools": [TOOL]}, tools="tools")
    chat = task.student_messages(example)
    prompt = prompt_for(task, example, Contexts(("Another one.",), "Wrong.\nAnswer: 3"))
    texts = ("Answer: 4\n\nNow give", "Another one.\n\n---\n\n2 + 2?", "Wrong.")
    for view, text in zip(prompt.views, texts, strict=True):
        assert text in view.messages[1].content
        assert (view.messages[0], view.messages[2:]) == (chat[0], chat[2:])
    assert with_demonstration(chat, "d")[-1] == chat[-1] == with_reference(chat, "r")[-1]


def test_keys_that_hold_nothing_are_none_of_a_turns(tmp_path):
    """A table gives each turn the keys of all."""
    empty = {"tool_calls": None, "name": None}
    _, example = load(tmp_path, {"messages": [{**USER, **empty}, {**ANSWER, **empty}]})
    assert example.chat == ()


def test_share_gpt_names_and_parts_of_text_are_read(tmp_path):
    turns = [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "Answer: 4"}]
    assert load(tmp_path, {"messages": turns})[1].answer == "4"
    parts = {"role": "user", "content": [{"type": "text", "text": "2 +"}, {"type": "text", "text": " 2?"}]}
    assert load(tmp_path, {"messages": [parts, ANSWER]})[1].question == "2 + 2?"
    image = {"role": "user", "content": [{"type": "image", "url": "x"}]}
    assert "messages[0] must have a content that is text" in refusal(tmp_path, {"messages": [image, ANSWER]})


def test_chats_in_a_table_of_text_are_one_json_text(tmp_path):
    path = tmp_path / "chats.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["messages"], *[[json.dumps([SYSTEM, USER, ANSWER])]] * 3])
    task = load_task(DatasetsTask(type="datasets", path=str(path), fields=Fields(messages="messages"), eval_examples=1))
    assert [turn.role for turn in task.student_messages(task.train[0])] == ["system", "user"]


def test_chats_of_parquet_and_of_a_folder_are_those_of_the_lines(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"messages": [USER, CALL, RESULT, ANSWER]}, {"messages": [SYSTEM, MORE, LAST]}, {"messages": [USER, LAST]}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    fields, loaded = Fields(messages="messages"), []
    for path in (tmp_path / "lines.jsonl", tmp_path / "train.parquet"):
        loaded.append(load_task(DatasetsTask(type="datasets", path=str(path), fields=fields, eval_examples=1)))
    assert list(loaded[0].train) == list(loaded[1].train)


WRONG = {
    "no list": ({"messages": "hello"}, "must be a list of turns, each with role and content, but it is 'hello'"),
    "half a JSON text": ({"messages": '[{"role": "user", '}, "must be a list of turns"),
    "nothing": ({"messages": []}, "must be a list of turns, each with role and content, but it is []"),
    "a text among turns": ({"messages": [USER, "4"]}, "messages[1] must be a turn with role and content"),
    "no role": ({"messages": [{"content": "x"}, ANSWER]}, "messages[0] must have a role"),
    "a role of ours": ({"messages": [{"role": "tools", "content": "x"}, ANSWER]}, "but it has 'tools'"),
    "an empty turn": ({"messages": [{"role": "user", "content": " "}, ANSWER]}, "messages[0] must have a content"),
    "no user": ({"messages": [SYSTEM, ANSWER]}, "has no turn of 'user'"),
    "no answer": ({"messages": [USER]}, "must end with what the assistant answers, but its last turn is one of 'user'"),
    "a call at the end": ({"messages": [USER, CALL]}, "its last turn says nothing"),
    "two answers": ({"messages": [USER, ANSWER, LAST]}, "the turn before the answer is by 'assistant'"),
    "no field": ({"chat": [USER]}, "no field 'messages'; it has 'chat'"),
}


@pytest.mark.parametrize(("row", "reason"), WRONG.values(), ids=WRONG)
def test_a_chat_of_another_form_is_refused_with_its_record_and_turn(tmp_path, row, reason):
    assert reason in refusal(tmp_path, row)


@pytest.mark.parametrize("tools", [[{"type": "function"}], ["add"], "add", []])
def test_tools_of_another_form_are_refused(tmp_path, tools):
    assert "field 'tools'" in refusal(tmp_path, {"messages": [USER, ANSWER], "tools": tools}, tools="tools")


def test_half_a_surrogate_pair_in_a_chat_is_refused(tmp_path):
    with pytest.raises(UserError, match="half of a surrogate pair"):
        load(tmp_path, {"messages": [{"role": "user", "content": "\ud800"}, ANSWER]})


def test_prompt_and_messages_together_are_refused():
    with pytest.raises(ValueError, match="both say what the student reads"):
        Fields(prompt="q", messages="m")
    with pytest.raises(ValueError, match="must be named"):
        Fields(answer=None)


def test_settings_of_a_chat_survive_being_written_and_read_again():
    for given in ({"messages": "m"}, {"messages": "m", "answer": "a"}, {"prompt": "q"}):
        fields = Fields(**given)
        assert Fields(**fields.model_dump(exclude_none=True)) == fields
        assert Fields(**fields.model_dump()) == fields


def test_what_a_turn_has_beside_its_text_is_part_of_the_records_fingerprint():
    def fingerprint(*chat):
        example = Example("0", "q", "d", "a", chat)
        return records_fingerprint(Records([example], []), [example])

    plain = fingerprint()
    assert plain == fingerprint(Message("user", "q"))  # as before there were chats
    assert plain != fingerprint(Message("user", "q", '{"name": "x"}')) != fingerprint(Message("user", "q", '{"a": 1}'))
