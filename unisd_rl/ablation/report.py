"""The report of a grid: Markdown for a repository, and one HTML page in the style of a run's."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from unisd_rl.ablation.analysis import RAW, RowNumbers, numbers_of
from unisd_rl.ablation.dots import dots_svg
from unisd_rl.ablation.grid import Grid
from unisd_rl.ablation.ranks import RankAgreement, rank_agreements
from unisd_rl.ablation.results import Result
from unisd_rl.reporting.findings import Finding
from unisd_rl.reporting.page import TableOfNumbers, tables_page
from unisd_rl.storage.files import raise_write_error, write_text_atomic

_HEAD = (
    "row",
    "accuracy (95 %)",
    "each seed",
    "last step",
    "compared with",
    "difference (95 %)",
    "which is",
    "out of domain",
)
_COST_HEAD = (
    "row",
    "PPLfit",
    "PPLret",
    "JSD",
    "tokens generated",
    "tokens trained",
    "staleness",
    "seconds",
    "CPU seconds",
    "peak MiB",
    "trials",
)
_RANK_HEAD = ("row", "accuracy", "on-policy row", "accuracy")
_TEXT = """Accuracy is the mean over the evaluations after a step, on held-out problems; every seed is a dot. Intervals
are 95 %, a bootstrap over seeds and problems at a time; differences are of the same seeds and problems. With few seeds
they are rather too narrow."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How much of a grid there is."""

    done: int
    runs: int


def write_report(
    grid_path: Path, grid: Grid, results: Sequence[Result], progress: Progress, out: Path
) -> tuple[Path, Path]:
    """Write OUT.md and OUT.html beside the results at `out`; returns their paths.

    Raises:
        WriteError: the disk does not take them.
    """
    numbers, agreements = numbers_of(grid, results), rank_agreements(grid, results)
    markdown, page = out.with_suffix(".md"), out.with_suffix(".html")
    with raise_write_error(markdown):
        write_text_atomic(markdown, markdown_report(grid_path, grid, numbers, agreements, results, progress))
        write_text_atomic(page, html_report(grid, numbers, agreements, progress))
    return markdown, page


def markdown_report(
    grid_path: Path,
    grid: Grid,
    numbers: Sequence[RowNumbers],
    agreements: Sequence[RankAgreement],
    results: Sequence[Result],
    progress: Progress,
) -> str:
    """The tables, and what each row brings, a sentence each."""
    lines = [f"# {grid.name}", "", f"{progress.done} of {progress.runs} runs.", "", _TEXT, ""]
    for title, rows in _groups(numbers):
        lines += [f"## {title}", "", *_markdown_table(_HEAD, map(_cells, rows)), ""]
        lines += [*(f"- {sentence}" for sentence in _sentences(rows)), ""]
        lines += [*_markdown_table(_COST_HEAD, map(_cost_cells, (row for row in rows if row.row != RAW))), ""]
    for agreement in agreements:
        lines += [f"## {_rank_title(agreement)}", "", _agreement(agreement), ""]
        lines += [*_markdown_table(_RANK_HEAD, iter(_rank_cells(agreement))), ""]
    machines = sorted({result.machine for result in results})
    lines += [f"Machines: {'; '.join(machines)}.", "", "A row is repeated by:", "", "```console"]
    lines += [f"unisd-rl ablate {grid_path} --only ROW --out FILE.parquet", "```", ""]
    return "\n".join(lines)


def html_report(
    grid: Grid, numbers: Sequence[RowNumbers], agreements: Sequence[RankAgreement], progress: Progress
) -> str:
    """The same as a page; the seeds are drawn."""
    tables, found = [], [Finding("How much of the grid is there?", f"{progress.done} of {progress.runs} runs", "")]
    for title, rows in _groups(numbers):
        drawing = dots_svg(title, [(row.row, row.accuracies, row.mean) for row in rows])
        tables.append(TableOfNumbers(title, _TEXT, _HEAD, [_cells(row) for row in rows], drawing))
        costs = [_cost_cells(row) for row in rows if row.row != RAW]
        tables.append(TableOfNumbers(f"{title}: retention and cost", "Means over seeds.", _COST_HEAD, costs))
        found += [
            Finding(f"{row.row}, {title}", row.difference.verdict, _sentence(row)) for row in rows if row.difference
        ]
    for agreement in agreements:
        tables.append(TableOfNumbers(_rank_title(agreement), _agreement(agreement), _RANK_HEAD, _rank_cells(agreement)))
    return tables_page(grid.name, found, tables)


