"""The command that the console tells a person to type works, and a step's line shows what can be otherwise."""

import math
import shlex
from dataclasses import replace

from tests.fakes.evaluation_answers import answer
from tests.fakes.step_metrics import step_metrics
from unisd_rl.driver.console import Console
from unisd_rl.evaluation.evaluate import Evaluation
from unisd_rl.run import PROGRAM, checked_request
from unisd_rl.types import PolicyVersion


def test_the_command_to_go_on_with_a_stopped_run_is_accepted(tmp_path, capsys):
    run = tmp_path / "my runs" / "first"
    run.mkdir(parents=True)
    (run / "config.toml").write_text(f'[run]\nname = "first"\ndir = "{run.parent}"\n[objective.divergence]\n')
    Console(steps=9).print_interrupted(run)
    typed = capsys.readouterr().out.partition(PROGRAM)[2]
    assert checked_request(shlex.split(typed)).resumed


def test_an_accuracy_stands_beside_how_many_answers_the_limit_cut(capsys, tmp_path):
    made = [answer(f"p{p}", False, finish_reason="length" if p < 3 else "stop") for p in range(12)]
    found = Evaluation(PolicyVersion(0, 0), 1, tuple(made), 1.0)
    console, cut = Console(), "3 of 12 answers were cut at 64 tokens: raise rollout.max_completion_tokens\n"
    console.print_evaluation(found, 64)
    assert capsys.readouterr().out.endswith(cut)
    console.print_finished(found.summary(), found.summary(), 64, tmp_path, tmp_path)
    assert cut in capsys.readouterr().out
    whole = replace(found, answers=tuple(made[3:]))
    console.print_evaluation(whole, 64)
    console.print_finished(whole.summary(), whole.summary(), 64, tmp_path, tmp_path)
    assert "cut" not in capsys.readouterr().out


def step_line(capsys, **weights):
    metrics = step_metrics()
    Console(steps=9).print_step(replace(metrics, weights=replace(metrics.weights, **weights)), 10.0)
    return capsys.readouterr().out


def test_the_line_of_a_step_shows_the_mean_weight_and_how_far_weights_spread(capsys):
    """The median and the 5th percentile say nothing: with the default scale one is 1 and the other 1 / (1 + gamma)."""
    line = step_line(capsys, weight_mean=0.9517, weight_below_half=0.0481, effective_sample_size=0.963)
    assert "agreement 0.952 (4.8% < 0.5, ESS 0.963)" in line


def test_the_line_of_a_step_without_agreement_claims_none(capsys):
    assert "agreement" not in step_line(capsys, weight_mean=math.nan, effective_sample_size=1.0)
