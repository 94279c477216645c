"""`python -m unisd_rl.run` on real records of the paper's benchmarks, all five mechanisms on, with a tiny random model,
in one process.

Nothing is learnt by such a model: what is shown is that records, views, negatives, grading and the sandbox go together.
"""

import math

import pytest

from tests.fakes.finished import (
    assert_accuracy_is_what_its_items_say,
    assert_every_prompt_exactly_once_and_in_order,
    run_job,
)
from tests.fakes.shared_data import shared
from tests.fakes.tiny_chat_model import save_model, save_tokenizer

STEPS, BATCH, HELD_OUT = 2, 4, 4
LONGEST = 16_000  # bytes are tokens here
OPTIONS = (
    "unisd_star", "in_process", "--run.steps", str(STEPS), "--learner.batch_size", str(BATCH),
    "--rollout.max_prompt_tokens", str(LONGEST), "--rollout.max_completion_tokens", "24",
    "--task.eval_examples", str(HELD_OUT), "--contexts.auxiliary.views", "2",
)  # fmt: skip
slow = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    save_tokenizer(path)
    save_model(path, tied=True, positions=2 * LONGEST)
    return str(path)


@pytest.mark.parametrize(
    "kind,data,options",
    [
        ("mbpp", "mbpp_sanitized.jsonl", ("--task.train_examples", "12")),
        pytest.param("scienceqa", "scienceqa.jsonl", ("--task.train_examples", "12"), marks=slow),
        pytest.param("cos_e", "cos_e.jsonl", ("--task.train_examples", "12"), marks=slow),
        pytest.param("toolalpaca", "toolalpaca.jsonl", (), marks=slow),
    ],
)
def test_real_records_are_trained_on_with_all_mechanisms(tmp_path, model, kind, data, options):
    source = ("--task.type", kind, "--task.data", str(shared(data)))
    run = run_job(tmp_path, *OPTIONS, "--model.path", model, *source, *options)
    assert run.summary["status"] == "completed"
    assert_every_prompt_exactly_once_and_in_order(run, STEPS, BATCH)
    assert_accuracy_is_what_its_items_say(run)
    assert len(run.answers(0)) == HELD_OUT
    if kind in ("scienceqa", "cos_e"):
        choice = run.evaluation(0)["choice"]
        assert choice["stated"] == sum(each["stated"] is not None for each in run.answers(0))
        assert 0.0 <= choice["likelihood_accuracy"] <= 1.0
        assert 0.2 <= choice["chance"] <= 0.5
    for step in run.metrics:
        assert step["divergence"] > 0
        assert 0.5 < step["effective_sample_size"] < 0.999
        assert step["clipped_share"] > 0
        assert step["contrasted_sequences"] > 0
        assert step["matching_loss"] > 0
        assert step["teacher_update_norm"] > 0
        assert all(math.isfinite(step[name]) for name in ("loss", "grad_norm", "clip_threshold"))
