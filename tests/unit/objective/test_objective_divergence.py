"""The divergence on one block: its values against literal loops, its derivative against autograd, its edges."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.objective_oracle import dense_divergence, literal_divergence
from unisd_rl.config.objective import divergence_bound
from unisd_rl.objective.divergence import divergence, log_softmax_

ALPHAS = (0.0, 0.1, 0.5, 0.9, 1.0)


def measured(student_RV, teacher_RV, alpha):
    """Divergence and its derivative in the student's logits."""
    student, teacher = student_RV.float().clone(), teacher_RV.float().clone()
    student_p, teacher_p = torch.empty_like(student), torch.empty_like(teacher)
    log_softmax_(student, student_p)
    log_softmax_(teacher, teacher_p)
    return divergence(student, teacher, student_p, teacher_p, alpha, teacher, student), student


def logits(seed, spread, rows=5, vocabulary=9):
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(2, rows, vocabulary, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("spread", [0.1, 3.0, 30.0])
def test_value_equals_the_literal_sum(alpha, spread):
    student, teacher = logits(1, spread).float().double()
    value, _ = measured(student, teacher, alpha)
    log_s, log_t = torch.log_softmax(student, -1), torch.log_softmax(teacher, -1)
    expected = [literal_divergence(s, t, alpha) for s, t in zip(log_s.tolist(), log_t.tolist(), strict=True)]
    torch.testing.assert_close(value.double(), torch.tensor(expected, dtype=torch.float64), rtol=3e-5, atol=1e-6)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("spread", [0.01, 1.0, 30.0])
def test_derivative_equals_autograd_of_the_dense_formula(alpha, spread):
    student, teacher = logits(2, spread).float().double()
    student.requires_grad_()
    dense = dense_divergence(torch.log_softmax(student, -1), torch.log_softmax(teacher, -1), alpha)
    expected = torch.autograd.grad(dense.sum(), student)[0]
    _, slope = measured(student.detach(), teacher, alpha)
    torch.testing.assert_close(slope.double(), expected, rtol=1e-4, atol=3e-6 * max(1.0, spread))


@pytest.mark.parametrize("alpha", ALPHAS)
def test_derivative_equals_finite_differences_of_the_literal_sum(alpha):
    student, teacher = logits(3, 1.5, rows=1, vocabulary=5)
    _, slope = measured(student, teacher, alpha)
    log_t = torch.log_softmax(teacher, -1)[0].tolist()
    for v in range(5):
        step = torch.zeros(5, dtype=torch.float64)
        step[v] = 1e-5
        above, below = (
            literal_divergence(torch.log_softmax(moved, -1).tolist(), log_t, alpha)
            for moved in (student[0] + step, student[0] - step)
        )
        assert float(slope[0, v]) == pytest.approx((above - below) / 2e-5, abs=2e-6)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("spread", [1.0, 1e4])
def test_identical_distributions_give_exactly_no_divergence_and_no_derivative(alpha, spread):
    student, _ = logits(4, spread)
    value, slope = measured(student, student, alpha)
    assert torch.equal(value, torch.zeros_like(value))
    # The forward and Jensen-Shannon derivatives are differences of equal numbers; the reverse one a product with zero.
    assert torch.equal(slope.abs(), torch.zeros_like(slope))


@given(seed=st.integers(0, 10**6), alpha=st.floats(0.01, 0.99), spread=st.sampled_from([0.1, 3.0, 100.0, 1e4]))
@settings(max_examples=60, deadline=None)
def test_jensen_shannon_lies_between_zero_and_the_binary_entropy(seed, alpha, spread):
    student, teacher = logits(seed, spread)
    value, slope = measured(student, teacher, alpha)
    assert float(value.min()) >= 0.0
    assert float(value.max()) <= divergence_bound(alpha) + 2e-6
    assert torch.isfinite(slope).all()


def test_the_bound_of_alpha_one_half_is_ln_2_and_is_reached_by_disjoint_distributions():
    student, teacher = torch.tensor([[1e4, 0.0]]), torch.tensor([[0.0, 1e4]])
    value, slope = measured(student, teacher, 0.5)
    assert divergence_bound(0.5) == pytest.approx(math.log(2))
    assert float(value) == pytest.approx(math.log(2), abs=1e-6)
    assert torch.isfinite(slope).all()


@pytest.mark.parametrize("alpha", ALPHAS)
def test_logits_of_ten_thousand_stay_finite(alpha):
    """KL(P || S) of two spikes 10^4 apart is 10^4 nats; the probabilities underflow to exact zeros."""
    student, teacher = torch.tensor([[1e4, 0.0, -1e4]]), torch.tensor([[0.0, 1e4, -1e4]])
    value, slope = measured(student, teacher, alpha)
    assert torch.isfinite(slope).all()
    expected = {0.0: 1e4, 1.0: 1e4}.get(alpha, divergence_bound(alpha))
    assert float(value) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_tiny_divergences_keep_their_digits(alpha):
    """At a log ratio of 1e-2 the divergence is about 1e-4: sums of rounded terms must not drown it."""
    student, teacher = logits(5, 1.0, rows=3, vocabulary=400)
    teacher = student + 0.01 * teacher
    student, teacher = student.float().double(), teacher.float().double()
    value, _ = measured(student, teacher, alpha)
    expected = dense_divergence(torch.log_softmax(student, -1), torch.log_softmax(teacher, -1), alpha)
    torch.testing.assert_close(value.double(), expected, rtol=5e-3, atol=0.0)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_rounding_never_makes_a_divergence_negative(alpha):
    student, noise = logits(6, 1.0, rows=50, vocabulary=2000)
    value, _ = measured(student, student + 1e-6 * noise, alpha)
    assert float(value.min()) >= 0.0


@given(seed=st.integers(0, 10**6), alpha=st.floats(0.05, 0.95))
@settings(max_examples=20, deadline=None)
def test_exchanging_student_and_teacher_exchanges_alpha(seed, alpha):
    student, teacher = logits(seed, 3.0)
    forward, _ = measured(student, teacher, alpha)
    backward, _ = measured(teacher, student, 1.0 - alpha)
    torch.testing.assert_close(forward, backward, rtol=1e-4, atol=1e-6)
