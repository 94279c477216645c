"""The divergence on one block: its values against literal loops, its derivative against autograd, its edges."""

import math
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.objective_oracle import dense_divergence, literal_divergence
from unisd_rl.config.objective import DivergenceConfig, JensenShannon, TopK, TotalVariation
from unisd_rl.objective.divergences import DIVERGENCES
from unisd_rl.objective.kernels.torch_backend import log_softmax_

TOP = [TopK(k=3, alpha=alpha, tail=tail) for alpha in (0.0, 0.3, 1.0) for tail in (True, False)]
KINDS = (*(JensenShannon(alpha=alpha) for alpha in (0.0, 0.1, 0.5, 0.9, 1.0)), *TOP, TotalVariation())
each_kind = pytest.mark.parametrize("kind", KINDS, ids=str)


def measured(student_RV, teacher_RV, kind):
    """Divergence and its derivative in the student's logits."""
    student, teacher = student_RV.float().clone(), teacher_RV.float().clone()
    student_p, teacher_p = torch.empty_like(student), torch.empty_like(teacher)
    log_softmax_(student, student_p)
    log_softmax_(teacher, teacher_p)
    return DIVERGENCES[type(kind)](kind, student, teacher, student_p, teacher_p, teacher, student), student


def logits(seed, spread, rows=5, vocabulary=9):
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(2, rows, vocabulary, generator=generator, dtype=torch.float64)


@each_kind
@pytest.mark.parametrize("spread", [0.1, 3.0, 30.0])
def test_value_equals_the_literal_sum(kind, spread):
    student, teacher = logits(1, spread).float().double()
    value, _ = measured(student, teacher, kind)
    log_s, log_t = torch.log_softmax(student, -1), torch.log_softmax(teacher, -1)
    expected = [literal_divergence(s, t, kind) for s, t in zip(log_s.tolist(), log_t.tolist(), strict=True)]
    torch.testing.assert_close(value.double(), torch.tensor(expected, dtype=torch.float64), rtol=3e-5, atol=1e-6)


@each_kind
@pytest.mark.parametrize("spread", [0.01, 1.0, 30.0])
def test_derivative_equals_autograd_of_the_dense_formula(kind, spread):
    student, teacher = logits(2, spread).float().double()
    student.requires_grad_()
    dense = dense_divergence(torch.log_softmax(student, -1), torch.log_softmax(teacher, -1), kind)
    expected = torch.autograd.grad(dense.sum(), student)[0]
    _, slope = measured(student.detach(), teacher, kind)
    torch.testing.assert_close(slope.double(), expected, rtol=1e-4, atol=3e-6 * max(1.0, spread))


@each_kind
def test_derivative_equals_finite_differences_of_the_literal_sum(kind):
    student, teacher = logits(3, 1.5, rows=1, vocabulary=5)
    _, slope = measured(student, teacher, kind)
    log_t = torch.log_softmax(teacher, -1)[0].tolist()
    for v in range(5):
        step = torch.zeros(5, dtype=torch.float64)
        step[v] = 1e-5
        above, below = (
            literal_divergence(torch.log_softmax(moved, -1).tolist(), log_t, kind)
            for moved in (student[0] + step, student[0] - step)
        )
        assert float(slope[0, v]) == pytest.approx((above - below) / 2e-5, abs=2e-6)


@each_kind
@pytest.mark.parametrize("spread", [1.0, 1e4])
def test_identical_distributions_give_exactly_no_divergence_and_no_derivative(kind, spread):
    student, _ = logits(4, spread)
    value, slope = measured(student, student, kind)
    assert torch.equal(value, torch.zeros_like(value))
    # The forward and Jensen-Shannon derivatives are differences of equal numbers; the reverse one a product with zero.
    assert torch.equal(slope.abs(), torch.zeros_like(slope))


@given(seed=st.integers(0, 10**6), alpha=st.floats(0.01, 0.99), spread=st.sampled_from([0.1, 3.0, 100.0, 1e4]))
@settings(max_examples=60, deadline=None)
def test_jensen_shannon_lies_between_zero_and_the_binary_entropy(seed, alpha, spread):
    student, teacher = logits(seed, spread)
    value, slope = measured(student, teacher, JensenShannon(alpha=alpha))
    assert float(value.min()) >= 0.0
    assert float(value.max()) <= JensenShannon(alpha=alpha).bound + 2e-6
    assert torch.isfinite(slope).all()


def test_the_bound_of_alpha_one_half_is_ln_2_and_is_reached_by_disjoint_distributions():
    student, teacher = torch.tensor([[1e4, 0.0]]), torch.tensor([[0.0, 1e4]])
    value, slope = measured(student, teacher, JensenShannon(alpha=0.5))
    assert JensenShannon(alpha=0.5).bound == pytest.approx(math.log(2))
    assert float(value) == pytest.approx(math.log(2), abs=1e-6)
    assert torch.isfinite(slope).all()


