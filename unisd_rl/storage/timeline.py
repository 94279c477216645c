"""The timeline of a run: what each of its processes did when, for Perfetto (ui.perfetto.dev) and chrome://tracing.

```
 driver, rollout actors, learner ranks: spans --> RUN/timeline/PROCESS.jsonl, within seconds
                                                         |  at the end, and by `unisd-rl report RUN`
                                                         v
                                  RUN/timeline.json.gz, a track a process
```

Times are those of each machine's clock: tracks of several machines are as far apart as their clocks. No run ends for
want of a timeline: spans that the disk does not take are lost.
"""

import gzip
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from unisd_rl.storage.files import atomic_write
from unisd_rl.storage.jsonl import JsonLinesFile, LinesTail

TIMELINE = "timeline.json.gz"
_FLUSH_S = 1.0
_MOST_BYTES = 64 << 20
"""Of spans that are drawn, of all processes together; of a longer run the newest."""


@dataclass(frozen=True, slots=True)
class Span:
    """Something that a process did: a line of its file. Times are in seconds since the epoch."""

    name: str
    started_s: float
    seconds: float
    of: dict[str, int | float | str]
    """What is known of it: its step, a version."""


class Track:
    """The spans of one process, for one thread. Those of one track follow each other or lie within each other."""

    def __init__(self, run: Path, process: str) -> None:
        self._path = run / "timeline" / f"{process}.jsonl"
        self._file: JsonLinesFile | None = None
        self._spans: list[Span] = []
        self._flushed_s = time.monotonic()

    def add(self, name: str, started_s: float, seconds: float, **of: int | float | str) -> None:
        """One that has ended."""
        self._spans.append(Span(name, started_s, max(0.0, seconds), of))
        if time.monotonic() > self._flushed_s + _FLUSH_S:
            self.flush()

    @contextmanager
    def span(self, name: str, **of: int | float | str) -> Iterator[None]:
        """This block."""
        started_s, started = time.time(), time.perf_counter()
        try:
            yield
        finally:
            self.add(name, started_s, time.perf_counter() - started, **of)

    def flush(self) -> None:
        """Write those that are not written."""
        spans, self._spans, self._flushed_s = self._spans, [], time.monotonic()
        with suppress(OSError):
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = JsonLinesFile(self._path)
            self._file.append(spans)


class Activity:
    """What a process does, one thing at a time: spans of a track that follow each other. Nothing, without a track."""

    def __init__(self, track: Track | None) -> None:
        self._track = track
        self._now: Span | None = None

    def begin(self, name: str, at_s: float | None = None, **of: int | float | str) -> None:
        """It does this from now on, or from `at_s` on (seconds since the epoch); nothing, where it does already."""
        if self._track is None or (self._now is not None and (name, of) == (self._now.name, self._now.of)):
            return
        self._now = Span(name, self._end(self._track, at_s), 0.0, of)

    def flush(self) -> None:
        """Write what it does so far; it goes on doing it."""
        if self._track is not None and self._now is not None:
            self._now = replace(self._now, started_s=self._end(self._track))
            self._track.flush()

    def _end(self, track: Track, at_s: float | None = None) -> float:
        at_s = time.time() if at_s is None else at_s
        if (now := self._now) is not None:
            at_s = max(at_s, now.started_s)
            track.add(now.name, now.started_s, at_s - now.started_s, **now.of)
        return at_s


def write_timeline(run: Path) -> Path | None:
    """Write RUN/timeline.json.gz of what its processes have written by now; None where they wrote nothing.

    Raises:
        OSError: it cannot be written.
    """
    files = sorted((run / "timeline").glob("*.jsonl"), key=lambda path: _order(path.stem))
    names = [path.stem for path in files if not path.stem.rpartition(".")[2].isdigit()]  # not the older parts
    decoder = msgspec.json.Decoder(Span)
    tracks = {}
    for name in names:
        tail = LinesTail(run / "timeline" / f"{name}.jsonl", _MOST_BYTES // len(names))
        tracks[name] = [decoder.decode(line) for line in tail.read()]
    if not tracks:
        return None
    path = run / TIMELINE
    with atomic_write(path) as partial, gzip.open(partial, "wb", compresslevel=5) as file:
        file.write(msgspec.json.encode(chrome_trace(tracks)))
    return path


def chrome_trace(tracks: Mapping[str, Sequence[Span]]) -> dict[str, Any]:
    """The spans as an object of the Chrome trace format: complete events in microseconds from the first one on."""
    first_s = min((span.started_s for spans in tracks.values() for span in spans), default=0.0)
    events: list[dict[str, Any]] = []
    for number, (process, spans) in enumerate(tracks.items()):
        place = {"pid": number, "tid": number}
        events.append({"ph": "M", "name": "process_name", **place, "args": {"name": process}})
        events.append({"ph": "M", "name": "process_sort_index", **place, "args": {"sort_index": number}})
        for span in spans:
            when = {"ts": 1e6 * (span.started_s - first_s), "dur": 1e6 * span.seconds}
            events.append({"ph": "X", "name": span.name, "cat": "unisd_rl", **place, **when, "args": span.of})
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"first_s": first_s}}


def _order(process: str) -> tuple[int, str, int]:
    """The driver, then the learner's ranks, then the actors by their number."""
    kind, _, number = process.partition("-")
    kinds = ("driver", "learner", "rollout")
    return (kinds.index(kind) if kind in kinds else len(kinds), kind, int(number) if number.isdigit() else 0)
