"""Defaults for a model of one's own are neutral, each with its reason; the embedded default stays what it is."""

import pytest

from unisd_rl.config.load import RECIPES, load_recipe, load_with_defaults, recipe_tree, validate_config
from unisd_rl.errors import UserError

OWN = {"model": {"path": "owner/name"}}


def defaults(overrides=OWN, gpus=0, recipes="unisd_star"):
    config, found = load_with_defaults(recipes, overrides, lambda: gpus)
    assert all(default.reason for default in found)
    return config, {default.name: default.value for default in found}


@pytest.mark.parametrize("row", sorted(file.stem for file in RECIPES.glob("*.toml")))
def test_without_a_model_of_ones_own_nothing_is_derived(row):
    config, found = load_with_defaults(row, {}, lambda: 8)
    assert found == ()
    assert config == validate_config(recipe_tree(row))
    assert config.learner.learning_rate == 2e-4
    assert (config.rollout.concurrency, config.rollout.max_completion_tokens, config.run.steps) == (5, 64, 40)


def test_the_embedded_recipes_numbers_are_not_those_of_another_model():
    config, found = defaults()
    assert found == {
        "run.epochs": 1,
        "learner.batch_size": 16,
        "learner.learning_rate": 1e-5,
        "model.dtype": "float32",
    }
    assert config.rollout.concurrency == 64
    assert config.objective == load_recipe("unisd_star").objective


def test_the_rate_follows_from_what_is_trained():
    assert defaults()[1]["learner.learning_rate"] == 1e-5
    adapter = {"model": {"path": "owner/name", "lora": {"rank": 8}}}
    assert defaults(adapter)[1]["learner.learning_rate"] == 2e-5
    assert defaults(recipes="released_code_parity")[1]["learner.learning_rate"] == 2e-5, "that row trains adapters"


@pytest.mark.parametrize(
    ("gpus", "dtype", "share", "memory"),
    [(0, "float32", 0.0, 0.85), (1, "bfloat16", 0.5, 0.4), (2, "bfloat16", 1.0, 0.85), (8, "bfloat16", 1.0, 0.85)],
)
def test_type_and_device_follow_from_the_machine(gpus, dtype, share, memory):
    config, _ = defaults(gpus=gpus)
    assert config.model.dtype == dtype
    assert config.rollout.gpus_per_actor == config.learner.gpus_per_rank == share
    assert config.rollout.engine.gpu_memory_utilization == memory


def test_a_run_in_one_process_computes_on_the_cpu_whatever_the_machine_has():
    config, _ = defaults(gpus=2, recipes=["unisd_star", "in_process"])
    assert config.rollout.gpus_per_actor == config.learner.gpus_per_rank == 0.0
    assert config.model.dtype == "float32"


def test_what_is_given_is_not_derived_and_the_machine_not_asked_for_it():
    given = {"rollout": {"gpus_per_actor": 1}, "learner": {"gpus_per_rank": 1, "learning_rate": 3e-5}}

    def no_machine():
        raise AssertionError("GPUs are counted where their number matters")

    config, found = load_with_defaults("ema", OWN | given | {"run": {"steps": 9}}, no_machine)
    assert {default.name for default in found} == {"learner.batch_size", "model.dtype"}
    assert (config.learner.learning_rate, config.run.steps, config.model.dtype) == (3e-5, 9, "bfloat16")


def test_a_set_up_for_a_model_lies_over_the_defaults():
    config, found = defaults({}, gpus=2, recipes=["ema", "qwen2_5_7b"])
    assert found == {}
    assert (config.learner.learning_rate, config.learner.batch_size, config.run.epochs) == (2e-5, 16, 1)


def test_the_embedded_set_up_is_kept_where_it_is_named():
    config, found = defaults(recipes=["unisd_star", "embedded"])
    assert found == {"model.dtype": "float32"}
    assert (config.learner.learning_rate, config.run.steps, config.rollout.concurrency) == (2e-4, 40, 5)


def test_a_recipe_of_ones_own_has_them_too(tmp_path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text('[model]\npath = "owner/name"\n[objective.divergence]\n')
    assert load_recipe(str(recipe)).learner.learning_rate == 1e-5


def test_a_recorded_configuration_is_what_it_is(tmp_path):
    """A run of the embedded model is replayed with the folder of that model."""
    import tomli_w

    recorded = load_recipe("unisd_star")
    path = tmp_path / "config.toml"
    path.write_text(tomli_w.dumps(recorded.model_dump(mode="json", exclude_none=True)))
    again = load_recipe(str(path), {"model": {"path": "/runs/x/base_model"}})
    assert again.model_copy(update={"model": recorded.model}) == recorded


def test_a_model_that_is_no_text_is_refused():
    with pytest.raises(UserError, match=r"model\.path"):
        load_recipe("unisd_star", {"model": {"path": 7}})
