"""The whole loop for real: Ray, vLLM, Arrow, DeepSpeed, in the processes a user gets.

Engine starts of this file: one for `short_run`; in the slow tier two for each run of `TWO_AND_TWO`.
"""

import statistics
import tomllib

import numpy as np
import pytest

from tests.fakes.finished import (
    assert_accuracy_is_what_its_items_say,
    assert_agreement_acts,
    assert_every_prompt_exactly_once_and_in_order,
    assert_groups_are_whole,
    assert_people_see_what_counts,
    assert_staleness_within,
    assert_the_timeline_is_the_runs,
    run_job,
    start_job,
)
from unisd_rl.config import Config

STEPS, BATCH = 6, 32
SHORT = ("--run.steps", str(STEPS), "--learner.batch_size", str(BATCH), "--task.eval_examples", "64")
TWO_AND_TWO = ("--rollout.actors", "2", "--learner.ranks", "2")


@pytest.fixture(scope="module")
def short_run(tmp_path_factory):
    return run_job(tmp_path_factory.mktemp("short"), *SHORT)


@pytest.mark.engine
def test_every_prompt_is_consumed_exactly_once_and_in_order(short_run):
    assert_every_prompt_exactly_once_and_in_order(short_run, STEPS, BATCH)


@pytest.mark.engine
def test_the_page_and_tensorboard_have_the_run(short_run):
    assert_people_see_what_counts(short_run)
    assert short_run.output.rstrip().endswith("report.html")


@pytest.mark.engine
def test_the_timeline_has_what_every_process_did(short_run):
    assert_the_timeline_is_the_runs(short_run)


@pytest.mark.engine
def test_no_log_speaks_of_bitsandbytes_which_the_run_does_not_use(short_run):
    logs = {path.name: path.read_text() for path in (short_run.path / "logs").iterdir()}
    assert {"learner-0.log", "rollout-0.log"} <= logs.keys()
    assert [name for name, text in logs.items() if "gemm_4bit" in text or "bitsandbytes" in text] == []


@pytest.mark.engine
def test_staleness_stays_within_its_bound(short_run):
    assert_staleness_within(short_run, bound=1)


@pytest.mark.engine
def test_accuracy_is_recomputable_from_the_items(short_run):
    assert_accuracy_is_what_its_items_say(short_run)


@pytest.mark.engine
def test_versions_rise_by_one_and_rollouts_of_two_versions_are_counted(short_run):
    """Whether an update lands in mid-answer is a matter of speed here; `test_engine.py` makes one land."""
    assert [row["step"] for row in short_run.metrics] == list(range(STEPS))
    assert short_run.summary["steps"] == STEPS
    assert {row["newest"] for row in short_run.consumed} >= set(range(STEPS - 1))
    assert short_run.summary["queue"]["straddling"] == sum(row["oldest"] < row["newest"] for row in short_run.consumed)


@pytest.mark.engine
def test_completions_issued_and_consumed_have_the_same_mean_length(short_run):
    tokens = [row["tokens"] for row in short_run.consumed]
    queue = short_run.summary["queue"]
    assert queue["mean_tokens_consumed"] == sum(tokens) / len(tokens)
    assert queue["length_difference"] == queue["mean_tokens_consumed"] - queue["mean_tokens_issued"] == 0.0


@pytest.mark.engine
def test_the_engine_is_vllm_and_its_log_probs_are_the_learners(short_run):
    assert short_run.summary["engine"] == "vllm"
    gaps = [row["logprob_mismatch_max"] for row in short_run.metrics if row["logprob_mismatch_max"] is not None]
    assert gaps
    assert max(gaps) < 1e-3


@pytest.mark.engine
def test_every_mechanism_acts(short_run):
    rows = short_run.metrics
    assert all(0.005 <= row["clipped_share"] <= 0.1 for row in rows)
    assert_agreement_acts(rows)
    assert statistics.mean(row["contrastive_active_share"] for row in rows) >= 0.01
    assert all(row["teacher_update_norm"] > 0 for row in rows)
    assert all(row["matching_loss"] > 0 for row in rows)


@pytest.mark.engine
def test_the_learner_and_the_engine_have_cores_of_their_own(short_run):
    assert "rollout 0: core" in short_run.summary["cores"]
    assert short_run.summary["cores"] in short_run.output


@pytest.mark.engine
def test_the_screen_shows_the_steps_and_the_result_and_no_logs(short_run):
    assert sum(line.startswith("step ") for line in short_run.output.splitlines()) == STEPS
    assert "accuracy" in short_run.output
    lines = short_run.output.splitlines()
    assert lines[0].startswith("run ")
    of_libraries = ("Warning", "WARNING", "INFO", "pid=", "leaked", "ignored in")
    assert [line for line in lines if any(words in line for words in of_libraries)] == []
    assert {path.name for path in (short_run.path / "logs").iterdir()} >= {"learner-0.log", "driver.log"}


@pytest.mark.engine
def test_the_resolved_configuration_runs_again(short_run):
    config = Config.model_validate(tomllib.loads((short_run.path / "config.toml").read_text()))
    assert config.run.steps == STEPS


@pytest.mark.engine
def test_the_checkpoint_loads_as_a_plain_transformers_model(short_run):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    before = AutoModelForCausalLM.from_pretrained(short_run.path / "base_model")
    after = AutoModelForCausalLM.from_pretrained(short_run.checkpoint(STEPS))
    tokens = AutoTokenizer.from_pretrained(short_run.checkpoint(STEPS))("12 + 34", return_tensors="pt").input_ids
    with torch.no_grad():
        gap = (before(tokens).logits - after(tokens).logits).abs().max()
    assert np.isfinite(float(gap))
    assert gap > 1e-4


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.parametrize(("stage", "answers"), [(2, 1), (3, 4)])
def test_two_rollout_actors_and_two_learner_ranks(tmp_path, stage, answers):
    """With the transformers engine: test_replay.py."""
    settings = ("--learner.zero_stage", str(stage), "--run.steps", "3", "--rollout.answers_per_prompt", str(answers))
    run = run_job(tmp_path, *SHORT, *TWO_AND_TWO, *settings)
    assert_groups_are_whole(run, answers)
    assert_every_prompt_exactly_once_and_in_order(run, 3, BATCH)
    assert_staleness_within(run, bound=1)
    assert_accuracy_is_what_its_items_say(run)
    assert len({row["actor"] for row in run.consumed}) == 2


def test_a_machine_without_what_was_asked_for_is_refused_with_what_is_missing(tmp_path):
    refused = start_job(tmp_path, "--rollout.gpus_per_actor", "1")
    output = refused.communicate(timeout=60)[0]
    assert refused.returncode == 2
    assert "GPU: 1 needed, 0 there" in output


def test_prompts_that_are_too_long_are_refused_after_a_look_at_the_tokenizer(tmp_path):
    refused = start_job(tmp_path, "--rollout.max_prompt_tokens", "40")
    output = refused.communicate(timeout=240)[0]
    assert refused.returncode == 2
    assert "rollout.max_prompt_tokens = 40" in output
