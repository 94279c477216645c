"""The released code's reductions: equal to a literal loop over its ranks, micro-batches, rows and tokens."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.objective_expected import dense_gradient, dense_tokens
from tests.fakes.objective_oracle import (
    ALL_FIVE,
    PLAIN,
    SEQUENCE,
    TOKEN,
    changed,
    contrast_of,
    literal_quantile,
    random_problem,
)
from tests.fakes.objective_steps import SimulatedRanks, rank_step, relative_difference, single
from unisd_rl.config.objective import TokenAgreement

LENGTHS = (3, 1, 0, 5, 5, 2, 4)
COMBINED = changed(ALL_FIVE, alpha=0.0, clip_quantile=None, clip_threshold=0.4, released_micro_batch=3)
ROWS = {
    "combined": COMBINED,
    "range": changed(COMBINED, agreement=changed(TOKEN, statistic="range", gamma=3.0)),
    "absolute scale": changed(COMBINED, agreement=changed(TOKEN, scale=0.4)),
    "capped weights": changed(COMBINED, agreement=changed(TOKEN, cap=0.5)),
    "floored weights": changed(COMBINED, agreement=changed(TOKEN, gamma=50.0, floor=0.2)),
    "sequence agreement": changed(COMBINED, agreement=SEQUENCE),
    "sequence weights that underflow": changed(
        COMBINED, agreement=changed(SEQUENCE, gamma=1e4), contrastive=None, matching_weight=None
    ),
    "plain": changed(PLAIN, alpha=0.0, released_micro_batch=2),
    "contrast of JSDs": changed(COMBINED, contrastive=contrast_of(0.5, weight=0.3, margin=0.1)),
    "likelihood": changed(COMBINED, likelihood_weight=0.5),
    "representation alone": changed(PLAIN, alpha=None, matching_weight=1.0, released_micro_batch=3),
    "one micro-batch": changed(COMBINED, released_micro_batch=16),
}
each_row = pytest.mark.parametrize("objective", ROWS.values(), ids=ROWS.keys())


def micro_batches_of(ranks, size):
    """`ranks` holds, rank by rank, the sequences in the order of their prompts."""
    return [rank[start : start + size] for rank in ranks for start in range(0, len(rank), size)]


def tokens_of(problem, sequence):
    return [t for t, owner in enumerate(problem.sequence_N.tolist()) if owner == sequence]


def released_variance(values, statistic, unbiased):
    if statistic == "range":
        return max(values) - min(values)
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values) / (len(values) - 1 if unbiased else len(values))


def released_weights(problem, objective, rows):
    """`{token: weight}` of one micro-batch, whose rows are sequences."""
    agreement, columns = objective.agreement, problem.auxiliary_KN.t().tolist()
    tokens = [t for row in rows for t in tokens_of(problem, row)]
    if agreement is None or objective.divergence is None:
        return dict.fromkeys(tokens, 1.0)
    if isinstance(agreement, TokenAgreement):
        found = {t: released_variance(columns[t], agreement.statistic, unbiased=True) for t in tokens}
        scale = agreement.scale
        if scale is None and tokens:
            scale = max(1e-6, literal_quantile(list(found.values()), agreement.scale_quantile))
        return {
            t: max(agreement.floor, 1 / (1 + agreement.gamma * min(delta / scale, agreement.cap)))
            for t, delta in found.items()
        }
    weights = {}
    for row in rows:
        members = tokens_of(problem, row)
        means = [sum(columns[t][k] for t in members) / max(1, len(members)) for k in range(len(columns[0]))]
        weight = max(1e-6, math.exp(-agreement.gamma * released_variance(means, agreement.statistic, unbiased=False)))
        weights |= dict.fromkeys(members, weight)
    return weights


def released_loss(problem, objective, ranks, student_NH, weight_VH):
    """float64 loops; the tokens' own numbers come from the dense formulas, so that autograd can follow."""
    found = dense_tokens(problem, objective, student_NH, weight_VH)
    batches = micro_batches_of(ranks, objective.reference_reductions.micro_batch_size)
    loss = (student_NH.sum() + weight_VH.sum()) * 0.0
    for rows in batches:
        weights = released_weights(problem, objective, rows)
        for row in rows:
            tokens = tokens_of(problem, row)
            main = sum(weights[t] * found.divergence_N[t] for t in tokens) / max(1.0, sum(weights[t] for t in tokens))
            share = 1.0 / (len(rows) * len(batches))
            if objective.divergence is not None:
                loss = loss + share * main
            for weight, values_N in (
                (objective.contrastive and objective.contrastive.weight, found.hinge_N),
                (objective.matching and objective.matching.weight, found.feature_N),
                (objective.likelihood and objective.likelihood.weight, found.likelihood_N),
            ):
                loss = loss + share * (weight or 0.0) * sum(values_N[t] for t in tokens) / max(1, len(tokens))
    return loss


def released_on_ranks(problem, objective, ranks):
    """Ours with the sequences of `ranks`, each rank's in the order given; gradients put back and summed."""
    meeting, jobs = SimulatedRanks(len(ranks)), []
    for index, rank in enumerate(ranks):
        local = torch.full((problem.sequences,), -1)
        local[rank] = torch.arange(len(rank))
        chosen_N = (local[problem.sequence_N] >= 0).nonzero()[:, 0]
        part = problem.tokens(chosen_N)
        part = replace(
            part,
            sequence_N=local[part.sequence_N],
            sequences=len(rank),
            has_negative_S=problem.has_negative_S[torch.tensor(rank, dtype=torch.long)],
        )
        jobs.append((chosen_N, part, meeting.gather(index)))
    with ThreadPoolExecutor(len(ranks)) as pool:
        futures = [pool.submit(rank_step, part, objective, gather, (0, 2)) for _, part, gather in jobs]
        steps = [future.result(timeout=30) for future in futures]
    hidden_NH = torch.zeros_like(problem.student_NH, dtype=torch.float32)
    for (chosen_N, _, _), step in zip(jobs, steps, strict=True):
        hidden_NH[chosen_N] = step.hidden_NH
    return hidden_NH, sum(step.weight_VH for step in steps), steps


