"""The small modules one by one: contrast, matching, the moving teacher, quantiles."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.objective_oracle import literal_quantile
from unisd_rl.objective.contrastive import hinge, hinge_slope
from unisd_rl.objective.ema import ema_update_
from unisd_rl.objective.matching import feature_error
from unisd_rl.objective.reduction import quantile


@pytest.mark.parametrize(
    "s, p, n, margin, slope",
    [
        (-2.0, -1.0, -3.0, 0.5, -2.0),  # between, the right one above: pushed up
        (-2.0, -3.0, -1.0, 0.5, 2.0),  # between, the right one below: pushed down
        (-0.5, -1.0, -3.0, 3.5, 0.0),  # above both: the two distances change alike
        (-4.0, -1.0, -3.0, 0.5, 0.0),  # below both
        (-1.0, -1.0, -3.0, 3.0, -1.0),  # at p only the distance from n counts
        (-3.0, -1.0, -3.0, 0.5, -1.0),  # at n only the distance from p counts
        (-1.1, -1.0, -3.0, 0.5, 0.0),  # near enough to p: the hinge is closed
        (-1.5, -1.0, -3.0, 1.0, 0.0),  # exactly at the hinge's corner
        (-2.0, -2.0, -2.0, 0.5, 0.0),
    ],
)
def test_the_contrast_pushes_only_between_the_two_views_and_inside_the_hinge(s, p, n, margin, slope):
    values = [torch.tensor([value]) for value in (s, p, n)]
    assert hinge_slope(*values, margin).item() == slope
    assert hinge(*values, margin).item() == pytest.approx(max(0.0, margin + abs(s - p) - abs(s - n)))


@given(seed=st.integers(0, 10**6), margin=st.floats(0.0, 3.0))
@settings(max_examples=30, deadline=None)
def test_the_contrasts_slope_is_the_derivative_of_the_hinge(seed, margin):
    s_N, p_N, n_N = -4.0 * torch.rand(3, 20, generator=torch.Generator().manual_seed(seed))
    s_N.requires_grad_()
    expected = torch.autograd.grad(hinge(s_N, p_N, n_N, margin).sum(), s_N)[0]
    assert torch.equal(hinge_slope(s_N.detach(), p_N, n_N, margin), expected)


def test_the_feature_error_is_the_channel_mean_of_squares_with_gradient_to_the_student_only():
    student_NH = torch.tensor([[1.0, 2.0], [0.0, -1.0]], requires_grad=True)
    teacher_NH = torch.tensor([[0.0, 4.0], [0.0, -1.0]], requires_grad=True)
    error_N = feature_error(student_NH, teacher_NH)
    assert error_N.tolist() == [2.5, 0.0]
    error_N.sum().backward()
    assert student_NH.grad.tolist() == [[1.0, -2.0], [0.0, 0.0]]
    assert teacher_NH.grad is None


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 0.98, 0.999, 1.0])
def test_the_teacher_moves_by_exactly_one_minus_beta_of_the_gap(beta):
    generator = torch.Generator().manual_seed(0)
    teacher, student = torch.randn(2, 50, 4, generator=generator)
    before, storage = teacher.clone(), teacher.data_ptr()
    ema_update_(teacher, student, beta)
    expected = before.double() + (1.0 - beta) * (student.double() - before.double())
    torch.testing.assert_close(teacher.double(), expected, rtol=1e-6, atol=1e-7)
    assert teacher.data_ptr() == storage
    if beta == 1.0:
        assert torch.equal(teacher, before)
    if beta == 0.0:
        assert torch.equal(teacher, student)


def test_the_moving_average_leaves_no_graph_and_refuses_what_would_round_it_away():
    teacher, student = torch.zeros(3), torch.ones(3, requires_grad=True)
    ema_update_(teacher, student, 0.9)
    assert not teacher.requires_grad
    with pytest.raises(TypeError, match="float32"):
        ema_update_(teacher.bfloat16(), student.detach().bfloat16(), 0.9)
    with pytest.raises(ValueError, match="shape"):
        ema_update_(teacher, torch.ones(1), 0.9)


@given(values=st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=60), fraction=st.floats(0.0, 1.0))
@settings(max_examples=60, deadline=None)
def test_the_quantile_interpolates_linearly_between_order_statistics(values, fraction):
    found = quantile(torch.tensor(values), fraction)
    assert found == pytest.approx(literal_quantile(values, fraction), rel=1e-6, abs=1e-6)
    assert min(values) <= found <= max(values)


def test_the_quantile_works_beyond_the_limit_of_torch_quantile():
    """2^24 + 3 bytes-wide values, so that the test stays small: 0 .. 1 in equal parts."""
    values = torch.zeros(2**24 + 3, dtype=torch.float16)
    values[2**23 :] = 1.0
    assert quantile(values, 0.25) == 0.0
    assert quantile(values, 0.75) == 1.0


def test_the_quantile_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no values"):
        quantile(torch.zeros(0), 0.5)
