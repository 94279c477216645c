"""AdamW with moments of 8 bits: as AdamW within their rounding, and back from a checkpoint as it was."""

import pytest
import torch

from learner.optimizer import build_optimizer, eight_bit_state, set_eight_bit_state, set_steps
from unisd_rl.config.learner import LearnerConfig
from unisd_rl.errors import RunFailed

EIGHT, FULL = (LearnerConfig(optimizer=name, weight_decay=0.01) for name in ("adamw_8bit", "adamw"))


def parameters():
    """A matrix whose moments have 8 bits, and a vector whose moments bitsandbytes leaves at 32."""
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(70, 60)), torch.nn.Parameter(torch.randn(60))]


def step(optimiser, weights, number):
    generator = torch.Generator().manual_seed(number)
    for weight in weights:
        weight.grad = torch.randn(weight.shape, generator=generator)
    optimiser.step()


def trained(config, steps):
    weights = parameters()
    optimiser = build_optimizer(weights, config)
    for number in range(steps):
        step(optimiser, weights, number)
    return optimiser, weights


def test_it_moves_weights_as_32_bits_do_but_for_a_hundredth():
    before, (_, eight), (_, full) = parameters(), trained(EIGHT, 5), trained(FULL, 5)
    for start, found, expected in zip(before, eight, full, strict=True):
        moved = (expected - start).norm()
        assert 0 < (found - expected).norm() < 0.02 * moved or torch.allclose(found, expected, rtol=1e-5, atol=1e-7)
    assert not torch.equal(eight[0], full[0]), "nothing was rounded: these are not moments of 8 bits"


def test_from_its_saved_state_it_goes_on_bit_for_bit():
    optimiser, weights = trained(EIGHT, 3)
    saved = {name: tensor.clone() for name, tensor in eight_bit_state(optimiser, stage=0)}
    assert saved["adamw_8bit/0/state1"].dtype == torch.uint8
    assert saved["adamw_8bit/1/state1"].dtype == torch.float32
    resumed = parameters()
    again = build_optimizer(resumed, EIGHT)
    for weight in resumed:
        weight.grad = torch.zeros_like(weight)
    again.step()  # makes the moments
    set_steps(again, 3)
    set_eight_bit_state(again, 0, saved.__getitem__)
    for weight, value in zip(resumed, weights, strict=True):
        weight.data.copy_(value.data)
    for each, of in ((optimiser, weights), (again, resumed)):
        step(each, of, 3)
    assert all(torch.equal(found, expected) for found, expected in zip(resumed, weights, strict=True))


def test_moments_that_are_cut_for_other_ranks_or_another_stage_are_refused():
    optimiser, _ = trained(EIGHT, 1)
    saved = {"adamw_8bit/layout": torch.tensor([2, 4, 1])}
    with pytest.raises(RunFailed, match=r"cut for ZeRO 2 on 4 ranks, and the learner runs ZeRO 0 on 1; resume with"):
        set_eight_bit_state(optimiser, 0, saved.__getitem__)


def test_before_the_first_step_there_are_no_moments_and_none_are_asked_for():
    (layout,) = eight_bit_state(build_optimizer(parameters(), EIGHT), stage=0)
    optimiser, _ = trained(EIGHT, 1)
    before = [state["state1"].clone() for state in optimiser.state.values()]
    set_eight_bit_state(optimiser, 0, dict([layout]).__getitem__)
    after = [state["state1"] for state in optimiser.state.values()]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