@each_row
@pytest.mark.parametrize("ranks", [[[0, 1, 2, 3, 4, 5, 6]], [[0, 1, 2], [3, 4, 5, 6]], [[6, 1, 2, 4], [5, 0, 3], []]])
def test_loss_and_gradient_equal_the_literal_loop_on_any_ranks(objective, ranks):
    problem = random_problem(21, LENGTHS)
    expected = float(released_loss(problem, objective, ranks, problem.student_NH, problem.weight_VH))
    hidden_NH, weight_VH, steps = released_on_ranks(problem, objective, ranks)
    assert [step.loss.loss for step in steps] == pytest.approx([expected] * len(ranks), rel=1e-5)
    dense = dense_gradient(problem, lambda *student: released_loss(problem, objective, ranks, *student))
    assert relative_difference(hidden_NH.double(), dense[0]) < 1e-5
    assert relative_difference(weight_VH.double(), dense[1]) < 1e-5


@pytest.mark.parametrize("name", ["combined", "sequence agreement"])
def test_diagnostics_are_of_the_weights_of_all_ranks(name):
    """Under token agreement of tokens, under sequence agreement of sequences that have some."""
    problem, objective, ranks = random_problem(27, LENGTHS), ROWS[name], [[6, 1, 2, 4], [5, 0, 3], []]
    weights = {}
    for rows in micro_batches_of(ranks, objective.reference_reductions.micro_batch_size):
        weights |= released_weights(problem, objective, rows)
    if name == "sequence agreement":
        weights = {row: weights[tokens_of(problem, row)[0]] for row in range(7) if tokens_of(problem, row)}
    expected = [literal_quantile(list(weights.values()), fraction) for fraction in (0.05, 0.5)]
    for step in released_on_ranks(problem, objective, ranks)[2]:
        found = step.weights
        assert [found.weight_p05, found.weight_median] == pytest.approx(expected, rel=1e-6)
        assert (step.counts.tokens, step.counts.sequences) == (20, 6)


@given(seed=st.integers(0, 10**6), order=st.permutations(range(7)), size=st.integers(1, 8))
@settings(max_examples=15, deadline=None)
@pytest.mark.parametrize("name", ["combined", "sequence agreement", "likelihood"])
def test_the_order_of_the_prompts_says_which_sequences_form_a_micro_batch(name, seed, order, size):
    """`order_S[s]` is the place of sequence s; the literal loop takes the sequences by their places."""
    problem, objective = random_problem(seed, LENGTHS), changed(ROWS[name], released_micro_batch=size)
    by_place = sorted(range(7), key=lambda sequence: order[sequence])
    step = single(problem, objective, order_S=torch.tensor(order))
    dense = dense_gradient(problem, lambda *student: released_loss(problem, objective, [by_place], *student))
    torch.testing.assert_close(step.hidden_NH.double(), dense[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(step.weight_VH.double(), dense[1], rtol=1e-4, atol=2e-6)


def test_rows_without_tokens_count_in_their_mean_where_ours_leave_them_out():
    """Three rows with tokens among six: half the loss of the same three alone."""
    alone, among = random_problem(22, (2, 3, 1)), random_problem(22, (2, 0, 3, 0, 1, 0))
    objective = changed(COMBINED, contrastive=None, agreement=None, released_micro_batch=6)
    assert single(among, objective).loss.loss == pytest.approx(single(alone, objective).loss.loss / 2)
    ours = changed(objective, released_micro_batch=None)
    assert single(among, ours).loss.loss == pytest.approx(single(alone, ours).loss.loss)


def test_the_size_of_the_micro_batch_changes_their_gradient():
    problem = random_problem(23, LENGTHS)
    steps = [single(problem, changed(COMBINED, released_micro_batch=size)) for size in (2, 4)]
    assert relative_difference(steps[0].hidden_NH, steps[1].hidden_NH) > 1e-2


def test_their_sequence_weights_cancel_within_their_sequence():
    """But for the clamp: where w times the tokens is below 1, the weight stays."""
    problem = random_problem(24, (9, 9, 9))
    weak, strong = (
        single(problem, changed(COMBINED, agreement=changed(SEQUENCE, gamma=gamma))) for gamma in (0.0, 3.0)
    )
    assert strong.weights.weight_p05 < 0.9
    torch.testing.assert_close(strong.hidden_NH, weak.hidden_NH, rtol=1e-5, atol=1e-8)
    clamped = single(problem, changed(COMBINED, agreement=changed(SEQUENCE, gamma=1e3)))
    assert relative_difference(clamped.hidden_NH, weak.hidden_NH) > 0.1


@pytest.mark.parametrize("agreement", [TOKEN, SEQUENCE, changed(TOKEN, statistic="range")])
def test_views_that_all_agree_give_finite_weights_of_one(agreement):
    problem = random_problem(25, LENGTHS)
    problem = replace(problem, auxiliary_KN=problem.auxiliary_KN[:1].float().double().expand(3, -1))
    step = single(problem, changed(COMBINED, agreement=agreement))
    assert step.weights.weight_p05 == 1.0
    assert torch.isfinite(step.hidden_NH).all()
    assert math.isnan(step.weights.disagreement_scale)


def test_two_views_are_the_fewest():
    problem = random_problem(26, LENGTHS, views=1)
    with pytest.raises(ValueError, match="1 is too few, at least 2"):
        single(problem, COMBINED)