@each_kind
def test_logits_of_ten_thousand_stay_finite(kind):
    """KL(P || S) of two spikes 10^4 apart is 10^4 nats; the probabilities underflow to exact zeros."""
    student, teacher = torch.tensor([[1e4, 0.0, -1e4]]), torch.tensor([[0.0, 1e4, -1e4]])
    value, slope = measured(student, teacher, kind)
    assert torch.isfinite(slope).all()
    expected = 1e4 if math.isinf(kind.bound) else kind.bound
    assert float(value) == pytest.approx(expected, rel=1e-5)


@each_kind
def test_tiny_divergences_keep_their_digits(kind):
    """At a log ratio of 1e-2 the divergence is about 1e-4: sums of rounded terms must not drown it."""
    student, teacher = logits(5, 1.0, rows=3, vocabulary=400)
    teacher = student + 0.01 * teacher
    student, teacher = student.float().double(), teacher.float().double()
    value, _ = measured(student, teacher, kind)
    expected = dense_divergence(torch.log_softmax(student, -1), torch.log_softmax(teacher, -1), kind)
    # A few outcomes have no others to average the rounding of their log-probabilities, 1e-7 or so each.
    atol = 5e-7 if isinstance(kind, TopK) else 0.0
    torch.testing.assert_close(value.double(), expected, rtol=5e-3, atol=atol)


@each_kind
def test_rounding_never_makes_a_divergence_negative(kind):
    student, noise = logits(6, 1.0, rows=50, vocabulary=2000)
    value, _ = measured(student, student + 1e-6 * noise, kind)
    assert float(value.min()) >= 0.0


@given(seed=st.integers(0, 10**6), alpha=st.floats(0.05, 0.95))
@settings(max_examples=20, deadline=None)
def test_exchanging_student_and_teacher_exchanges_alpha(seed, alpha):
    student, teacher = logits(seed, 3.0)
    forward, _ = measured(student, teacher, JensenShannon(alpha=alpha))
    backward, _ = measured(teacher, student, JensenShannon(alpha=1.0 - alpha))
    torch.testing.assert_close(forward, backward, rtol=1e-4, atol=1e-6)


@given(seed=st.integers(0, 10**6), spread=st.sampled_from([0.1, 3.0, 100.0, 1e4]))
@settings(max_examples=40, deadline=None)
def test_total_variation_lies_between_zero_and_one_and_is_the_same_both_ways(seed, spread):
    student, teacher = logits(seed, spread)
    forward, slope = measured(student, teacher, TotalVariation())
    backward, _ = measured(teacher, student, TotalVariation())
    assert float(forward.min()) >= 0.0
    assert float(forward.max()) <= TotalVariation().bound + 2e-6
    assert torch.isfinite(slope).all()
    torch.testing.assert_close(forward, backward)


def test_total_variation_of_written_distributions_is_the_written_number():
    """P = (1/2, 1/2), S = (3/4, 1/4): D = 1/4, and the slope is 1/2 S (sign - 1/2) = (3/16, -3/16)."""
    student, teacher = torch.tensor([[0.75, 0.25]]).log(), torch.tensor([[0.5, 0.5]]).log()
    value, slope = measured(student, teacher, TotalVariation())
    assert value.tolist() == pytest.approx([0.25])
    assert slope[0].tolist() == pytest.approx([3 / 16, -3 / 16])


def test_every_kind_of_divergence_has_its_function():
    (kinds, *_) = get_args(DivergenceConfig)
    assert set(get_args(kinds)) == set(DIVERGENCES)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_over_the_whole_vocabulary_the_likeliest_tokens_give_the_exact_divergence(alpha):
    student, teacher = logits(6, 2.0)
    exact, slope = measured(student, teacher, JensenShannon(alpha=alpha))
    for kind in (TopK(k=k, alpha=alpha, tail=tail) for k in (9, 100) for tail in (True, False)):
        value, own = measured(student, teacher, kind)
        torch.testing.assert_close(value, exact)
        torch.testing.assert_close(own, slope, rtol=1e-4, atol=1e-6)


def test_a_tail_only_lowers_the_divergence_and_tokens_outside_the_top_have_no_gradient_without_it():
    student, teacher = logits(7, 2.0)
    exact, _ = measured(student, teacher, JensenShannon(alpha=0.0))
    with_tail, _ = measured(student, teacher, TopK(k=3, alpha=0.0))
    assert (with_tail <= exact).all(), "outcomes that are taken together tell less"
    _, slope = measured(student, teacher, TopK(k=3, alpha=0.0, tail=False))
    likeliest = torch.zeros_like(slope, dtype=torch.bool).scatter_(-1, teacher.topk(3).indices, True)
    assert not slope[~likeliest].any()
    assert slope[likeliest].all()
