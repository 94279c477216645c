"""A configuration is read whole or refused in one sentence."""

import json

import pytest

from unisd_rl.cli import parse_fields
from unisd_rl.config import Config
from unisd_rl.config.load import RECIPES, RENAMED, load_recipe, overlay
from unisd_rl.config.schema import slower_settings
from unisd_rl.errors import UserError
from unisd_rl.run import main


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
    config = load_recipe("unisd_star", parse_fields(["--run.steps", "7", "--objective.clipping", "null"], "run"))
    assert config.run.steps == 7
    assert config.objective.clipping is None
    assert config.objective.agreement is not None


def test_a_setup_lies_under_the_row_that_it_follows_and_a_file_of_ones_own_over_both(tmp_path):
    """From left to right otherwise: a set-up that follows a file of one's own lies over it."""
    own = tmp_path / "own.toml"
    own.write_text("[learner]\nbatch_size = 24\n[model.lora]\ndropout = 0.1\n")

    def batch_and_dropout(*layers):
        config = load_recipe(layers)
        return config.learner.batch_size, config.model.lora.dropout

    assert batch_and_dropout("released_code_parity", "qwen2_5_7b") == (8, 0.05)
    assert batch_and_dropout("released_code_parity", "qwen2_5_7b", "cluster", str(own)) == (24, 0.1)
    assert batch_and_dropout("ema", "qwen2_5_7b", "qwen2_5_0_5b") == (64, 0.0)
    assert batch_and_dropout("ema", str(own), "qwen2_5_7b") == (16, 0.0)
    own.write_text('extends = "qwen2_5_7b"\n')
    assert batch_and_dropout("released_code_parity", str(own)) == (8, 0.05)


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
        ({"contexts": {"order": "backwards"}}, ["contexts.order", "backwards", "question_first"]),
        ({"contexts": {"donors_per_step": 0}}, ["contexts.donors_per_step", "0"]),
        ({"contexts": {"donors_per_step": 2}}, ["contexts", "donors_per_step = 2", "auxiliary.views = 3"]),
        (
            {"contexts": {"donors_per_step": 8, "auxiliary": {"type": "induction"}}},
            ["contexts", "donors_per_step = 8", '"induction"'],
        ),
        ({"contexts": {"donors_per_step": 8, "auxiliary": {"model": "minilm"}}}, ["donors_per_step = 8", "'minilm'"]),
        ({"rollout": {"lease_unit": 3}}, ["rollout.lease_unit = 3", "learner.batch_size"]),
        ({"rollout": {"answers_per_prompt": 3}}, ["rollout.answers_per_prompt = 3 does not divide learner.batch_size"]),
        (
            {"rollout": {"answers_per_prompt": 4, "lease_unit": 2}},
            ["rollout.lease_unit = 2 is no multiple of rollout.answers_per_prompt = 4"],
        ),
        (
            {"rollout": {"answers_per_prompt": 4, "lease_unit": 12}},
            ["rollout.lease_unit = 12 does not divide learner.batch_size = 64"],
        ),
        (
            {"rollout": {"answers_per_prompt": 2, "sources": {"policy": 0.5, "gold": 0.5}}},
            ["rollout.answers_per_prompt = 2", "rollout.sources.gold = 0.5", "set the first to 1 or the second to 0"],
        ),
        ({"rollout": {"keep": 9}, "run": {"checkpoint_every": 0}}, ["rollout.keep = 9", "run.checkpoint_every = 0"]),
        ({"weights": {"publish_every": 3}}, ["weights.publish_every = 3", "rollout.max_staleness", "1"]),
        ({"objective": {"clipping": {"threshold": 1.0, "quantile": 0.9}}}, ["threshold", "quantile"]),
        ({"task": {"type": "jsonl", "train": "x.jsonl"}}, ["jsonl", "model.path"]),
    ],
)
def test_a_bad_value_is_refused_with_the_value_and_the_remedy(overrides, names):
    with pytest.raises(UserError) as refused:
        load_recipe("unisd_star", overrides)
    message = str(refused.value)
    assert "\n" not in message
    assert all(name in message for name in names), message


@pytest.mark.parametrize(
    ("rollout", "unit", "rows"),
    [
        ({}, 1, None),
        ({"lease_unit": 1}, 1, None),
        ({"lease_unit": 8}, 8, 8),
        ({"answers_per_prompt": 4}, 4, None),
        ({"answers_per_prompt": 4, "lease_unit": 4}, 4, 4),
        ({"answers_per_prompt": 4, "lease_unit": 8}, 8, 8),
    ],
)
def test_a_unit_is_a_group_unless_it_is_given_and_only_then_has_the_engine_fixed_groups(rollout, unit, rows):
    config = load_recipe("unisd_star", {"rollout": rollout})
    assert (config.rollout.unit_size, config.rollout.group_rows) == (unit, rows)


def test_ranks_for_which_a_step_has_no_prompt_are_named():
    sections = {"learner": {"batch_size": 8, "ranks": 3}, "rollout": {"answers_per_prompt": 4}}
    (said,) = slower_settings(load_recipe("unisd_star", sections))
    assert "learner.ranks = 3: a step has 2 prompts, 4 answers each" in said
    assert said.endswith("1 would have nothing to do")
    assert slower_settings(load_recipe("unisd_star", overlay(sections, {"learner": {"ranks": 2}}))) == ()


def test_answers_of_the_initial_model_may_be_several():
    assert load_recipe("ssd", {"rollout": {"answers_per_prompt": 4}}).rollout.unit_size == 4


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.toml")))
def test_a_recipe_of_the_papers_rows_has_one_answer_per_prompt(name):
    assert load_recipe(name).rollout.answers_per_prompt == 1


