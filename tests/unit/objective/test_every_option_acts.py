"""Every documented option of the objective is accepted and changes the gradient: walked from the schema.

An option that always raises, or that nothing reads, has no other test to fail.
"""

from types import UnionType
from typing import Annotated, Union, get_args, get_origin

import pytest

from tests.fakes.objective_oracle import random_problem
from tests.fakes.objective_steps import relative_difference, single
from unisd_rl.config import Config
from unisd_rl.config.base import Section
from unisd_rl.config.load import validate_config
from unisd_rl.config.objective import ObjectiveConfig, ObjectiveSettings
from unisd_rl.types import ViewKind

CONTEXTS = {"auxiliary": {"views": 3}, "negative": {}}
TOKEN = {"level": "token", "gamma": 1.0}
SEQUENCE = {"level": "sequence", "gamma": 1.0}
BASE = {
    "divergence": {"alpha": 0.5}, "clipping": {"quantile": 0.8}, "agreement": TOKEN,
    "contrastive": {"signal": "logprob", "weight": 0.3, "margin": 1.0}, "matching": {"weight": 0.2},
    "likelihood": {"weight": 0.5},
}  # fmt: skip
BY_DIVERGENCE = {"signal": "divergence", "weight": 0.3, "margin": 0.1, "alpha": 0.5}
REFERENCE = {"clipping": None, "reference_reductions": {"micro_batch_size": 2}}
TOP = {"type": "top_k", "k": 3}
OPTIONS = {
    # What is changed: the objective without the option, and with it.
    "ObjectiveConfig.temperature": ({}, {"temperature": 1.3}),
    "ObjectiveConfig.divergence": ({}, {"divergence": None, "clipping": None, "agreement": None}),
    "ObjectiveConfig.clipping": ({}, {"clipping": None}),
    "ObjectiveConfig.agreement": ({}, {"agreement": None}),
    "ObjectiveConfig.contrastive": ({}, {"contrastive": None}),
    "ObjectiveConfig.matching": ({}, {"matching": None}),
    "ObjectiveConfig.likelihood": ({}, {"likelihood": None}),
    "ObjectiveConfig.reference_reductions": ({"clipping": None}, REFERENCE),
    "JensenShannon.type": ({}, {"divergence": {"type": "total_variation"}}),
    "JensenShannon.alpha": ({}, {"divergence": {"alpha": 1.0}}),
    "TopK.type": ({"divergence": TOP}, {"divergence": {"alpha": 0.0}}),
    "TopK.k": ({"divergence": TOP}, {"divergence": TOP | {"k": 2}}),
    "TopK.alpha": ({"divergence": TOP}, {"divergence": TOP | {"alpha": 1.0}}),
    "TopK.tail": ({"divergence": TOP}, {"divergence": TOP | {"tail": False}}),
    "TotalVariation.type": ({"divergence": {"type": "total_variation"}}, {"divergence": {"alpha": 0.0}}),
    "ClippingConfig.threshold": ({"clipping": None}, {"clipping": {"threshold": 0.01}}),
    "ClippingConfig.quantile": ({}, {"clipping": {"quantile": 0.4}}),
    "TokenAgreement.gamma": ({}, {"agreement": TOKEN | {"gamma": 4.0}}),
    "TokenAgreement.statistic": ({}, {"agreement": TOKEN | {"statistic": "range"}}),
    "TokenAgreement.level": ({}, {"agreement": SEQUENCE}),
    "TokenAgreement.scale_quantile": ({}, {"agreement": TOKEN | {"scale_quantile": 0.3}}),
    "TokenAgreement.scale": ({}, {"agreement": TOKEN | {"scale": 0.4}}),
    "TokenAgreement.cap": ({}, {"agreement": TOKEN | {"cap": 0.5}}),
    "TokenAgreement.floor": ({}, {"agreement": TOKEN | {"floor": 0.9}}),
    "SequenceAgreement.gamma": ({"agreement": SEQUENCE}, {"agreement": SEQUENCE | {"gamma": 4.0}}),
    "SequenceAgreement.statistic": ({"agreement": SEQUENCE}, {"agreement": SEQUENCE | {"statistic": "range"}}),
    "SequenceAgreement.level": ({"agreement": SEQUENCE}, {"agreement": TOKEN}),
    "SequenceAgreement.scale_quantile": ({"agreement": SEQUENCE}, {"agreement": SEQUENCE | {"scale_quantile": 0.4}}),
    "LogprobContrast.weight": ({}, {"contrastive": BASE["contrastive"] | {"weight": 3.0}}),
    "LogprobContrast.margin": ({}, {"contrastive": BASE["contrastive"] | {"margin": 0.0}}),
    "LogprobContrast.signal": ({}, {"contrastive": BY_DIVERGENCE}),
    "DivergenceContrast.weight": ({"contrastive": BY_DIVERGENCE}, {"contrastive": BY_DIVERGENCE | {"weight": 3.0}}),
    "DivergenceContrast.margin": ({"contrastive": BY_DIVERGENCE}, {"contrastive": BY_DIVERGENCE | {"margin": 0.0}}),
    "DivergenceContrast.signal": ({"contrastive": BY_DIVERGENCE}, {"contrastive": BASE["contrastive"]}),
    "DivergenceContrast.alpha": ({"contrastive": BY_DIVERGENCE}, {"contrastive": BY_DIVERGENCE | {"alpha": 0.0}}),
    "MatchingConfig.weight": ({}, {"matching": {"weight": 2.0}}),
    "LikelihoodConfig.weight": ({}, {"likelihood": {"weight": 2.0}}),
    "ReferenceReductions.micro_batch_size": (REFERENCE, REFERENCE | {"reference_reductions": {"micro_batch_size": 1}}),
}  # fmt: skip
ELSEWHERE = {
    "ObjectiveConfig.auxiliary_temperature": "views are scored before the objective: test_scoring_plan.py",
    "ObjectiveConfig.ema": "the teacher moves after the step: test_teacher.py, as its two fields",
    "EmaConfig.beta": "",
    "EmaConfig.every": "",
}


