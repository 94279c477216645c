"""What an evaluation found, as tables for a person."""

from collections.abc import Sequence

from rich.table import Table

from unisd_rl.evaluation.evaluate import Evaluation
from unisd_rl.evaluation.results import Compared, Result
from unisd_rl.evaluation.statistics import Interval


def results_table(results: Sequence[Result], ks: Sequence[int]) -> Table:
    """One line for each model on each task."""
    table = Table(title="held-out problems", title_justify="left")
    for name in ("model", "task"):
        table.add_column(name, overflow="fold")
    retention = any(result.evaluation.retention for result in results)
    rates = [f"pass@{k} (95 %)" for k in ks] if list(ks) != [1] else ["accuracy (95 %)"]
    for name in ("right", "answers", *rates, "cut", "tokens", *(("PPLfit", "PPLret", "JSD") if retention else ())):
        table.add_column(name, justify="right", no_wrap=True)
    for result in results:
        table.add_row(result.model, result.task, *_numbers(result.evaluation, ks, retention))
    return table


def comparison_table(comparisons: Sequence[Compared]) -> Table:
    """One line for each model beside the first, on the same problems."""
    table = Table(title="against the first model, on the same problems", title_justify="left")
    for name in ("model", "task"):
        table.add_column(name, overflow="fold")
    for name in ("difference (95 %)", "only it right", "only the first", "McNemar p"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in comparisons:
        found = one.comparison
        difference = f"{100 * found.difference:+.1f} ({_points(found.interval)})"
        discordant = [_or_dash(count) for count in (found.only_second, found.only_first)]
        p_value = "-" if found.mcnemar_p is None else f"{found.mcnemar_p:.3g}"
        table.add_row(one.second, one.task, difference, *discordant, p_value)
    return table


def _numbers(evaluation: Evaluation, ks: Sequence[int], retention: bool) -> list[str]:
    cells = [str(evaluation.correct), str(len(evaluation.answers))]
    for k in ks:
        rate = evaluation.pass_rate(k)
        cells.append(f"{100 * rate.rate:.1f} ({100 * rate.interval.low:.1f} to {100 * rate.interval.high:.1f})")
    cells += [str(evaluation.cut), f"{evaluation.mean_tokens:.1f}"]
    if retention:
        found = evaluation.retention
        numbers = (found.ppl_fit, found.ppl_ret, found.jsd) if found else ()
        cells += [f"{number:.4f}" for number in numbers] or ["-", "-", "-"]
    return cells


def _points(interval: Interval) -> str:
    return f"{100 * interval.low:+.1f} to {100 * interval.high:+.1f}"


def _or_dash(count: int | None) -> str:
    return "-" if count is None else str(count)
