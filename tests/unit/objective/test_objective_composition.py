"""The whole objective: its loss and gradient against the oracles, on any layout, each mechanism acting."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from objective_oracle import (
    ALL_FIVE,
    PLAIN,
    SEQUENCE,
    TOKEN,
    SimulatedRanks,
    dense_gradient,
    literal_kappa,
    literal_loss,
    literal_step,
    random_problem,
    signals_of,
)

from unisd_rl.objective.chunked import realised_logprobs, token_divergence
from unisd_rl.objective.diagnostics import objective_report
from unisd_rl.objective.head import Head
from unisd_rl.objective.settings import LogprobContrast
from unisd_rl.objective.unisd import micro_batch_loss, step_terms

ROWS = {
    "all five": ALL_FIVE,
    "sequence agreement": replace(ALL_FIVE, agreement=SEQUENCE),
    "forward KL, constant clip": replace(ALL_FIVE, alpha=0.0, clip_quantile=None, clip_threshold=0.2),
    "reverse KL": replace(ALL_FIVE, alpha=1.0, agreement=replace(TOKEN, statistic="range")),
    "plain divergence": PLAIN,
    "contrastive alone": replace(PLAIN, alpha=None, contrastive=LogprobContrast(1.0, 0.5)),
    "representation alone": replace(PLAIN, alpha=None, matching_weight=0.5),
}


def rank_step(problem, objective, gather, cuts=(0,)):
    """One rank's step as the learner does it: score the views, form the terms, then a gradient per micro-batch."""
    student_NH, weight_VH = problem.student_NH.float().requires_grad_(), problem.weight_VH.float().requires_grad_()
    teacher_NH, teacher = problem.teacher_NH.float(), Head(problem.teacher_weight_VH.float())
    temperature, chunk = objective.temperature, objective.chunk_tokens
    primary_N = realised_logprobs(teacher_NH, teacher, problem.targets_N, temperature, chunk)
    divergence_N = None
    if objective.needs_divergence_pass:
        divergence_N = token_divergence(
            student_NH, Head(weight_VH), teacher_NH, teacher, objective.alpha, temperature, chunk
        )
    terms = step_terms(signals_of(problem, objective, primary_N, divergence_N), objective, gather)
    reports = []
    for start, stop in zip(cuts, (*cuts[1:], len(primary_N)), strict=True):
        part = slice(start, stop)
        loss, report = micro_batch_loss(
            student_NH[part],
            Head(weight_VH),
            teacher_NH[part],
            teacher,
            problem.targets_N[part],
            terms.slice(start, stop),
            objective,
        )
        loss.backward()
        reports.append(report)
    report = objective_report(reports, gather, student_NH.device)
    return student_NH.grad, weight_VH.grad, report, terms.diagnostics


def single(problem, objective, cuts=(0,)):
    return rank_step(problem, objective, lambda values: values, cuts)


def over_ranks(problem, objective, owner_N, ranks, cuts=(0,)):
    """The same step with each sequence on the rank that `owner_N` names; gradients put back into place and summed."""
    meeting = SimulatedRanks(ranks)
    chosen = [(owner_N == rank).nonzero()[:, 0] for rank in range(ranks)]
    with ThreadPoolExecutor(ranks) as pool:
        futures = [
            pool.submit(rank_step, problem.tokens(chosen[rank]), objective, meeting.gather(rank), cuts)
            for rank in range(ranks)
        ]
        results = [future.result(timeout=30) for future in futures]
    hidden_NH = torch.zeros_like(problem.student_NH, dtype=torch.float32)
    for index, result in zip(chosen, results, strict=True):
        hidden_NH[index] = result[0]
    return hidden_NH, sum(result[1] for result in results), results


def relative(left, right):
    return float((left - right).norm() / right.norm())


@pytest.mark.parametrize("objective", ROWS.values(), ids=ROWS.keys())
def test_loss_equals_the_literal_formula(objective):
    problem = random_problem(3)
    _, _, report, _ = single(problem, objective)
    assert report.loss == pytest.approx(literal_loss(problem, objective), rel=1e-5)


