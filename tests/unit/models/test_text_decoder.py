"""Of a model that reads more than text the text decoder becomes a model of its own, or it is refused."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, Gemma3ForConditionalGeneration

from tests.fakes.families import edit_json, family_model, save_family
from tests.fakes.learner_rig import learner_config
from unisd_rl.base_model import model_folder
from unisd_rl.driver.console import Console
from unisd_rl.errors import UserError
from unisd_rl.models import load
from unisd_rl.models.load import write_text_decoder
from unisd_rl.models.tokenizer import ChatTokenizer

IDS = torch.tensor([[72, 101, 108, 108, 111, 32, 119, 111, 114, 108, 100, 33]])


@pytest.fixture
def released(tmp_path):
    return save_family("gemma3", tmp_path / "released")


def test_the_text_decoder_of_a_released_gemma3_computes_what_the_whole_model_does(released, tmp_path):
    write_text_decoder(released, tmp_path / "text")
    whole, text = family_model("gemma3"), AutoModelForCausalLM.from_pretrained(tmp_path / "text")
    assert isinstance(whole, Gemma3ForConditionalGeneration)
    assert type(text).__name__ == "Gemma3ForCausalLM"
    with torch.no_grad():
        assert torch.allclose(text(IDS).logits, whole(input_ids=IDS).logits, atol=1e-5)
    assert not any("vision" in name for name in text.state_dict())
    assert text.get_output_embeddings().weight is text.get_input_embeddings().weight


def test_its_head_stays_its_own_where_it_is_not_tied(tmp_path):
    model = family_model("gemma3")
    for config in (model.config, model.config.text_config):
        config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    released = save_family("gemma3", tmp_path / "released")
    model.save_pretrained(released)
    edit_json(released / "config.json", tie_word_embeddings=False)
    write_text_decoder(released, tmp_path / "text")
    text = AutoModelForCausalLM.from_pretrained(tmp_path / "text")
    with torch.no_grad():
        assert torch.allclose(text(IDS).logits, model(input_ids=IDS).logits, atol=1e-5)


def test_its_tokenizer_and_the_tokens_that_end_an_answer_go_along(released, tmp_path):
    (released / "generation_config.json").unlink()  # then config.json alone names them, outside its text section
    write_text_decoder(released, tmp_path / "text")
    assert AutoConfig.from_pretrained(tmp_path / "text").eos_token_id == [256, 257]
    one, other = (AutoTokenizer.from_pretrained(path) for path in (released, tmp_path / "text"))
    assert one.get_vocab() == other.get_vocab()
    assert one.chat_template == other.chat_template
    assert ChatTokenizer(tmp_path / "text").decode(IDS[0].numpy())


def test_a_decoder_that_computes_something_else_alone_is_refused(released, tmp_path, monkeypatch):
    """A soft cap on the logits, which only the text model applies."""
    config = json.loads((released / "config.json").read_text())
    config["text_config"]["final_logit_softcapping"] = 0.05
    (released / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        UserError, match="Gemma3ForConditionalGeneration computes something else from text than Gemma3F"
    ):
        write_text_decoder(released, tmp_path / "text")


def test_a_decoder_with_other_weights_is_refused(released, tmp_path, monkeypatch):
    loaded = load.load_causal_lm(released, "float32")
    del loaded.get_decoder().layers[1]
    monkeypatch.setattr(load, "load_causal_lm", lambda path, dtype: loaded)
    with pytest.raises(UserError, match="its text decoder has not the weights of Gemma3ForCausalLM"):
        write_text_decoder(released, tmp_path / "text")


def test_a_run_starts_from_it_and_finds_it_again_when_it_is_resumed(released, tmp_path):
    config = learner_config(model={"path": str(released)})
    folder = model_folder(config, tmp_path / "run", Console())
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["Gemma3ForCausalLM"]
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert model_folder(config, tmp_path / "run", Console()) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    assert [path.name for path in (tmp_path / "run").iterdir()] == [folder.name]


def test_two_of_them_in_one_evaluation_have_folders_of_their_own(released, tmp_path):
    other = save_family("gemma3", tmp_path / "other" / "released")
    folders = {
        model_folder(learner_config(model={"path": str(path)}), tmp_path, Console()) for path in (released, other)
    }
    assert len(folders) == 2


def test_a_text_model_is_left_where_it_is(tmp_path):
    path = save_family("qwen2", tmp_path / "model")
    assert model_folder(learner_config(model={"path": str(path)}), tmp_path / "run", Console()) == path
    assert not (tmp_path / "run").exists()
