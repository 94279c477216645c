"""docs/metrics.md has a row for every field that a run writes, and for no other."""

import re
from dataclasses import fields
from typing import get_args

import pytest

from docs.check import ROOT
from tests.fakes.step_metrics import step_metrics
from unisd_rl.driver.bottleneck import Balance, StepTimes
from unisd_rl.driver.summary import Summary
from unisd_rl.evaluation.statistics import EvaluationSummary
from unisd_rl.metrics import AnswerMetrics
from unisd_rl.transport.rollouts.report import QueueReport
from unisd_rl.types import Event


def names(*kinds):
    return {field.name for kind in kinds for field in fields(kind)}


WRITTEN = {
    "metrics.jsonl": {"lineage", "tokens_per_s"}
    | set(step_metrics().flat())
    | names(StepTimes, Balance, AnswerMetrics),
    "events.jsonl": {"time_s", "event"} | names(*get_args(Event)),
    "summary.json": names(Summary, EvaluationSummary, QueueReport),
}


@pytest.mark.parametrize("file", WRITTEN)
def test_every_field_that_is_written_has_its_row(file):
    page = (ROOT / "docs/metrics.md").read_text()
    (section,) = [part for part in page.split("\n## ") if part.startswith(file)]
    rows = [line.split(" | ")[0] for line in section.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == WRITTEN[file]
