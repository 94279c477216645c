import json
import shutil
import stat
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from transformers import AutoModelForCausalLM

from tests.fakes.adapters import LORA, adapted_base, random_factors
from tests.fakes.tiny_chat_model import save_model
from unisd_rl.base_model import model_folder
from unisd_rl.config.load import load_recipe
from unisd_rl.config.model import LoraConfig
from unisd_rl.driver.console import Console
from unisd_rl.transport.weights.adapter import AdapterFolder, describe_mismatch, peft_config


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    save_model(path, tied=True)
    return path


def loaded_by_peft(model_path, folder):
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_path), folder.path).eval()


def test_peft_loads_the_folder_and_computes_what_the_factors_say(model_path):
    folder, factors = AdapterFolder(LoraConfig(**LORA), str(model_path)), random_factors(model_path, seed=1)
    with folder.holding(factors.items()):
        model = loaded_by_peft(model_path, folder)
    folder.close()
    back = get_peft_model_state_dict(model)
    assert back.keys() == factors.keys()
    assert all(back[name].equal(factor) for name, factor in factors.items())
    tokens = torch.arange(40)[None]
    base, scale = adapted_base(model_path), LORA["alpha"] / LORA["rank"]
    with torch.no_grad():  # B is zero in `base`: what the adapter adds is written into its weights by hand
        for name, factor_a in factors.items():
            if "lora_A" in name:
                layer = base.get_submodule(name.removesuffix(".lora_A.weight"))
                layer.base_layer.weight += scale * factors[name.replace("lora_A", "lora_B")] @ factor_a
        torch.testing.assert_close(model(tokens).logits, base(tokens).logits, atol=1e-4, rtol=1e-4)


@pytest.fixture
def hub_model(model_path, tmp_path, monkeypatch):
    """The model as the cache of a hub has it, under the name owner/name."""
    cached, commit = tmp_path / "models--owner--name", "0" * 40
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(commit)
    shutil.copytree(model_path, cached / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return "owner/name"


@pytest.mark.parametrize("given", ["a folder", "a hub name"])
def test_an_adapter_names_a_base_that_is_found_from_anywhere(given, model_path, hub_model, tmp_path, monkeypatch):
    """A folder in full, a hub name as it is: not the copy in this machine's cache."""
    monkeypatch.chdir(model_path.parent)
    path, named = {"a folder": (model_path.name, str(model_path)), "a hub name": (hub_model, hub_model)}[given]
    base = model_folder(load_recipe("unisd_star", {"model": {"path": path}}), tmp_path / "run", Console())
    peft_config(LoraConfig(**LORA), str(base)).save_pretrained(str(tmp_path / "adapter"))
    saved = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert saved["base_model_name_or_path"] == named


def test_one_folder_holds_one_adapter_after_the_other(model_path):
    folder = AdapterFolder(LoraConfig(**LORA), str(model_path))
    for seed in (1, 2):
        factors = random_factors(model_path, seed)
        with folder.holding(factors.items()):
            back = get_peft_model_state_dict(loaded_by_peft(model_path, folder))
        assert all(back[name].equal(factor) for name, factor in factors.items())
    folder.close()


def test_the_folder_is_its_users_alone_holds_no_tensors_afterwards_and_goes(model_path):
    folder = AdapterFolder(LoraConfig(**LORA), str(model_path))
    path = Path(folder.path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    with folder.holding({"a": torch.ones(4)}.items()) as written:
        assert Path(folder.tensors_path).read_bytes() == written.tobytes()
    assert not list(path.glob("*.safetensors"))
    folder.close()
    folder.close()
    assert not path.exists()


def test_the_folder_holds_nothing_more_after_a_load_that_failed(model_path):
    folder = AdapterFolder(LoraConfig(**LORA), str(model_path))
    with pytest.raises(OSError, match="vLLM"), folder.holding({"a": torch.ones(4)}.items()):
        raise OSError("vLLM")
    with folder.holding({"a": torch.ones(4)}.items()):
        pass
    folder.close()


@pytest.mark.parametrize(
    "sent, sentence",
    [
        ({"a": (2, 3), "b": (4,)}, None),
        ({"a": (2, 3), "b": (5,)}, None),  # of b any shape is right
        ({"a": (2, 3)}, "it leaves out 1 tensors of this model's adapter, b first"),
        ({}, "it leaves out 2 tensors of this model's adapter, a first"),
        ({"a": (2, 3), "b": (4,), "c": ()}, "it holds c, which has no place in this model's adapter (1 such tensors)"),
        ({"a": (3, 2), "b": (4,)}, "a has the shape [3, 2], not [2, 3]"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(sent, sentence):
    assert describe_mismatch(sent, {"a": (2, 3), "b": None}) == sentence
