"""The numbers made once per step: weights, thresholds, denominators, diagnostics; the same on any layout."""

import math
from dataclasses import replace

import pytest
import torch

from tests.fakes.objective_expected import literal_weights
from tests.fakes.objective_oracle import (
    ALL_FIVE,
    PLAIN,
    SEQUENCE,
    TOKEN,
    changed,
    literal_disagreement,
    literal_quantile,
    random_problem,
)
from tests.fakes.objective_steps import inputs_of
from unisd_rl.objective.agreement import disagreement
from unisd_rl.objective.clipping import quantile_threshold, unclipped
from unisd_rl.objective.contrastive import LogprobContrastTerm
from unisd_rl.objective.divergence import DivergenceTerm, agreement_weights
from unisd_rl.objective.likelihood import LikelihoodTerm
from unisd_rl.objective.matching import MatchingTerm
from unisd_rl.objective.step import step_of
from unisd_rl.objective.unisd import step_terms


def alone(values):
    return values


def term_of(terms, kind):
    """The only one of its class."""
    (term,) = (term for term in terms.terms if isinstance(term, kind))
    return term


def weights_of(problem, objective):
    inputs = inputs_of(problem, objective, torch.zeros(len(problem.targets_N)), None)
    return agreement_weights(step_of(inputs, objective, alone)).weight_N


def terms_of(problem, objective, divergence_N=None, primary_N=None):
    tokens = len(problem.targets_N)
    primary_N = torch.full((tokens,), -1.0) if primary_N is None else primary_N
    divergence_N = torch.linspace(0.0, 1.0, tokens) if divergence_N is None else divergence_N
    return step_terms(inputs_of(problem, objective, primary_N, divergence_N), objective, alone)


@pytest.mark.parametrize(
    "agreement",
    [
        TOKEN,
        changed(TOKEN, statistic="range", gamma=3.0),
        changed(TOKEN, scale=0.4),
        changed(TOKEN, cap=0.5),
        changed(TOKEN, gamma=30.0, floor=0.2),
        SEQUENCE,
        changed(SEQUENCE, statistic="range", gamma=0.3),
        changed(SEQUENCE, statistic="range", gamma=2.0, scale_quantile=0.7),
    ],
)
def test_weights_equal_the_literal_loops(agreement):
    problem, objective = random_problem(), changed(ALL_FIVE, agreement=agreement)
    weight_N = weights_of(problem, objective)
    torch.testing.assert_close(weight_N, torch.tensor(literal_weights(problem, objective)).double())


@pytest.mark.parametrize(
    "agreement", [TOKEN, SEQUENCE, changed(TOKEN, statistic="range"), changed(SEQUENCE, scale_quantile=0.95)]
)
@pytest.mark.parametrize("level", [-1e-3, -7.3, -1e4])
def test_views_that_agree_give_every_token_weight_one(agreement, level):
    problem = random_problem()
    problem = replace(problem, auxiliary_KN=(level * torch.rand(14).double()).float().double().expand(3, 14))
    found = terms_of(problem, changed(ALL_FIVE, agreement=agreement))
    assert torch.equal(weights_of(problem, changed(ALL_FIVE, agreement=agreement)), torch.ones(14).double())
    assert found.weights.effective_sample_size == 1.0


@pytest.mark.parametrize("statistic, expected", [("variance", 14 / 3), ("range", 5.0)])
def test_disagreement_is_the_population_variance_or_the_range(statistic, expected):
    assert disagreement(torch.tensor([[-1.0], [-2.0], [-6.0]]), statistic).item() == pytest.approx(expected)
    assert literal_disagreement([-1.0, -2.0, -6.0], statistic) == pytest.approx(expected)


@pytest.mark.parametrize("agreement", [None, TOKEN, SEQUENCE])
def test_coefficients_add_up_to_the_weight_of_their_term(agreement):
    """A constant divergence of 1 has the loss 1, however it is averaged."""
    found = terms_of(random_problem(), changed(ALL_FIVE, agreement=agreement, likelihood_weight=0.7))
    assert term_of(found, LikelihoodTerm).coefficient_N.sum().item() == pytest.approx(0.7)
    assert term_of(found, DivergenceTerm).divergence_coefficient_N.sum().item() == pytest.approx(1.0)
    assert term_of(found, MatchingTerm).coefficient_N.sum().item() == pytest.approx(ALL_FIVE.matching.weight)
    assert term_of(found, LogprobContrastTerm).coefficient_N.sum().item() == pytest.approx(ALL_FIVE.contrastive.weight)


