"""Prometheus, through Ray: each node of the cluster serves what its processes tell it, as `ray_unisd_rl_...`.

`deploy/prometheus` scrapes them and `deploy/grafana` draws them. Gauges have the newest number only, so nothing has to
be taken back after a rollback: they go on from there.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from ray.util.metrics import Gauge
from typing_extensions import override

from unisd_rl.tracking.tracker import Rows, RunInformation, Tracker
from unisd_rl.types import Event

_KINDS = ("failure", "recovery", "alarm", "notice", "scaling")


def metric_name(name: str) -> str:
    """`loss/divergence` as `unisd_rl_loss_divergence`; Ray puts `ray_` before it."""
    return "unisd_rl_" + re.sub(r"\W", "_", name)


class Prometheus(Tracker):
    """A gauge for each number, for the version and for the steps of the run; events are counted by their kind."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._gauges: dict[str, Gauge] = {}
        self._events = Gauge(metric_name("events"), "Events of this process so far.", ("run", "kind"))
        self._counted: Counter[str] = Counter(dict.fromkeys(_KINDS, 0))

    @override
    def begin(self, version: int, information: RunInformation) -> None:
        self.numbers(version, {"steps": information.config["run"].get("steps") or 0})
        for kind in _KINDS:  # a rate is asked of what never happened too
            self._count(kind, 0)

    @override
    def numbers(self, version: int, numbers: Mapping[str, float]) -> None:
        for name, number in {"version": version, **numbers}.items():
            if name not in self._gauges:
                self._gauges[name] = Gauge(metric_name(name), f"{name} of metrics.jsonl or an evaluation.", ("run",))
            self._gauges[name].set(float(number), {"run": self._run})

    @override
    def event(self, event: Event) -> None:
        self._count(type(event).__name__.lower(), 1)

    @override
    def table(self, version: int, name: str, columns: Sequence[str], rows: Rows) -> None:
        """Prometheus has numbers only."""

    @override
    def close(self, failed: bool) -> None:
        """Ray's node forgets a process that has ended."""

    def _count(self, kind: str, more: int) -> None:
        self._counted[kind] += more
        self._events.set(float(self._counted[kind]), {"run": self._run, "kind": kind})
