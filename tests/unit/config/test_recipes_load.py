"""Every shipped recipe loads, alone and under every set-up, and says nothing that cannot act."""

import tomllib

import pytest
import tomli_w

from learner.plan import scoring_plan
from unisd_rl.config import Config
from unisd_rl.config.load import RECIPES, SETUPS, load_recipe
from unisd_rl.errors import UserError
from unisd_rl.run import checked_request, notes
from unisd_rl.types import ViewKind

ROWS = sorted(file.stem for file in RECIPES.glob("*.toml"))
SETUP_NAMES = sorted(file.stem for file in SETUPS.glob("*.toml"))
TABLE = {
    "agreement_sequence", "agreement_token", "clip", "contrastive", "ema", "gkd", "match_joint", "match_representation",
    "opsd", "released_code_parity", "sdft", "sft", "ssd", "unisd_star",
}  # fmt: skip


def test_every_row_and_every_baseline_of_the_papers_table_is_shipped():
    assert set(ROWS) == TABLE


@pytest.mark.parametrize("name", ROWS)
def test_every_recipe_loads_and_survives_being_written(name):
    config = load_recipe(name)
    written = tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))
    assert Config.model_validate(tomllib.loads(written)) == config


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("setup", SETUP_NAMES)
def test_every_recipe_loads_under_every_setup_which_leaves_its_objective_alone(name, setup):
    alone, both = load_recipe(name), load_recipe([name, setup])
    assert both.objective == alone.objective
    assert both.contexts.auxiliary == alone.contexts.auxiliary
    assert (both.contexts.negative is None) is (alone.contexts.negative is None)
    assert both.rollout.sources == alone.rollout.sources
    assert both.run.name == alone.run.name


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("setup", SETUP_NAMES)
def test_what_a_row_says_itself_stands_under_every_setup(name, setup):
    """A set-up replaces what every embedded run shares, and nothing of what makes a row what it is."""
    said = {key for key in settings_of(tomllib.loads((RECIPES / f"{name}.toml").read_text())) if key != "extends"}
    alone, both = (settings_of(load_recipe(layers).model_dump(mode="json")) for layers in (name, [name, setup]))
    assert len(said) >= 2
    assert {key: both[key] for key in said & both.keys()} == {key: alone[key] for key in said & both.keys()}
    assert said - both.keys() <= {"contexts.negative"}  # a section without a field of its own


def settings_of(tree, prefix=""):
    """Dotted name -> value of every field; a section without fields is one."""
    found = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            found |= settings_of(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def test_the_authors_combined_run_has_their_numbers_under_the_papers_setup():
    """Where the set-up's own are others: dropout 0, batches of 16, a rate that moves at the first step."""
    config = load_recipe(["released_code_parity", "qwen2_5_7b"])
    assert (config.model.lora.rank, config.model.lora.effective_alpha, config.model.lora.dropout) == (64, 128, 0.05)
    assert (config.learner.batch_size, config.objective.reference_reductions.micro_batch_size) == (8, 2)
    assert (config.rollout.max_staleness, config.contexts.auxiliary.type) == (0, "retrieval")
    assert config.learner.warmup_from_zero
    assert (config.learner.learning_rate, config.model.dtype) == (2e-5, "bfloat16")  # of the set-up


@pytest.mark.parametrize("name", [name for name in ROWS if load_recipe(name).contexts.auxiliary is not None])
def test_rows_with_auxiliary_views_read_retrieved_examples_as_the_papers_do(name):
    assert load_recipe(name).contexts.auxiliary.type == "retrieval"


@pytest.mark.parametrize("setup", SETUP_NAMES)
def test_wrong_demonstrations_are_written_by_the_model_in_every_setup_that_has_one_able_to(setup):
    rows = [name for name in ROWS if load_recipe(name).contexts.negative is not None]
    assert len(rows) == 3
    for name in rows:
        config = load_recipe([name, setup])
        assert config.contexts.negative.type == ("task" if config.model.path is None else "generated")


def test_a_setup_gives_no_negative_view_to_a_row_that_has_none(capsys):
    assert load_recipe(["ema", "qwen2_5_7b"]).contexts.negative is None
    own = {"contexts": {"negative": {"type": "corruption"}}}
    assert load_recipe(["contrastive", "qwen2_5_7b"], own).contexts.negative.type == "corruption"


@pytest.mark.parametrize("setup", SETUP_NAMES)
def test_a_setup_alone_is_refused_with_what_to_put_before_it(setup):
    with pytest.raises(UserError, match="unisd_star"):
        load_recipe(setup)


@pytest.mark.parametrize("name", ROWS)
def test_nothing_in_a_recipe_is_without_effect_but_for_what_was_released(name):
    said = " ".join(notes(checked_request([name]).config))
    assert said == "" if name != "released_code_parity" else said.startswith("agreement with gamma 0.001")


@pytest.mark.parametrize("name", ROWS)
def test_the_views_that_are_built_are_those_that_the_learner_scores(name):
    config, plan = load_recipe(name), scoring_plan(load_recipe(name))
    scored = {kind: len(plan.specs_of(kind)) for kind in ViewKind}
    auxiliary = config.contexts_read.auxiliary
    assert scored == {
        ViewKind.PRIMARY: int(config.reads_teacher),
        ViewKind.AUXILIARY: auxiliary.views if auxiliary else 0,
        ViewKind.NEGATIVE: int(config.contexts_read.negative is not None),
    }


def test_the_papers_setup_has_the_papers_numbers():
    config = load_recipe(["ema", "qwen2_5_7b"])
    lora, learner, rollout = config.model.lora, config.learner, config.rollout
    assert (lora.rank, lora.effective_alpha, lora.dropout) == (64, 128, 0)
    assert rollout.max_staleness == 0  # the paper's runs are on-policy
    assert (learner.learning_rate, learner.warmup_fraction, learner.batch_size) == (2e-5, 0.1, 16)
    assert (learner.max_grad_norm, config.model.dtype) == (1.0, "bfloat16")
    assert (rollout.max_prompt_tokens, rollout.max_completion_tokens, rollout.temperature) == (3072, 1024, 0.7)
    assert (rollout.engine.type, rollout.gpus_per_actor, learner.gpus_per_rank) == ("vllm", 1, 1)
    assert (config.objective.ema.beta, config.objective.ema.every) == (0.9, 10)


def test_the_embedded_runs_differ_in_nothing_but_name_objective_contexts_and_sources():
    first = load_recipe("unisd_star")
    for name in set(ROWS) - {"ssd", "released_code_parity"}:  # the one samples otherwise, the other has adapters
        config = load_recipe(name)
        assert (config.learner, config.weights, config.task, config.model) == (
            first.learner, first.weights, first.task, first.model,
        )  # fmt: skip
        assert config.rollout.model_copy(update={"sources": first.rollout.sources}) == first.rollout
        assert config.run.model_copy(update={"name": first.run.name}) == first.run