def test_a_sequence_without_a_negative_view_trains_without_that_term():
    problem = random_problem(lengths=(2, 3, 1))
    found = terms_of(problem, changed(ALL_FIVE, agreement=None))
    weight = ALL_FIVE.contrastive.weight
    expected = torch.tensor([weight / 4, weight / 4, weight / 6, weight / 6, weight / 6, 0.0])
    torch.testing.assert_close(term_of(found, LogprobContrastTerm).coefficient_N, expected)
    assert problem.negative_N[-1].isnan()
    assert torch.isfinite(term_of(found, LogprobContrastTerm).negative_N).all()
    assert term_of(found, DivergenceTerm).divergence_coefficient_N[-1] > 0
    assert found.counts.contrasted_sequences == 2


def test_a_step_without_any_negative_view_has_no_contrastive_term():
    problem = random_problem()
    problem = replace(problem, has_negative_S=torch.zeros(5, dtype=torch.bool))
    assert float(term_of(terms_of(problem, ALL_FIVE), LogprobContrastTerm).coefficient_N.abs().sum()) == 0.0


def test_the_quantile_threshold_keeps_ties_and_cuts_what_is_above():
    problem = random_problem(lengths=(5, 6))
    divergence_N = torch.tensor([0.5, 0.1, 0.9, 0.5, 0.2, 0.5, 0.3, 0.4, 0.5, 0.8, 0.5])
    found = terms_of(problem, changed(ALL_FIVE, clip_quantile=0.8), divergence_N)
    assert term_of(found, DivergenceTerm).clip_threshold == pytest.approx(0.5)  # the ninth of eleven ordered values
    assert torch.equal(term_of(found, DivergenceTerm).unclipped_N, divergence_N <= 0.5)
    assert found.weights.clip_threshold == pytest.approx(0.5)


def test_divergences_that_only_rounding_tells_apart_keep_their_gradient_together():
    """Five answers that begin alike, read in different passes; the quantile falls among them."""
    exact_N = torch.tensor([0.5, 0.1, 0.9, 0.5, 0.2, 0.5, 0.3, 0.4, 0.5, 0.8, 0.5])
    rounded_N = exact_N * (1.0 + 3e-6 * torch.tensor([-1.0, 0, 0, 1, 0, 0, 0, 0, 1, 0, -1]))
    assert quantile_threshold(exact_N, 0.5) == 0.5
    threshold = quantile_threshold(rounded_N, 0.5)
    assert torch.equal(unclipped(rounded_N, threshold), exact_N <= 0.5)
    # What differs by more is an outlier: the quantile stays what it is.
    assert quantile_threshold(torch.tensor([0.1, 0.5, 0.5001]), 0.5) == 0.5
    assert quantile_threshold(torch.tensor([-1e-9, 0.0]), 0.0) == pytest.approx(-1e-9)


def test_a_constant_threshold_needs_no_divergences_beforehand():
    objective = changed(PLAIN, clip_threshold=0.3)
    problem = random_problem()
    found = step_terms(inputs_of(problem, objective, torch.zeros(14), None), objective, alone)
    assert term_of(found, DivergenceTerm).clip_threshold == 0.3
    assert term_of(found, DivergenceTerm).unclipped_N is None


@pytest.mark.parametrize(
    "absent, match",
    [
        ("auxiliary_KN", "auxiliary"),
        ("primary_N", "primary"),
        ("negative_N", "negative"),
        ("divergence_N", "quantile"),
    ],
)
def test_a_signal_that_the_settings_need_is_asked_for(absent, match):
    inputs = inputs_of(random_problem(), ALL_FIVE, torch.zeros(14), torch.zeros(14))
    with pytest.raises(ValueError, match=match):
        step_terms(replace(inputs, **{absent: None}), ALL_FIVE, alone)


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 3], [1, 2, 3, 4, 5], [0, 1, 2, 3]])
def test_an_order_that_is_no_order_of_the_sequences_is_refused(order):
    inputs = replace(inputs_of(random_problem(), PLAIN, None, None), order_S=torch.tensor(order))
    with pytest.raises(ValueError, match=r"0 \.\. 4 once"):
        step_terms(inputs, PLAIN, alone)


