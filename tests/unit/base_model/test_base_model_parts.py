"""The base model in parts: a recipe that names its model, a tokenizer for any text, training problems only."""

import dataclasses
import hashlib
import json
import re
import unicodedata

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unisd_rl.base_model import SHIPPED, ensure_base_model, model_folder, recipe_of, tokenizer_and_digest
from unisd_rl.base_model.corpus import Corpus, corpus_text, train_tokenizer
from unisd_rl.base_model.recipe import BaseModelRecipe
from unisd_rl.base_model.train import Muon, learning_batch, new_model, orthogonalised, train_model
from unisd_rl.config.load import load_recipe
from unisd_rl.contexts.templates import other_example, with_reference_below
from unisd_rl.driver.dry_run import SilentProgress
from unisd_rl.tasks.arithmetic import held_out_pool, problem_of, solution, training_pool
from unisd_rl.types import Message

RECIPE = BaseModelRecipe()
TOKENIZER = train_tokenizer(RECIPE, corpus_text(RECIPE))
QUESTION = re.compile(r"What is (\d\d)([+-])(\d\d)\?")
SAMPLES = [sample for corpus in [Corpus(RECIPE)] for _ in range(20) for form in corpus.batch() for sample in form]


@pytest.fixture(scope="module")
def reloaded(tmp_path_factory):
    """The tokenizer as everyone else gets it: through AutoTokenizer, beside a model of type qwen2."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("base_model")
    new_model(RECIPE, TOKENIZER).config.save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def test_every_number_of_the_recipe_the_corpus_and_the_tokenizer_change_the_models_name():
    name = RECIPE.digest("corpus", "tokenizer")
    numbers = dataclasses.asdict(RECIPE)
    changed = [dataclasses.replace(RECIPE, **{field: value + 1}) for field, value in numbers.items()]
    names = {recipe.digest("corpus", "tokenizer") for recipe in changed}
    names |= {RECIPE.digest("other", "tokenizer"), RECIPE.digest("corpus", "other"), name}
    assert len(names) == len(numbers) + 3
    assert name == BaseModelRecipe().digest("corpus", "tokenizer")


def test_a_model_that_reads_no_question_first_has_the_name_it_had_before_there_was_that_form():
    numbers = {field: value for field, value in dataclasses.asdict(RECIPE).items() if field != "question_first"}
    parts = json.dumps([numbers, "corpus", "tokenizer"], sort_keys=True)
    assert RECIPE.digest("corpus", "tokenizer") == hashlib.blake2b(parts.encode(), digest_size=10).hexdigest()


def of_order(order, base_order=None):
    tree = {"model": {"base_seed": 3, "base_order": base_order}, "contexts": {"order": order}}
    return recipe_of(load_recipe("unisd_star", tree))


def test_only_a_run_whose_questions_come_first_begins_with_a_model_that_has_read_such_prompts():
    assert of_order("reference_first") == BaseModelRecipe(seed=3)
    recipe = of_order("question_first")
    *_, none = Corpus(RECIPE).batch()
    *_, samples = Corpus(recipe).batch()
    assert (none, len(samples)) == ([], recipe.question_first)
    for sample in samples:
        asked, donor = QUESTION.findall(sample.chat[-1].content)
        question, other = (f"What is {''.join(parts)}?" for parts in (asked, donor))
        shown = solution(problem_of(other))
        assert sample.chat == with_reference_below((Message("user", question),), other_example(other, shown))
        assert sample.completion in (solution(problem_of(question)), solution(problem_of(question), carry=0))


def test_a_run_begins_with_the_base_model_of_its_seed_and_of_the_order_of_its_views(tmp_path, monkeypatch):
    (tmp_path / "trained").mkdir()
    asked = []

    def ensured(recipe, report):
        asked.append(recipe)
        return tmp_path / "trained"

    monkeypatch.setattr("unisd_rl.base_model.ensure_base_model", ensured)
    for order in ("reference_first", "question_first"):
        config = load_recipe("unisd_star", {"model": {"base_seed": 3}, "contexts": {"order": order}})
        assert model_folder(config, tmp_path / order, SilentProgress()).is_dir()
    assert asked == [of_order("reference_first"), of_order("question_first")]


def test_runs_of_either_order_can_begin_with_one_model():
    assert of_order("reference_first", "question_first") == of_order("question_first")
    assert of_order("question_first", "reference_first") == of_order("reference_first")


def test_the_model_of_seed_0_is_in_the_package_and_one_of_another_recipe_is_trained_into_the_cache(monkeypatch):
    """Where this fails, recipe, corpus or tokenizer have changed: CONTRIBUTING.md says how to train it anew."""

    def trained(folder, recipe, report):
        asked.append((folder, recipe))

    asked = []
    monkeypatch.setattr("unisd_rl.base_model.train_into", trained)
    shipped = ensure_base_model(RECIPE, lambda *_: None)
    assert (shipped.parent, asked) == (SHIPPED, [])
    assert [folder.name for folder in SHIPPED.iterdir()] == [tokenizer_and_digest(RECIPE)[1]]
    other = ensure_base_model(BaseModelRecipe(seed=1), lambda *_: None)
    if asked:  # it is not in the cache of whoever runs this
        assert asked == [(other, BaseModelRecipe(seed=1))]
    assert SHIPPED not in other.parents


def test_the_model_in_the_package_has_the_shape_and_the_tokenizer_of_its_recipe_in_less_than_4_mb():
    from transformers import AutoModelForCausalLM

    folder = ensure_base_model(RECIPE, lambda *_: None)
    model, new = AutoModelForCausalLM.from_pretrained(folder), new_model(RECIPE, TOKENIZER)
    assert {name: weight.shape for name, weight in model.named_parameters()} == {
        name: weight.shape for name, weight in new.named_parameters()
    }
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert json.loads((folder / "tokenizer.json").read_text()) == json.loads(TOKENIZER.backend_tokenizer.to_str())
    assert sum(file.stat().st_size for file in folder.iterdir()) < 4_000_000


def test_no_held_out_problem_occurs_in_the_corpus():
    held_out = {problem.question for problem in held_out_pool()}
    asked = {match[0] for sample in SAMPLES for match in QUESTION.finditer(sample.chat[-1].content)}
    assert asked <= {problem.question for problem in training_pool()}
    assert asked.isdisjoint(held_out)


def test_the_corpus_is_a_function_of_the_seed():
    assert Corpus(RECIPE).batch() == Corpus(RECIPE).batch()
    assert Corpus(RECIPE).batch() != Corpus(BaseModelRecipe(seed=1)).batch()


def test_a_demonstrated_answer_repeats_its_demonstration():
    corpus = Corpus(RECIPE)
    for _ in range(100):
        sample = corpus.demonstrated()
        assert f"\n{sample.completion}\n" in sample.chat[-1].content


@given(st.text())
def test_any_text_survives_the_tokenizer_up_to_canonical_composition(text):
    ids = TOKENIZER.encode(text, add_special_tokens=False)
    assert TOKENIZER.decode(ids) == unicodedata.normalize("NFC", text)
    assert all(0 <= token < len(TOKENIZER) for token in ids)


@given(st.text())
def test_the_saved_tokenizer_cuts_text_as_the_trained_one_did(reloaded, text):
    assert reloaded.encode(text) == TOKENIZER.encode(text)


def test_each_digit_is_a_token_and_no_token_holds_two():
    assert TOKENIZER.tokenize("4711") == ["4", "7", "1", "1"]
    assert not any(re.search(r"\d", token) and len(token) > 1 for token in TOKENIZER.get_vocab())


def test_the_chat_template_opens_the_assistants_turn_only_when_asked(reloaded):
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    closed = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    assert reloaded.apply_chat_template(chat, tokenize=False) == closed
    opened = reloaded.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert opened == closed + "<|im_start|>assistant\n"
    assert reloaded.eos_token == "<|im_end|>"
    assert reloaded.pad_token_id != reloaded.eos_token_id


def test_the_model_is_tiny_tied_and_reads_long_contexts():
    model = new_model(RECIPE, TOKENIZER)
    assert model.config.model_type == "qwen2"
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert 0.7e6 < sum(weight.numel() for weight in model.parameters()) < 1.5e6
    assert model.config.max_position_embeddings >= 8192
    assert RECIPE.hidden // RECIPE.heads == 32


def test_what_is_learned_is_the_shown_solution_and_the_completion_with_its_end():
    for sample in SAMPLES[:64]:
        ids_BT, predicts_BT, targets_N = learning_batch(TOKENIZER, [sample, *SAMPLES[:3]])
        own = TOKENIZER.decode(targets_N[: int(predicts_BT[0].sum())])
        assert own == f"{sample.shown}{sample.completion}{TOKENIZER.eos_token}"
        assert torch.equal(ids_BT[:, 1:][predicts_BT[:, :-1]], targets_N)
        assert not predicts_BT[:, -1].any()


@pytest.mark.parametrize("shape", [(16, 16), (48, 16), (16, 48)])
def test_an_orthogonalised_matrix_keeps_its_directions_and_levels_its_singular_values(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    levelled = left.T @ orthogonalised(matrix) @ right.T
    assert torch.allclose(levelled, torch.diag(levelled.diagonal()), atol=1e-4)
    assert levelled.diagonal().min() > 0.3
    assert levelled.diagonal().max() < 1.3


def test_muon_moves_a_matrix_by_about_a_fifth_of_the_learning_rate():
    matrix = torch.nn.Parameter(torch.zeros(64, 32))
    matrix.grad = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    Muon([matrix], lr=0.1).step()
    assert matrix.pow(2).mean().sqrt().item() == pytest.approx(0.02, rel=0.2)


@pytest.mark.slow
def test_training_is_a_function_of_the_seed_reports_its_share_and_leaves_torch_as_it_was():
    recipe = dataclasses.replace(RECIPE, steps=2, warmup_steps=1, plain=2, auxiliary=2, demonstrated=2, layers=1)
    threads, shares = torch.get_num_threads(), list[float]()
    torch.manual_seed(7)
    first = train_model(recipe, TOKENIZER, lambda done, steps, _: shares.append(done / steps))
    again = train_model(recipe, TOKENIZER, lambda *_: None)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert shares == [0.5, 1.0]
    assert torch.get_num_threads() == threads
    drawn = torch.rand(1)
    torch.manual_seed(7)
    assert torch.equal(drawn, torch.rand(1))
