import json

import numpy as np
import pytest
from transformers import AutoTokenizer

from tests.fakes.tiny_chat_model import save_tokenizer
from unisd_rl.errors import UserError
from unisd_rl.models.tokenizer import ChatTokenizer
from unisd_rl.types import Message

QUESTION = (Message("user", "12 + 34 = ?"),)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(path)
    return path


def test_a_chat_ends_where_the_models_answer_begins(folder):
    chat = ChatTokenizer(folder)
    tokens = chat.encode(QUESTION)
    assert tokens.dtype == np.int32
    assert chat.decode(tokens) == "user\n12 + 34 = ?\nassistant\n"
    assert chat.decode(tokens[tokens < 256]) == chat.decode(tokens)


def test_a_chat_is_read_as_the_models_own_tokenizer_reads_it_whatever_limit_its_file_names(tmp_path):
    save_tokenizer(tmp_path)
    whole = AutoTokenizer.from_pretrained(tmp_path).apply_chat_template(
        [{"role": "user", "content": "12 + 34 = ?"}], add_generation_prompt=True, return_dict=False
    )
    file = tmp_path / "tokenizer.json"
    limits = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    file.write_text(json.dumps({**json.loads(file.read_text()), "truncation": limits}))
    assert ChatTokenizer(tmp_path).encode(QUESTION).tolist() == whole


def test_any_text_survives_encoding(folder):
    chat, text = ChatTokenizer(folder), "naïve 你好 \U0001f600 \x00"
    assert text in chat.decode(chat.encode((Message("user", text),)))


def test_a_completion_is_its_text_and_the_token_that_ends_a_turn(folder):
    chat = ChatTokenizer(folder)
    tokens = chat.encode_completion("4\nAnswer: 46")
    assert tokens.dtype == np.int32
    assert chat.decode(tokens) == "4\nAnswer: 46"
    assert tokens[-1] == 256
    assert 256 not in tokens[:-1]
    turn = (*QUESTION, Message("assistant", "4\nAnswer: 46"))  # as the chat template writes it in a later turn
    whole = chat.encode(turn)
    start = len(chat.encode(QUESTION))
    assert whole[start : start + len(tokens)].tolist() == tokens.tolist()


def test_a_turn_ends_as_the_chat_template_ends_it_even_where_the_tokenizer_ends_texts_otherwise(tmp_path):
    save_tokenizer(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**settings, "eos_token": "<|pad|>"}))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [256, 257]}))
    chat = ChatTokenizer(tmp_path)
    assert chat.stop_tokens == (256, 257)
    assert chat.encode_completion("46")[-1] == 256


def test_special_tokens_are_left_out_of_a_completions_text(folder):
    chat = ChatTokenizer(folder)
    (stop,) = chat.stop_tokens
    words = chat.encode(QUESTION)
    assert chat.decode(np.append(words, np.int32(stop))) == chat.decode(words)


def test_stop_tokens_are_those_of_the_tokenizer_and_of_the_generation_settings(folder, tmp_path):
    save_tokenizer(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [257, 258]}))
    assert ChatTokenizer(folder).stop_tokens == (256,)
    assert ChatTokenizer(tmp_path).stop_tokens == (256, 257, 258)


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(UserError, match=str(tmp_path)):
        ChatTokenizer(tmp_path).encode(QUESTION)


def test_a_tokenizer_without_a_chat_template_is_refused(tmp_path):
    save_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="no chat template"):
        ChatTokenizer(tmp_path).encode(QUESTION)


def test_a_tokenizer_is_loaded_once_in_a_process_while_its_files_stay_as_they_are(tmp_path, monkeypatch):
    save_tokenizer(tmp_path)
    loaded, load = [], AutoTokenizer.from_pretrained
    monkeypatch.setattr(
        AutoTokenizer, "from_pretrained", lambda *given, **options: loaded.append(1) or load(*given, **options)
    )
    first, second = (ChatTokenizer(tmp_path).encode([Message("user", "a")]).tolist() for _ in range(2))
    assert (first == second, loaded) == (True, [1])
    (tmp_path / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] }}!{% endfor %}")
    assert ChatTokenizer(tmp_path).render([Message("user", "a")]) == "a!"
    assert loaded == [1, 1]


def test_choices_are_told_apart_by_the_first_token_in_which_they_differ(folder):
    tokenizer, chat = ChatTokenizer(folder), (Message("user", "A or B?"),)
    texts = ("Answer: A", "Answer: B", "Answer: D")
    prompt, following = tokenizer.encode_choices(chat, texts)
    for text, token in zip(texts, following, strict=True):
        begun = np.append(prompt[len(tokenizer.encode(chat)) :], token)
        assert tokenizer.encode_completion(text)[: len(begun)].tolist() == begun.tolist()
    assert len(set(following)) == 3
    assert prompt[: len(tokenizer.encode(chat))].tolist() == tokenizer.encode(chat).tolist()


def test_choices_that_go_on_with_the_same_token_are_none(folder):
    assert ChatTokenizer(folder).encode_choices((Message("user", "?"),), ("A", "A", "B")) is None
