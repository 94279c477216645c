"""Numbers without meaning are refused; settings that are on but cannot act are named."""

import math

import pytest

from unisd_rl.config.contexts import ContextsConfig
from unisd_rl.config.load import load_recipe, validate_config
from unisd_rl.config.objective import JensenShannon, TotalVariation
from unisd_rl.config.schema import ineffective_settings, slower_settings
from unisd_rl.errors import UserError
from unisd_rl.run import checked_request, notes

CONTEXTS = {"auxiliary": {"views": 3}, "negative": {}}
PLAIN = {"divergence": {"alpha": 0.5}}
NO_MAIN = {"matching": {}}
TOKEN, SEQUENCE = {"level": "token", "gamma": 1.0}, {"level": "sequence", "gamma": 1.0}
CLIPPED = PLAIN | {"clipping": {"quantile": 0.8}}
ALL_FIVE = CLIPPED | {"agreement": TOKEN, "contrastive": {"signal": "logprob"}, "matching": {}}


def config_of(objective):
    return validate_config({"objective": objective, "contexts": CONTEXTS, "rollout": {"temperature": 0.7}})


def sentences(objective):
    """Without those on contexts, which are all there whatever the objective reads."""
    return [said for said in ineffective_settings(config_of(objective)) if not said.startswith("contexts.")]


@pytest.mark.parametrize(
    "objective, sentence",
    [
        (PLAIN | {"clipping": {"threshold": 10.0}}, "clip threshold 10 can never bind"),
        (PLAIN | {"clipping": {"threshold": math.log(2.0)}}, "clip threshold 0.693147 can never bind"),
        (
            {"divergence": {"type": "total_variation"}, "clipping": {"threshold": 1.0}},
            "clip threshold 1 can never bind: the total variation is at most 1.0000",
        ),
        (NO_MAIN | {"clipping": {"threshold": 0.1}}, "clipping acts on the divergence"),
        (NO_MAIN | {"clipping": {"quantile": 0.5}}, "clipping acts on the divergence"),
        (NO_MAIN | {"agreement": TOKEN}, "agreement weighs the divergence"),
        (PLAIN | {"agreement": TOKEN | {"gamma": 0.0}}, "gamma 0"),
        (PLAIN | {"agreement": SEQUENCE | {"gamma": 0.0}}, "gamma 0"),
        (PLAIN | {"agreement": TOKEN | {"gamma": 0.001}}, "every weight lies between 0.990 and 1"),
        (PLAIN | {"agreement": TOKEN | {"floor": 0.995}}, "every weight lies between 0.995 and 1"),
        (PLAIN | {"agreement": SEQUENCE, "reference_reductions": {}}, "sequence agreement cancels"),
        (PLAIN | {"auxiliary_temperature": 1.0}, "auxiliary temperature 1"),
        (NO_MAIN | {"auxiliary_temperature": 1.0}, "auxiliary temperature 1"),
        (
            PLAIN | {"contrastive": {"signal": "divergence", "margin": 0.7, "alpha": 0.5}},
            "margin 0.7 never closes the hinge",
        ),
        ({"likelihood": {}, "ema": {}}, "objective.ema has no effect: no loss term uses a teacher"),
        (PLAIN | {"ema": {"beta": 1.0}}, "objective.ema has no effect: beta 1"),
    ],
)
def test_a_setting_that_cannot_act_is_named_in_one_sentence(objective, sentence):
    (found,) = sentences(objective)
    assert sentence in found


@pytest.mark.parametrize(
    "objective",
    [
        ALL_FIVE,
        PLAIN,
        ALL_FIVE | {"agreement": SEQUENCE},
        ALL_FIVE | {"agreement": TOKEN | {"gamma": 0.01}},
        ALL_FIVE | {"auxiliary_temperature": 1.0},
        PLAIN | {"auxiliary_temperature": 0.7},
        {"divergence": {"alpha": 0.0}, "clipping": {"threshold": 10.0}},
        {"divergence": {"alpha": 1.0}, "clipping": {"threshold": 10.0}},
        PLAIN | {"clipping": {"threshold": 0.69}},
        PLAIN | {"contrastive": {"signal": "divergence", "margin": 0.69, "alpha": 0.5}},
        PLAIN | {"contrastive": {"signal": "divergence", "margin": 5.0, "alpha": 0.0}},
        ALL_FIVE | {"clipping": None, "reference_reductions": {}},
        NO_MAIN | {"likelihood": {}},
    ],
)
def test_settings_that_all_act_are_not_named(objective):
    assert sentences(objective) == []


