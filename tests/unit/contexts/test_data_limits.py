"""Limits on lengths follow from the data where nobody gave them, and nothing of the data is beyond them."""

import json

import pytest

from tests.fakes.tiny_chat_model import save_model, save_tokenizer
from unisd_rl.config.load import load_recipe
from unisd_rl.contexts.prepare import Preparation
from unisd_rl.contexts.selection import with_data_limits
from unisd_rl.driver.dry_run import SilentProgress
from unisd_rl.evaluation.request import EvaluationRequest, EvaluationTarget, with_task_limits
from unisd_rl.models.tokenizer import ChatTokenizer
from unisd_rl.tasks.load import load_task


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    save_tokenizer(path)
    save_model(path, tied=True)
    return path


def config_of(tmp_path, model, words=3, **rollout):
    """A task of ten records whose solutions have `words` words."""
    records = [
        {"prompt": f"question {n}", "demonstration": f"{'because ' * words}\nAnswer: {n}", "answer": n}
        for n in range(10)
    ]
    path = tmp_path / f"records-{words}.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    task = {"type": "jsonl", "train": str(path)}
    contexts = {"cache": str(tmp_path / "cache")}
    settings = {"model": {"path": str(model)}, "task": task, "rollout": rollout, "contexts": contexts}
    return load_recipe("unisd_star", settings)


def limits(config):
    return config.rollout.max_prompt_tokens, config.rollout.max_completion_tokens


def test_answers_may_be_twice_as_long_as_the_longest_worked_solution_and_never_short(tmp_path, model):
    for words, expected in ((3, 256), (40, 704)):
        config = config_of(tmp_path, model, words)
        task = load_task(config.task)
        gold = max(len(ChatTokenizer(model).encode_completion(example.demonstration)) for example in task.train)
        fitted, defaults = with_data_limits(config, task)
        assert fitted.rollout.max_completion_tokens == expected == -(-max(256, 2 * gold) // 64) * 64
        assert [default.name for default in defaults] == ["rollout.max_prompt_tokens", "rollout.max_completion_tokens"]
        assert str(gold) in defaults[1].reason


def test_no_view_is_beyond_the_derived_limit(tmp_path, model):
    config = config_of(tmp_path, model, 20)
    task = load_task(config.task)
    fitted, _ = with_data_limits(config, task)
    report = Preparation.create(fitted, task, model, None, SilentProgress()).prepared().report
    assert report.too_long == 0
    assert report.kept == len(task.train)


def test_a_limit_that_is_given_stays(tmp_path, model):
    config = config_of(tmp_path, model, max_completion_tokens=40)
    fitted, defaults = with_data_limits(config, load_task(config.task))
    assert fitted.rollout.max_completion_tokens == 40
    assert [default.name for default in defaults] == ["rollout.max_prompt_tokens"]
    again, none = with_data_limits(fitted, load_task(config.task))
    assert (again, none) == (fitted, ()), "what is recorded is given"


def test_limits_end_with_the_models_positions(tmp_path, model):
    config = config_of(tmp_path, model, 110)
    fitted, _ = with_data_limits(config, load_task(config.task))
    assert sum(limits(fitted)) <= 2048


def test_the_embedded_task_keeps_its_limits(model):
    config = load_recipe("unisd_star", {"model": {"path": str(model)}, "task": {"train_examples": 8}})
    assert with_data_limits(config, load_task(config.task)) == (config, ())


def test_a_tokenizer_that_does_not_load_is_for_the_preparation_to_refuse(tmp_path):
    (tmp_path / "nothing").mkdir()
    config = config_of(tmp_path, tmp_path / "nothing")
    assert with_data_limits(config, load_task(config.task)) == (config, ())


def test_all_models_and_tasks_of_an_evaluation_have_the_same_limits(tmp_path, model):
    configs = {"short": config_of(tmp_path, model, 3), "long": config_of(tmp_path, model, 40)}
    tasks = {name: load_task(config.task) for name, config in configs.items()}

    def request(*models):
        targets = tuple(EvaluationTarget(one, name, config) for one in models for name, config in configs.items())
        return EvaluationRequest(models, tuple(configs), targets, None, tmp_path)

    fitted = with_task_limits(request("a", "b"), tasks)
    assert {limits(target.config)[1] for target in fitted.targets} == {704}
    assert with_task_limits(request("base", "b"), tasks) == request("base", "b")
