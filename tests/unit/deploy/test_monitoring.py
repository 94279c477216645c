"""The dashboard and the scrape configuration: what they ask for is what a run tells Prometheus."""

import json
import re
from pathlib import Path

import pytest

from tests.fakes.run_folder import step
from tests.fakes.step_metrics import step_metrics
from unisd_rl.tracking import prometheus
from unisd_rl.tracking.prometheus import Prometheus, metric_name
from unisd_rl.tracking.tracker import RunInformation, Trackers
from unisd_rl.types import Failure, Notice

DASHBOARD = json.loads((Path(__file__).parents[3] / "deploy/grafana/unisd_rl.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


class FakeGauge:
    """Ray's gauge, which wants a cluster: name and tags -> number."""

    told: dict = {}

    def __init__(self, name, description, tag_keys):
        assert re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", name)
        self.name, self.keys = name, tag_keys

    def set(self, value, tags):
        assert tuple(tags) == self.keys
        self.told[self.name, *tags.values()] = value


@pytest.fixture
def told(monkeypatch):
    monkeypatch.setattr(prometheus, "Gauge", FakeGauge)
    monkeypatch.setattr(FakeGauge, "told", {})
    events = []
    trackers = Trackers({"prometheus": lambda: Prometheus("a")}, information, events.append)
    yield trackers, FakeGauge.told
    assert events == []


def information():
    return RunInformation({"run": {"steps": 40}}, "", "", None)


def test_a_gauge_has_the_newest_number_also_after_a_rollback(told):
    trackers, numbers = told
    trackers.begin(0)
    for line in (step(0), step(1), step(2, loss=9.0)):
        trackers.step(line)
    trackers.begin(2)
    trackers.step(step(2, 1, loss=7.0))
    trackers.evaluation(3, {"accuracy": 0.5, "interval": {"low": 0.25}}, [("q", "c", "right")])
    trackers.close(timeout_s=60.0)
    assert numbers["unisd_rl_loss_loss", "a"] == 7.0
    assert numbers["unisd_rl_lineage", "a"] == 1.0
    assert (numbers["unisd_rl_version", "a"], numbers["unisd_rl_steps", "a"]) == (3.0, 40.0)
    assert numbers["unisd_rl_evaluation_interval_low", "a"] == 0.25


def test_events_are_counted_by_their_kind_and_those_that_never_happened_are_none(told):
    trackers, numbers = told
    trackers.begin(0)
    for event in (Failure("learner", "gone", 1, 1.0), Failure("queue", "gone", 1, 1.0), Notice("tracking", "slow")):
        trackers.event(event)
    trackers.close(timeout_s=60.0)
    kinds = {kind: number for (name, *_, kind), number in numbers.items() if name == "unisd_rl_events"}
    assert kinds == {"failure": 2.0, "recovery": 0.0, "alarm": 0.0, "notice": 1.0, "scaling": 0.0}


def test_every_query_asks_for_numbers_that_a_run_tells(told):
    trackers, numbers = told
    line = step_metrics({}).flat()
    times = dict.fromkeys(("wait_s", "learn_s", "publish_s", "actors", "actor_idle", "learner_wait", "depth"), 1.0)
    trackers.begin(0)
    trackers.step({"lineage": 0, **dict.fromkeys(line, 1.0), "step": 0, **times, "tokens_per_s": 1.0})
    trackers.evaluation(0, {"accuracy": 0.5, "interval": {"low": 0.2, "high": 0.8}}, ())
    trackers.close(timeout_s=60.0)
    served = {f"ray_{name}" for name, *_ in numbers}
    asked = {name for query in QUERIES for name in re.findall(r"ray_\w+", query)}
    assert asked <= served
    assert len(asked) > 30


def test_panels_do_not_lie_over_one_another_and_ask_the_chosen_source_and_runs():
    cells = []
    for panel in DASHBOARD["panels"]:
        assert panel["datasource"]["uid"] == "${datasource}"
        place = panel["gridPos"]
        columns = range(place["x"], place["x"] + place["w"])
        cells += [(x, place["y"] + row) for x in columns for row in range(place["h"])]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert all('run=~"$run"' in query for query in QUERIES)
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_names_of_metrics_are_prometheus_names():
    assert metric_name("evaluation/pass@1 rate") == "unisd_rl_evaluation_pass_1_rate"
