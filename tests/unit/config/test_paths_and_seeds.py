"""A path means the same wherever it is given, and a seed is one that every generator takes."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import AfterValidator

from tests.fakes.schema_cases import fields, laid, nested
from unisd_rl.cli import user_model, user_path
from unisd_rl.config.base import expand_home, expand_path
from unisd_rl.config.load import load_recipe, recipe_path
from unisd_rl.config.rollout import RolloutConfig
from unisd_rl.errors import UserError

SEEDS = {name for name, _ in fields() if name.endswith("seed")}
PATHS = {name for name, kinds in fields() if any(kind is Path for kind, _ in kinds)}


def test_every_path_of_the_configuration_is_one_with_a_home_folder():
    bare = [
        name
        for name, kinds in fields()
        for kind, limits in kinds
        if kind is Path and not any(isinstance(limit, AfterValidator) and limit.func is expand_path for limit in limits)
    ]
    assert bare == []
    assert {"run.dir", "contexts.cache", "task.train", "task.evaluation", "task.data"} <= PATHS


def test_every_name_of_a_model_is_one_with_a_home_folder():
    expanded = {
        name
        for name, kinds in fields()
        for _, limits in kinds
        if any(isinstance(limit, AfterValidator) and limit.func is expand_home for limit in limits)
    }
    assert expanded == {
        "model.path", "contexts.auxiliary.model", "task.path", "task.evaluation", "task.hub", "task.train_hub",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("run.dir", {}),
        ("model.path", {}),
        ("contexts.cache", {}),
        ("contexts.auxiliary.model", {"contexts": {"auxiliary": {"type": "retrieval"}}}),
        ("task.train", {"model": {"path": "a/b"}, "task": {"type": "jsonl"}}),
        ("task.data", {"model": {"path": "a/b"}, "task": {"type": "mbpp"}}),
        ("task.path", {"model": {"path": "a/b"}, "task": {"type": "datasets"}}),
        ("rollout.ledger", {}),
    ],
)
def test_a_leading_tilde_is_the_home_folder(name, others, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    value = load_recipe("unisd_star", laid(others, nested(name, "~/x")))
    for part in name.split("."):
        value = getattr(value, part)
    assert str(value) == "/home/somebody/x"


def test_paths_of_the_command_line_have_a_home_folder_too(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.toml").write_text("")
    assert user_path("~/out") == tmp_path / "out"
    assert user_model("~/model") == str(tmp_path / "model")
    assert user_model("owner/name") == "owner/name"
    assert recipe_path("~/mine.toml") == tmp_path / "mine.toml"


@pytest.mark.parametrize("text", ["", "a\0b", "~nobody-here/x", "x" * 300, "a\nb"])
def test_what_is_no_path_is_refused(text):
    with pytest.raises(UserError, match="is no path"):
        user_path(text)
    with pytest.raises(UserError, match=r"run: dir|run\.dir"):
        load_recipe("unisd_star", {"run": {"dir": text}})


def test_a_ledger_is_absolute_or_an_address():
    assert RolloutConfig(ledger="s3://bucket/x").ledger == "s3://bucket/x"
    with pytest.raises(ValueError, match="means another folder to each process"):
        RolloutConfig(ledger="x")


def test_there_are_seeds_of_the_run_of_tasks_and_of_the_base_model():
    assert {"run.seed", "task.seed", "model.base_seed"} == SEEDS


@pytest.mark.parametrize("name", sorted(SEEDS))
def test_a_seed_that_some_generator_does_not_take_is_refused(name):
    for seed in (0, 2**32 - 1):
        load_recipe("unisd_star", nested(name, seed))
        random.Random(seed)
        np.random.seed(seed)  # as vLLM does when it starts
        torch.Generator().manual_seed(seed)
    for seed in (-1, 2**32):
        with pytest.raises(UserError, match=f"{name} = {seed}: "):
            load_recipe("unisd_star", nested(name, seed))
        with pytest.raises(ValueError, match=r"2\*\*32"):
            np.random.seed(seed)