def test_sequence_weights_that_underflow_still_share_the_step():
    """exp(-gamma A) is 0 for all: the mean is taken relative to the most trusted sequence."""
    problem = random_problem()
    objective = changed(ALL_FIVE, agreement=changed(SEQUENCE, gamma=1e6))
    found = terms_of(problem, objective)
    assert torch.isfinite(term_of(found, DivergenceTerm).divergence_coefficient_N).all()
    assert term_of(found, DivergenceTerm).divergence_coefficient_N.sum().item() == pytest.approx(1.0)
    assert math.isfinite(found.weights.effective_sample_size)


def test_diagnostics_are_the_literal_statistics_of_the_weights():
    problem, objective = random_problem(7), changed(ALL_FIVE, agreement=changed(TOKEN, gamma=4.0))
    weights, terms = literal_weights(problem, objective), terms_of(problem, objective)
    found = terms.weights
    assert found.weight_mean == pytest.approx(sum(weights) / 14)
    assert found.weight_p05 == pytest.approx(literal_quantile(weights, 0.05))
    assert found.weight_median == pytest.approx(literal_quantile(weights, 0.5))
    assert found.weight_below_half == pytest.approx(sum(w < 0.5 for w in weights) / 14)
    assert found.effective_sample_size == pytest.approx(sum(weights) ** 2 / sum(w * w for w in weights) / 14)
    assert (terms.counts.tokens, terms.counts.sequences) == (14, 4)


@pytest.mark.parametrize("gamma", [0.3, 0.8, 4.0])
def test_the_5th_percentile_is_an_identity_where_the_scale_is_the_95th(gamma):
    """Whatever the views say it is 1 / (1 + gamma): what a check of it would prove is nothing."""
    for seed in range(3):
        problem = random_problem(seed, lengths=(100, 101))  # 0.05 of 200 places is the tenth token, exactly
        found = terms_of(problem, changed(ALL_FIVE, agreement=changed(TOKEN, gamma=gamma), contrastive=None)).weights
        assert found.weight_p05 == pytest.approx(1 / (1 + gamma))
        assert found.weight_mean != pytest.approx(1 / (1 + gamma), rel=0.02)


def test_without_agreement_there_is_no_mean_weight():
    assert math.isnan(terms_of(random_problem(), changed(ALL_FIVE, agreement=None)).weights.weight_mean)


def test_a_step_without_tokens_has_no_coefficients_and_finite_weights():
    nothing = random_problem(lengths=(2, 0)).tokens(torch.zeros(0, dtype=torch.long))
    found = terms_of(nothing, ALL_FIVE)
    assert term_of(found, DivergenceTerm).divergence_coefficient_N.shape == (0,)
    assert term_of(found, DivergenceTerm).clip_threshold is None
    assert found.weights.weight_p05 == 1.0
    assert found.counts.tokens == 0


def test_a_slice_holds_the_coefficients_of_its_tokens():
    whole = terms_of(random_problem(), changed(ALL_FIVE, likelihood_weight=0.5))
    for term, part in zip(whole.terms, whole.slice(3, 9).terms, strict=True):
        for name, value in vars(term).items():
            cut = vars(part)[name]
            assert torch.equal(cut, value[3:9]) if isinstance(value, torch.Tensor) else cut == value
    vectors = {
        f"{type(term).__name__}.{name}"
        for term in whole.terms
        for name, value in vars(term).items()
        if isinstance(value, torch.Tensor)
    }
    assert vectors == {
        "DivergenceTerm.divergence_coefficient_N", "DivergenceTerm.unclipped_N", "DivergenceTerm.weight_N",
        "LogprobContrastTerm.coefficient_N",
        "LogprobContrastTerm.primary_N", "LogprobContrastTerm.negative_N", "MatchingTerm.coefficient_N",
        "LikelihoodTerm.coefficient_N",
    }  # fmt: skip
