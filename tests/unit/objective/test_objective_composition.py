"""The whole objective: its loss and gradient against the oracles, on any layout, each mechanism acting."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.objective_expected import (
    dense_gradient,
    dense_loss,
    literal_loss,
    literal_parts,
    literal_threshold,
    literal_tokens,
)
from tests.fakes.objective_oracle import ALL_FIVE, PLAIN, SEQUENCE, TOKEN, Problem, changed, contrast_of, random_problem
from tests.fakes.objective_steps import inputs_of, over_ranks, single
from unisd_rl.config.objective import LogprobContrast, TotalVariation
from unisd_rl.objective.kernels.chunk_logits import HiddenStates
from unisd_rl.objective.kernels.head import Head
from unisd_rl.objective.unisd import micro_batch_loss, step_terms

ROWS = {
    "all five": ALL_FIVE,
    "all five and the likelihood": changed(ALL_FIVE, likelihood_weight=0.3),
    "sequence agreement": changed(ALL_FIVE, agreement=SEQUENCE),
    "forward KL, constant clip": changed(ALL_FIVE, alpha=0.0, clip_quantile=None, clip_threshold=0.2),
    "reverse KL": changed(ALL_FIVE, alpha=1.0, agreement=changed(TOKEN, statistic="range")),
    "plain divergence": PLAIN,
    "total variation, clipped": changed(ALL_FIVE, divergence=TotalVariation(), clip_quantile=0.7),
    "total variation beside a contrast of JSDs": changed(
        ALL_FIVE, divergence=TotalVariation(), contrastive=contrast_of(0.5)
    ),
    "contrastive alone": changed(PLAIN, alpha=None, contrastive=LogprobContrast(weight=1.0, margin=0.5)),
    "contrast of JSDs": changed(ALL_FIVE, contrastive=contrast_of(0.5, weight=0.3, margin=0.1)),
    "contrast of forward KLs beside a JSD": changed(ALL_FIVE, contrastive=contrast_of(0.0, weight=0.3, margin=0.2)),
    "contrast of reverse KLs alone": changed(PLAIN, alpha=None, contrastive=contrast_of(1.0, weight=1.0, margin=0.2)),
    "representation alone": changed(PLAIN, alpha=None, matching_weight=0.5),
    "likelihood alone": changed(PLAIN, alpha=None, likelihood_weight=1.0),
    "likelihood and contrast": changed(
        PLAIN, alpha=None, likelihood_weight=1.0, contrastive=LogprobContrast(weight=1.0, margin=0.5)
    ),
}
each_row = pytest.mark.parametrize("objective", ROWS.values(), ids=ROWS.keys())


def twin(problem: Problem) -> Problem:
    """The same step with a student that is its teacher."""
    return replace(problem, student_NH=problem.teacher_NH, weight_VH=problem.teacher_weight_VH)


@each_row
def test_loss_and_its_parts_equal_the_literal_formula(objective):
    problem = random_problem(3)
    found = single(problem, objective, cuts=(0, 4)).numbers
    assert found["loss"] == pytest.approx(literal_loss(problem, objective), rel=1e-5)
    expected = literal_parts(problem, objective)
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-5, abs=1e-7)


@each_row
def test_gradient_equals_dense_autograd(objective):
    problem = random_problem(4)
    step = single(problem, objective)
    hidden_NH, weight_VH = dense_gradient(problem, lambda *student: dense_loss(problem, objective, *student))
    torch.testing.assert_close(step.hidden_NH.double(), hidden_NH, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(step.weight_VH.double(), weight_VH, rtol=1e-4, atol=1e-6)


@each_row
def test_gradient_equals_finite_differences_of_the_literal_formula(objective):
    """threshold is a detached number: it is frozen for the differences."""
    problem = random_problem(5, lengths=(2, 3, 0, 2))
    step = single(problem, objective)
    threshold = literal_threshold(literal_tokens(problem, objective).divergence, objective)
    frozen = changed(objective, clip_quantile=None, clip_threshold=threshold if math.isfinite(threshold) else None)
    for name, gradient in (("student_NH", step.hidden_NH), ("weight_VH", step.weight_VH)):
        for row in range(0, len(gradient), 2):
            nudge = torch.zeros_like(gradient, dtype=torch.float64)
            nudge[row, row % 4] = 1e-5
            above, below = (
                literal_loss(replace(problem, **{name: vars(problem)[name] + sign * nudge}), frozen) for sign in (1, -1)
            )
            assert float(gradient[row, row % 4]) == pytest.approx((above - below) / 2e-5, rel=1e-3, abs=2e-6)


@given(
    seed=st.integers(0, 10**6),
    owners=st.lists(st.integers(0, 2), min_size=5, max_size=5),
    cuts=st.sets(st.integers(1, 2), max_size=2),
)
@settings(max_examples=12, deadline=None)
@pytest.mark.parametrize("name", ["all five and the likelihood", "sequence agreement", "contrast of JSDs"])
def test_ranks_and_micro_batches_give_the_same_gradient_and_report(name, seed, owners, cuts):
    """Three ranks, some of them possibly without sequences; ragged micro-batches, some of them possibly empty."""
    problem, objective = random_problem(seed), ROWS[name]
    whole = single(problem, objective)
    owner_N = torch.tensor(owners)[problem.sequence_N]
    hidden_NH, weight_VH, steps = over_ranks(problem, objective, owner_N, 3, (0, *sorted(cuts)))
    torch.testing.assert_close(hidden_NH, whole.hidden_NH, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(weight_VH, whole.weight_VH, rtol=1e-4, atol=2e-6)
    for step in steps:
        assert step.numbers == pytest.approx(whole.numbers, rel=1e-4, abs=1e-6, nan_ok=True)


@given(seed=st.integers(0, 10**6), order=st.permutations(range(9)), chunk=st.integers(1, 20))
@settings(max_examples=12, deadline=None)
@pytest.mark.parametrize("name", ["all five and the likelihood", "sequence agreement", "contrast of JSDs"])
def test_fully_masked_rows_the_order_of_sequences_and_the_chunk_size_change_nothing(name, seed, order, chunk):
    """Five sequences, of which one has no tokens, become nine with four more such rows in any order."""
    problem, objective = random_problem(seed), ROWS[name]
    whole = single(problem, objective)
    place_S = torch.tensor(order)
    moved_N = place_S[problem.sequence_N].argsort(stable=True)
    moved = replace(
        problem.tokens(moved_N),
        sequence_N=place_S[problem.sequence_N][moved_N],
        sequences=9,
        has_negative_S=torch.cat([problem.has_negative_S, torch.tensor([True, False] * 2)])[place_S.argsort()],
    )
    step = single(moved, changed(objective, chunk_tokens=chunk))
    torch.testing.assert_close(step.hidden_NH, whole.hidden_NH[moved_N], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(step.weight_VH, whole.weight_VH, rtol=1e-4, atol=2e-6)
    assert step.numbers == pytest.approx(whole.numbers, rel=1e-4, abs=1e-6, nan_ok=True)


@given(seed=st.integers(0, 10**6), order=st.permutations(range(4)))
@settings(max_examples=12, deadline=None)
@pytest.mark.parametrize("agreement", [TOKEN, SEQUENCE, changed(TOKEN, statistic="range")])
def test_the_order_of_the_auxiliary_views_changes_nothing(agreement, seed, order):
    problem, objective = random_problem(seed, views=4), changed(ALL_FIVE, agreement=agreement)
    turned = replace(problem, auxiliary_KN=problem.auxiliary_KN[list(order)])
    torch.testing.assert_close(
        single(turned, objective).hidden_NH, single(problem, objective).hidden_NH, rtol=1e-6, atol=1e-8
    )


def test_a_rank_without_tokens_takes_part_with_zero_gradients():
    problem = random_problem(6)
    hidden_NH, weight_VH, steps = over_ranks(problem, ALL_FIVE, torch.zeros(14, dtype=torch.long), 2)
    whole = single(problem, ALL_FIVE)
    assert torch.equal(steps[1].weight_VH, torch.zeros_like(whole.weight_VH))
    torch.testing.assert_close(hidden_NH, whole.hidden_NH)
    torch.testing.assert_close(weight_VH, whole.weight_VH)


@each_row
def test_a_step_without_any_token_has_a_zero_loss_with_a_gradient_path(objective):
    nothing = random_problem(lengths=(2, 0)).tokens(torch.zeros(0, dtype=torch.long))
    step = single(nothing, objective)
    assert step.loss.loss == 0.0
    assert float(step.weight_VH.abs().max()) == 0.0


@given(seed=st.integers(0, 10**6))
@settings(max_examples=12, deadline=None)
@pytest.mark.parametrize("name", ["all five", "sequence agreement", "reverse KL", "total variation, clipped"])
def test_a_student_equal_to_its_teacher_has_no_loss_and_no_gradient(name, seed):
    """Without the contrastive term, which pushes away from the negative view also there."""
    step = single(twin(random_problem(seed)), changed(ROWS[name], contrastive=None))
    assert step.loss.loss == 0.0
    assert float(step.hidden_NH.abs().max()) == 0.0
    assert float(step.weight_VH.abs().max()) == 0.0


@given(seed=st.integers(0, 10**6), alpha=st.floats(0.01, 0.99), scale=st.floats(0.0, 1e3))
@settings(max_examples=25, deadline=None)
def test_every_divergence_between_the_two_kls_is_bounded_by_the_entropy_of_alpha(seed, alpha, scale):
    problem = random_problem(seed)
    problem = replace(problem, student_NH=problem.student_NH * scale)
    report = single(problem, changed(PLAIN, alpha=alpha)).loss
    bound = -alpha * math.log(alpha) - (1 - alpha) * math.log(1 - alpha)
    assert 0.0 <= report.divergence_p50 <= report.divergence_p95 <= bound + 1e-5


@given(seed=st.integers(0, 10**6), largest=st.floats(0.0, 1e4), agreeing=st.booleans())
@settings(max_examples=8, deadline=None)
@each_row
def test_any_logits_up_to_ten_thousand_and_views_that_all_agree_give_finite_numbers(objective, seed, largest, agreeing):
    """Also views that find the token impossible: log-probs of -1e4, probabilities far below what a float can hold."""
    problem = random_problem(seed)
    logits_NV = problem.teacher_NH @ problem.teacher_weight_VH.t() / objective.temperature
    scale = largest / float(logits_NV.abs().max())
    auxiliary_KN = problem.auxiliary_KN * largest
    problem = replace(
        problem,
        student_NH=problem.student_NH.flip(0) * scale,
        teacher_NH=problem.teacher_NH * scale,
        negative_NH=problem.negative_NH * scale,
        negative_N=problem.negative_N * largest,
        auxiliary_KN=auxiliary_KN[:1].expand(3, -1) if agreeing else auxiliary_KN,
    )
    step = single(problem, objective)
    assert torch.isfinite(step.hidden_NH).all()
    assert torch.isfinite(step.weight_VH).all()
    assert all(
        math.isfinite(step.numbers[name]) for name in ("loss", "divergence_loss", "contrastive_loss", "matching_loss")
    )
    if objective.agreement and objective.divergence and agreeing:
        assert step.weights.weight_p05 == pytest.approx(1.0)


def test_probabilities_that_underflow_still_have_the_divergence_of_the_formula():
    """One view sure of entry 0, the other of entry 1, 200 nats apart: KL is 200, the JSD its bound ln 2."""
    identity_VH = torch.eye(3, dtype=torch.float64)
    problem = replace(
        random_problem(lengths=(1,), hidden=3, vocabulary=3),
        student_NH=torch.tensor([[200.0, 0.0, -1.0]]).double(),
        teacher_NH=torch.tensor([[0.0, 200.0, -1.0]]).double(),
        weight_VH=identity_VH,
        teacher_weight_VH=identity_VH,
    )
    for alpha, expected in ((0.0, 200.0), (1.0, 200.0), (0.5, math.log(2.0))):
        step = single(problem, changed(PLAIN, alpha=alpha, temperature=1.0))
        assert step.loss.loss == pytest.approx(expected, rel=1e-6)
        assert torch.isfinite(step.hidden_NH).all()


def test_views_that_all_agree_give_the_gradient_of_no_agreement():
    problem = random_problem(13)
    problem = replace(problem, auxiliary_KN=problem.auxiliary_KN[:1].float().double().expand(3, -1))
    for agreement in (TOKEN, SEQUENCE):
        ours = single(problem, changed(ALL_FIVE, agreement=agreement))
        torch.testing.assert_close(ours.hidden_NH, single(problem, changed(ALL_FIVE, agreement=None)).hidden_NH)


@each_row
def test_the_report_holds_the_literal_statistics_of_the_step(objective):
    problem = random_problem(11)
    step = single(problem, objective, cuts=(0, 5, 9))
    found, report = literal_tokens(problem, objective), step.loss
    assert step.counts.tokens == 14
    parts = (report.divergence_loss, report.contrastive_loss, report.matching_loss, report.likelihood_loss)
    assert report.loss == pytest.approx(sum(parts))
    if objective.divergence is None:
        assert all(math.isnan(number) for number in (report.divergence, report.divergence_p50, report.divergence_p95))
        assert math.isnan(report.clipped_share)
        return
    threshold, divergences = literal_threshold(found.divergence, objective), torch.tensor(found.divergence).double()
    assert report.divergence == pytest.approx(float(divergences.mean()), rel=1e-5)
    assert report.divergence_p50 == pytest.approx(float(torch.quantile(divergences, 0.5)), rel=1e-5)
    assert report.divergence_p95 == pytest.approx(float(torch.quantile(divergences, 0.95)), rel=1e-5)
    assert report.clipped_share == pytest.approx(sum(d > threshold for d in found.divergence) / 14)
    assert step.weights.clip_threshold == pytest.approx(threshold, rel=1e-5) or math.isinf(threshold)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", ["all five", "contrastive alone", "contrast of JSDs", "contrast of reverse KLs alone"])
def test_the_contrast_is_active_exactly_where_it_has_a_gradient(name, seed):
    """The share of the tokens with a negative view whose hinge has a slope, from autograd of the dense formula."""
    problem, objective = random_problem(seed), ROWS[name]
    alone = changed(PLAIN, alpha=None, contrastive=objective.contrastive)
    hidden_NH, _ = dense_gradient(problem, lambda *student: dense_loss(problem, alone, *student))
    known_N = problem.has_negative_S[problem.sequence_N]
    expected = int((hidden_NH.norm(dim=1) > 1e-12).sum()) / int(known_N.sum())
    assert single(problem, objective).loss.contrastive_active_share == pytest.approx(expected)


def test_a_term_that_is_off_reads_no_teacher():
    """Likelihood alone: no teacher, no log-probs of any view, and the gradient is the cross-entropy's."""
    problem, objective = random_problem(14), ROWS["likelihood alone"]
    inputs = inputs_of(problem, objective, None, None)
    assert (inputs.primary_N, inputs.auxiliary_KN, inputs.negative_N) == (None, None, None)
    student_NH = problem.student_NH.float().requires_grad_()
    terms, head = step_terms(inputs, objective, lambda values: values), Head(problem.weight_VH.float())
    loss, _ = micro_batch_loss(HiddenStates(student_NH), head, None, problem.targets_N, terms, objective)
    counts = torch.bincount(problem.sequence_N, minlength=5)
    logits_NV = student_NH @ head.weight_VH.t() / objective.temperature
    entropy_N = torch.nn.functional.cross_entropy(logits_NV, problem.targets_N, reduction="none")
    expected = (entropy_N / counts[problem.sequence_N]).sum() / 4
    torch.testing.assert_close(loss, expected)
    ours, theirs = (torch.autograd.grad(one, student_NH)[0] for one in (loss, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "name, match",
    [
        ("representation alone", "feature matching"),
        ("plain divergence", "teacher"),
        ("contrast of reverse KLs alone", "teacher"),
    ],
)
def test_a_teacher_that_a_term_needs_is_asked_for(name, match):
    problem, objective = random_problem(), ROWS[name]
    terms = step_terms(inputs_of(problem, objective, None, None), objective, lambda values: values)
    head = Head(problem.weight_VH.float())
    states = HiddenStates(problem.student_NH.float())
    with pytest.raises(ValueError, match=match):
        micro_batch_loss(states, head, None, problem.targets_N, terms, objective)


def test_a_negative_view_that_the_contrast_of_divergences_needs_is_asked_for():
    problem, objective = random_problem(), changed(PLAIN, contrastive=contrast_of(0.5, weight=0.3, margin=0.1))
    terms = step_terms(inputs_of(problem, objective, None, None), objective, lambda values: values)
    head, states = Head(problem.weight_VH.float()), HiddenStates(problem.student_NH.float(), problem.teacher_NH.float())
    with pytest.raises(ValueError, match="negative view"):
        micro_batch_loss(states, head, head, problem.targets_N, terms, objective)
