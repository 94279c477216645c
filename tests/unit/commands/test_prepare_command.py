"""`python -m unisd_rl.prepare` as a user meets it: what it says and refuses before anything heavy is imported."""

import pytest

from tests.fakes.commands import SMALL, command, dry_run


def test_a_dry_run_names_the_contexts_and_an_engine_only_where_the_model_writes():
    result = dry_run("unisd_rl.prepare", "unisd_star", *SMALL, "--contexts.auxiliary.type", "retrieval")
    assert (result.code, result.errors) == (0, "")
    assert result.output.startswith("3 auxiliary views (retrieval), a negative view (task)\n")
    assert result.output.endswith("no process is started: no model has to write anything\n")
    written = ("--contexts.negative.type", "generated", "--rollout.actors", "2")
    result = dry_run("unisd_rl.prepare", "contrastive", *SMALL, *written)
    assert result.output.startswith("no auxiliary view, a negative view (generated)\n")
    assert "--- negative view: a model makes it" in result.output
    assert "\n2 x rollout actor: 1 CPU\n" in result.output


BAD = {
    "missing embedding model": (
        ["--contexts.auxiliary.type", "retrieval", "--contexts.auxiliary.model", "/nowhere"],
        "contexts.auxiliary.model = '/nowhere'",
    ),
    "unknown kind": (["--contexts.negative.type", "bad"], "contexts.negative"),
    "field of another kind": (
        ["--contexts.auxiliary.instructions", "3"],
        "auxiliary.instructions of 'retrieval'",
    ),
    "cache that is a file": (["--contexts.cache", __file__], "contexts.cache"),
    "nothing to train on": (["--model.path", "a/b", "--task.type", "humaneval"], "for evaluation only"),
    "missing model": (["--model.path", "/nowhere/model"], "/nowhere/model"),
}


@pytest.mark.parametrize("program", ["unisd_rl.prepare", "unisd_rl.run"])
@pytest.mark.parametrize("case", BAD)
def test_bad_contexts_are_one_sentence_and_exit_code_2_before_anything_heavy(case, program):
    arguments, named = BAD[case]
    result = command(program, *arguments)
    assert result.code == 2
    assert result.errors.startswith("error: ")
    assert len(result.errors.splitlines()) == 1
    assert named in result.errors
    assert not result.heavy


def test_a_relative_cache_is_refused_under_a_ray_job():
    result = command("unisd_rl.prepare", "--contexts.cache", "cache", RAY_JOB_CONFIG_JSON_ENV_VAR="{}")
    assert result.code == 2
    assert "contexts.cache = 'cache' is relative" in result.errors
