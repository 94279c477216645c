"""What a chat template is given, and what it wrote: nothing that is asked is lost, and no clock moves."""

import json
from contextlib import suppress
from datetime import datetime

import numpy as np
import pytest

from tests.fakes.chat_tokenizers import (
    ENDS_IN_PLAIN_TEXT,
    LEAVES_THE_QUESTION_OUT,
    REFUSES_A_SYSTEM_TURN,
    TAKES_PARTS,
    THINKS,
    TURNS,
    WRITES_THE_DATE,
    ChatFolder,
)
from unisd_rl.config.model import ChatTemplateConfig
from unisd_rl.errors import UserError
from unisd_rl.models.tokenizer import ChatTokenizer
from unisd_rl.types import TOOLS, Message

CHAT = (Message("user", "12 + 34 = ?"),)
LEAP_DAY = datetime(2024, 2, 29)


def tokenizer(folder, template=TURNS, **settings):
    return ChatTokenizer(ChatFolder(template=template).save(folder), ChatTemplateConfig(**settings))


@pytest.mark.parametrize("read", ["encode", "encode_view", "check"])
def test_a_template_that_leaves_the_question_out_is_refused(tmp_path, read):
    chat = tokenizer(tmp_path, LEAVES_THE_QUESTION_OUT)
    with pytest.raises(UserError, match=r"does not write what the user says \('.*'\): mend it") as refused:
        chat.check() if read == "check" else getattr(chat, read)(CHAT)
    assert str(tmp_path) in str(refused.value)


def test_a_template_that_leaves_a_system_turn_out_is_refused(tmp_path):
    chat = tokenizer(tmp_path, "{% for m in messages if m.role != 'system' %}{{ m.content }}<|im_end|>{% endfor %}")
    assert chat.check() == ()
    with pytest.raises(UserError, match="does not write what the system says"):
        chat.encode((Message("system", "Answer in one word."), *CHAT))


def test_a_template_may_trim_what_is_said(tmp_path):
    chat = tokenizer(tmp_path, TURNS.replace("m.content", "m.content | trim"))
    asked = (Message("user", " 12 + 34 = ?\n"),)
    assert np.array_equal(chat.encode(asked), chat.encode(CHAT))


@pytest.mark.parametrize(
    "template", [TAKES_PARTS, TURNS.replace("{{ m.content }}", "{{ m.content[0].text + '' }}")], ids=["loop", "raises"]
)
def test_a_template_that_takes_parts_gets_them(tmp_path, template):
    """One renders nothing of a plain text, the other raises on it."""
    assert "12 + 34 = ?" in tokenizer(tmp_path, template).decode(tokenizer(tmp_path, template).encode(CHAT))


@pytest.mark.parametrize(
    "template,reason",
    [
        (REFUSES_A_SYSTEM_TURN, "System role not supported; put what the system says into the user's turn"),
        ("{{ messages[0].content }}{{ 1 // 0 }}", "by zero; "),
        ("{{ messages[0].content }}{{ nothing.more }}", "'nothing' is undefined; "),
        ("{{ messages[0].content }}{{ messages[0] + 1 }}", "unsupported operand"),
        ("{% if %}", "Expected an expression"),
    ],
)
def test_an_error_of_a_template_is_one_sentence_with_the_turns(tmp_path, template, reason):
    chat = tokenizer(tmp_path, template)
    with pytest.raises(UserError) as refused:
        chat.encode((Message("system", "Be brief."), *CHAT))
    assert f"the chat template of {tmp_path} refuses the turns system, user: " in str(refused.value)
    assert reason in str(refused.value)


def test_a_clock_shows_the_time_that_is_given_and_the_same_tokens_on_any_day(tmp_path):
    stopped = tokenizer(tmp_path, WRITES_THE_DATE, time=LEAP_DAY)
    assert "Today: 29 Feb 2024" in stopped.decode(stopped.encode(CHAT))
    assert np.array_equal(stopped.encode(CHAT), tokenizer(tmp_path, WRITES_THE_DATE, time=LEAP_DAY).encode(CHAT))
    today = tokenizer(tmp_path, WRITES_THE_DATE)
    assert datetime.now().strftime("Today: %d %b") in today.decode(today.encode(CHAT))


def test_lengths_are_filed_under_what_the_clock_shows_and_not_under_the_time(tmp_path):
    """A cache of a template without a clock is good on any day, one of a template that writes the day on that day."""

    def filed(template, *time):
        return tokenizer(tmp_path, template, time=datetime(*time)).prompt_inputs

    assert filed(TURNS, 2024, 2, 29) == filed(TURNS, 2025, 1, 1)
    assert filed(WRITES_THE_DATE, 2024, 2, 29) == filed(WRITES_THE_DATE, 2024, 2, 29, 23)
    assert filed(WRITES_THE_DATE, 2024, 2, 29) != filed(WRITES_THE_DATE, 2024, 3, 1)


