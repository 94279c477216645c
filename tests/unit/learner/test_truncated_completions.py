"""Completions that the limit cut are trained on or not; if not, they count in no denominator, on any layout."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from learner.batch import PackingConfig, RankBatch, without_truncated
from tests.fakes.objective_expected import dense_gradient, dense_loss
from tests.fakes.objective_oracle import ALL_FIVE, PLAIN, SEQUENCE, changed, random_problem
from tests.fakes.objective_steps import over_ranks
from unisd_rl.types import Rollout, Source, TokenView, ViewKind

LENGTHS, CUT = (3, 4, 2, 5, 1, 3), {1, 3}
OBJECTIVES = {
    "all five": ALL_FIVE,
    "sequence agreement": changed(ALL_FIVE, agreement=SEQUENCE),
    "likelihood": changed(PLAIN, alpha=None, likelihood_weight=1.0),
}


def rollouts(problem, cut=CUT):
    """One of each sequence; its tokens are the numbers of the problem's tokens."""
    starts = np.cumsum([0, *LENGTHS])
    return [
        Rollout(
            number=number,
            id=str(number),
            source=Source.POLICY,
            prompt_tokens=np.array([7], np.int32),
            views=(TokenView(ViewKind.PRIMARY, np.array([8], np.int32)),),
            completion_tokens=np.arange(starts[number], starts[number + 1], dtype=np.int32),
            logprobs=np.zeros(length, np.float32),
            lineages=np.zeros(length, np.int32),
            versions=np.zeros(length, np.int32),
            finish_reason="length" if number in cut else "stop",
            seed=0,
            actor="test",
            started_s=0.0,
            finished_s=1.0,
        )
        for number, length in enumerate(LENGTHS)
    ]


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("ranks,cuts,budget", [(1, (0,), 100), (1, (0, 4), 4), (3, (0, 2), 100)])
def test_the_gradient_is_of_the_whole_completions_alone_on_any_layout(name, ranks, cuts, budget):
    """The oracle: dense autograd in float64 over the sequences that were not cut, and their number below the line."""
    problem, objective = random_problem(7, LENGTHS), OBJECTIVES[name]
    whole_N = torch.tensor([number not in CUT for number in problem.sequence_N.tolist()])
    expected = problem.tokens(whole_N)
    hidden_NH, weight_VH = dense_gradient(expected, lambda *student: dense_loss(expected, objective, *student))

    kept = without_truncated(rollouts(problem))
    owners, trained = torch.zeros(len(problem.sequence_N), dtype=torch.long), []
    for rank in range(ranks):
        batch = RankBatch(kept[rank::ranks], torch.device("cpu"), PackingConfig("packed", budget, budget))
        trained += [token for rollout in batch.rollouts for token in rollout.completion_tokens.tolist()]
        for rollout in batch.rollouts:
            owners[rollout.completion_tokens.tolist()] = rank
    assert sorted(trained) == whole_N.nonzero()[:, 0].tolist()
    ours = problem.tokens(torch.tensor(sorted(trained)))
    found_NH, found_VH, steps = over_ranks(ours, objective, owners[sorted(trained)], ranks, cuts)
    torch.testing.assert_close(found_NH.double(), hidden_NH, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found_VH.double(), weight_VH, rtol=1e-4, atol=1e-6)
    assert [step.counts.sequences for step in steps] == [len(LENGTHS) - len(CUT)] * ranks


def test_masking_changes_the_gradient():
    problem, objective = random_problem(7, LENGTHS), ALL_FIVE
    whole_N = torch.tensor([number not in CUT for number in problem.sequence_N.tolist()])
    parts = (problem, problem.tokens(whole_N))
    all_of_it, whole = (
        dense_gradient(part, lambda *student, part=part: dense_loss(part, objective, *student)) for part in parts
    )
    assert float((all_of_it[1] - whole[1]).norm() / whole[1].norm()) > 0.1


def test_what_was_not_cut_stays_as_it_is_and_what_was_keeps_its_views_and_no_token():
    before = rollouts(random_problem(7, LENGTHS))
    after = without_truncated(before)
    for number, (was, now) in enumerate(zip(before, after, strict=True)):
        if number not in CUT:
            assert now is was
            continue
        assert (now.number, now.views, now.finish_reason) == (was.number, was.views, "length")
        for tokens in (now.completion_tokens, now.logprobs, now.lineages, now.versions):
            assert len(tokens) == 0
    gold = replace(before[0], logprobs=None, lineages=None, versions=None, finish_reason="length")
    (emptied,) = without_truncated([gold])
    assert (len(emptied.completion_tokens), emptied.logprobs, emptied.versions) == (0, None, None)
