"""A packed row gives each sequence what it gets alone, whether or not it shares tokens with others."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from learner.attention import NotPackable, Packing, _flex, packed_attention, sees
from learner.layout import choose_layout
from learner.prefix_tree import PrefixTree
from tests.fakes.attention_models import (
    MODELS,
    WINDOW,
    dense_attention,
    ids,
    make,
    row_of,
    states,
    train_recomputing,
)

CPU = torch.device("cpu")
LENGTHS = (9, 1, 5, 13)
STEM = ids(20).tolist()
TREE = [
    [*STEM[:14], 1, 2, 3],
    [*STEM[:14], 1, 2, 4, 5],  # a branch in a branch
    [*STEM[:14], 1, 2, 4, 5],  # the same again
    [*STEM[:14], 6],
    [*STEM[:6], *ids(15).tolist()],  # longer than what it shares
    STEM[:12],  # ends on another's path
    STEM,
    ids(7).tolist(),
]


def packing_of(lengths, device=CPU):
    return Packing.of(PrefixTree.unshared(lengths).row(), device)


def read_tree(model, sequences):
    """The states of sequences that are read as a tree, one after the other."""
    row = row_of(sequences)
    ids_T = torch.zeros(len(row.depth_T), dtype=torch.long)
    for path, sequence in zip(row.paths, sequences, strict=True):
        ids_T[torch.from_numpy(path)] = torch.tensor(sequence)
    states_TH = states(model, ids_T, **Packing.of(row, CPU).keywords())
    return torch.cat([states_TH[torch.from_numpy(path)] for path in row.paths])


def read_packed(model, sequences):
    lengths = [len(each) for each in sequences]
    ids_T = torch.cat([torch.tensor(sequence) for sequence in sequences])
    return states(model, ids_T, **packing_of(lengths).keywords())


def gradients(model, states_TH):
    """Of a loss in which each state counts differently."""
    model.zero_grad()
    (states_TH * torch.randn(states_TH.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize(
    "read, sequences", [(read_packed, [ids(length).tolist() for length in LENGTHS]), (read_tree, TREE)]
)
def test_a_row_has_the_states_and_gradients_of_its_sequences_alone(name, recomputed, read, sequences):
    model = make(name)
    alone = torch.cat([states(model, torch.tensor(sequence)) for sequence in sequences])
    expected = gradients(model, alone)
    assert choose_layout(model, "tree") == "tree"
    if recomputed:
        train_recomputing(model)
    together = read(model, sequences)
    assert torch.allclose(together, alone, atol=1e-5 * float(alone.detach().abs().max()))
    found = gradients(model, together)
    for key, gradient in expected.items():
        assert torch.allclose(found[key], gradient, atol=1e-4 * float(gradient.abs().max()) + 1e-7)


SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=12)


@given(SEQUENCES, st.sampled_from([None, 1, 2, 5]), st.integers(0, 3))
def test_attention_over_a_tree_is_the_definition(sequences, window, seed):
    row = row_of([STEM[:13] * (number % 2) + sequence for number, sequence in enumerate(sequences)])
    generator, found = torch.Generator().manual_seed(seed), []
    tensors = [torch.randn(1, n, len(row.depth_T), 8, generator=generator, dtype=torch.float64) for n in (4, 2, 2)]
    direction = torch.randn(1, len(row.depth_T), 4, 8, generator=generator, dtype=torch.float64)

    def packed(query, key, value):
        packing = Packing.of(row, CPU)
        return packed_attention(nn.Module(), query, key, value, None, packing, 0.3, window)[0]

    for attend in (packed, lambda *leaves: dense_attention(*leaves, row, 0.3, window)):
        leaves = [one.clone().requires_grad_() for one in tensors]
        out = attend(*leaves)
        (out * direction).sum().backward()
        found.append([out.detach(), *(leaf.grad for leaf in leaves)])
    assert all(torch.allclose(one, other, atol=1e-10) for one, other in zip(*found, strict=True))


def test_the_mask_is_the_definition():
    row = row_of([[1, 2, 3], [1, 2, 4], [5]])
    every = torch.arange(5)
    tensors = torch.from_numpy(row.depth_T), torch.from_numpy(row.subtree_end_T)
    assert sees(every[:, None], every, *tensors, None).int().tolist() == [
        [1, 0, 0, 0, 0],
        [0, 1, 0, 0, 0],
        [0, 1, 1, 0, 0],
        [0, 1, 1, 1, 0],
        [0, 1, 1, 0, 1],
    ]
    assert sees(every[:, None], every, *tensors, 2).int().tolist()[3:] == [[0, 0, 1, 1, 0], [0, 0, 1, 0, 1]]


def test_a_row_without_packing_or_with_a_mask_is_refused():
    row = torch.zeros(1, 2, 4, 8)
    packing = packing_of([4])
    for mask, known in ((None, None), (torch.zeros(1, 1, 4, 4), packing)):
        with pytest.raises(NotPackable, match="needs its packing, and no mask"):
            packed_attention(nn.Module(), row, row, row, mask, packing=known)
    with pytest.raises(NotPackable, match="Module wants s_aux"):
        packed_attention(nn.Module(), row, row, row, None, packing=packing, s_aux=torch.zeros(2))


@pytest.mark.gpu
@pytest.mark.parametrize("window", [None, WINDOW])
def test_the_kernel_agrees_with_attention_sequence_by_sequence(window):
    torch.manual_seed(5)
    query, key, value = (torch.randn(1, heads, sum(LENGTHS), 16, device="cuda") for heads in (4, 2, 2))
    direction = torch.randn(1, sum(LENGTHS), 4, 16, device="cuda")
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        leaves = [one.to(dtype).requires_grad_() for one in (query, key, value)]
        packing = packing_of(LENGTHS, query.device)
        out, _ = packed_attention(nn.Module(), *leaves, None, packing=packing, scaling=0.3, sliding_window=window)
        (out.float() * direction).sum().backward()
        found.append([out, *(leaf.grad for leaf in leaves)])
    for exact, narrow in zip(*found, strict=True):
        assert torch.allclose(narrow.float(), exact, atol=3e-2 * float(exact.abs().max()))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("window", [None, WINDOW])
def test_flex_attention_is_asked_for_the_definition(monkeypatch, window):
    """Without a GPU: neither is compiled."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    monkeypatch.setattr("learner.attention._compiled_flex", lambda: (flex_attention, create_block_mask))
    row = row_of(TREE)
    query, key, value = (torch.randn(1, heads, len(row.depth_T), 16) for heads in (4, 2, 2))
    found = _flex(query, key, value, Packing.of(row, CPU), 0.3, window)
    assert torch.allclose(found, dense_attention(query, key, value, row, 0.3, window), atol=1e-5)
