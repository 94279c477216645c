"""Every row of the paper's table and every baseline, end to end for some steps: what the run's own records say acted.

All are run as a person runs them, `python -m unisd_rl.run NAME in_process`, on the embedded task and model: what they
are named for is the same in one process as in Ray's (test_in_process.py), and takes two seconds instead of forty.
`unisd_star` is what test_run.py and test_default_run.py run.
"""

import statistics

import numpy as np
import pytest

from tests.fakes.finished import (
    FinishedRun,
    assert_agreement_acts,
    assert_every_prompt_exactly_once_and_in_order,
    run_job,
)
from unisd_rl.config.load import RECIPES, load_recipe
from unisd_rl.config.rollout import SourcesConfig
from unisd_rl.contexts.prompts import source_of
from unisd_rl.models.tokenizer import ChatTokenizer
from unisd_rl.tasks.load import load_task
from unisd_rl.transport.rollouts.ledger import Ledger
from unisd_rl.types import Source, ViewKind

BATCH, PROBLEMS, HELD_OUT = 16, 200, 8
SMALL = (
    "--learner.batch_size", str(BATCH),
    "--task.train_examples", str(PROBLEMS), "--task.eval_examples", str(HELD_OUT),
)  # fmt: skip
STEPS = {"ema": 11, "sft": 12, "ssd": 6}  # others: 3
EVERY_STEP = 3


def steps_of(name: str) -> int:
    return STEPS.get(name, EVERY_STEP)


def trained(folder, name: str) -> FinishedRun:
    run = run_job(folder, name, "in_process", *SMALL, "--run.steps", str(steps_of(name)))
    assert_every_prompt_exactly_once_and_in_order(run, steps_of(name), BATCH)
    assert run.summary["steps"] == steps_of(name)
    assert all(row["grad_norm"] > 0 for row in run.metrics)
    return run


def rollouts(run: FinishedRun):
    return Ledger(run.path / "rollouts", fsync=False).rollouts([row["prompt"] for row in run.consumed])


def column(run: FinishedRun, name: str) -> list:
    return [row[name] for row in run.metrics]


def assert_all_are_of(run: FinishedRun, *sources: Source) -> None:
    assert {row["source"] for row in run.consumed} == {source.value for source in sources}
    for row in run.consumed:
        sampled = row["source"] == Source.POLICY.value
        assert [value is not None for value in (row["lineage"], row["oldest"], row["newest"])] == 3 * [sampled]
        assert not sampled or 0 <= row["step"] - row["oldest"] <= 1


def assert_no_teacher_was_read(run: FinishedRun) -> None:
    assert {row.views for row in rollouts(run)} == {()}
    assert {row[f"{kind}_tokens"] for row in run.metrics for kind in ViewKind} == {0}
    assert set(column(run, "teacher_update_norm")) == {0.0}


def assert_no_weights_travelled_between_steps(run: FinishedRun) -> None:
    assert statistics.median(column(run, "publish_s")) < 1e-3  # a snapshot takes tens of milliseconds


def assert_teacher_stayed(run: FinishedRun) -> None:
    assert set(column(run, "teacher_update_norm")) == {0.0}
    assert min(column(run, "primary_tokens")) > 0


def agreement_token(run):
    assert_agreement_acts(run.metrics)
    assert_teacher_stayed(run)


def agreement_sequence(run):
    assert_agreement_acts(run.metrics)
    assert_teacher_stayed(run)
    assert [event for event in run.events if event["event"] == "notice"] == []
    assert {len(row.views_of(ViewKind.AUXILIARY)) for row in rollouts(run)} == {3}


def ema(run):
    """Its turn comes every ten steps: it moves in the tenth and in no other of eleven."""
    assert [moved > 0.0 for moved in column(run, "teacher_update_norm")] == 9 * [False] + [True, False]
    assert column(run, "teacher_student_distance")[9] > 0.0


def contrastive(run):
    assert min(column(run, "contrastive_loss")) > 0.0
    assert statistics.mean(column(run, "contrastive_active_share")) > 0.0
    assert min(column(run, "contrasted_sequences")) > 0


def match_joint(run):
    assert min(column(run, "matching_loss")) > 0.0
    assert all(row["loss"] > row["matching_loss"] for row in run.metrics)


