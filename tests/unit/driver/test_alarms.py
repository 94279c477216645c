"""What a step's numbers say that a person should know: said when it begins, and ends nothing."""

import math
from dataclasses import replace

import numpy as np
import pytest

from tests.fakes.step_metrics import step_metrics
from unisd_rl.config.load import load_recipe
from unisd_rl.driver.alarms import Alarms, Trend
from unisd_rl.driver.console import Console
from unisd_rl.metrics import BatchCounts, MismatchMetrics
from unisd_rl.types import Alarm, Notice


def metrics_of(step=0, gap=0.0, size=0.9, sequences=16, tokens=64, **signals):
    """A step whose engine and learner differ by `gap` everywhere, whose weights have this effective size, and with
    these signals."""
    metrics = step_metrics()
    return replace(
        metrics,
        step=step,
        mismatch=MismatchMetrics.between(np.full(tokens, -1.0), np.full(tokens, -1.0 + gap)),
        weights=replace(metrics.weights, weight_mean=0.8, effective_sample_size=size),
        counts=BatchCounts(64, sequences, 0),
        signals=replace(metrics.signals, **signals),
    )


def events_of(steps, recipe="agreement_sequence", **sections):
    events = []
    alarms = Alarms(load_recipe(recipe, sections), events.append)
    for metrics in steps:
        alarms.observe(metrics)
    return events


def said_of(steps, recipe="agreement_sequence", **sections):
    return [event.reason for event in events_of(steps, recipe, **sections)]


def test_engine_and_learner_that_drift_apart_are_reported_each_time_it_begins():
    """A gap of 0.2 nats everywhere is a divergence of 0.021, over the bar of 0.015; one of 0.15 is 0.012."""
    gaps = [0.0, 0.15, 0.2, 0.2, 0.0, -0.3]
    said = said_of(metrics_of(step, gap) for step, gap in enumerate(gaps))
    assert [sentence.split(":")[0] for sentence in said] == ["step 3", "step 6"]
    assert all("engine and learner differ by" in sentence for sentence in said)
    assert "a divergence of 0.0214 nats per token (bar: 0.015)" in said[0]


def test_a_mismatch_that_hovers_at_the_bar_is_reported_once():
    gaps = [0.2, 0.15, 0.2, 0.16, 0.2]
    assert len(said_of(metrics_of(step, gap) for step, gap in enumerate(gaps))) == 1


def test_few_tokens_neither_begin_a_mismatch_nor_end_one():
    """A step may have a handful of the newest version, and one of them may round badly."""
    assert said_of([metrics_of(gap=0.5, tokens=31)]) == []
    assert len(said_of([metrics_of(gap=0.5), metrics_of(gap=0.0, tokens=31), metrics_of(gap=0.5)])) == 1


def test_a_mismatch_is_an_alarm_with_its_number_and_its_bar():
    (alarm,) = events_of([metrics_of(step=4, gap=0.2)])
    assert alarm == Alarm("learner", alarm.reason, "logprob_mismatch_kl", 5, pytest.approx(0.0214, abs=1e-4), 0.015)
    assert said_of([metrics_of(gap=0.2)], alarms={"mismatch_kl": None}) == []
    (alarm,) = events_of([metrics_of(gap=0.15)], alarms={"mismatch_p99": 0.1})
    assert (alarm.signal, alarm.value, alarm.bar) == ("logprob_mismatch_p99", pytest.approx(0.15), 0.1)


def runs_of(signal, values, **sections):
    """Which steps (from 1) sound an alarm of the signal, with means over two steps."""
    sections = {"alarms": {"window": 2, **sections}}
    events = events_of((metrics_of(step, **{signal: value}) for step, value in enumerate(values)), **sections)
    return [event.step for event in events if event.signal == signal]


def test_an_entropy_that_falls_under_a_fraction_of_the_first_sounds_once():
    assert runs_of("policy_entropy", [1.0, 1.0, 0.2, 0.12, 0.06, 0.06, 0.06]) == [5]  # (0.12 + 0.06) / 2 < 0.1
    assert runs_of("policy_entropy", [1.0, 1.0, 0.1, 0.1]) == []  # as low as the bar is not below it
    assert runs_of("policy_entropy", [1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0]) == [4, 7]  # it ended in between
    assert runs_of("policy_entropy", [1.0, 1.0, 0.0, 0.0], entropy_fall=None) == []
    assert runs_of("policy_entropy", [math.nan] * 9) == []


def test_completions_that_grow_or_shrink_by_a_factor_sound():
    assert runs_of("completion_tokens_mean", [10.0, 10.0, 20.0, 20.0]) == []
    assert runs_of("completion_tokens_mean", [10.0, 10.0, 20.0, 21.0, 10.0, 10.0, 4.0, 4.0]) == [4, 8]
    assert runs_of("completion_tokens_mean", [10.0, 10.0, 15.0, 16.0], length_factor=1.5) == [4]


def test_repetition_and_copying_sound_above_their_share():
    assert runs_of("repeated_share", [0.1, 0.4, 0.5, 0.52]) == [4]
    assert runs_of("copied_share", [1.0] * 4) == []
    assert runs_of("copied_share", [0.3, 0.4, 0.41], copied_share=0.4) == [3]


def test_a_trend_is_none_before_its_window_is_full():
    trend = Trend(3)
    for value in (3.0, math.nan, 6.0):
        trend.add(value)
    assert math.isnan(trend.first)
    trend.add(9.0)
    trend.add(0.0)
    assert (trend.first, trend.last) == (6.0, 5.0)


def test_steps_without_a_token_to_compare_are_none_to_report():
    nothing = replace(metrics_of(), mismatch=MismatchMetrics.between(np.empty(0), np.empty(0)))
    assert said_of([nothing]) == []


@pytest.mark.parametrize("recipe", ["agreement_sequence", "agreement_token", "unisd_star"])
def test_agreement_that_weighs_all_alike_is_reported_once(recipe):
    said = said_of((metrics_of(step, size=size) for step, size in enumerate([0.95, 0.9991, 1.0])), recipe)
    assert [sentence.partition(" (")[0] for sentence in said] == ["step 2: agreement weighs all alike"]


def test_what_can_be_done_about_equal_weights_is_said_with_the_gamma():
    (said,) = said_of([metrics_of(size=1.0)])
    assert said.endswith("the views differ too little for objective.agreement.gamma = 1")
    (said,) = said_of([metrics_of(size=1.0)], objective={"agreement": {"scale_quantile": None, "gamma": 0.5}})
    assert "gamma = 0.5; objective.agreement.scale_quantile measures them" in said


def test_weights_that_differ_or_cannot_are_not_reported():
    assert said_of([metrics_of(size=0.998)]) == []
    assert said_of([metrics_of(size=1.0, sequences=1)]) == []
    assert said_of([metrics_of(size=1.0)], "ema") == []
    no_divergence = {"objective": {"divergence": None, "matching": {}}}
    assert said_of([metrics_of(size=1.0)], **no_divergence) == []


def test_an_alarm_is_a_line_of_the_console(capsys):
    Console().print_event(Alarm("learner", "step 2: it repeats itself", "repeated_share", 2, 0.6, 0.5))
    assert capsys.readouterr().out == "alarm: step 2: it repeats itself\n"


def test_a_notice_is_a_line_of_the_console_that_reports_no_failure(capsys):
    Console().print_event(Notice("learner", "step 2: all is alike"))
    assert capsys.readouterr().out == "note: step 2: all is alike\n"
