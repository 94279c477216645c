"""How a run stands: what the live view of a running one shows, and `unisd-rl status` of any run whose folder is seen.

```
 run:     a step's line, an event, an evaluation, as they happen --\
                                                                     RunStatus --> a few lines, live or once
 status:  metrics.jsonl, events.jsonl, evaluations/, control/ -----/
```

Only files that a run wrote are read, and nothing is written: a folder on shared storage is enough.
"""

import json
import math
import time
import tomllib
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from unisd_rl.storage.files import is_locked
from unisd_rl.storage.jsonl import LinesTail, newest_json_lines
from unisd_rl.storage.lineage import read_rollbacks, step_survives, version_survives

Line = Mapping[str, Any]
PACE_STEPS = 10
"""Steps whose mean time says how long one takes and how much is left."""
_PHASES_S = ("wait_s", "learn_s", "publish_s")
_LONGEST_FAULT = 160  # characters
_BAR = 24  # columns
_TAIL_BYTES = 1 << 20  # thousands of prompts, more than a step has


def clock(seconds: float) -> str:
    """Seconds as `0:42`, `12:05` or `3:07:00`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@dataclass(slots=True)
class RunStatus:
    """What is known of a run. Times are in seconds; `now` and its beginning are a running process's own alone."""

    name: str = ""
    steps: int = 0
    """0 while it is not known."""
    step: int = 0
    """Steps that were taken."""
    line: Line = field(default_factory=dict)
    """The newest line of metrics.jsonl."""
    accuracies: dict[int, float] = field(default_factory=dict)
    """By version."""
    cuts: dict[int, int] = field(default_factory=dict)
    """Of each evaluated version the answers that the limit on tokens ended."""
    actor_states: tuple[str, ...] = ()
    """E.g. `rollout-1: starting`."""
    tokens: Mapping[str, int] = field(default_factory=dict)
    """Completion tokens of the newest step, by the rollout actor that made them."""
    fault: str = ""
    """The newest failure, and whether its component works again."""
    state: str = ""
    """E.g. `completed`, of a run that is looked at from outside."""
    now: str = ""
    now_since_s: float = 0.0
    _step_times_s: deque[float] = field(default_factory=lambda: deque[float](maxlen=PACE_STEPS))

    def observe_step(self, line: Line) -> None:
        """Take a line of metrics.jsonl into account."""
        self.line, self.step = line, line["step"] + 1
        seconds = [found for phase in _PHASES_S if (found := _known(line, phase)) is not None]
        if seconds:
            self._step_times_s.append(sum(seconds))

    def observe_event(self, event: Line) -> None:
        """Take a line of events.jsonl into account."""
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event["time_s"]))
        match event["event"]:
            case "failure":
                self.fault = f"{at} {event['component']}: {event['reason']:.{_LONGEST_FAULT}}"
            case "recovery" if self.fault:
                self.fault = f"{self.fault.partition(' (works again')[0]} (works again since {at})"

    def begin(self, now: str) -> None:
        """The run does this from now on."""
        self.now, self.now_since_s = now, time.monotonic()

    @property
    def step_s(self) -> float:
        """Mean seconds of the last steps; nan before the first."""
        return sum(self._step_times_s) / len(self._step_times_s) if self._step_times_s else math.nan

    @property
    def left_s(self) -> float:
        """Seconds that the steps which are left will take; evaluations are not counted."""
        return (self.steps - self.step) * self.step_s

    def __rich__(self) -> RenderableType:
        rows = Table.grid(padding=(0, 2))
        rows.add_column(style="dim", no_wrap=True)
        rows.add_column(overflow="ellipsis", no_wrap=True)
        for title, said in self.rows():
            rows.add_row(title, said)
        return rows

    def rows(self) -> Iterator[tuple[str, RenderableType]]:
        """(What, how it stands), for what is known."""
        yield "run", self._progress()
        if self.now:
            yield "now", Text(f"{self.now}, {time.monotonic() - self.now_since_s:.0f} s")
        for title, said in (
            ("loss", self._loss()),
            ("accuracy", self._accuracy()),
            ("rollouts", self._rollouts()),
            ("actors", self._actors()),
            ("waiting", self._waiting()),
            ("last fault", self.fault),
        ):
            if said:
                yield title, Text(said)

    def _progress(self) -> RenderableType:
        parts = [self.name, f"step {self.step}/{self.steps or '?'}"]
        if not math.isnan(self.step_s):
            parts.append(f"{self.step_s:.1f} s/step")
            parts += [f"{clock(self.left_s)} left"] if self.left_s > 0 else []
        text = Text("  ".join([*filter(None, parts), *([self.state] if self.state else [])]))
        if self.state:
            return text
        grid = Table.grid(padding=(0, 2))
        grid.add_row(text, ProgressBar(total=max(self.steps, 1), completed=self.step, width=_BAR))
        return grid

    def _loss(self) -> str:
        line, parts = self.line, list[str]()
        if line:
            parts.append(f"{line['loss']:.4f}")
        if (weight := _known(line, "weight_mean")) is not None:
            parts.append(f"agreement {weight:.3f} ({line['weight_below_half']:.1%} < 0.5)")
        if (clipped := _known(line, "clipped_share")) is not None:
            parts.append(f"clipped {clipped:.1%}")
        if (right := _known(line, "train_accuracy")) is not None:
            parts.append(f"training answers right {right:.1%}")
        return "  ".join(parts)

    def _accuracy(self) -> str:
        return "  ".join(
            f"{accuracy:.1%} (version {version}{f', {cut} cut' if (cut := self.cuts.get(version)) else ''})"
            for version, accuracy in self._first_and_last()
        )

    def _first_and_last(self) -> list[tuple[int, float]]:
        known = sorted(self.accuracies.items())
        return known if len(known) < 3 else [known[0], *known[-2:]]

    def _rollouts(self) -> str:
        line, parts = self.line, list[str]()
        if (staleness := _known(line, "staleness_mean")) is not None:
            parts.append(f"staleness {staleness:.2f} (max {line['staleness_max']:g})")
        if (depth := _known(line, "depth")) is not None:
            parts.append(f"{depth:g} ready for later steps")
        return "  ".join(parts)

    def _actors(self) -> str:
        seconds = sum(_known(self.line, phase) or 0.0 for phase in _PHASES_S)
        speeds = {name: f"{tokens / seconds:,.0f} tokens/s" for name, tokens in self.tokens.items() if seconds}
        states = dict(state.partition(": ")[::2] for state in self.actor_states)
        names = sorted({*states, *speeds})
        said = {name: " ".join(filter(None, (states.get(name, "gone"), speeds.get(name, "")))) for name in names}
        if not states:
            said = speeds
        return "  ".join(f"{name} {text}" for name, text in said.items())

    def _waiting(self) -> str:
        shares = {"learner": _known(self.line, "learner_wait"), "actors": _known(self.line, "actor_idle")}
        return "  ".join(f"{side} idle {share:.0%}" for side, share in shares.items() if share is not None)


