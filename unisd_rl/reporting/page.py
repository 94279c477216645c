"""One HTML file that holds all it shows: styles, script, drawings and texts. It asks nothing of a network.

The file is at most 5 MB: where texts would make it larger, fewer answers and tokens are shown.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unisd_rl.reporting.answers import Tone, answer_pairs, describe_changes, sampled_problems, visible
from unisd_rl.reporting.charts import Chart
from unisd_rl.reporting.figures import charts_of_run, charts_of_runs
from unisd_rl.reporting.findings import (
    Finding,
    describe_comparison,
    describe_cuts,
    describe_points,
    findings,
    paired,
    tone_of,
)
from unisd_rl.reporting.record import RunRecord
from unisd_rl.storage.files import write_text_atomic

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

MOST_BYTES = 5_000_000
REPORT = "report.html"
_PAIRS, _PROBLEMS, _EVENTS = 40, 16, 200
_HERE = Path(__file__).parent


def write_report(run: Path) -> Path:
    """Write report.html into a run's folder, whatever there is of the run by now; returns its path.

    Raises:
        UserError: it is no run's folder.
        OSError: it cannot be written.
    """
    record = RunRecord.at(run)
    path = record.path / REPORT
    write_text_atomic(path, report(record))
    return path


def report(run: RunRecord) -> str:
    """The page of one run."""
    charts, found = list(charts_of_run(run)), findings(run)
    changes = describe_changes(run.evaluations[0], run.evaluations[-1]) if len(run.evaluations) > 1 else ""

    def page(share: float) -> str:
        pairs = []
        if len(run.evaluations) > 1:
            pairs = answer_pairs(run.evaluations[0], run.evaluations[-1], int(_PAIRS * share))
        samples = sampled_problems(run.samples, int(_PROBLEMS * share))
        events = [_event(event) for event in run.events[-_EVENTS:]]
        settings = [(name, [_setting(value)]) for name, value in run.settings.items()]
        shown = {"pairs": pairs, "changes": changes, "samples": samples, "events": events, "settings": settings}
        return _render(visible(run.name), charts, found, about=_about(run), **shown)

    return _fitting(page)


def _about(run: RunRecord) -> str:
    """What the run is, in a line."""
    path, task = run.settings.get("model.path"), run.settings.get("task.type")
    model = "the embedded base model" if path is None else Path(path).name if Path(path).is_absolute() else path
    done = run.rows[-1]["step"] + 1 if run.rows else 0
    steps = f"{done:,} of {run.settings.get('run.steps') or '?'} steps"
    status, wall_s = run.summary.get("status", "not ended"), run.summary.get("wall_s")
    took = [] if wall_s is None else [f"{wall_s / 60:,.1f} minutes"]
    recipe = [found] if (found := run.settings.get("run.recipe")) else []
    return visible(" \u00b7 ".join(map(str, (*recipe, task or "?", model, steps, status, *took))))


def comparison(runs: Sequence[RunRecord]) -> str:
    """The page of several runs: curves over one another, paired differences, and the settings that differ."""
    names = _distinct([visible(run.name) for run in runs])
    found = [
        _compared(names[first], names[second], runs[first], runs[second])
        for first, second in combinations(range(len(runs)), 2)
    ]
    every = sorted({name for run in runs for name in run.settings} - {"run.name", "run.dir"})
    rows = [(name, [_setting(run.settings.get(name)) for run in runs]) for name in every]
    differing = [(name, values) for name, values in rows if len(set(values)) > 1]
    charts = list(charts_of_runs(runs, names))
    tables = [_overview(runs, names)]
    title = " / ".join(names)
    return _fitting(lambda _: _render(title, charts, found, names=names, tables=tables, settings=differing))


@dataclass(frozen=True, slots=True)
class TableOfNumbers:
    """A table with what one sees in it, and perhaps a drawing (SVG) above."""

    title: str
    text: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    drawing: "Markup | None" = None


def tables_page(name: str, found: Sequence[Finding], tables: Sequence[TableOfNumbers]) -> str:
    """The page of numbers that are no curves."""
    return _render(name, (), found, tables=tables)


_BETTER = {Tone.GOOD: "yes", Tone.BAD: "no, worse", Tone.OPEN: "cannot be told"}


def _compared(one: str, other: str, first: RunRecord, second: RunRecord) -> Finding:
    question = f"Is {other} better than {one}?"
    if not first.evaluations or not second.evaluations:
        return Finding(question, "not known", "one of them has no evaluation")
    ends = first.evaluations[-1], second.evaluations[-1]
    compared = paired(*ends)
    if compared is None:
        return Finding(question, "not known", "their evaluations share no problem")
    tone = tone_of(compared)
    ended = [f"{each.numbers['accuracy']:.1%}{describe_cuts(each.numbers)} after {each.step} steps" for each in ends]
    reason = f"{ended[1]} against {ended[0]}, problem by problem: {describe_comparison(compared)}"
    return Finding(question, f"{_BETTER[tone]}: {describe_points(compared)}", reason, tone)


def _overview(runs: Sequence[RunRecord], names: Sequence[str]) -> TableOfNumbers:
    """A row for each run."""
    head = ("run", "accuracy before", "accuracy after", "95 % interval", "steps", "tokens trained", "seconds in steps")
    return TableOfNumbers("The runs", "", head, [(name, *_numbers(run)) for name, run in zip(names, runs, strict=True)])


def _numbers(run: RunRecord) -> list[str]:
    ends = [each.numbers for each in (*run.evaluations[:1], *run.evaluations[-1:])]
    steps, tokens, seconds = 0, 0, 0.0
    for row in run.iter_rows():
        steps, tokens = steps + 1, tokens + row["tokens"]
        seconds += sum(row.get(name) or 0.0 for name in ("wait_s", "learn_s", "publish_s"))
    accuracies = [f"{numbers['accuracy']:.1%}" for numbers in ends] or ["not known", "not known"]
    interval = ends[-1]["interval"] if ends else None
    borders = "" if interval is None else f"{interval['low']:.1%} to {interval['high']:.1%}"
    return [*accuracies, borders, f"{steps:,}", f"{tokens:,}", f"{seconds:,.0f}"]


def _fitting(page: Callable[[float], str]) -> str:
    """The page with as large a share of its texts as fits."""
    for share in (1.0, 0.5, 0.25, 0.1):
        text = page(share)
        if len(text.encode(errors="replace")) <= MOST_BYTES:
            return text
    return page(0.0)


def _render(name: str, charts: Iterable[Chart], found: Sequence[Finding], **given: Any) -> str:
    style, script = ((_HERE / file).read_text(encoding="utf-8") for file in ("page.css", "page.js"))
    texts, lists = ("about", "changes"), ("tables", "pairs", "samples", "events", "settings", "names")
    defaults: dict[str, Any] = dict.fromkeys(texts, "") | dict.fromkeys(lists, ())
    text = _template().render(
        name=name, charts=charts, findings=found, style=style, script=script, **(defaults | given)
    )
    return text.encode(errors="replace").decode()  # half of a surrogate pair is no text


@cache
def _template() -> "Template":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html.j2")


@dataclass(frozen=True, slots=True)
class _Event:
    time_s: float
    kind: str
    text: str


def _event(event: Any) -> _Event:
    others = {name: value for name, value in event.items() if name not in ("time_s", "event")}
    return _Event(
        event["time_s"], event["event"], visible(", ".join(f"{name}: {value}" for name, value in others.items()))
    )


def _setting(value: Any) -> str:
    return "not set" if value is None else visible(value if isinstance(value, str) else json.dumps(value))


def _distinct(names: Sequence[str]) -> list[str]:
    """Runs of one name are told apart by their place."""
    return [f"{name} ({place + 1})" if names.count(name) > 1 else name for place, name in enumerate(names)]