def _groups(numbers: Sequence[RowNumbers]) -> Iterator[tuple[str, list[RowNumbers]]]:
    """The rows of each task and share of wrong demonstrations, with a title."""
    for task, wrong in dict.fromkeys((row.task, row.wrong_demonstrations) for row in numbers):
        rows = [row for row in numbers if (row.task, row.wrong_demonstrations) == (task, wrong)]
        yield _title(task, wrong), rows


def _title(task: str, wrong: float) -> str:
    return f"{task}, {wrong:.0%} wrong demonstrations"


def _rank_title(agreement: RankAgreement) -> str:
    return f"Ranks: {_title(agreement.task, agreement.wrong_demonstrations)}"


def _agreement(agreement: RankAgreement) -> str:
    interval, seeds = agreement.interval, agreement.seeds
    between = "" if interval is None else f" ({interval.low:+.2f} to {interval.high:+.2f})"
    return (
        f"The rank correlation of {len(agreement.rows)} rows that train on stored rollouts and of the same rows "
        f"on-policy is {agreement.correlation:+.2f}{between}, {seeds} seed{'s' * (seeds != 1)}."
    )


def _rank_cells(agreement: RankAgreement) -> list[list[str]]:
    return [
        [ranked.row, f"{ranked.accuracy:.1%}", ranked.on_policy, f"{ranked.on_policy_accuracy:.1%}"]
        for ranked in agreement.rows
    ]


def _sentences(rows: Sequence[RowNumbers]) -> Iterator[str]:
    yield from (_sentence(row) for row in rows if row.difference is not None)


def _sentence(row: RowNumbers) -> str:
    compared = row.difference
    assert compared is not None, "a row that is compared has a difference"
    points, seeds = _points(compared.mean, compared.interval.low, compared.interval.high), compared.seeds
    said = f"is {compared.verdict} than" if compared.verdict != "cannot be told" else "cannot be told from"
    return f"{row.row} {said} {compared.other}: {points} points, {seeds} seed{'s' * (seeds != 1)}"


def _cells(row: RowNumbers) -> list[str]:
    interval, compared = row.interval, row.difference
    alone = f", step {row.steps[0]} alone" if len(row.steps) == 1 else ""
    return [
        row.row,
        f"{row.mean:.1%} ({100 * interval.low:.1f} to {100 * interval.high:.1f}){alone}",
        " ".join(f"{100 * accuracy:.1f}" for accuracy in row.accuracies),
        f"{row.last:.1%}",
        compared.other if compared else "",
        _points(compared.mean, compared.interval.low, compared.interval.high) if compared else "",
        compared.verdict if compared else "",
        "" if row.out_of_domain is None else f"{row.out_of_domain:.1%}",
    ]


def _cost_cells(row: RowNumbers) -> list[str]:
    retention = (row.ppl_fit, row.ppl_ret, row.jsd)
    tokens, cost = (row.generated_tokens, row.trained_tokens), (row.seconds, row.cpu_seconds, row.peak_mib)
    return [
        row.row,
        *("" if number is None else f"{number:.4f}" for number in retention),
        *(f"{number:,.0f}" for number in tokens),
        "" if row.staleness is None else f"{row.staleness:.2f}",
        *(f"{number:,.0f}" for number in cost),
        str(row.trials),
    ]


def _points(mean: float, low: float, high: float) -> str:
    return f"{100 * mean:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def _markdown_table(head: Sequence[str], rows: Iterator[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    yield from (f"| {' | '.join(cells)} |" for cells in rows)