@pytest.mark.parametrize("steps, acts", [(7, False), (10, False), (11, True)])
def test_a_teacher_that_moves_too_late_for_any_step_is_named(steps, acts):
    """One epoch of a small data set is 7 steps; an update after every tenth never comes."""
    config = load_recipe("ema", {"run": {"steps": steps}})
    assert [said.startswith("objective.ema has no effect") for said in ineffective_settings(config)] == [True][acts:]


def test_every_setting_that_cannot_act_is_named_at_once():
    assert len(sentences(ALL_FIVE | {"divergence": None, "auxiliary_temperature": 2.0})) == 3


@pytest.mark.parametrize(
    "objective, unread",
    [
        (ALL_FIVE, []),
        (PLAIN, ["contexts.auxiliary", "contexts.negative"]),
        (PLAIN | {"agreement": TOKEN}, ["contexts.negative"]),
        (NO_MAIN | {"agreement": TOKEN, "contrastive": {"signal": "divergence"}}, ["contexts.auxiliary"]),
    ],
)
def test_a_context_that_no_term_reads_is_named(objective, unread):
    said = ineffective_settings(config_of(objective))
    assert [one.split()[0] for one in said if one.startswith("contexts.")] == unread


@pytest.mark.parametrize("objective, acts", [(ALL_FIVE, True), (PLAIN, False)])
def test_a_setting_of_auxiliary_views_that_no_term_reads_is_named(objective, acts):
    contexts = {"auxiliary": {"type": "random"}, "order": "question_first", "donors_per_step": 4}
    config = config_of(objective).model_copy(update={"contexts": ContextsConfig.model_validate(contexts)})
    named = [said.split()[0] for said in ineffective_settings(config) if "no effect" in said]
    assert named == ([] if acts else ["contexts.order", "contexts.donors_per_step"])
    usual = config.model_copy(update={"contexts": ContextsConfig(order="reference_first")})
    assert not any("no effect" in said for said in ineffective_settings(usual))


def test_the_bound_of_the_divergence_is_the_binary_entropy_of_alpha():
    assert JensenShannon(alpha=0.5).bound == pytest.approx(math.log(2.0))
    assert JensenShannon(alpha=0.1).bound == pytest.approx(0.3250829733914482)
    assert JensenShannon(alpha=0.0).bound == JensenShannon(alpha=1.0).bound == math.inf


@pytest.mark.parametrize(
    "objective, sentence",
    [
        (PLAIN | {"temperature": 0.0}, "objective.temperature = 0.0"),
        (PLAIN | {"temperature": math.inf}, "objective.temperature = inf"),
        (PLAIN | {"auxiliary_temperature": -1.0}, "objective.auxiliary_temperature = -1.0"),
        ({"divergence": {"alpha": 1.5}}, "alpha = 1.5"),
        ({"divergence": {"alpha": math.nan}}, "alpha = nan"),
        (
            {"divergence": {"type": "total_variation", "alpha": 0.5}},
            "unknown key objective.divergence.alpha of 'total_v",
        ),
        ({"divergence": {"type": "hellinger"}}, "hellinger"),
        (PLAIN | {"clipping": {"threshold": 0.0}}, "clipping.threshold = 0.0"),
        (PLAIN | {"clipping": {"quantile": 2.0}}, "clipping.quantile = 2.0"),
        (PLAIN | {"clipping": {"quantile": 1.0}}, "clipping.quantile = 1.0"),
        (PLAIN | {"clipping": {"threshold": 0.1, "quantile": 0.9}}, "give either `threshold` (nats) or `quantile`"),
        (PLAIN | {"reference_reductions": {"micro_batch_size": 0}}, "micro_batch_size = 0"),
        (CLIPPED | {"reference_reductions": {}}, "give clipping.threshold instead"),
        (PLAIN | {"agreement": TOKEN | {"scale": 0.0}}, "scale = 0.0"),
        (PLAIN | {"agreement": TOKEN | {"scale_quantile": 1.0}}, "scale_quantile = 1.0"),
        (PLAIN | {"agreement": TOKEN | {"gamma": -1.0}}, "gamma = -1.0"),
        (PLAIN | {"agreement": SEQUENCE | {"gamma": -1.0}}, "gamma = -1.0"),
        (PLAIN | {"agreement": TOKEN | {"floor": 0.0}}, "floor = 0.0"),
        (PLAIN | {"agreement": TOKEN | {"floor": 1.0}}, "floor = 1.0"),
        (PLAIN | {"agreement": TOKEN | {"cap": -1.0}}, "cap = -1.0"),
        (PLAIN | {"agreement": TOKEN | {"cap": 0.0}}, "cap = 0.0"),
        (PLAIN | {"contrastive": {"signal": "logprob", "weight": -0.1}}, "weight = -0.1"),
        (PLAIN | {"contrastive": {"signal": "logprob", "weight": 0.0}}, "weight = 0.0"),
        (PLAIN | {"contrastive": {"signal": "divergence", "weight": 0.0}}, "weight = 0.0"),
        (PLAIN | {"contrastive": {"signal": "logprob", "margin": -0.5}}, "margin = -0.5"),
        (PLAIN | {"contrastive": {"signal": "divergence", "alpha": 2.0}}, "alpha = 2.0"),
        (PLAIN | {"matching": {"weight": -1.0}}, "matching.weight = -1.0"),
        (PLAIN | {"matching": {"weight": 0.0}}, "matching.weight = 0.0"),
        (PLAIN | {"likelihood": {"weight": math.nan}}, "likelihood.weight = nan"),
        (PLAIN | {"likelihood": {"weight": 0.0}}, "likelihood.weight = 0.0"),
        ({"agreement": TOKEN}, "nothing to minimise"),
    ],
)
def test_settings_without_meaning_are_refused_with_the_value_and_the_remedy(objective, sentence):
    with pytest.raises(UserError) as refused:
        config_of(objective)
    (said,) = str(refused.value).splitlines()
    assert sentence in said


