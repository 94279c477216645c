"""A configuration is read whole or refused in one sentence."""

import tomllib

import pytest
import tomli_w

from unisd_rl.config import Config
from unisd_rl.errors import UserError
from unisd_rl.settings import RECIPES, load_recipe, overlay, parse_fields

SHIPPED = sorted(file.stem for file in RECIPES.glob("*.toml"))


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_recipe_loads_and_survives_being_written(name):
    config = load_recipe(name)
    written = tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))
    assert Config.model_validate(tomllib.loads(written)) == config


def test_every_field_has_a_line_of_documentation():
    def undocumented(section):
        for name, field in section.model_fields.items():
            kind = field.annotation
            if isinstance(kind, type) and issubclass(kind, Config.__mro__[1]):
                yield from undocumented(kind)
            elif field.description is None and section is not Config and name not in ("type", "level"):
                yield f"{section.__name__}.{name}"

    assert list(undocumented(Config)) == []


def test_the_command_line_lies_over_the_recipe():
    config = load_recipe("arithmetic", parse_fields(["--run.steps", "7", "--objective.clipping", "null"], "run"))
    assert config.run.steps == 7
    assert config.objective.clipping is None
    assert config.objective.agreement is not None


def test_a_mechanism_whose_section_is_absent_is_off(tmp_path):
    recipe = tmp_path / "plain.toml"
    recipe.write_text("[objective.divergence]\nalpha = 0.0\n")
    objective = load_recipe(str(recipe)).objective
    assert objective.divergence.alpha == 0.0
    assert not any((objective.clipping, objective.agreement, objective.contrastive, objective.matching, objective.ema))


def test_a_section_of_another_kind_replaces_the_whole_section():
    merged = overlay({"engine": {"type": "vllm", "kv_cache_gib": 1.0}}, {"engine": {"type": "transformers"}})
    assert merged == {"engine": {"type": "transformers"}}


def test_a_field_of_a_section_whose_kind_is_not_named_belongs_to_the_default_kind(tmp_path):
    recipe = tmp_path / "plain.toml"
    recipe.write_text("[objective.divergence]\n")
    config = load_recipe(str(recipe), {"task": {"eval_examples": 9}, "rollout": {"engine": {"kv_cache_gib": 2.0}}})
    assert (config.task.eval_examples, config.rollout.engine.kv_cache_gib) == (9, 2.0)


def test_a_section_of_the_same_kind_is_merged():
    assert overlay({"run": {"steps": 3, "seed": 1}}, {"run": {"seed": 2}}) == {"run": {"steps": 3, "seed": 2}}


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        ({"run": {"stepz": 3}}, ["unknown key run.stepz"]),
        ({"run": {"steps": 0}}, ["run.steps", "0"]),
        ({"run": {"name": "../elsewhere"}}, ["run.name", "../elsewhere"]),
        ({"run": {"name": ""}}, ["run.name"]),
        ({"rollout": {"cores": []}}, ["rollout.cores"]),
        ({"learner": {"learning_rate": float("inf")}}, ["learner.learning_rate", "inf"]),
        ({"rollout": {"temperature": "hot"}}, ["rollout.temperature", "hot"]),
        ({"contexts": {"auxiliary": {"views": 1}}}, ["contexts.auxiliary.views = 1", "at least 2"]),
        ({"contexts": {"auxiliary": None}}, ["contexts.auxiliary.views = 0", "at least 2"]),
        ({"contexts": {"negative": None}}, ["contexts.negative"]),
        ({"weights": {"publish_every": 3}}, ["weights.publish_every = 3", "rollout.max_staleness", "1"]),
        ({"objective": {"clipping": {"threshold": 1.0}}}, ["threshold", "quantile"]),
        ({"task": {"type": "jsonl", "train": "x.jsonl"}}, ["jsonl", "model.path"]),
    ],
)
def test_a_bad_value_is_refused_with_the_value_and_the_remedy(overrides, names):
    with pytest.raises(UserError) as refused:
        load_recipe("arithmetic", overrides)
    message = str(refused.value)
    assert "\n" not in message
    assert all(name in message for name in names), message


def test_a_recipe_that_is_nowhere_is_refused_with_the_names_there_are():
    with pytest.raises(UserError, match="arithmetic"):
        load_recipe("arithmetik")


def test_a_recipe_that_is_not_toml_is_refused(tmp_path):
    recipe = tmp_path / "broken.toml"
    recipe.write_text("[run\n")
    with pytest.raises(UserError, match="not a TOML file"):
        load_recipe(str(recipe))


@pytest.mark.parametrize("option", ["--run.stepz", "--run.see"])  # the second is the beginning of one
def test_an_unknown_option_is_refused_in_one_sentence(option):
    with pytest.raises(UserError, match=option):
        parse_fields([option, "3"], "run")
