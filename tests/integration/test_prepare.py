"""`python -m unisd_rl.prepare`, and a run on what it prepared: the embedded model writes instructions and mistakes.

Engine starts of this file, transformers all: one that prepares, one that trains.
"""

import json
import os
import subprocess
import sys

import pytest

from tests.fakes.finished import REPOSITORY, assert_every_prompt_exactly_once_and_in_order, run_job
from unisd_rl.config.load import load_recipe
from unisd_rl.contexts.selection import PreparedRow
from unisd_rl.tasks.load import load_task
from unisd_rl.transport.rollouts.ledger import Ledger
from unisd_rl.types import ViewKind

PROBLEMS, STEPS, BATCH = 24, 2, 8
TASK = {"train_examples": PROBLEMS, "eval_examples": 6}
SHORT = {"max_tokens": 40, "max_prompt_tokens": 512}
CONTEXTS = {
    "auxiliary": {"type": "induction", "views": 2, "instructions": 8, "demonstrations": 2, **SHORT},
    "negative": {"type": "generated", "attempts": 4, **SHORT},
}


def options(cache) -> list[str]:
    sections = {"task": TASK, "contexts.auxiliary": CONTEXTS["auxiliary"], "contexts.negative": CONTEXTS["negative"]}
    fields = [(f"--{name}.{key}", str(value)) for name, section in sections.items() for key, value in section.items()]
    return [
        *(word for field in fields for word in field),
        "--rollout.engine.type", "transformers", "--contexts.cache", str(cache),
    ]  # fmt: skip


def prepare(cache) -> str:
    """The command to its end; what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "unisd_rl.prepare", *options(cache)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
        env={key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rows_of(cache) -> list[PreparedRow]:
    files = sorted(cache.glob("problems/*/segment-*.jsonl"))
    return [PreparedRow.from_json(json.loads(line)) for file in files for line in file.read_text().splitlines()]


@pytest.mark.slow
def test_the_model_writes_contexts_once_and_a_run_trains_on_them(tmp_path):
    cache = tmp_path / "cache"
    said = prepare(cache)
    assert "preparing contexts" in said
    assert f"prepared {PROBLEMS} of {PROBLEMS} problems" in said
    rows = {row.id: row for row in rows_of(cache)}
    assert_contexts_are_what_was_asked_for(cache, rows)

    again = prepare(cache)
    assert "preparing contexts" not in again
    assert again.splitlines()[-2:] == said.splitlines()[-2:]

    run = run_job(tmp_path, *options(cache), "--run.steps", str(STEPS), "--learner.batch_size", str(BATCH))
    assert "preparing contexts" not in run.output
    assert_every_prompt_exactly_once_and_in_order(run, STEPS, BATCH)
    for rollout in Ledger(run.path / "rollouts", fsync=False).rollouts([row["prompt"] for row in run.consumed]):
        assert len(rollout.views_of(ViewKind.AUXILIARY)) == 2
        assert len(rollout.views_of(ViewKind.NEGATIVE)) == (rows[rollout.id].contexts.negative is not None)
    assert max(row["contrasted_sequences"] for row in run.metrics) > 0


def assert_contexts_are_what_was_asked_for(cache, rows) -> None:
    task = load_task(load_recipe("unisd_star", {"task": TASK}).task)
    (pool,) = cache.glob("instructions/*/segment-00000.jsonl")
    written = {json.loads(line)["text"] for line in pool.read_text().splitlines()} - {None}
    assert set(rows) == {example.id for example in task.train}
    negatives = [row.contexts.negative for row in rows.values() if row.contexts.negative is not None]
    assert len(negatives) >= PROBLEMS / 8
    assert len(set(negatives)) > len(negatives) / 2
    for example in task.train:
        contexts = rows[example.id].contexts
        told = {text.partition("\n")[2] for text in contexts.auxiliary}
        assert len(told) == 2
        assert told <= written
        assert contexts.negative is None or not task.grade(contexts.negative, example)
