"""The command that the console tells a person to type works, and a step's line shows what can be otherwise."""

import math
import shlex
from dataclasses import replace

from tests.fakes.evaluation_answers import answer
from tests.fakes.step_metrics import step_metrics
from unisd_rl.driver.console import Console, fitted
from unisd_rl.evaluation.evaluate import Evaluation
from unisd_rl.run import PROGRAM, checked_request
from unisd_rl.types import Failure, PolicyVersion, Recovery, Scaling


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
    assert "agreement 0.952 (4.8% < 0.5)  ESS 0.963" in line


def test_the_line_of_a_step_without_agreement_claims_none(capsys):
    assert "agreement" not in step_line(capsys, weight_mean=math.nan, effective_sample_size=1.0)


def test_the_line_of_a_step_says_how_long_one_takes_and_how_much_is_left(capsys):
    console = Console(steps=9)
    console.observe_step({"step": 2, "wait_s": 1.0, "learn_s": 2.0, "publish_s": 1.0, "loss": 0.1}, {})
    console.print_step(step_metrics(), 10.0)
    assert capsys.readouterr().out.endswith("4.0 s/step  0:24 left\n")


def test_a_line_fits_its_width_and_loses_the_least_telling_fields_first():
    fields = [(0, "step 1/9"), (5, "divergence 0.1"), (1, "agreement 0.9"), (0, "0:24 left")]
    assert fitted(fields, 80) == "step 1/9  divergence 0.1  agreement 0.9  0:24 left"
    assert fitted(fields, 40) == "step 1/9  agreement 0.9  0:24 left"
    assert fitted(fields, 30) == fitted(fields, 5) == "step 1/9  0:24 left"


def test_the_default_jobs_line_fits_a_terminal_of_80_columns(capsys):
    console, metrics = Console(steps=40), step_metrics()
    console.observe_step({"step": 2, "wait_s": 1.0, "learn_s": 2.0, "loss": 0.1}, {})
    weights = replace(metrics.weights, weight_mean=0.9517, weight_below_half=0.0481)
    line = fitted(console._step_fields(replace(metrics, weights=weights), 520.0, None), 80)
    assert len(line) <= 80
    assert "agreement 0.952 (4.8% < 0.5)" in line
    assert "left" in line


def test_a_quiet_command_shows_failures_and_its_end_alone(capsys, tmp_path):
    console = Console(steps=9, quiet=True)
    with console.waiting("connecting"), console.progress("preparing"):
        console.print_step(step_metrics(), 10.0)
        console.print_notes(["a note"])
        console.print_event(Scaling("rollout", "asked", 1, 2))
    assert capsys.readouterr().out == ""
    console.print_event(Failure("rollout-0", "it died", 0, 0.0))
    console.print_interrupted(tmp_path)
    said = capsys.readouterr().out
    assert said.startswith("rollout-0 failed: it died\nstopped; resume with:")


def test_rollout_actors_that_come_and_go_are_printed_as_they_do(capsys):
    console = Console()
    console.observe_actors(["rollout-0: serving"])
    assert capsys.readouterr().out == "", "the first look is no change"
    console.observe_actors(["rollout-0: serving", "rollout-1: starting"])
    console.observe_actors(["rollout-0: serving", "rollout-1: serving"])
    console.observe_actors(["rollout-1: serving"])
    assert capsys.readouterr().out == "rollout-1: starting\nrollout-1: serving\nrollout-0: gone\n"


def test_the_last_fault_says_whether_its_component_works_again():
    console = Console()
    console.print_event(Failure("queue", "it hung", 1, 2.0))
    assert console.status.fault.endswith("queue: it hung")
    console.print_event(Recovery("queue", 3.0))
    assert "queue: it hung (works again since " in console.status.fault
