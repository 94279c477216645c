"""On a GPU: the kernel for trees computes what the definition says, and models are read as trees with it."""

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from learner.attention import Packing, packed_attention
from learner.layout import choose_layout
from tests.fakes.attention_models import SIZES, dense_attention, row_of

pytestmark = pytest.mark.gpu


def sequences(prompts=3, answers=4, prompt=150, answer=40):
    """More rows than a block of the kernel's mask has, and lengths that no block fits."""
    system = list(range(50))
    return [
        [*system, *[100 + number] * (prompt - len(system)), *[1000 + place] * (answer + place)]
        for number in range(prompts)
        for place in range(answers)
    ]


@pytest.mark.parametrize("window", [None, 64])
@pytest.mark.parametrize("width", [64, 128])
def test_the_kernel_for_trees_is_the_definition_forward_and_backward(window, width):
    torch.manual_seed(5)
    row, found = row_of(sequences()), []
    packing = Packing.of(row, torch.device("cuda"))
    tensors = [torch.randn(1, heads, len(row.depth_T), width, device="cuda") for heads in (6, 2, 2)]
    direction = torch.randn(1, len(row.depth_T), 6, width, device="cuda")

    def kernel(query, key, value):
        return packed_attention(nn.Module(), query, key, value, None, packing, 0.1, window)[0]

    for attend, dtype in (
        (lambda *leaves: dense_attention(*leaves, row, 0.1, window), torch.float64),
        (kernel, torch.bfloat16),
    ):
        leaves = [one.to(dtype).requires_grad_() for one in tensors]
        out = attend(*leaves)
        (out * direction).sum().backward()
        found.append([out, *(leaf.grad for leaf in leaves)])
    for exact, narrow in zip(*found, strict=True):
        assert torch.allclose(narrow.double(), exact, atol=3e-2 * float(exact.detach().abs().max()))


def test_a_model_in_bfloat16_is_read_as_a_tree():
    torch.manual_seed(5)
    sizes = {**SIZES, "hidden_size": 256, "head_dim": 64}
    model = LlamaForCausalLM(LlamaConfig(**sizes)).eval().to("cuda", torch.bfloat16)
    assert choose_layout(model, "tree") == "tree"
