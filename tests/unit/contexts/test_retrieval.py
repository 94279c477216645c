"""Neighbours: nearest first, without what gives the answer away."""

import json
import shutil

import numpy as np
import pytest

from tests.fakes.chat_tokenizers import ChatFolder
from tests.fakes.tiny_chat_model import save_model, save_tokenizer
from unisd_rl.contexts.auxiliary import DonorContexts
from unisd_rl.contexts.leakage import contains_answer
from unisd_rl.contexts.retrieval import Bm25, Embeddings, nearest_first
from unisd_rl.errors import UserError
from unisd_rl.types import Example

QUESTIONS = (
    "How many legs has a cat?",
    "How many legs has a cow?",
    "Where is the town hall?",
    "Which cat has no tail, and how many cats have one?",
)
POOL = [Example(str(place), question, f"work {place}", f"answer {place}") for place, question in enumerate(QUESTIONS)]


class Fixed:
    def __init__(self, scores):
        self._scores = np.asarray(scores, np.float32)

    def scores(self, question):
        return self._scores


def questions_of(references, example):
    return [text.split("\n")[1] for text in references.for_example(example)]


def test_view_k_reads_the_kth_nearest():
    references = DonorContexts(nearest_first(POOL, Fixed([0.1, 0.4, 0.3, 0.2]), seed=0), 3, contains_answer)
    stranger = Example("x", "?", "d", "nothing")
    assert questions_of(references, stranger) == [QUESTIONS[1], QUESTIONS[2], QUESTIONS[3]]


def test_the_problem_itself_and_identical_questions_are_left_out():
    references = DonorContexts(nearest_first(POOL, Fixed([0.1, 0.4, 0.3, 0.2]), seed=0), 4, contains_answer)
    assert questions_of(references, POOL[1]) == [QUESTIONS[2], QUESTIONS[3], QUESTIONS[0]]
    twin = Example("x", QUESTIONS[1].upper(), "d", "nothing")
    assert questions_of(references, twin) == [QUESTIONS[2], QUESTIONS[3], QUESTIONS[0]]


def test_a_neighbour_that_says_the_answer_makes_room_for_the_next():
    references = DonorContexts(nearest_first(POOL, Fixed([0.1, 0.4, 0.3, 0.2]), seed=0), 2, contains_answer)
    assert questions_of(references, Example("x", "?", "d", "town hall")) == [QUESTIONS[1], QUESTIONS[3]]


def test_equal_scores_come_in_an_order_of_the_seed_and_of_the_problem():
    pool = [Example(str(n), f"question {n}", "work", f"answer {n}") for n in range(30)]
    equal = Fixed(np.zeros(30))
    orders = {
        DonorContexts(nearest_first(pool, equal, seed), 3, contains_answer).for_example(
            Example(name, "?", "d", "nothing")
        )
        for seed in range(3)
        for name in "abc"
    }
    assert len(orders) == 9


def test_bm25_is_the_published_formula():
    """Robertson and Zaragoza's score with Lucene's inverse document frequency, k1 = 1.5, b = 0.75, by hand."""
    texts = ["cat cat dog", "cat", "bird fish bird"]
    words = [text.split() for text in texts]
    mean = sum(map(len, words)) / 3

    def score(document, query):
        total = 0.0
        for word in query:
            frequency, holding = document.count(word), sum(word in other for other in words)
            idf = np.log(1 + (3 - holding + 0.5) / (holding + 0.5))
            total += idf * frequency / (frequency + 1.5 * (0.25 + 0.75 * len(document) / mean))
        return total

    for query in ("cat bird", "dog", "fish cat dog"):
        expected = [score(document, query.split()) for document in words]
        np.testing.assert_allclose(Bm25(texts).scores(query), expected, rtol=1e-5)


def test_bm25_finds_the_question_that_shares_rare_words():
    assert int(Bm25(QUESTIONS).scores("the legs of a cow").argmax()) == 1
    assert int(Bm25(QUESTIONS).scores("Where is the hall?").argmax()) == 2


@pytest.mark.parametrize("question", ["", "???", "zebra"])
def test_bm25_of_words_that_no_question_has_is_zero(question):
    assert Bm25(QUESTIONS).scores(question).tolist() == [0.0] * 4


