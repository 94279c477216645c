"""A user's own records and model, from JSON Lines and through `datasets`, in one process."""

import json
import tomllib

import pytest

from tests.fakes.finished import (
    assert_accuracy_is_what_its_items_say,
    assert_every_prompt_exactly_once_and_in_order,
    run_job,
)
from unisd_rl.base_model import BaseModelRecipe, ensure_base_model

BATCH, HELD_OUT = 8, 6
STEPS = 3  # one epoch: 24 of 30 records are trained on, and a fifth is held out where nothing else is said
OPTIONS = ("unisd_star", "in_process", "--run.epochs", "1", "--learner.batch_size", str(BATCH))


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """A file of 30 records whose fields have names of their own."""
    path = tmp_path_factory.mktemp("data") / "train.json"
    rows = [
        {
            "question": f"What is {a}+{a + 20}?",
            "worked": f"{a}+{a + 20}\nAnswer: {2 * a + 20}",
            "result": str(2 * a + 20),
        }
        for a in range(10, 40)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def model():
    return str(ensure_base_model(BaseModelRecipe(), lambda *_: None))


FIELDS = ("--task.fields.prompt", "question", "--task.fields.demonstration", "worked", "--task.fields.answer", "result")


@pytest.mark.parametrize("kind", ["jsonl", "datasets"])
def test_a_users_own_records_are_trained_on_and_evaluated(tmp_path, records, model, kind):
    source = ("--task.train", str(records)) if kind == "jsonl" else ("--task.path", str(records.parent))
    run = run_job(tmp_path, *OPTIONS, "--model.path", model, "--task.type", kind, *source, *FIELDS)
    assert_every_prompt_exactly_once_and_in_order(run, STEPS, BATCH)
    assert len({row["id"] for row in run.consumed}) == 24
    assert tomllib.loads((run.path / "config.toml").read_text())["run"]["steps"] == STEPS
    assert "training on 24 of 24 problems, 6 held out" in run.output
    assert "1 epoch of 24 problems: 3 steps of 8 prompts" in run.output
    assert_accuracy_is_what_its_items_say(run)
    assert run.summary["before"]["problems"] == HELD_OUT
    held_out = {answer["id"] for answer in run.answers(0)}
    assert not held_out & {row["id"] for row in run.consumed}