@pytest.mark.parametrize("objective", ROWS.values(), ids=ROWS.keys())
def test_gradient_equals_dense_autograd(objective):
    problem = random_problem(4)
    hidden_NH, weight_VH, _, _ = single(problem, objective)
    dense_hidden_NH, dense_weight_VH = dense_gradient(problem, objective)
    torch.testing.assert_close(hidden_NH.double(), dense_hidden_NH, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(weight_VH.double(), dense_weight_VH, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("objective", ROWS.values(), ids=ROWS.keys())
def test_gradient_equals_finite_differences_of_the_literal_formula(objective):
    """kappa is a detached number: it is frozen for the differences."""
    problem = random_problem(5, lengths=(2, 3, 0, 2))
    hidden_NH, weight_VH, _, _ = single(problem, objective)
    kappa = literal_kappa(literal_step(problem, objective)[0], objective)
    frozen = replace(objective, clip_quantile=None, clip_threshold=kappa if math.isfinite(kappa) else None)
    for name, gradient in (("student_NH", hidden_NH), ("weight_VH", weight_VH)):
        for row in range(0, len(gradient), 2):
            step = torch.zeros_like(gradient, dtype=torch.float64)
            step[row, row % 4] = 1e-5
            above, below = (
                literal_loss(replace(problem, **{name: vars(problem)[name] + sign * step}), frozen) for sign in (1, -1)
            )
            assert float(gradient[row, row % 4]) == pytest.approx((above - below) / 2e-5, rel=1e-3, abs=2e-6)


@given(
    seed=st.integers(0, 10**6),
    owners=st.lists(st.integers(0, 2), min_size=5, max_size=5),
    cuts=st.sets(st.integers(1, 2), max_size=2),
)
@settings(max_examples=15, deadline=None)
@pytest.mark.parametrize("name", ["all five", "sequence agreement", "contrastive alone"])
def test_released_code_4_ranks_and_micro_batches_give_the_same_gradient_and_report(name, seed, owners, cuts):
    """Three ranks, some of them possibly without sequences; ragged micro-batches, some of them possibly empty."""
    problem, objective = random_problem(seed), ROWS[name]
    whole_hidden, whole_weight, whole_report, whole_diagnostics = single(problem, objective)
    owner_N = torch.tensor(owners)[problem.sequence_N]
    hidden_NH, weight_VH, results = over_ranks(problem, objective, owner_N, 3, (0, *sorted(cuts)))
    torch.testing.assert_close(hidden_NH, whole_hidden, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(weight_VH, whole_weight, rtol=1e-4, atol=2e-6)
    for _, _, report, diagnostics in results:
        for ours, expected in ((report, whole_report), (diagnostics, whole_diagnostics)):
            assert vars(ours) == pytest.approx(vars(expected), rel=1e-4, abs=1e-6, nan_ok=True)


def test_a_rank_without_tokens_takes_part_with_zero_gradients():
    problem = random_problem(6)
    hidden_NH, weight_VH, results = over_ranks(problem, ALL_FIVE, torch.zeros(14, dtype=torch.long), 2)
    whole_hidden, whole_weight, _, _ = single(problem, ALL_FIVE)
    assert torch.equal(results[1][1], torch.zeros_like(whole_weight))
    torch.testing.assert_close(hidden_NH, whole_hidden)
    torch.testing.assert_close(weight_VH, whole_weight)


@pytest.mark.parametrize("name", ["all five", "sequence agreement", "reverse KL"])
def test_a_student_equal_to_its_teacher_has_no_loss_and_no_gradient(name):
    """Without the contrastive term, which pushes away from the negative view also there."""
    problem = random_problem(8)
    problem = replace(problem, student_NH=problem.teacher_NH, weight_VH=problem.teacher_weight_VH)
    hidden_NH, weight_VH, report, _ = single(problem, replace(ROWS[name], contrastive=None))
    assert report.loss == 0.0
    assert float(hidden_NH.abs().max()) == 0.0
    assert float(weight_VH.abs().max()) == 0.0


LEFT_OUT = {
    "divergence": replace(ALL_FIVE, alpha=None),
    "clipping": replace(ALL_FIVE, clip_quantile=None),
    "agreement": replace(ALL_FIVE, agreement=None),
    "contrastive": replace(ALL_FIVE, contrastive=None),
    "matching": replace(ALL_FIVE, matching_weight=None),
    "temperature": replace(ALL_FIVE, temperature=1.0),
}


@pytest.mark.parametrize("objective", LEFT_OUT.values(), ids=LEFT_OUT.keys())
def test_released_code_5_and_7_each_setting_changes_the_gradient(objective):
    problem = random_problem(9)
    assert relative(single(problem, objective)[0], single(problem, ALL_FIVE)[0]) > 1e-3


@pytest.mark.parametrize("agreement", [TOKEN, SEQUENCE])
def test_released_code_2_gamma_changes_the_gradient(agreement):
    """Under sequence weights too: they do not cancel in the mean they weigh."""
    problem = random_problem(10)
    weak, strong = (single(problem, replace(PLAIN, agreement=replace(agreement, gamma=gamma))) for gamma in (0.01, 2.0))
    assert relative(weak[0], strong[0]) > 1e-2


def test_released_code_6_the_report_counts_clipped_and_contrasted_tokens():
    problem = random_problem(11)
    _, _, report, diagnostics = single(problem, ALL_FIVE, cuts=(0, 5, 9))
    divergences, student, primary = literal_step(problem, ALL_FIVE)
    kappa = literal_kappa(divergences, ALL_FIVE)
    assert diagnostics.kappa == pytest.approx(kappa, rel=1e-5)
    assert report.clipped_share == pytest.approx(sum(d > kappa for d in divergences) / 14)
    assert report.divergence == pytest.approx(sum(divergences) / 14, rel=1e-5)
    known = [t for t in range(14) if not math.isnan(float(problem.negative_N[t]))]
    active = 0
    for t in known:
        s, p, n = student[t], primary[t], float(problem.negative_N[t])
        between = min(p, n) < s < max(p, n)
        active += between and ALL_FIVE.contrastive.margin + abs(s - p) - abs(s - n) > 0
    assert report.contrast_active_share == pytest.approx(active / len(known))
    assert report.tokens == 14
    assert report.loss == pytest.approx(report.main + report.contrastive + report.feature)


def test_divergence_quantiles_come_from_the_gradient_pass():
    problem = random_problem(12)
    _, _, report, _ = single(problem, PLAIN, cuts=(0, 6))
    divergences = torch.tensor(literal_step(problem, PLAIN)[0], dtype=torch.float64)
    assert report.divergence_p50 == pytest.approx(float(torch.quantile(divergences, 0.5)), rel=1e-5)
    assert report.divergence_p95 == pytest.approx(float(torch.quantile(divergences, 0.95)), rel=1e-5)


def test_matching_without_the_teachers_states_is_refused():
    objective = ROWS["representation alone"]
    problem = random_problem()
    terms = step_terms(signals_of(problem, objective, torch.zeros(14), None), objective, lambda values: values)
    with pytest.raises(ValueError, match="feature matching"):
        micro_batch_loss(
            problem.student_NH.float(),
            Head(problem.weight_VH.float()),
            None,
            None,
            problem.targets_N,
            terms.slice(0, 14),
            objective,
        )
