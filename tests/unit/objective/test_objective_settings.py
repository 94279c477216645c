"""Numbers without meaning are refused; settings that are on but cannot act are named."""

import math
from dataclasses import replace

import pytest

from tests.fakes.objective_oracle import ALL_FIVE, PLAIN, SEQUENCE, TOKEN
from unisd_rl.objective.inert import inert_settings
from unisd_rl.objective.settings import DivergenceContrast, LogprobContrast, divergence_bound

NO_MAIN = replace(PLAIN, alpha=None, matching_weight=1.0)


@pytest.mark.parametrize(
    "objective, sentence",
    [
        (replace(PLAIN, clip_threshold=10.0), "clip threshold 10 can never bind"),
        (replace(PLAIN, clip_threshold=math.log(2.0)), "clip threshold 0.693147 can never bind"),
        (replace(PLAIN, clip_quantile=1.0), "clip quantile 1"),
        (replace(NO_MAIN, clip_threshold=0.1), "clipping acts on the divergence"),
        (replace(NO_MAIN, clip_quantile=0.5), "clipping acts on the divergence"),
        (replace(NO_MAIN, agreement=TOKEN), "agreement weighs the divergence"),
        (replace(PLAIN, agreement=replace(TOKEN, gamma=0.0)), "gamma 0"),
        (replace(PLAIN, agreement=replace(SEQUENCE, gamma=0.0)), "gamma 0"),
        (replace(PLAIN, agreement=replace(TOKEN, floor=1.0)), "floor 1"),
        (replace(PLAIN, agreement=replace(TOKEN, cap=0.0)), "cap 0"),
        (replace(PLAIN, agreement=replace(TOKEN, gamma=0.001)), "every weight lies between 0.990 and 1"),
        (replace(PLAIN, agreement=replace(TOKEN, floor=0.995)), "every weight lies between 0.995 and 1"),
        (replace(PLAIN, agreement=SEQUENCE, released_micro_batch=4), "sequence agreement cancels"),
        (replace(PLAIN, auxiliary_temperature=1.0), "auxiliary temperature 1"),
        (replace(NO_MAIN, auxiliary_temperature=1.0), "auxiliary temperature 1"),
        (replace(PLAIN, contrastive=LogprobContrast(0.0, 0.5)), "contrastive weight 0"),
        (replace(PLAIN, contrastive=DivergenceContrast(0.0, 0.7, 0.5)), "contrastive weight 0"),
        (replace(PLAIN, contrastive=DivergenceContrast(0.1, 0.7, 0.5)), "margin 0.7 never closes the hinge"),
        (replace(PLAIN, matching_weight=0.0), "matching weight 0"),
        (replace(PLAIN, likelihood_weight=0.0), "likelihood weight 0"),
    ],
)
def test_a_setting_that_cannot_act_is_named_in_one_sentence(objective, sentence):
    (found,) = inert_settings(objective)
    assert sentence in found


@pytest.mark.parametrize(
    "objective",
    [
        ALL_FIVE,
        PLAIN,
        replace(ALL_FIVE, agreement=SEQUENCE),
        replace(ALL_FIVE, agreement=replace(TOKEN, gamma=0.01)),
        replace(ALL_FIVE, auxiliary_temperature=1.0),
        replace(PLAIN, auxiliary_temperature=PLAIN.temperature),
        replace(PLAIN, alpha=0.0, clip_threshold=10.0),
        replace(PLAIN, alpha=1.0, clip_threshold=10.0),
        replace(PLAIN, clip_threshold=0.69),
        replace(PLAIN, contrastive=DivergenceContrast(0.1, 0.69, 0.5)),
        replace(PLAIN, contrastive=DivergenceContrast(0.1, 5.0, 0.0)),
        replace(ALL_FIVE, clip_quantile=None, released_micro_batch=4),
        replace(NO_MAIN, likelihood_weight=1.0),
    ],
)
def test_settings_that_all_act_are_not_named(objective):
    assert inert_settings(objective) == ()


def test_every_setting_that_cannot_act_is_named_at_once():
    objective = replace(ALL_FIVE, alpha=None, matching_weight=0.0, auxiliary_temperature=2.0)
    assert len(inert_settings(objective)) == 4


def test_the_bound_of_the_divergence_is_the_binary_entropy_of_alpha():
    assert divergence_bound(0.5) == pytest.approx(math.log(2.0))
    assert divergence_bound(0.1) == pytest.approx(0.3250829733914482)
    assert divergence_bound(0.0) == divergence_bound(1.0) == math.inf


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"temperature": 0.0}, "temperature = 0.0 must be a number above 0"),
        ({"temperature": math.inf}, "temperature = inf"),
        ({"auxiliary_temperature": -1.0}, "auxiliary_temperature = -1.0 must be a number above 0"),
        ({"chunk_tokens": 0}, "chunk_tokens = 0 must be a number at least 1"),
        ({"alpha": 1.5}, "alpha = 1.5 must be a number at least 0 and at most 1"),
        ({"alpha": math.nan}, "alpha = nan"),
        ({"clip_quantile": None, "clip_threshold": 0.0}, "clip_threshold = 0.0 must be a number above 0"),
        ({"clip_quantile": 2.0}, "clip_quantile = 2.0"),
        ({"clip_threshold": 0.1, "clip_quantile": 0.9}, "exclude each other"),
        ({"released_micro_batch": 0, "clip_quantile": None}, "released_micro_batch = 0"),
        ({"released_micro_batch": 4}, "use clip_threshold"),
        ({"agreement": replace(TOKEN, scale=1.0)}, "exactly one of scale and scale_quantile"),
        ({"agreement": replace(TOKEN, scale_quantile=None)}, "exactly one of scale and scale_quantile"),
        ({"agreement": replace(TOKEN, gamma=-1.0)}, "agreement gamma = -1.0"),
        ({"agreement": replace(SEQUENCE, gamma=-1.0)}, "agreement gamma = -1.0"),
        ({"agreement": replace(TOKEN, floor=0.0)}, "agreement floor = 0.0 must be a number above 0 and at most 1"),
        ({"agreement": replace(TOKEN, cap=-1.0)}, "agreement cap = -1.0"),
        ({"contrastive": LogprobContrast(-0.1, 0.5)}, "contrastive weight = -0.1"),
        ({"contrastive": LogprobContrast(0.1, -0.5)}, "contrastive margin = -0.5"),
        ({"contrastive": DivergenceContrast(0.1, 0.5, 2.0)}, "contrastive alpha = 2.0"),
        ({"matching_weight": -1.0}, "matching_weight = -1.0"),
        ({"likelihood_weight": math.nan}, "likelihood_weight = nan"),
    ],
)
def test_settings_without_meaning_are_refused_with_the_value_and_the_remedy(change, sentence):
    with pytest.raises(ValueError) as refused:
        replace(ALL_FIVE, **change)
    assert sentence in str(refused.value)


def test_all_faults_are_named_at_once():
    with pytest.raises(ValueError, match=r"temperature = 0.*; .*matching_weight = -1"):
        replace(ALL_FIVE, temperature=0.0, matching_weight=-1.0)