def match_representation(run):
    assert min(column(run, "matching_loss")) > 0.0
    assert column(run, "loss") == pytest.approx(column(run, "matching_loss"), rel=1e-6)


def clip(run):
    assert {row["clip_threshold"] for row in run.metrics} == {load_recipe("clip").objective.clipping.threshold}
    assert 0.0 < statistics.mean(column(run, "clipped_share")) < 0.1
    assert_teacher_stayed(run)


def opsd(run):
    assert 0.0 < statistics.mean(column(run, "clipped_share")) < 0.1
    assert_teacher_stayed(run)


def sdft(run):
    assert min(column(run, "teacher_update_norm")) > 0.0
    assert min(column(run, "divergence")) > 0.0


def sft(run):
    """Every completion is its problem's worked answer; the likelihood of such answers rises."""
    assert_all_are_of(run, Source.GOLD)
    assert_no_teacher_was_read(run)
    tokenizer = ChatTokenizer(run.path / "base_model")
    task = load_task(load_recipe("sft", {"task": {"train_examples": PROBLEMS, "eval_examples": HELD_OUT}}).task)
    worked = {example.id: example.demonstration for example in task.train}
    for row in rollouts(run):
        assert tokenizer.decode(row.completion_tokens) == worked[row.id]
        assert row.completion_tokens[-1] in tokenizer.stop_tokens
        assert (row.logprobs, row.versions) == (None, None)
    assert_no_weights_travelled_between_steps(run)
    losses = column(run, "likelihood_loss")
    assert losses == pytest.approx(column(run, "loss"), rel=1e-6)
    assert min(losses) > 0.0
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])
    assert set(column(run, "staleness_max")) == set(column(run, "logprob_mismatch_max")) == {None}


def ssd(run):
    """All is sampled by the initial model, also after several steps: the actors check it token by token."""
    assert_all_are_of(run, Source.BASE)
    assert_no_teacher_was_read(run)
    assert_no_weights_travelled_between_steps(run)
    assert min(column(run, "loss")) > 0.0
    assert len({tuple(row.completion_tokens) for row in rollouts(run)}) > BATCH
    assert set(column(run, "staleness_max")) == {None}


def gkd(run):
    """Half and half, prompt by prompt as the numbers and the seed say."""
    assert_all_are_of(run, Source.POLICY, Source.GOLD)
    shares = SourcesConfig(policy=0.5, gold=0.5)
    assert [row["source"] for row in run.consumed] == [source_of(row["prompt"], 0, shares) for row in run.consumed]
    assert {row.source for row in rollouts(run)} == {Source.POLICY, Source.GOLD}
    assert min(column(run, "divergence")) > 0.0
    assert max(gap for gap in column(run, "logprob_mismatch_max") if gap is not None) < 1e-3
    assert_teacher_stayed(run)


def released_code_parity(run):
    assert_teacher_stayed(run)
    assert min(column(run, "weight_p05")) >= 0.99
    assert min(column(run, "effective_sample_size")) > 0.999
    (notice,) = (event for event in run.events if event["event"] == "notice")  # once, whatever the steps
    assert "agreement weighs all alike" in notice["reason"]
    assert f"note: {notice['reason']}" in run.output
    assert column(run, "learning_rate")[0] == 0.0  # transformers' warm-up
    assert set(column(run, "staleness_max")) == {0.0}
    assert min(column(run, "matching_loss")) > 0.0
    assert min(column(run, "contrastive_loss")) > 0.0
    assert {row["clip_threshold"] for row in run.metrics} == {None}


ROWS = (
    sft, ssd, gkd, ema, agreement_token, agreement_sequence, contrastive, match_joint, match_representation, clip, opsd,
    sdft, released_code_parity,
)  # fmt: skip


@pytest.mark.parametrize("acted", ROWS, ids=lambda row: row.__name__)
def test_a_recipe_runs_to_its_end_and_what_it_is_named_for_acts(tmp_path, acted):
    acted(trained(tmp_path, acted.__name__))


def test_every_recipe_is_run():
    assert {row.__name__ for row in ROWS} | {"unisd_star"} == {file.stem for file in RECIPES.glob("*.toml")}