class ConsumedTail:
    """The lines of consumed.jsonl that were written since it was last read; at first those of its last MiB."""

    def __init__(self, path: Path) -> None:
        self._lines = LinesTail(path, _TAIL_BYTES)

    def tokens_by_actor(self, step: int, lineage: int) -> dict[str, int]:
        """Completion tokens of what `step` (counted from 0) of this lineage trained on, by rollout actor."""
        tokens: dict[str, int] = {}
        with suppress(OSError):
            for line in self._lines.read():
                with suppress(ValueError):
                    record = json.loads(line)
                    if (record["step"], record.get("learner_lineage", lineage)) == (step, lineage):
                        tokens[record["actor"]] = tokens.get(record["actor"], 0) + record["tokens"]
        return tokens


def read_status(run: Path) -> RunStatus:
    """How the run in this folder stands, from its files; those that are not there yet say nothing."""
    settings = tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))
    status = RunStatus(run.absolute().name, settings.get("run", {}).get("steps", 0))
    rollbacks = read_rollbacks(run / "lineages.jsonl")
    for line in newest_json_lines(run / "metrics.jsonl"):
        if step_survives(line["lineage"], line["step"], rollbacks):
            status.observe_step(line)
    for event in newest_json_lines(run / "events.jsonl"):
        status.observe_event(event)
    for path in (run / "evaluations").glob("step-*.json"):
        numbers = _json(path)
        if numbers and version_survives(numbers["lineage"], numbers["version"], rollbacks):
            status.accuracies[numbers["version"]] = numbers["accuracy"]
            status.cuts[numbers["version"]] = numbers.get("cut", 0)
    if status.line:
        tail = ConsumedTail(run / "consumed.jsonl")
        status.tokens = tail.tokens_by_actor(status.line["step"], status.line["lineage"])
    running = is_locked(run)
    status.actor_states = tuple(_json(run / "control" / "status.json").get("states", ())) if running else ()
    status.state = _state(run, running)
    return status


def _state(run: Path, running: bool) -> str:
    files = [path for name in ("metrics.jsonl", "events.jsonl", "consumed.jsonl") if (path := run / name).is_file()]
    newest = max((path.stat().st_mtime for path in files), default=None)
    since = "" if newest is None else f", last written {clock(max(0.0, time.time() - newest))} ago"
    if running:
        return f"running{since}"
    summary = _json(run / "summary.json")
    if summary:
        error = summary.get("error", "")
        return f"{summary.get('status', 'ended')}: {error}" if error else str(summary.get("status", "ended"))
    return f"no process here holds it: it was killed, or runs on another machine{since}"


def _known(line: Line, name: str) -> float | None:
    """A number of metrics.jsonl; None where it is not there or not defined."""
    number = line.get(name)
    return None if number is None or math.isnan(number) else number


def _json(path: Path) -> dict[str, Any]:
    """The object in a file; empty where there is none, or somebody is replacing it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
