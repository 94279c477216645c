"""Every kind of tokenizer and template: prompts, completions, ends, decoded text and the tokens that are trained on."""

from datetime import datetime

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from learner.batch import collate
from tests.fakes.chat_tokenizers import (
    ADDS_A_SYSTEM_TURN,
    BOS_BY_TEMPLATE,
    ENDS_IN_A_SPECIAL_TOKEN,
    ENDS_IN_PLAIN_TEXT,
    LLAMA_2,
    REFUSES_A_SYSTEM_TURN,
    TAKES_PARTS,
    THINKS,
    WRITES_THE_DATE,
    ChatFolder,
    legacy_prefix_space,
    prefix_space,
)
from unisd_rl.config.model import ChatTemplateConfig
from unisd_rl.models.tokenizer import ChatTokenizer
from unisd_rl.types import Message

KINDS = {
    "bytes": ChatFolder(),
    "no pad": ChatFolder(special={"eos_token": "<|im_end|>"}),
    "pad is the end": ChatFolder(special={"eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}),
    "several ends": ChatFolder(generation={"eos_token_id": [257, 260]}),
    "ends in config.json alone": ChatFolder(special={}, config={"eos_token_id": [257, 260]}),
    "BOS by the template": ChatFolder(template=BOS_BY_TEMPLATE),
    "BOS by the tokenizer": ChatFolder(adds_bos=True),
    "BOS by both": ChatFolder(template=BOS_BY_TEMPLATE, adds_bos=True),
    "a space before the first text": ChatFolder(kind=prefix_space),
    "a space before every text": ChatFolder(kind=legacy_prefix_space, adds_bos=True),
    "Llama 2": ChatFolder(kind=legacy_prefix_space, template=LLAMA_2, adds_bos=True),
    "a space behind a special token": ChatFolder(kind=legacy_prefix_space, template=ENDS_IN_A_SPECIAL_TOKEN),
    "a special token before the answer": ChatFolder(template=ENDS_IN_A_SPECIAL_TOKEN),
    "adds a system turn": ChatFolder(template=ADDS_A_SYSTEM_TURN),
    "refuses a system turn": ChatFolder(template=REFUSES_A_SYSTEM_TURN),
    "writes thinking tags": ChatFolder(template=THINKS),
    "takes parts": ChatFolder(template=TAKES_PARTS),
    "writes the date": ChatFolder(template=WRITES_THE_DATE),
    "ends in plain text": ChatFolder(template=ENDS_IN_PLAIN_TEXT),
}
QUESTION = "What is 12 + 34?\n  def f(x):"
CHAT = (Message("user", QUESTION),)
NOW = datetime(2024, 2, 29, 12, 30)
TEXTS = (
    "46",
    "    return x\n      y",
    "def f():\n    pass\n",
    "\n\n4",
    "naïve 你好 \U0001f600",
    "a . b",
    " x ",
    "\ufffd",
    "",
)
each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: chat.save(tmp_path_factory.mktemp("model")) for kind, chat in KINDS.items()}


@pytest.fixture
def tokenizer(folders, kind):
    return ChatTokenizer(folders[kind], ChatTemplateConfig(time=NOW))


def plain(folders, kind):
    """transformers' own reading, with the clock of the test."""
    return AutoTokenizer.from_pretrained(folders[kind])


@each_kind
def test_a_prompt_is_what_transformers_reads_and_holds_the_question_once(folders, tokenizer, kind):
    content = [{"type": "text", "text": QUESTION}] if kind == "takes parts" else QUESTION
    expected = plain(folders, kind).apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, return_dict=False, strftime_now=NOW.strftime
    )
    tokens = tokenizer.encode(CHAT)
    assert tokens.tolist() == expected
    assert plain(folders, kind).decode(expected).count(QUESTION) == 1
    assert (tokens == plain(folders, kind).convert_tokens_to_ids("<s>")).sum() == (
        "BOS by" in kind and "both" in kind
    ) + (kind in ("BOS by the template", "Llama 2"))


