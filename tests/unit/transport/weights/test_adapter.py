import stat
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from transformers import AutoModelForCausalLM

from tests.fakes.adapters import LORA, adapted_base, random_factors
from tests.fakes.tiny_chat_model import save_model
from unisd_rl.config.model import LoraConfig
from unisd_rl.transport.weights.adapter import AdapterFolder, describe_mismatch


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
