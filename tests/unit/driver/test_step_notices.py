"""What a step's numbers say that a person should know: said when it begins, and ends nothing."""

from dataclasses import replace

import numpy as np
import pytest

from tests.fakes.step_metrics import step_metrics
from unisd_rl.config.load import load_recipe
from unisd_rl.driver.console import Console, StepNotices
from unisd_rl.metrics import BatchCounts, MismatchMetrics
from unisd_rl.types import Notice


def metrics_of(step=0, gap=0.0, size=0.9, sequences=16, tokens=64):
    """A step whose engine and learner differ by `gap` everywhere, and whose weights have this effective size."""
    metrics = step_metrics()
    return replace(
        metrics,
        step=step,
        mismatch=MismatchMetrics.between(np.full(tokens, -1.0), np.full(tokens, -1.0 + gap)),
        weights=replace(metrics.weights, weight_mean=0.8, effective_sample_size=size),
        counts=BatchCounts(64, sequences, 0),
    )


def notices_of(steps, recipe="agreement_sequence", **sections):
    events = []
    notices = StepNotices(load_recipe(recipe, sections), events.append)
    for metrics in steps:
        notices.observe(metrics)
    assert all(isinstance(event, Notice) for event in events)
    return [event.reason for event in events]


def test_engine_and_learner_that_drift_apart_are_reported_each_time_it_begins():
    """A gap of 0.2 nats everywhere is a divergence of 0.021, over the bar of 0.015; one of 0.15 is 0.012."""
    gaps = [0.0, 0.15, 0.2, 0.2, 0.0, -0.3]
    said = notices_of(metrics_of(step, gap) for step, gap in enumerate(gaps))
    assert [sentence.split(":")[0] for sentence in said] == ["step 3", "step 6"]
    assert all("engine and learner differ by" in sentence for sentence in said)
    assert "a divergence of 0.0214 nats per token (bar: 0.015)" in said[0]


def test_a_mismatch_that_hovers_at_the_bar_is_reported_once():
    gaps = [0.2, 0.15, 0.2, 0.16, 0.2]
    assert len(notices_of(metrics_of(step, gap) for step, gap in enumerate(gaps))) == 1


def test_few_tokens_neither_begin_a_mismatch_nor_end_one():
    """A step may have a handful of the newest version, and one of them may round badly."""
    assert notices_of([metrics_of(gap=0.5, tokens=31)]) == []
    assert len(notices_of([metrics_of(gap=0.5), metrics_of(gap=0.0, tokens=31), metrics_of(gap=0.5)])) == 1


def test_steps_without_a_token_to_compare_are_none_to_report():
    nothing = replace(metrics_of(), mismatch=MismatchMetrics.between(np.empty(0), np.empty(0)))
    assert notices_of([nothing]) == []


@pytest.mark.parametrize("recipe", ["agreement_sequence", "agreement_token", "unisd_star"])
def test_agreement_that_weighs_all_alike_is_reported_once(recipe):
    said = notices_of((metrics_of(step, size=size) for step, size in enumerate([0.95, 0.9991, 1.0])), recipe)
    assert [sentence.partition(" (")[0] for sentence in said] == ["step 2: agreement weighs all alike"]


def test_what_can_be_done_about_equal_weights_is_said_with_the_gamma():
    (said,) = notices_of([metrics_of(size=1.0)])
    assert said.endswith("the views differ too little for objective.agreement.gamma = 1")
    (said,) = notices_of([metrics_of(size=1.0)], objective={"agreement": {"scale_quantile": None, "gamma": 0.5}})
    assert "gamma = 0.5; objective.agreement.scale_quantile measures them" in said


def test_weights_that_differ_or_cannot_are_not_reported():
    assert notices_of([metrics_of(size=0.998)]) == []
    assert notices_of([metrics_of(size=1.0, sequences=1)]) == []
    assert notices_of([metrics_of(size=1.0)], "ema") == []
    no_divergence = {"objective": {"divergence": None, "matching": {}}}
    assert notices_of([metrics_of(size=1.0)], **no_divergence) == []


def test_a_notice_is_a_line_of_the_console_that_reports_no_failure(capsys):
    Console().print_event(Notice("learner", "step 2: all is alike"))
    assert capsys.readouterr().out == "note: step 2: all is alike\n"