def test_a_chunk_of_no_tokens_is_refused():
    with pytest.raises(UserError, match=r"learner\.chunk_tokens = 0"):
        validate_config({"objective": PLAIN, "learner": {"chunk_tokens": 0}})


def test_all_faults_are_named_at_once():
    with pytest.raises(UserError, match=r"temperature = 0.*\n.*matching\.weight = -1"):
        config_of(PLAIN | {"temperature": 0.0, "matching": {"weight": -1.0}})


def test_an_absolute_scale_takes_the_place_of_the_quantile():
    settings = config_of(PLAIN | {"agreement": TOKEN | {"scale": 0.4}}).objective_settings
    assert settings.agreement.scale == 0.4
    config = checked_request(["agreement_token", "--objective.agreement.scale", "0.4"]).config
    assert config.objective_settings.agreement.scale == 0.4
    assert notes(config) == ()


def test_the_objectives_temperatures_are_its_own_or_those_of_the_rollouts():
    plain, own = config_of(PLAIN).objective_settings, config_of(PLAIN | {"temperature": 1.5}).objective_settings
    assert (plain.temperature, plain.auxiliary_temperature) == (0.7, 0.7)
    assert (own.temperature, own.auxiliary_temperature) == (1.5, 1.5)
    auxiliary = config_of(PLAIN | {"auxiliary_temperature": 1.0}).objective_settings
    assert (auxiliary.temperature, auxiliary.auxiliary_temperature) == (0.7, 1.0)


def test_a_divergence_without_a_type_is_jensen_shannon_and_another_type_takes_its_place():
    assert config_of(PLAIN).objective.divergence == JensenShannon(alpha=0.5)
    other = load_recipe("unisd_star", {"objective": {"divergence": {"type": "total_variation"}}})
    assert other.objective.divergence == TotalVariation()
    assert load_recipe("unisd_star", {"objective": {"divergence": {"alpha": 0.0}}}).objective.divergence.alpha == 0.0


def test_a_divergence_that_a_gpu_computes_in_plain_torch_is_named_where_there_is_a_gpu():
    other = {"divergence": {"type": "total_variation"}}
    assert slower_settings(config_of(other)) == slower_settings(config_of(PLAIN)) == ()
    with_gpu = {"objective": other, "learner": {"gpus_per_rank": 1}}
    (said,) = slower_settings(validate_config(with_gpu))
    assert said.startswith("objective.divergence: total variation has no Triton kernel")
    assert slower_settings(validate_config(with_gpu | {"objective": PLAIN})) == ()
    options = ["--objective.divergence.type", "total_variation", "--learner.gpus_per_rank", "1"]
    assert said in notes(checked_request(["ema", *options]).config)
