"""Which view is read, and what it yields, follows from the terms that are on."""

from dataclasses import replace

import pytest

from learner.plan import Line, scoring_plan
from learner.settings import idle_settings, plan_of
from unisd_rl.config import Config
from unisd_rl.objective.settings import DivergenceContrast, LogprobContrast, ObjectiveSettings, SequenceAgreement
from unisd_rl.types import ViewKind

TAU = 0.7
SFT = ObjectiveSettings(TAU, None, None, None, None, None, None, chunk_tokens=8, likelihood_weight=1.0)
AGREEMENT = SequenceAgreement(1.0, "variance")
LOGPROB, WHOLE = LogprobContrast(0.1, 0.5), DivergenceContrast(0.1, 0.5, 0.5)


def primary(states, temperature=None):
    return Line(ViewKind.PRIMARY, 0, states, temperature)


def negative(states, temperature=None):
    return Line(ViewKind.NEGATIVE, 0, states, temperature)


@pytest.mark.parametrize(
    "terms,lines",
    [
        ({}, ()),
        ({"agreement": AGREEMENT}, ()),
        ({"alpha": 0.5}, (primary(True),)),
        ({"matching_weight": 0.1}, (primary(True),)),
        ({"matching_weight": 0.1, "agreement": AGREEMENT}, (primary(True),)),
        ({"contrastive": LOGPROB}, (primary(False, TAU), negative(False, TAU))),
        ({"contrastive": WHOLE}, (primary(True), negative(True))),
        ({"alpha": 0.0, "contrastive": LOGPROB}, (primary(True, TAU), negative(False, TAU))),
        ({"alpha": 0.0, "contrastive": WHOLE}, (primary(True), negative(True))),
    ],
)
def test_only_what_a_term_reads_is_scored(terms, lines):
    plan = scoring_plan(replace(SFT, **terms), auxiliary_views=3)
    assert plan.lines == lines
    assert plan.needs_teacher == bool(lines)


@pytest.mark.parametrize("own,expected", [(None, TAU), (1.0, 1.0)])
def test_auxiliary_views_yield_a_log_prob_at_their_own_temperature_if_they_have_one(own, expected):
    plan = scoring_plan(replace(SFT, alpha=0.5, agreement=AGREEMENT, auxiliary_temperature=own), auxiliary_views=3)
    assert [plan.lines[number] for number in plan.lines_of(ViewKind.AUXILIARY)] == [
        Line(ViewKind.AUXILIARY, index, False, expected) for index in range(3)
    ]
    assert plan.lines_of(ViewKind.PRIMARY) == (0,)
    assert plan.lines_of(ViewKind.NEGATIVE) == ()


def test_an_average_that_nobody_reads_is_named():
    alone = Config.model_validate({"objective": {"likelihood": {}, "ema": {}}})
    assert idle_settings(alone) == ("objective.ema moves a teacher, and no term reads one: none is loaded",)
    assert not plan_of(alone).needs_teacher
    for objective in ({"likelihood": {}}, {"likelihood": {}, "divergence": {}, "ema": {}}):
        assert idle_settings(Config.model_validate({"objective": objective})) == ()


def test_a_pass_without_gradient_holds_four_times_the_tokens_unless_told():
    config = Config.model_validate({"objective": {"likelihood": {}}, "learner": {"micro_batch_tokens": 10}})
    assert config.learner.scoring_budget == 40
    told = Config.model_validate(
        {"objective": {"likelihood": {}}, "learner": {"micro_batch_tokens": 10, "scoring_tokens": 7}}
    )
    assert told.learner.scoring_budget == 7
