"""`python -m unisd_rl.evaluate` for real, to its files: every number is recomputed from what else is on storage.

Engine starts of this file: two of vLLM, in the slow tier.
"""

import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from scipy.stats import binomtest

from tests.fakes.finished import REPOSITORY, TIMEOUT_S, run_job
from unisd_rl.base_model import BaseModelRecipe, ensure_base_model
from unisd_rl.models.tokenizer import ChatTokenizer
from unisd_rl.tasks.arithmetic import Arithmetic

PROBLEMS = 20
TRANSFORMERS = ("--rollout.engine.type", "transformers")


@dataclass(frozen=True)
class Finished:
    """The folder of an evaluation, and what the command printed."""

    path: Path
    output: str

    @property
    def content(self) -> dict:
        return json.loads((self.path / "results.json").read_text())

    def rows(self, model: str) -> list[dict]:
        return [row for row in pq.read_table(self.path / "answers.parquet").to_pylist() if row["model"] == model]

    def retention_rows(self, model: str, completion: str) -> list[dict]:
        rows = pq.read_table(self.path / "retention.parquet").to_pylist()
        return [row for row in rows if (row["model"], row["completion"]) == (model, completion)]


def evaluated(out: Path, *arguments: str) -> Finished:
    command = [sys.executable, "-m", "unisd_rl.evaluate", *arguments, "--out", str(out)]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    return Finished(out, done.stdout + done.stderr)


