"""The seam to trackers: what one is told, and the threads that tell them.

```
 driver: a step, an evaluation --queue, bounded--> thread --> tracker      one queue and one thread a tracker
```

The axis of all numbers is the version of the student: step k leads to version k + 1. After a rollback, and when a run
is resumed, a tracker is told from which version on what it has does not count any longer. A tracker that fails is
reported once and told nothing more; none can end or slow a run, nor another tracker.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from queue import Full, Queue
from threading import Thread
from types import MappingProxyType
from typing import Any, Protocol

from unisd_rl.tracking.names import flat, grouped
from unisd_rl.types import Event, Notice, Report

_TO_DISK_S = 60.0
"""For what is left at the end, where nothing but the disk is waited for."""
_MOST_WAITING = 1000
"""Calls that may wait for a tracker that is slow; further ones are dropped."""
COLUMNS = ("question", "completion", "verdict")
"""Of the table of an evaluation's answers."""
Rows = Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class RunInformation:
    """What a run is."""

    config: Mapping[str, Any]
    """Its resolved configuration, nested, of JSON's types."""
    recipe: str
    """The same as TOML: a recipe that runs it again."""
    command: str
    """The command line, with the names of the recipes that were given."""
    commit: str | None
    """Of the working directory; None where it is in no git repository."""


class Tracker(Protocol):
    """One tracker of a run. Its methods may raise whatever they like, and take their time."""

    waits_for_a_server: bool = True
    """Whether it may hold the process at its end until somebody answers; one that only writes to the disk does not, and
    has a minute for what is left."""

    def begin(self, version: int, information: RunInformation) -> None:
        """The run begins or goes on after `version`: what was told of later versions no longer counts."""
        ...

    def numbers(self, version: int, numbers: Mapping[str, float]) -> None:
        """Numbers of a version, by name."""
        ...

    def event(self, event: Event) -> None:
        """An event of the run; most trackers show none."""
        return  # else mypy takes it for an abstract method

    def table(self, version: int, name: str, columns: Sequence[str], rows: Rows) -> None:
        """Rows of text, of a version."""
        ...

    def close(self, failed: bool) -> None:
        """Write what is not written yet; `failed`: the run did not end well."""
        ...


RESUMED_FROM = "resumed_from"
"""The number by which a tracker that cannot forget tells a reader what counts: it is told at each begin, and of what
was told before it, versions above it do not count."""

_Call = Callable[[Tracker], None]


class _TrackerThread:
    """One tracker, opened and told in a thread of its own.

    A daemon, so that a tracker that hangs does not keep the process from ending.
    """

    def __init__(
        self, name: str, open_tracker: Callable[[], Tracker], report: Report, abandon: Callable[[], None]
    ) -> None:
        self._name, self._open, self._report, self._abandon = name, open_tracker, report, abandon
        self._calls = Queue[_Call | None](_MOST_WAITING)
        self._failed = self._lacks = self._left = False
        self._tracker: Tracker | None = None
        self._thread = Thread(target=self._work, name=f"tracking-{name}", daemon=True)
        self._thread.start()

    def tell(self, call: _Call) -> None:
        """Let the tracker be told; never waits."""
        if self._failed:
            return
        try:
            self._calls.put_nowait(call)
        except Full:
            if not self._lacks:
                self._lacks = True
                self._say(f"is {_MOST_WAITING} steps behind: it lacks some")

    def close(self, failed: bool) -> None:
        """Ask it to end; `join` waits until it has."""
        self.tell(lambda tracker: tracker.close(failed))
        with suppress(Full):  # it hangs, and is left behind
            self._calls.put_nowait(None)

    def join(self, timeout_s: float) -> bool:
        """Wait for its end, for at most so long; whether it has ended."""
        self._thread.join(max(0.0, timeout_s))
        return not self._thread.is_alive()

    @property
    def waits_for_a_server(self) -> bool:
        """As the tracker says; one that has not been opened by now may wait for anything."""
        return self._tracker is None or self._tracker.waits_for_a_server

    def leave_behind(self, waited_s: float) -> None:
        """Say that it was not waited for any longer, and see that the end of the process does not wait either.

        It says nothing more itself.
        """
        self._say(f"did not take everything in the {waited_s:g} s that it had at the end")
        self._left = True
        if self.waits_for_a_server:
            self._abandon()

    def _work(self) -> None:
        try:
            while (call := self._calls.get()) is not None:
                self._tracker = self._tracker or self._open()
                call(self._tracker)
        except Exception as error:  # whatever a library raises, it must not cost the run
            self._failed = True
            if not self._left:  # the run has ended by then, and what it reports to is closed
                self._say(f"is told nothing more: {error!r}")

    def _say(self, what: str) -> None:
        self._report(Notice("tracking", f"{self._name} {what}"))


class Trackers:
    """All trackers of a run, each told in a thread of its own."""

    def __init__(
        self,
        open_trackers: Mapping[str, Callable[[], Tracker]],
        information: Callable[[], RunInformation],
        report: Report,
        abandon: Mapping[str, Callable[[], None]] = MappingProxyType({}),
    ) -> None:
        """`abandon`: by the name of a tracker what lets go of a library that would hold the process at exit."""
        self._threads = [
            _TrackerThread(name, opened, report, abandon.get(name, lambda: None))
            for name, opened in open_trackers.items()
        ]
        self._information = information

    def begin(self, version: int) -> None:
        """The run begins or goes on after `version`: later versions that a tracker has do not count."""
        information = cache(self._information)  # asks git: once, in the first thread that needs it
        self._tell(lambda tracker: tracker.begin(version, information()))

    def step(self, line: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl."""
        self._tell(lambda tracker: tracker.numbers(line["step"] + 1, grouped(line)))

    def evaluation(self, version: int, numbers: Mapping[str, Any], rows: Rows) -> None:
        """Numbers of an evaluation, and rows (`COLUMNS`) of some of its answers."""
        told = flat(numbers, "evaluation/")
        # A completion may hold half a surrogate pair, which no file or database takes.
        texts = [tuple(text.encode(errors="replace").decode() for text in row) for row in rows]
        self._tell(lambda tracker: tracker.numbers(version, told))
        if texts:
            self._tell(lambda tracker: tracker.table(version, "evaluation/completions", COLUMNS, texts))

    def event(self, event: Event) -> None:
        """An event of the run."""
        self._tell(lambda tracker: tracker.event(event))

    def close(self, failed: bool = False, timeout_s: float = 5.0) -> None:
        """Tell what is left, for at most so long, or for a minute where it only has to be written to the disk; a
        tracker that takes longer is left behind."""
        began_s = time.monotonic()
        for thread in self._threads:
            thread.close(failed)
        for thread in self._threads:
            limit_s = timeout_s if thread.waits_for_a_server else max(timeout_s, _TO_DISK_S)
            if not thread.join(began_s + limit_s - time.monotonic()):
                thread.leave_behind(limit_s)

    def _tell(self, call: _Call) -> None:
        for thread in self._threads:
            thread.tell(call)
