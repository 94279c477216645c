"""`python -m unisd_rl.prepare` as a user meets it: what it says and refuses before anything heavy is imported."""

import os
import subprocess
import sys

import pytest

HEAVY = {"torch", "ray", "vllm", "deepspeed", "transformers", "datasets"}


def command(*arguments, program="unisd_rl.prepare", **environment):
    """(exit code, standard output, standard error, what was imported)."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", program, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )
    lines = done.stderr.splitlines()
    imported = {line.rsplit("|", 1)[1].strip() for line in lines if line.startswith("import time:")}
    said = "\n".join(line for line in lines if not line.startswith("import time:"))
    return done.returncode, done.stdout, said, imported


def test_a_dry_run_names_the_contexts_and_an_engine_only_where_the_model_writes():
    code, said, errors, imported = command("unisd_star", "--dry-run", "--contexts.auxiliary.type", "retrieval")
    assert (code, errors) == (0, "")
    assert said == "3 auxiliary views (retrieval), a negative view (task)\n"
    assert not imported & HEAVY
    said = command("contrastive", "--dry-run", "--contexts.negative.type", "written", "--rollout.actors", "2")[1]
    assert said == "no auxiliary view, a negative view (written)\n2 x rollout actor: 1 CPU\n"


BAD = {
    "missing embedding model": (
        ["--contexts.auxiliary.type", "retrieval", "--contexts.auxiliary.model", "/nowhere"],
        "contexts.auxiliary.model = '/nowhere'",
    ),
    "unknown kind": (["--contexts.negative.type", "bad"], "contexts.negative"),
    "field of another kind": (["--contexts.auxiliary.instructions", "3"], "contexts.auxiliary.random.instructions"),
    "cache that is a file": (["--contexts.cache", __file__], "contexts.cache"),
    "nothing to train on": (["--model.path", "a/b", "--task.type", "humaneval"], "for evaluation only"),
    "missing model": (["--model.path", "/nowhere/model"], "/nowhere/model"),
}


@pytest.mark.parametrize("program", ["unisd_rl.prepare", "unisd_rl.run"])
@pytest.mark.parametrize("case", BAD)
def test_bad_contexts_are_one_sentence_and_exit_code_2_before_anything_heavy(case, program):
    arguments, named = BAD[case]
    code, _, said, imported = command(*arguments, program=program)
    assert code == 2
    assert said.startswith("error: ")
    assert len(said.splitlines()) == 1
    assert named in said
    assert not imported & HEAVY


def test_a_relative_cache_is_refused_under_a_ray_job():
    code, _, said, _ = command("--contexts.cache", "cache", RAY_JOB_CONFIG_JSON_ENV_VAR="{}")
    assert code == 2
    assert "contexts.cache = 'cache' is relative" in said