def test_a_pool_without_any_word_has_no_nearest():
    assert Bm25(["?", "!"]).scores("what").tolist() == [0.0, 0.0]


@pytest.fixture(scope="module")
def embedding_model(tmp_path_factory):
    path = tmp_path_factory.mktemp("embedding")
    save_tokenizer(path)
    save_model(path, tied=True)
    return str(path)


def test_embeddings_are_mean_pooled_over_real_tokens_and_compared_by_cosine(embedding_model):
    """Padding must not count: each question is embedded by itself as the oracle."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(embedding_model), AutoModel.from_pretrained(embedding_model)

    def alone(text):
        with torch.inference_mode():
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].double().mean(0)
        return (hidden / hidden.norm()).numpy()

    expected = [alone(question) @ alone("How many?") for question in QUESTIONS]
    embeddings = Embeddings(QUESTIONS, embedding_model)
    np.testing.assert_allclose(embeddings.scores("How many?"), expected, atol=1e-4)
    np.testing.assert_allclose(embeddings.scores(QUESTIONS[2])[2], 1.0, atol=1e-5)


def test_a_question_is_embedded_as_far_as_the_model_has_positions_whatever_it_is_padded_with(tmp_path):
    """A model of eight learned positions, and a tokenizer that names no token for padding and none for an end."""
    import torch
    from transformers import GPT2Config, GPT2Model

    ChatFolder(special={}).save(tmp_path)
    torch.manual_seed(0)
    GPT2Model(GPT2Config(vocab_size=261, n_embd=32, n_layer=1, n_head=2, n_positions=8)).save_pretrained(tmp_path)
    embeddings = Embeddings(["12345678", "12345678 and more", "?"], str(tmp_path))
    scores = embeddings.scores("12345678 and something else")
    np.testing.assert_allclose(scores[:2], 1.0, atol=1e-5)
    assert scores[2] < 0.99


def pooling_folder(embedding_model, path, pooling, *more):
    """The model as a sentence-transformers folder that pools so and goes through more modules."""
    shutil.copytree(embedding_model, path)
    types = ["models.Transformer", "models.Pooling", *more, "models.Normalize"]
    (path / "modules.json").write_text(json.dumps([{"type": f"sentence_transformers.{name}"} for name in types]))
    (path / "1_Pooling").mkdir()
    modes = {"word_embedding_dimension": 128, "include_prompt": True, "pooling_mode_mean_tokens": False}
    (path / "1_Pooling" / "config.json").write_text(json.dumps(modes | {f"pooling_mode_{pooling}": True}))
    return str(path)


def test_a_model_that_pools_its_first_token_is_pooled_so(embedding_model, tmp_path):
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(embedding_model), AutoModel.from_pretrained(embedding_model)

    def alone(text):
        with torch.inference_mode():
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, 0].double()
        return (hidden / hidden.norm()).numpy()

    expected = [alone(question) @ alone("Fewer?") for question in QUESTIONS]
    first = Embeddings(QUESTIONS, pooling_folder(embedding_model, tmp_path / "first", "cls_token"))
    np.testing.assert_allclose(first.scores("Fewer?"), expected, atol=1e-4)
    mean = Embeddings(QUESTIONS, pooling_folder(embedding_model, tmp_path / "mean", "mean_tokens"))
    np.testing.assert_array_equal(mean.scores("Fewer?"), Embeddings(QUESTIONS, embedding_model).scores("Fewer?"))
    assert np.abs(mean.scores("Fewer?") - expected).max() > 0.01


@pytest.mark.parametrize("pooling, more", [("max_tokens", ()), ("mean_tokens", ("models.Dense",))])
def test_a_model_that_pools_otherwise_or_goes_on_after_pooling_is_refused(embedding_model, tmp_path, pooling, more):
    folder = pooling_folder(embedding_model, tmp_path / "model", pooling, *more)
    with pytest.raises(UserError, match=f"contexts.auxiliary.model = '{folder}' does not load .it computes with"):
        Embeddings(QUESTIONS, folder)
