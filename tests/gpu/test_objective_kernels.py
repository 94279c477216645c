"""The GPU's path on a real GPU: Triton's kernels, and half-precision matmuls with float32 sums."""

import pytest
import torch

from tests.fakes.objective_oracle import PLAIN, changed
from tests.fakes.objective_terms import random_coefficients, token_terms
from tests.fakes.triton_rows import disagreements
from unisd_rl.config.objective import DivergenceContrast, JensenShannon, TotalVariation
from unisd_rl.objective.kernels.chunk_logits import HiddenStates
from unisd_rl.objective.kernels.chunked import scored_tokens, token_divergence, token_logprobs
from unisd_rl.objective.kernels.head import Head

pytestmark = pytest.mark.gpu
CONTRAST = DivergenceContrast(weight=1.0, margin=0.05, alpha=0.5)


def test_the_rows_agree_with_torch_at_any_vocabulary():
    """One block, several blocks, and the vocabulary of a real model."""
    assert disagreements("cuda", vocabularies=(50, 5000, 151_936)) == []


def test_the_rows_write_half_precision_gradients():
    assert disagreements("cuda", vocabularies=(5000,), gradient_type=torch.bfloat16) == []


def case(device, dtype):
    """64 tokens, 256 hidden, 9,001 vocabulary; every number exact in bfloat16, whatever the type they come in."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape, scale=1.0):
        return (scale * torch.randn(*shape, generator=generator)).bfloat16().to(device, dtype)

    teacher_NH = normal(64, 256)
    student_NH = (teacher_NH + normal(64, 256, scale=0.3)).bfloat16().to(dtype).requires_grad_()
    negative_NH = (teacher_NH + normal(64, 256, scale=0.3)).bfloat16().to(dtype)
    weight_VH = normal(9001, 256, scale=0.2).requires_grad_()
    teacher_weight_VH = normal(9001, 256, scale=0.2)
    given = random_coefficients(64, generator, 2.0, device)
    targets_N = torch.randint(9001, (64,), generator=generator).to(device)
    return student_NH, weight_VH, teacher_NH, teacher_weight_VH, negative_NH, targets_N, given


def scored(device, dtype, divergence, soft_cap):
    student_NH, weight_VH, teacher_NH, teacher_weight_VH, negative_NH, targets_N, given = case(device, dtype)
    settings = changed(
        PLAIN, divergence=divergence, clip_threshold=2.0, contrastive=CONTRAST, chunk_tokens=24, likelihood_weight=1.0
    )
    heads = Head(weight_VH, None, soft_cap, 1.3), Head(teacher_weight_VH, None, soft_cap, 1.3)
    states, terms = HiddenStates(student_NH, teacher_NH, negative_NH), token_terms(settings, given)
    found = scored_tokens(states, *heads, targets_N, terms, settings.temperature, settings.chunk_tokens)
    return found, torch.autograd.grad(found.loss, (student_NH, weight_VH))


DIVERGENCES = (None, *(JensenShannon(alpha=alpha) for alpha in (0.0, 0.5, 1.0)), TotalVariation())  # torch has the last


@pytest.mark.parametrize("divergence", DIVERGENCES, ids=str)
@pytest.mark.parametrize("soft_cap", [None, 20.0])
def test_half_precision_inputs_give_the_processor_s_float32_result(divergence, soft_cap):
    """Losses to float32 rounding; gradients to that of the half-precision type they pass through and end in."""
    right, (hidden_NH, weight_VH) = scored("cpu", torch.float32, divergence, soft_cap)
    ours, (ours_NH, ours_VH) = scored("cuda", torch.bfloat16, divergence, soft_cap)
    assert ours.scores.divergences.keys() == right.scores.divergences.keys()
    for measure, divergence_N in right.scores.divergences.items():
        torch.testing.assert_close(ours.scores.divergences[measure].cpu(), divergence_N, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(ours.scores.logprob_N.cpu(), right.scores.logprob_N, rtol=1e-4, atol=1e-4)
    for left, wanted in ((ours_NH, hidden_NH), (ours_VH, weight_VH)):
        assert left.dtype == torch.bfloat16
        assert float((left.cpu().float() - wanted).norm() / wanted.norm()) < 1e-2


def test_measurements_without_gradient_agree_with_the_processor():
    found = []
    for device, dtype in (("cpu", torch.float32), ("cuda", torch.bfloat16)):
        student_NH, weight_VH, teacher_NH, teacher_weight_VH, _, targets_N, _ = case(device, dtype)
        heads = Head(weight_VH), Head(teacher_weight_VH)
        found.append(
            (
                token_logprobs(student_NH, heads[0], targets_N, 0.7, 24).cpu(),
                token_divergence(student_NH, heads[0], teacher_NH, heads[1], JensenShannon(alpha=0.5), 0.7, 24).cpu(),
            )
        )
    for right, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-3, atol=1e-4)


def test_the_head_is_never_copied_to_float32():
    """8 tokens' logits are small beside a head of 20,000 x 8,192; half of its float32 copy is the bound."""
    wide_NH = torch.randn(8, 8192, device="cuda", dtype=torch.bfloat16)
    wide_VH = torch.randn(20_000, 8192, device="cuda", dtype=torch.bfloat16)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    token_logprobs(wide_NH, Head(wide_VH), torch.zeros(8, dtype=torch.long, device="cuda"), 0.7, 8)
    assert torch.cuda.max_memory_allocated() - before < wide_VH.numel() * 4 / 2