def sections_in(annotation):
    """Every section class that a field's type names, whatever stands round it."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return {annotation}
    if get_origin(annotation) in (Annotated, Union, UnionType):
        return {found for inner in get_args(annotation) for found in sections_in(inner)}
    return set()


def options():
    """`Section.field` of the objective and of everything below it."""
    sections, names = [ObjectiveConfig], []
    while sections:
        section = sections.pop()
        for name, field in section.model_fields.items():
            names.append(f"{section.__name__}.{name}")
            sections += sections_in(field.annotation)
    return set(names)


def settings_of(changes) -> ObjectiveSettings:
    sections = {name: section for name, section in (BASE | changes).items() if section is not None}
    config: Config = validate_config({"objective": sections, "contexts": CONTEXTS})
    return config.objective_settings


def test_every_option_of_the_schema_is_tried_here_or_where_it_acts():
    assert options() == OPTIONS.keys() | ELSEWHERE.keys()


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_changes_the_gradient(option):
    problem = random_problem(3, lengths=(6, 4, 0, 5, 7))
    without, with_it = (single(problem, settings_of(changes)).hidden_NH for changes in OPTIONS[option])
    assert relative_difference(with_it, without) > 1e-3


def test_the_temperature_of_the_auxiliary_views_reaches_their_scoring():
    from learner.plan import scoring_plan

    sections = {"objective": {"divergence": {}, "agreement": TOKEN, "auxiliary_temperature": 1.7}, "contexts": CONTEXTS}
    plan = scoring_plan(validate_config(sections))
    assert {plan.specs[view].temperature for view in plan.specs_of(ViewKind.AUXILIARY)} == {1.7}
