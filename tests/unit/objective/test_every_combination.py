"""Every combination of present and absent sections of the objective is refused before a run, or makes a whole step."""

from itertools import combinations, product

import pytest

from learner.plan import scoring_plan
from tests.fakes.objective_oracle import random_problem
from tests.fakes.objective_steps import single
from unisd_rl.config.load import load_recipe, validate_config
from unisd_rl.errors import UserError
from unisd_rl.types import ViewKind

pytestmark = pytest.mark.exhaustive

MEMBERS = {
    "divergence": (
        {"alpha": 0.5},
        {"alpha": 0.0},
        {"alpha": 1.0},
        {"type": "total_variation"},
        {"type": "top_k", "k": 4},
    ),
    "clipping": ({"threshold": 0.1}, {"quantile": 0.9}),
    "agreement": ({"level": "token"}, {"level": "token", "scale": 0.4}, {"level": "sequence"}),
    "contrastive": ({"signal": "logprob", "margin": 2.0}, {"signal": "divergence"}),
    "matching": ({},),
    "likelihood": ({},),
    "ema": ({},),
    "reference_reductions": ({},),
}
TERMS = ("divergence", "contrastive", "matching", "likelihood")
CONTEXTS = {"auxiliary": {"views": 3}, "negative": {}}


def objectives(count):
    """`count` of the sections, each with each of its members."""
    for names in combinations(MEMBERS, count):
        for members in product(*(MEMBERS[name] for name in names)):
            yield dict(zip(names, members, strict=True))


def refused_for(objective):
    """Why a combination makes no objective, by the rules that docs/method.md states; None where it makes one."""
    if not set(TERMS) & set(objective):
        return "nothing to minimise"
    if "reference_reductions" in objective and "quantile" in objective.get("clipping", {}):
        return "is of the whole step"
    return None


def test_all_sections_of_the_objective_are_tried():
    sections = {name for name, section in load_recipe("unisd_star").objective if not isinstance(section, float)}
    assert sections - {"temperature", "auxiliary_temperature"} == set(MEMBERS)


@pytest.mark.parametrize("count", range(len(MEMBERS) + 1))
def test_a_combination_of_sections_makes_a_whole_step_or_is_refused(count):
    problem = random_problem(3)
    for objective in objectives(count):
        settings = {"objective": objective, "contexts": CONTEXTS}
        if reason := refused_for(objective):
            with pytest.raises(UserError, match=reason):
                validate_config(settings)
            continue
        config = validate_config(settings)
        plan = scoring_plan(config)
        assert {kind for kind in ViewKind if plan.specs_of(kind)} == config.objective.needs.views, objective
        if "ema" not in objective:  # it moves the teacher between steps
            step = single(problem, config.objective_settings)
            assert step.hidden_NH.isfinite().all(), objective
            assert step.hidden_NH.any(), objective