def test_student_and_teacher_have_arguments_of_their_own(tmp_path):
    closed = "<think>\n\n</think>\n\n"
    student = tokenizer(tmp_path, THINKS, student={"enable_thinking": False}, teacher={})
    assert student.decode(student.encode(CHAT)).endswith(closed)
    assert not student.decode(student.encode_view(CHAT)).endswith(closed)
    both = tokenizer(tmp_path, THINKS, student={"enable_thinking": False})
    assert np.array_equal(both.encode(CHAT), both.encode_view(CHAT))
    assert student.prompt_inputs != both.prompt_inputs


@pytest.mark.parametrize("who", ["student", "teacher"])
@pytest.mark.parametrize("name", ["enable_thinkin", "messages", "add_generation_prompt", "tokenize", "strftime_now"])
def test_an_argument_that_the_template_does_not_read_is_refused_by_its_name(tmp_path, who, name):
    chat = tokenizer(tmp_path, THINKS, **{who: {name: False}})
    with pytest.raises(UserError, match=f"'{name}' is no argument of the chat template of {tmp_path}"):
        chat.check()


def test_a_template_whose_turns_end_in_a_token_that_ends_no_answer_is_refused_with_the_remedy(tmp_path):
    folder = ChatFolder(special={"eos_token": "<|other_end|>"}).save(tmp_path)
    with pytest.raises(UserError, match=r"ends an answer with '<\|im_end\|>', .* \(<\|other_end\|>\), .* add 257 to"):
        ChatTokenizer(folder).check()


@pytest.mark.parametrize("config", [None, {"eos_token_id": 1000}], ids=["none", "beyond the embedding"])
def test_a_model_without_an_end_that_it_can_write_is_refused(tmp_path, config):
    folder = ChatFolder(special={}, config=config).save(tmp_path)
    with pytest.raises(UserError, match=f"{tmp_path} has no end-of-sequence token, so no answer would end"):
        ChatTokenizer(folder).check()


def test_an_end_that_is_no_token_is_refused(tmp_path):
    folder = ChatFolder(generation={"eos_token_id": ["<|im_end|>"]}).save(tmp_path)
    with pytest.raises(UserError, match=r"names eos_token_id = \['<\|im_end\|>'\], which is no number of a token"):
        ChatTokenizer(folder).check()


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("damage", ["", "[]", '{"eos_token_id": ["x"]}', '{"vocab_size": "x"}', "\x00"])
def test_a_damaged_file_is_one_sentence(tmp_path, file, damage):
    folder = ChatFolder().save(tmp_path)
    (folder / file).write_text(damage)
    with suppress(UserError):  # some damage is none to transformers; nothing else may come out
        ChatTokenizer(folder).check()


def test_a_turn_that_ends_in_plain_text_gets_the_tokenizers_end(tmp_path):
    chat = tokenizer(tmp_path, ENDS_IN_PLAIN_TEXT)
    assert chat.encode_completion("46")[-1] == chat.stop_tokens[0]


def test_several_templates_without_a_default_one_are_refused(tmp_path):
    folder = ChatFolder().save(tmp_path)
    chat = ChatTokenizer(folder)
    chat._tokenizer.chat_template = {"tool_use": TURNS}
    with pytest.raises(UserError, match="has no chat template to take"):
        chat.encode(CHAT)


CALLS_TOOLS = (
    "{% if tools %}{% for t in tools %}{{ t | tojson }}{% endfor %}{% endif %}{% for m in messages %}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<call>{{ c.function.name }}</call>{% endfor %}<|im_end|>{% endfor %}"
)
DECLARED = Message(TOOLS, json.dumps([{"type": "function", "function": {"name": "add"}}, {"name": "cut"}]))
CALLED = Message("assistant", "", json.dumps({"tool_calls": [{"function": {"name": "add"}}]}))


def test_tools_and_calls_are_written_by_the_template(tmp_path):
    text = tokenizer(tmp_path, CALLS_TOOLS).render((DECLARED, *CHAT, CALLED, Message("tool", "46")))
    assert text.startswith('{"type": "function", "function": {"name": "add"}}{"name": "cut"}12 + 34 = ?<|im_end|>')
    assert text.endswith("<call>add</call><|im_end|>46<|im_end|>")
    assert "add" not in tokenizer(tmp_path, CALLS_TOOLS).render(CHAT)


def test_a_template_that_leaves_tools_out_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"does not write the tool 'add': leave out task\.fields\.tools"):
        tokenizer(tmp_path).encode((DECLARED, *CHAT))
