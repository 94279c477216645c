"""Training answers are graded where a prompt has several: how many are right, and of how many prompts one is."""

import json
import threading
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest

from tests.fakes.rollout_rows import rollout
from tests.fakes.service_parts import ByteTokenizer
from tests.fakes.step_metrics import step_metrics
from unisd_rl.config.load import load_recipe
from unisd_rl.driver.answer_grader import AnswerGrader, answer_grader
from unisd_rl.driver.console import Console
from unisd_rl.metrics import AnswerMetrics
from unisd_rl.transport.rollouts.batch import QueueBatch
from unisd_rl.types import Example

GROUP = 4


class Same:
    """A grader that takes the reference answer alone."""

    def grade(self, completion, example):
        return completion == example.answer


class Places:
    def example(self, place):
        return Example(f"p{place}", "?", "", f"right {place}")


def graded(monkeypatch, texts, task=None):
    """What is said of these answers, by number."""
    rows = [
        replace(rollout(number), completion_tokens=np.frombuffer(text.encode(), np.uint8).astype(np.int32))
        for number, text in texts.items()
    ]
    monkeypatch.setattr("unisd_rl.driver.answer_grader.rollouts_of", lambda batch: rows[::-1])
    grader = AnswerGrader(GROUP, task or Same(), Places(), ByteTokenizer())
    grader.start(QueueBatch(3, (None,), tuple(texts), 0, 10, 0))
    try:
        return grader.result()
    finally:
        grader.close()


def test_the_shares_are_of_all_answers_and_of_the_prompts_with_a_right_one(monkeypatch):
    """Three prompts: two right of four, none of four, and one of three, since one of its answers was given up."""
    texts = dict.fromkeys(range(8, 19), "wrong")
    texts |= {9: "right 2", 11: "right 2", 12: "right 2", 17: "right 4"}
    assert graded(monkeypatch, texts) == AnswerMetrics(GROUP, 3 / 11, 2 / 3)


def test_a_batch_without_rows_has_no_shares(monkeypatch):
    assert json.dumps(asdict(graded(monkeypatch, {}))) == json.dumps(asdict(AnswerMetrics(GROUP, np.nan, np.nan)))


def test_a_grader_that_hangs_costs_the_figure_and_not_the_run(monkeypatch):
    monkeypatch.setattr("unisd_rl.driver.answer_grader._RESULT_S", 0.01)
    end = threading.Event()
    hanging = SimpleNamespace(grade=lambda *_: end.wait(10.0))
    try:
        assert np.isnan(graded(monkeypatch, {0: "right 0"}, hanging).train_accuracy)
    finally:
        end.set()


@pytest.mark.parametrize(
    ("rollout_section", "task", "graded_at_all"),
    [
        ({}, {}, False),
        ({"answers_per_prompt": 4}, {}, True),
        ({"answers_per_prompt": 4}, {"type": "multiples"}, True),
        ({"answers_per_prompt": 4}, {"type": "mbpp"}, False),
    ],
)
def test_only_several_answers_whose_grade_runs_no_program_are_graded(tmp_path, rollout_section, task, graded_at_all):
    (tmp_path / "config.json").write_text("{}")
    sections = {"rollout": rollout_section, "task": task, "model": {"path": str(tmp_path)}}
    config = load_recipe("unisd_star", sections)
    assert (answer_grader(config, Same(), Places(), tmp_path) is not None) == graded_at_all


def test_the_line_of_a_step_shows_pass_at_g_with_its_label(capsys):
    Console(steps=9).print_step(step_metrics(), 10.0, AnswerMetrics(4, 0.4125, 0.6875))
    assert "training answers right 41.2%, pass@4 68.8% (mixed versions)" in capsys.readouterr().out
    Console(steps=9).print_step(step_metrics(), 10.0)
    assert "pass@" not in capsys.readouterr().out
