"""Which view is read, and what it yields, follows from the terms that are on."""

import pytest

from learner import plan
from learner.plan import ViewSpec, scoring_plan
from unisd_rl.config import Config
from unisd_rl.config.objective import (
    DivergenceContrast,
    JensenShannon,
    LikelihoodConfig,
    LogprobContrast,
    MatchingConfig,
    Needs,
    SequenceAgreement,
    TokenAgreement,
    TotalVariation,
)
from unisd_rl.config.schema import ineffective_settings
from unisd_rl.types import ViewKind

TAU = 0.7
CONTEXTS = {"auxiliary": {"views": 3}, "negative": {}}
LOGPROB, WHOLE = {"signal": "logprob"}, {"signal": "divergence"}


def planned(**objective):
    rollout = {"temperature": TAU}
    return scoring_plan(
        Config.model_validate({"objective": {"likelihood": {}, **objective}, "contexts": CONTEXTS, "rollout": rollout})
    )


def primary(states, temperature=None):
    return ViewSpec(ViewKind.PRIMARY, 0, states, temperature)


def negative(states, temperature=None):
    return ViewSpec(ViewKind.NEGATIVE, 0, states, temperature)


@pytest.mark.parametrize(
    "terms,specs",
    [
        ({}, ()),
        ({"agreement": {"level": "sequence"}}, ()),
        ({"divergence": {}}, (primary(True),)),
        ({"matching": {}}, (primary(True),)),
        ({"matching": {}, "agreement": {"level": "token"}}, (primary(True),)),
        ({"contrastive": LOGPROB}, (primary(False, TAU), negative(False, TAU))),
        ({"contrastive": WHOLE}, (primary(True), negative(True))),
        ({"divergence": {}, "contrastive": LOGPROB}, (primary(True, TAU), negative(False, TAU))),
        ({"divergence": {}, "contrastive": WHOLE}, (primary(True), negative(True))),
    ],
)
def test_only_what_a_term_reads_is_scored(terms, specs):
    found = planned(**terms)
    assert found.specs == specs
    assert found.needs_teacher == bool(specs)


@pytest.mark.parametrize("own,expected", [({}, TAU), ({"auxiliary_temperature": 1.0}, 1.0)])
def test_auxiliary_views_yield_a_log_prob_at_their_own_temperature_if_they_have_one(own, expected):
    found = planned(divergence={}, agreement={"level": "sequence"}, **own)
    assert [found.specs[number] for number in found.specs_of(ViewKind.AUXILIARY)] == [
        ViewSpec(ViewKind.AUXILIARY, index, False, expected) for index in range(3)
    ]
    assert found.specs_of(ViewKind.PRIMARY) == (0,)
    assert found.specs_of(ViewKind.NEGATIVE) == ()


def test_an_average_that_nobody_reads_is_named():
    alone = Config.model_validate({"objective": {"likelihood": {}, "ema": {}}})
    assert ineffective_settings(alone) == ("objective.ema has no effect: no loss term uses a teacher",)
    assert not scoring_plan(alone).needs_teacher
    for objective in ({"likelihood": {}}, {"likelihood": {}, "divergence": {}, "ema": {}}):
        assert ineffective_settings(Config.model_validate({"objective": objective})) == ()


def test_a_pass_without_gradient_holds_four_times_the_tokens_unless_told():
    config = Config.model_validate({"objective": {"likelihood": {}}, "learner": {"micro_batch_tokens": 10}})
    assert config.learner.scoring_budget == 40
    told = Config.model_validate(
        {"objective": {"likelihood": {}}, "learner": {"micro_batch_tokens": 10, "scoring_tokens": 7}}
    )
    assert told.learner.scoring_budget == 7


def test_the_table_of_the_module_says_what_the_terms_need():
    """Each row is a section; agreement is read beside the divergence that it weighs."""
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in plan.__doc__.splitlines() if row[:1] == "|"][2:]
    kinds = (ViewKind.PRIMARY, ViewKind.AUXILIARY, ViewKind.NEGATIVE)
    said = {
        name: Needs(
            states=frozenset(kind for kind, cell in zip(kinds, cells, strict=True) if cell == "hidden states"),
            logprobs=frozenset(kind for kind, cell in zip(kinds, cells, strict=True) if cell == "log-probs"),
        )
        for name, *cells in rows
    }
    assert said == {
        "divergence": JensenShannon().needs,
        "agreement (acts on the divergence)": TokenAgreement().needs,
        "contrastive, signal = logprob": LogprobContrast().needs,
        "contrastive, signal = divergence": DivergenceContrast().needs,
        "matching": MatchingConfig().needs,
        "likelihood": LikelihoodConfig().needs,
    }
    assert SequenceAgreement().needs == TokenAgreement().needs
    assert TotalVariation().needs == JensenShannon().needs
