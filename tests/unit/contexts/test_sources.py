"""Who completes a prompt: a pure draw by the shares; and what a run that trains on it builds and refuses."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.prepared import prepared_stream
from unisd_rl.config.load import load_recipe
from unisd_rl.config.rollout import SourcesConfig
from unisd_rl.contexts.prompts import source_of
from unisd_rl.errors import UserError
from unisd_rl.tasks.load import load_task
from unisd_rl.types import Source, ViewKind

SMALL = {"task": {"train_examples": 20, "eval_examples": 5}}


def stream(recipe, fits=lambda prompt: True, **overrides):
    config = load_recipe(recipe, {**SMALL, **overrides})
    return prepared_stream(config, load_task(config.task), fits=fits)


@given(
    gold=st.floats(0.0, 1.0, width=32, allow_subnormal=False),
    other=st.sampled_from(["policy", "base"]),
    seed=st.integers(0, 5),
)
def test_shares_are_respected_to_sampling_noise(gold, other, seed):
    shares = SourcesConfig(**{"policy": 0.0, "gold": gold, other: 1.0 - gold})
    count = Counter(source_of(number, seed, shares) for number in range(2000))
    assert abs(count[Source.GOLD] / 2000 - gold) <= 5 * (gold * (1 - gold) / 2000) ** 0.5 + 1e-9
    assert count[Source.GOLD] + count[Source(other)] == 2000


@pytest.mark.parametrize("source", Source)
def test_a_share_of_one_leaves_no_prompt_to_others(source):
    shares = SourcesConfig(**{"policy": 0.0, source.value: 1.0})
    assert {source_of(number, 0, shares) for number in range(500)} == {source}


def test_a_share_that_is_one_but_for_rounding_leaves_no_prompt_to_a_source_with_none():
    shares = SourcesConfig(policy=0.0, gold=1.0 - 9e-7, base=0.0)
    drawn = 2**31  # above every seed
    assert {source_of(number, drawn, shares) for number in range(500)} == {Source.GOLD}


def test_a_source_depends_on_number_and_seed_alone_and_changes_neither_prompt_nor_sampling_seed():
    plain, mixed, again = stream("clip"), stream("gkd"), stream("gkd")
    numbers = [7, 3, 41, 3, 0]
    asked, reversed_ = ({n: one.prompt(n) for n in order} for one, order in ((mixed, numbers), (again, numbers[::-1])))
    assert asked == reversed_
    for number in range(60):
        one, other = plain.prompt(number), mixed.prompt(number)
        assert (one.number, one.seed, one.prompt.id) == (other.number, other.seed, other.prompt.id)
    assert {mixed.prompt(number).source for number in range(60)} == {Source.POLICY, Source.GOLD}
    other_seed = stream("gkd", run={"seed": 1})
    assert [mixed.prompt(n).source for n in range(60)] != [other_seed.prompt(n).source for n in range(60)]


def test_the_gold_completion_is_the_worked_answer_and_is_there_only_where_some_are_trained_on():
    mixed, task = stream("gkd"), load_task(load_recipe("gkd", SMALL).task)
    worked = {example.id: example.demonstration for example in task.train}
    for number in range(20):
        prompt = mixed.prompt(number).prompt
        assert prompt.gold == worked[prompt.id]
        assert task.grade(prompt.gold, next(example for example in task.train if example.id == prompt.id))
    assert stream("ssd").prompt(0).prompt.gold is None
    assert stream("clip").prompt(0).prompt.gold is None


def test_a_gold_completion_that_does_not_fit_is_dropped_and_counted_and_never_cut():
    long = stream("sft").prompt(0).prompt.id
    prompts = stream("sft", fits=lambda prompt: prompt.gold is None or prompt.id != long)
    assert (prompts.preparation.kept, prompts.preparation.dropped) == (19, 1)
    assert long not in {prompts.prompt(number).prompt.id for number in range(19)}


def test_too_many_dropped_gold_completions_are_refused_with_both_limits():
    with pytest.raises(UserError, match=r"20 of 20 .*rollout\.max_prompt_tokens = 512 or a gold .*_tokens = 64"):
        stream("sft", fits=lambda prompt: prompt.gold is None)


VIEWS_READ = {
    "sft": [],
    "ssd": [],
    "clip": [ViewKind.PRIMARY],
    "match_representation": [ViewKind.PRIMARY],
    "agreement_token": [ViewKind.PRIMARY] + 3 * [ViewKind.AUXILIARY],
    "contrastive": [ViewKind.PRIMARY, ViewKind.NEGATIVE],
    "unisd_star": [ViewKind.PRIMARY] + 3 * [ViewKind.AUXILIARY] + [ViewKind.NEGATIVE],
}


@pytest.mark.parametrize("recipe", VIEWS_READ)
@pytest.mark.parametrize("contexts", [{}, {"auxiliary": {"views": 3}, "negative": {}}], ids=["own", "more"])
def test_only_views_that_a_term_reads_are_built(recipe, contexts):
    prompt = stream(recipe, contexts=contexts).prompt(0).prompt
    assert [view.kind for view in prompt.views] == VIEWS_READ[recipe]


def test_base_completions_and_evaluations_in_mid_run_exclude_each_other():
    with pytest.raises(UserError, match=r"rollout\.sources\.base = 1 .* evaluation\.every = 5 .*: leave out"):
        load_recipe("ssd", {"evaluation": {"every": 5}})
    assert load_recipe("sft", {"evaluation": {"every": 5}}).evaluation.every == 5