def key_and_value(entry):
    """Section, field and value of an entry of the table, the first of several; a key without a value is given {}."""
    key, _, value = entry.partition(" = ")
    return *key.rsplit(".", 1), value.partition(" or ")[0] or "{}"


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_a_renamed_key_or_value_is_refused_with_its_new_name_wherever_it_is_given(tmp_path, capsys, old, new):
    section, field, value = key_and_value(old)
    recipe = tmp_path / "old.toml"
    recipe.write_text(f'extends = "contrastive"\n[{section}]\n{field} = {value}\n')
    over = tmp_path / "over.toml"  # what lies over an old name does not hide it
    over.write_text(f'extends = "old.toml"\n[{section}]\n' + f'{field} = "other"\n' * (" = " in old))
    word = value.strip('"')
    for arguments in (
        [str(recipe)],
        [str(over)],
        [f"--{section}.{field}", word],
        [f"--{section}.{field}={word}"],
        [f"--{section}", json.dumps({field: json.loads(value)})],
    ):
        assert main([*arguments, "--dry-run"]) == 2, arguments
        refusal = capsys.readouterr().err
        assert f"{old} has a new name: use {new}\n" in refusal
        assert refusal.count("\n") == 1
        assert (str(recipe) in refusal) == arguments[0].endswith(".toml")


def test_an_option_below_a_renamed_section_is_refused_with_the_new_name():
    with pytest.raises(UserError, match=r"use objective\.reference_reductions"):
        parse_fields(["--objective.released.micro_batch_size", "4"], "run")


@pytest.mark.parametrize("new", RENAMED.values())
def test_a_new_name_is_accepted(tmp_path, new):
    section, field, value = key_and_value(new)
    recipe = tmp_path / "new.toml"
    recipe.write_text(f'extends = "contrastive"\n[{section}]\n{field} = {value}\n')
    assert getattr(load_recipe(str(recipe)), section.split(".")[0]) != getattr(
        load_recipe("contrastive"), section.split(".")[0]
    )


def test_a_recipe_that_is_nowhere_is_refused_with_the_names_there_are():
    with pytest.raises(UserError, match="unisd_star"):
        load_recipe("arithmetik")


def written(folder, **files):
    """TOML files by their names without the ending; the paths, in order."""
    for name, text in files.items():
        (folder / f"{name}.toml").write_text(text)
    return [str(folder / f"{name}.toml") for name in files]


def test_a_recipe_lies_over_the_one_it_extends_by_name_or_by_a_path_seen_from_its_folder(tmp_path):
    (tmp_path / "sub").mkdir()
    written(tmp_path, base='extends = "ema"\n[run]\nname = "base"\nsteps = 5\n')
    (top,) = written(tmp_path / "sub", top='extends = "../base.toml"\n[run]\nsteps = 6\n')
    config = load_recipe(top)
    assert (config.run.name, config.run.steps) == ("base", 6)
    assert config.objective == load_recipe("ema").objective
    assert config.learner.batch_size == load_recipe("ema").learner.batch_size  # of what `ema` extends in turn


def test_recipes_lie_over_one_another_from_left_to_right_and_fields_over_all(tmp_path):
    one, two = written(
        tmp_path, one='[run]\nseed = 1\nname = "one"\nsteps = 1\n', two='[run]\nseed = 2\nname = "two"\n'
    )
    assert load_recipe(["clip", one, two], {"run": {"seed": 3}}).run.model_dump(include={"seed", "name", "steps"}) == {
        "seed": 3, "name": "two", "steps": 1,
    }  # fmt: skip
    assert load_recipe(["clip", two, one]).run.name == "one"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('extends = "a.toml"', ["a.toml -> a.toml", "extends itself"]),
        ('extends = "b.toml"', ["a.toml -> b.toml -> a.toml", "extends itself"]),
        ('extends = "nowhere"', ["'nowhere'", "unisd_star", "qwen2_5_7b"]),
        ('extends = ["ema", "clip"]', ["extends = ['ema', 'clip']", "one recipe"]),
    ],
)
def test_what_cannot_be_extended_is_refused(tmp_path, text, names):
    path, _ = written(tmp_path, a=text, b='extends = "a.toml"')
    with pytest.raises(UserError) as refused:
        load_recipe(path)
    assert all(name in str(refused.value) for name in names), refused.value


def test_a_recipe_that_is_not_toml_is_refused(tmp_path):
    recipe = tmp_path / "broken.toml"
    recipe.write_text("[run\n")
    with pytest.raises(UserError, match="not a TOML file"):
        load_recipe(str(recipe))


@pytest.mark.parametrize("option", ["--run.stepz", "--run.see"])  # the second is the beginning of one
def test_an_unknown_option_is_refused_in_one_sentence(option):
    with pytest.raises(UserError, match=option):
        parse_fields([option, "3"], "run")


def test_a_clip_of_one_kind_replaces_that_of_the_other_kind_below_it():
    """unisd_star clips at a quantile; who asks for a threshold wants no quantile, and need not take it away."""
    clipping = load_recipe(
        "unisd_star", parse_fields(["--objective.clipping.threshold", "10"], "run")
    ).objective.clipping
    assert (clipping.threshold, clipping.quantile) == (10.0, None)
    below = {"task": {"arguments": {"clipping": {"threshold": 1.0}}}}
    over = {"task": {"arguments": {"clipping": {"quantile": 0.5}}}}
    assert overlay(below, over) == {"task": {"arguments": {"clipping": {"threshold": 1.0, "quantile": 0.5}}}}