@pytest.fixture(scope="module")
def moved_model(tmp_path_factory):
    """The embedded base model with every weight moved a little: it reads and writes the same tokens, and errs more."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base, folder = ensure_base_model(BaseModelRecipe(), lambda *_: None), tmp_path_factory.mktemp("moved")
    model = AutoModelForCausalLM.from_pretrained(base)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.1 * parameter.std())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def two_models(tmp_path_factory, moved_model):
    problems = ("--task", "arithmetic", "--task.eval_examples", str(PROBLEMS))
    options = (*problems, *TRANSFORMERS, "--retention", "base")
    return evaluated(tmp_path_factory.mktemp("evaluation") / "out", "base", moved_model, *options)


def assert_the_numbers_are_what_the_answers_say(done: Finished, model: str, problems: int) -> None:
    task = Arithmetic(4000, problems, seed=0)
    tokenizer = ChatTokenizer(ensure_base_model(BaseModelRecipe(), lambda *_: None))
    rows, (result,) = done.rows(model), [one for one in done.content["results"] if one["model"] == model]
    assert [row["id"] for row in rows] == [example.id for example in task.evaluation]
    for row, example in zip(rows, task.evaluation, strict=True):
        assert row["correct"] == task.grade(row["completion"], example)
        assert row["reference"] == example.answer
        assert row["prompt_tokens"] == tokenizer.encode(task.student_messages(example)).tolist()
        assert tokenizer.decode(np.array(row["completion_tokens"])) == row["completion"]
        assert row["finish_reason"] in ("stop", "length")
    right = sum(row["correct"] for row in rows)
    interval = binomtest(right, problems).proportion_ci(method="wilson")
    (rate,) = result["pass_at_k"]
    assert (result["problems"], result["correct"], rate["k"]) == (problems, right, 1)
    assert result["accuracy"] == rate["rate"] == right / problems
    assert (rate["interval"]["low"], rate["interval"]["high"]) == pytest.approx((interval.low, interval.high))


def assert_the_comparison_is_what_the_answers_say(done: Finished, first: str, second: str) -> None:
    pairs = list(zip(done.rows(first), done.rows(second), strict=True))
    only_first = sum(one["correct"] > other["correct"] for one, other in pairs)
    only_second = sum(one["correct"] < other["correct"] for one, other in pairs)
    (compared,) = done.content["comparisons"]
    found = compared["comparison"]
    assert (compared["first"], compared["second"]) == (first, second)
    assert (found["only_first"], found["only_second"]) == (only_first, only_second)
    assert found["difference"] == pytest.approx((only_second - only_first) / len(pairs))
    assert found["interval"]["low"] <= found["difference"] <= found["interval"]["high"]
    p_value = binomtest(only_first, only_first + only_second).pvalue if only_first + only_second else 1.0
    assert found["mcnemar_p"] == pytest.approx(p_value)


def test_two_models_are_examined_and_every_number_follows_from_the_answers(two_models, moved_model):
    for model in ("base", moved_model):
        assert_the_numbers_are_what_the_answers_say(two_models, model, PROBLEMS)
    assert_the_comparison_is_what_the_answers_say(two_models, "base", moved_model)
    assert two_models.rows("base") != two_models.rows(moved_model)
    assert "accuracy (95 %)" in two_models.output
    assert "McNemar" in two_models.output
    assert "INFO" not in two_models.output


def test_a_model_beside_itself_has_the_perplexity_it_sampled_with(two_models):
    found = two_models.content["results"][0]["retention"]
    logprobs = np.concatenate([row["logprobs"] for row in two_models.rows("base")])
    assert found["jsd"] == 0.0
    assert found["answer_tokens"] == len(logprobs)
    assert found["ppl_ret"] == pytest.approx(math.exp(-logprobs.mean()), rel=1e-4)


def test_a_moved_model_has_drifted_and_its_numbers_follow_from_its_completions(two_models, moved_model):
    found = two_models.content["results"][1]["retention"]
    own, gold = (two_models.retention_rows(moved_model, kind) for kind in ("own", "gold"))
    tokens = [len(row["completion_tokens"]) for row in two_models.rows(moved_model)]
    assert [row["tokens"] for row in own] == tokens
    assert found["ppl_ret"] == pytest.approx(math.exp(-sum(row["logprob"] for row in own) / sum(tokens)))
    assert found["jsd"] == pytest.approx(sum(row["divergence"] for row in own) / sum(tokens))
    assert 0.0 < found["jsd"] < math.log(2)
    per_example = [math.exp(-row["logprob"] / row["tokens"]) for row in gold]
    assert found["ppl_fit_per_example"] == pytest.approx(np.mean(per_example))
    assert len(gold) == PROBLEMS


@pytest.fixture(scope="module")
def short_run(tmp_path_factory):
    """In one process."""
    short = ("--run.steps", "2", "--learner.batch_size", "16", "--task.eval_examples", "12")
    retention = ("--evaluation.retention.examples", "8")
    return run_job(tmp_path_factory.mktemp("run"), "unisd_star", "in_process", *short, *retention)


def test_a_run_measures_retention_at_each_evaluation(short_run):
    before, after = short_run.summary["before"]["retention"], short_run.summary["after"]["retention"]
    assert before["jsd"] == 0.0
    assert 0.0 < after["jsd"] < math.log(2)
    assert after["ppl_fit"] != before["ppl_fit"]
    for step, found in ((0, before), (2, after)):
        rows = pq.read_table(short_run.path / "evaluations" / f"step-{step}.retention.parquet").to_pylist()
        own, answers = [row for row in rows if row["completion"] == "own"], short_run.answers(step)
        assert [row["id"] for row in own] == [answer["id"] for answer in answers[:8]]
        assert [row["tokens"] for row in own] == [answer["tokens"] for answer in answers[:8]]
        assert found["jsd"] == pytest.approx(sum(row["divergence"] for row in own) / sum(row["tokens"] for row in own))
        numbers = json.loads((short_run.path / "evaluations" / f"step-{step}.json").read_text())
        assert numbers["retention"] == found
        assert (numbers["version"], numbers["problems"]) == (step, 12)
    low, high = short_run.summary["after"]["interval"].values()
    assert low <= short_run.summary["after"]["accuracy"] <= high
    assert not (short_run.path / "retention").exists()
    assert "PPLret" in short_run.output


@pytest.mark.slow
def test_a_checkpoint_examined_again_answers_as_its_run_did(short_run, tmp_path):
    options = ("--recipe", str(short_run.path / "config.toml"), "--retention", str(short_run.path / "base_model"))
    done = evaluated(tmp_path / "out", str(short_run.checkpoint(2)), *options)
    shared = ("id", "sample", "completion", "correct", "finish_reason")
    rows = done.rows(str(short_run.checkpoint(2)))
    assert [[row[key] for key in shared] for row in rows] == [
        [answer[key] for key in shared] for answer in short_run.answers(2)
    ]
    (result,) = done.content["results"]
    assert result["retention"] == pytest.approx(short_run.summary["after"]["retention"], rel=1e-6)


@pytest.mark.slow
@pytest.mark.engine
def test_vllm_examines_two_models_and_draws_several_answers(tmp_path, moved_model):
    problems = ("--task", "arithmetic", "--task.eval_examples", "64")
    done = evaluated(tmp_path / "greedy", "base", moved_model, *problems)
    for model in ("base", moved_model):
        assert_the_numbers_are_what_the_answers_say(done, model, 64)
    assert_the_comparison_is_what_the_answers_say(done, "base", moved_model)
    drawn = evaluated(tmp_path / "drawn", "base", *problems, "--samples", "4", "--k", "1", "4")
    rows = drawn.rows("base")
    right = [sum(row["correct"] for row in rows[start : start + 4]) for start in range(0, len(rows), 4)]
    once, four = (rate["rate"] for rate in drawn.content["results"][0]["pass_at_k"])
    assert once == pytest.approx(sum(right) / len(rows))
    assert four == pytest.approx(sum(count > 0 for count in right) / 64)
    assert once < four
    assert any(0 < count < 4 for count in right)
