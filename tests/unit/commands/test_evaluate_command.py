"""`python -m unisd_rl.evaluate` as a user meets it: what it understands, and what it refuses before it starts."""

from argparse import Namespace

import pytest

from tests.fakes.commands import SMALL, command, dry_run
from unisd_rl.config.load import nested
from unisd_rl.config.rollout import TransformersEngine
from unisd_rl.config.task import ArithmeticTask, JsonlTask
from unisd_rl.errors import UserError
from unisd_rl.evaluate import main
from unisd_rl.evaluation.request import UNREAD, _overrides, evaluation_request, task_types

RECORD = '{"prompt": "p", "demonstration": "d", "answer": "a"}\n'


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with a run, a model, a file of records, and three recipes."""
    monkeypatch.chdir(tmp_path)
    for model in ("model", "run/checkpoints/step-3"):
        (tmp_path / model).mkdir(parents=True)
        (tmp_path / model / "config.json").write_text("{}")
    (tmp_path / "records.jsonl").write_text(RECORD)
    (tmp_path / "mine.toml").write_text(
        '[task]\ntype = "jsonl"\ntrain = "records.jsonl"\nevaluation = "records.jsonl"\n'
    )
    (tmp_path / "hard.toml").write_text("[task]\neval_examples = 7\n")
    (tmp_path / "limits.toml").write_text(
        'extends = "ema"\n[rollout]\nmax_completion_tokens = 99\n[model.lora]\nrank = 2\n'
    )
    return tmp_path


def request(models, *fields, gpus=0, **options):
    given = {
        "task": [],
        "recipe": None,
        "samples": None,
        "k": None,
        "temperature": None,
        "retention": None,
        "out": None,
    }
    return evaluation_request(models, Namespace(**{**given, **options}), fields, "evaluate", lambda: gpus)


BAD = {
    "no model": ([], "no MODEL"),
    "missing model": (["./nowhere"], "./nowhere"),
    "a run instead of a model": (["./run"], "run/checkpoints/step-3"),
    "a model twice": (["base", "base"], "given twice"),
    "unknown task": (["base", "--task", "nowhere"], "--task nowhere: neither a type of task (arithmetic"),
    "a recipe without a task": (["base", "--task", "limits.toml"], "limits.toml"),
    "two tasks of one name": (["base", "--task", "arithmetic", "--task", "arithmetic"], "same name"),
    "another task for the embedded model": (["base", "--task", "mine.toml"], "needs a model"),
    "missing records": (["./model", "--task", "jsonl", "--task.train", "none.jsonl"], "none.jsonl"),
    "more tries than answers": (["base", "--k", "1", "5"], "samples = 1"),
    "the same answer many times": (["base", "--samples", "3", "--temperature", "0"], "samples = 3 greedy"),
    "a section of no use": (["base", "--learner.ranks", "2"], "--learner.* does not apply to an evaluation"),
    "a field of no use": (["base", "--rollout.sources.gold", "1"], "--rollout.sources.* does not apply"),
    "retention without a base": (["base", "--evaluation.retention.examples", "4"], "--retention BASE"),
    "a model as a field": (["base", "--model.path", "./model"], "MODEL"),
    "unknown field": (["base", "--rollout.fast", "1"], "--rollout.fast"),
    "missing base": (["./model", "--retention", "./nowhere"], "--retention = './nowhere'"),
    "a folder with something in it": (["base", "--out", "model"], "--out model"),
    "unknown word": (["base", "--samples", "many"], "--samples"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_exit_code_2(folder, capsys, case):
    arguments, named = BAD[case]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert len(said.splitlines()) == 1
    assert named in said


@pytest.mark.parametrize("name", UNREAD)
def test_a_field_that_an_evaluation_does_not_read_is_refused_on_the_command_line(name, folder):
    with pytest.raises(UserError, match=f"^--{name} does not apply to an evaluation"):
        _overrides(nested(name, 1), Namespace(samples=None, k=None, temperature=None, retention=None))


def test_a_relative_folder_is_refused_under_a_ray_job(folder, capsys, monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert main(["base"]) == 2
    assert "absolute" in capsys.readouterr().err


def test_a_refusal_imports_nothing_heavy_and_a_dry_run_no_engine():
    refused = command("unisd_rl.evaluate", "./nowhere")
    assert (refused.code, refused.heavy) == (2, frozenset())
    planned = dry_run("unisd_rl.evaluate", "base", "--retention", "base", *SMALL)
    assert planned.code == 0, planned.errors
    assert "4,000" not in planned.output
    assert "8 held-out problems" in planned.output
    assert "1 x rollout actor: 1 CPU" in planned.output
    assert "1 x retention scorer: 0 CPU" in planned.output


def test_every_model_is_asked_every_task(folder):
    found = request(["./model", "owner/name"], task=["arithmetic", "mine.toml"])
    assert [(one.model, one.task) for one in found.targets] == [
        (model, task) for model in ("./model", "owner/name") for task in ("arithmetic", "mine")
    ]
    assert [type(one.config.task) for one in found.targets[:2]] == [ArithmeticTask, JsonlTask]
    assert [one.config.model.path for one in found.targets[::2]] == ["./model", "owner/name"]


def test_the_embedded_model_is_called_base_and_the_recipes_task_is_asked_without_another_word(folder):
    (target,) = request(["base"]).targets
    assert (target.task, target.config.model.path) == ("arithmetic", None)


def test_models_of_ones_own_answer_on_gpus_where_there_are_any(folder):
    def devices(*arguments, **options):
        config = request(*arguments, **options).config
        return config.rollout.gpus_per_actor, config.model.dtype

    assert devices(["./model"]) == (0.0, "float32")
    assert devices(["./model"], gpus=1) == (1.0, "bfloat16")
    assert devices(["./model"], "--rollout.gpus_per_actor", "0", gpus=1) == (0.0, "float32")
    assert devices(["base", "./model"], gpus=1) == (0.0, "float32"), "as the base computes"


def test_a_recipe_that_trains_in_turns_is_evaluated_with_as_many_actors_as_are_asked_for(folder):
    (folder / "turns.toml").write_text('extends = "ema"\n[run]\nplacement = "colocated"\n')
    config = request(["base"], "--rollout.actors", "2", recipe=["turns.toml"]).config
    assert (config.rollout.actors, config.run.colocated) == (2, False)


def test_a_recipe_of_a_run_in_one_process_is_evaluated_in_one_process(folder):
    (folder / "alone.toml").write_text(
        'extends = "ema"\n[run]\nplacement = "in_process"\n[rollout.engine]\ntype = "transformers"\n'
    )
    assert request(["base"], recipe=["alone.toml"]).config.run.in_process
    with pytest.raises(UserError, match=r'run.placement = "in_process": rollout.actors = 2'):
        request(["base"], "--rollout.actors", "2", recipe=["alone.toml"])


def test_limits_come_from_the_recipe_and_a_model_is_whole(folder):
    config = request(["./model"], recipe=["limits.toml"]).config
    assert config.rollout.max_completion_tokens == 99
    assert config.model.lora is None


def test_a_task_file_replaces_the_recipes_task_and_fields_lie_over_both(folder):
    config = request(["base"], "--task.seed", "5", "--rollout.engine.type", "transformers", task=["hard.toml"]).config
    assert (config.task.eval_examples, config.task.seed) == (7, 5)
    assert isinstance(config.rollout.engine, TransformersEngine)


def test_one_answer_is_greedy_and_several_are_drawn_as_the_rollouts_are_unless_it_is_said(folder):
    assert request(["base"]).config.evaluation_temperature == 0.0
    several = request(["base"], samples=4, k=[1, 4]).config
    assert several.evaluation_temperature == several.rollout.temperature == 0.7
    assert several.evaluation.k == (1, 4)
    assert request(["base"], samples=4, temperature=0.3).config.evaluation_temperature == 0.3


def test_retention_is_on_where_a_base_is_named_with_the_recipes_settings(folder):
    (folder / "sized.toml").write_text(
        'extends = "ema"\n[evaluation]\nevery = 3\n[evaluation.retention]\nbatch_size = 3\n'
    )
    assert request(["base"], recipe=["sized.toml"]).config.evaluation.retention is None
    found = request(["base"], recipe=["sized.toml"], retention="base")
    assert found.config.evaluation.retention.batch_size == 3
    assert found.config.evaluation.every is None


def test_every_type_of_task_is_known_by_its_name():
    assert set(task_types()) >= {"arithmetic", "jsonl", "datasets"}