@each_kind
@pytest.mark.parametrize("text", TEXTS)
def test_a_completion_is_its_text_and_one_end_and_reads_back_as_the_same_text(tokenizer, kind, text):
    tokens = tokenizer.encode_completion(text)
    assert tokens[-1] == tokenizer.stop_tokens[0]
    assert not set(tokens[:-1].tolist()) & set(tokenizer.stop_tokens)
    assert tokenizer.decode(tokens) == text
    assert tokenizer.decode(tokens[:-1]) == text.rstrip("\ufffd")


@each_kind
def test_a_completion_stands_behind_its_prompt_as_the_template_writes_it_in_a_later_turn(folders, tokenizer, kind):
    content = (lambda text: [{"type": "text", "text": text}]) if kind == "takes parts" else (lambda text: text)
    turns = [{"role": "user", "content": content(QUESTION)}, {"role": "assistant", "content": content("x = 46")}]
    whole = plain(folders, kind).apply_chat_template(turns, return_dict=False, strftime_now=NOW.strftime)
    both = [*tokenizer.encode(CHAT), *tokenizer.encode_completion("x = 46")]
    if kind in ("Llama 2", "ends in plain text"):  # a space, or nothing, stands before the end
        both = both[:-1]
    assert whole[: len(both)] == both


@each_kind
def test_a_limit_in_mid_character_leaves_whole_characters(tokenizer, kind):
    tokens = tokenizer.encode_completion("4 你")[:-1]
    assert [tokenizer.decode(tokens[: len(tokens) - cut]) for cut in (0, 1, 2)] == ["4 你", "4 ", "4 "]
    ended = np.append(tokens[:-1], np.int32(tokenizer.stop_tokens[0]))
    assert tokenizer.decode(ended).startswith("4 \ufffd")  # what the model itself ended so is no answer "4"


@each_kind
@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_all_tokens_of_a_completion_are_trained_on_its_end_too_and_none_of_the_prompt(tokenizer, kind, layout):
    pairs = [(tokenizer.encode(CHAT), tokenizer.encode_completion(text)) for text in ("46", "x = 46")]
    inputs = collate(pairs, layout, torch.device("cpu"))
    assert inputs.targets_N.tolist() == [token for _, completion in pairs for token in completion]
    for target, position in zip(inputs.targets_N.tolist(), inputs.predicts_N.tolist(), strict=True):
        following = inputs.ids_BL.flatten()[position + 1 : position + 2].tolist()
        assert target in tokenizer.stop_tokens or following == [target]


def test_stop_tokens_are_those_of_all_three_places(folders):
    found = {kind: ChatTokenizer(folders[kind]).stop_tokens for kind in KINDS}
    assert found["bytes"] == found["no pad"] == found["pad is the end"] == (257,)
    assert found["several ends"] == found["ends in config.json alone"] == (257, 260)


def test_what_ends_in_plain_text_is_named_and_nothing_else(folders):
    notes = {kind: ChatTokenizer(folders[kind]).check() for kind in KINDS}
    (note,) = notes.pop("ends in plain text")
    assert "writes no end-of-sequence token after an answer ('\\n'); gold completions get '<|im_end|>'" in note
    assert not any(notes.values())


def test_an_answer_at_the_start_of_a_prefix_space_tokenizers_text_keeps_its_indentation(folders):
    """The body of a function, as a model writes it behind a prompt: alone it would lose one of its four spaces."""
    tokenizer = ChatTokenizer(folders["a space before every text"])
    alone = plain(folders, "a space before every text")
    tokens = alone.convert_tokens_to_ids(["▁▁▁▁", *"return"])
    assert alone.decode(tokens) == "   return"
    assert tokenizer.decode(np.array(tokens, np.int32)) == "    return"
