"""A file of weights that is written tensor by tensor is the library's own, byte for byte."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from learner.weights_file import write_weights


def tensors():
    torch.manual_seed(0)
    return {
        "model.norm": torch.randn(5, dtype=torch.bfloat16),  # an odd number: what came after it would not be aligned
        "model.layer.weight": torch.randn(4, 5),
        "model.layer.transposed": torch.randn(3, 4).T,
        "model.steps": torch.tensor(7),
        "model.mäßig.mask": torch.tensor([True, False, True]),
        "model.empty": torch.zeros(0, 3),
    }


def layout(named):
    return {name: (tensor.dtype, tensor.shape) for name, tensor in named.items()}


def test_it_has_the_librarys_bytes_whatever_the_order_and_the_dtypes(tmp_path):
    named = tensors()
    write_weights(tmp_path / "ours", layout(named), named.items())
    save_file({name: tensor.contiguous() for name, tensor in named.items()}, tmp_path / "theirs", {"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    for name, tensor in load_file(tmp_path / "ours").items():
        assert torch.equal(tensor, named[name])


def test_each_tensor_may_be_gone_when_the_next_is_asked_for(tmp_path):
    """As one that is gathered of its shards, or merged for the moment."""
    named, buffer = {"one": torch.ones(2, 3), "two": torch.full((2, 3), 2.0)}, torch.empty(2, 3)
    write_weights(tmp_path / "file", layout(named), ((name, buffer.copy_(tensor)) for name, tensor in named.items()))
    assert {name: float(tensor.mean()) for name, tensor in load_file(tmp_path / "file").items()} == {
        "one": 1.0, "two": 2.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    "given,said",
    [
        ({"one": torch.ones(3)}, "1 of 2 tensors were written"),
        ({"two": torch.ones(3, dtype=torch.int64)}, "two is not"),
    ],
)
def test_what_is_not_in_its_layout_is_refused(tmp_path, given, said):
    expected = {"one": (torch.float32, torch.Size([3])), "two": (torch.float32, torch.Size([3]))}
    with pytest.raises(AssertionError, match=said):
        write_weights(tmp_path / "file", expected, given.items())
