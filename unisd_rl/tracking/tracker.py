"""The seam to trackers: what one is told, and the thread that tells it.

```
 driver: a step, an evaluation, a text --queue--> thread --> each tracker of `tracking.to`
```

The axis of all numbers is the version of the student: step k leads to version k + 1. After a rollback, and when a run
is resumed, a tracker is told from which version on what it has does not count any longer. A tracker that fails is
reported once and told nothing more; none can end or slow a run.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from unisd_rl.tracking.names import grouped
from unisd_rl.types import Notice, Report

_MOST_WAITING = 1000
"""Calls that may wait for a tracker that is slow; further ones are dropped."""


class Tracker(Protocol):
    """One tracker of a run. Its methods may raise whatever they like, and take their time."""

    def discard(self, version: int) -> None:
        """What was told of `version` and later ones no longer counts."""
        ...

    def numbers(self, version: int, numbers: Mapping[str, float]) -> None:
        """Numbers of a version, by name."""
        ...

    def text(self, version: int, name: str, markdown: str) -> None:
        """A text of a version: the configuration, a table of completions."""
        ...

    def close(self) -> None:
        """Write what is not written yet."""
        ...


class Trackers:
    """All trackers of a run, told in a thread of their own."""

    def __init__(self, open_trackers: Mapping[str, Callable[[], Tracker]], report: Report) -> None:
        self._open, self._report = dict(open_trackers), report
        self._told: dict[str, Tracker] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tracking")
        self._dropped = False

    def begin(self, version: int, information: Mapping[str, str]) -> None:
        """The run begins or goes on after `version`: later versions that a tracker has do not count."""
        self._tell(lambda tracker: tracker.discard(version + 1))
        for name, markdown in information.items():
            self._text(version, name, markdown)

    def step(self, line: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl."""
        self._tell(lambda tracker: tracker.numbers(line["step"] + 1, grouped(line)))

    def evaluation(self, version: int, numbers: Mapping[str, Any], completions: Sequence[Sequence[str]]) -> None:
        """Numbers of an evaluation, and rows (question, completion, verdict) of some of its answers."""
        told = {f"evaluation/{name}": float(value) for name, value in _flat(numbers).items()}
        self._tell(lambda tracker: tracker.numbers(version, told))
        self._text(version, "evaluation/completions", completions_table(completions))

    def close(self, timeout_s: float = 5.0) -> None:
        """Tell what is left, for at most so long; a tracker that hangs is left behind."""
        self._tell(lambda tracker: tracker.close())
        last = self._thread.submit(lambda: None)
        try:
            last.result(timeout_s)
        except TimeoutError:
            self._report(Notice("tracking", f"a tracker did not take everything within {timeout_s:g} s"))
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _text(self, version: int, name: str, markdown: str) -> None:
        self._tell(lambda tracker: tracker.text(version, name, markdown))

    def _tell(self, call: Callable[[Tracker], None]) -> None:
        if self._thread._work_queue.qsize() < _MOST_WAITING:
            self._thread.submit(self._call, call)
        elif not self._dropped:
            self._dropped = True
            self._report(Notice("tracking", f"a tracker is {_MOST_WAITING} steps behind: it lacks some"))

    def _call(self, call: Callable[[Tracker], None]) -> None:
        for name in list(self._open):
            try:
                if name not in self._told:
                    self._told[name] = self._open[name]()
                call(self._told[name])
            except Exception as error:  # whatever a library raises, it must not cost the run
                del self._open[name]
                self._report(Notice("tracking", f"{name} is told nothing more: {error!r}"))


def completions_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows (question, completion, verdict) as a table in Markdown, each cell as code."""
    lines = ["| question | completion | |", "|---|---|---|"]
    return "\n".join([*lines, *("| " + " | ".join(map(_cell, row)) + " |" for row in rows)])


def _cell(text: str) -> str:
    """In one line and without a mark that ends the cell or the code."""
    return f"`{text[:500].replace('|', '/').replace('`', chr(39))!r}`"


def _flat(numbers: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    flat: dict[str, float] = {}
    for name, value in numbers.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            flat[f"{prefix}{name}"] = value
    return flat
