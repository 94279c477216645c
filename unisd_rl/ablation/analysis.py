"""What the rows of a grid say: means with intervals, paired differences, costs. The numbers of the report.

An accuracy here is the primary measure, fixed beforehand: the mean over the evaluations after a step, so that rows that
end at the ceiling are told apart by how fast they come there. Intervals draw seeds and problems anew, both at a time,
with scipy's percentile bootstrap: score_SP is a matrix of seeds by problems, its rows and columns are drawn
independently, and the statistic is the mean of what was drawn. Differences are of the same seeds and problems. With few
seeds such an interval is rather too narrow.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from unisd_rl.ablation.grid import Grid
from unisd_rl.ablation.results import Result
from unisd_rl.errors import UserError
from unisd_rl.evaluation.statistics import Interval, mean_interval

Indices = NDArray[np.int64]
RAW = "raw"
"""The row of the initial models."""
_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Difference:
    """A row minus another one, on the seeds and problems of both."""

    other: str
    seeds: int
    mean: float
    interval: Interval

    @property
    def verdict(self) -> str:
        """In a word. One seed tells nothing: its interval knows other problems, and no other run."""
        if self.seeds > 1 and self.interval.low > 0:
            return "better"
        return "worse" if self.seeds > 1 and self.interval.high < 0 else "cannot be told"


@dataclass(frozen=True, slots=True)
class RowNumbers:
    """A row on one task at one share of wrong demonstrations. `accuracies`: one for each of `seeds`."""

    row: str
    task: str
    wrong_demonstrations: float
    seeds: Sequence[int]
    accuracies: Sequence[float]
    interval: Interval
    steps: Sequence[int]
    """After which there was an evaluation; none of the initial models."""
    last: float
    """After the last step."""
    difference: Difference | None
    out_of_domain: float | None
    ppl_fit: float | None
    ppl_ret: float | None
    jsd: float | None
    generated_tokens: float
    trained_tokens: float
    staleness: float | None
    seconds: float
    cpu_seconds: float
    peak_mib: float
    trials: int

    @property
    def mean(self) -> float:
        """Over seeds."""
        return fmean(self.accuracies)


def numbers_of(grid: Grid, results: Sequence[Result]) -> list[RowNumbers]:
    """Every row of which there is a run, in the grid's order; the initial models first.

    Raises:
        UserError: the runs of a task were evaluated on different problems.
    """
    rows = []
    for task in grid.tasks:
        _check_same_problems(task, [each for each in results if each.task == task])
    for task in grid.tasks:
        for wrong in grid.wrong_demonstrations:
            here = [each for each in results if (each.task, each.wrong_demonstrations) == (task, wrong)]
            by_row = {row: [each for each in here if each.row == row] for row in grid.rows}
            if raw := _one_a_seed(here):
                rows.append(_numbers(RAW, raw, None, initial=True))
            for row, runs in by_row.items():
                if runs:
                    other = grid.compared_with(row)
                    compared = None if other == row else difference(other, by_row[other], runs)
                    rows.append(_numbers(row, runs, compared))
    return rows


def difference(other: str, first: Sequence[Result], second: Sequence[Result]) -> Difference | None:
    """The second row minus the first, named `other`; None where no seed of both was evaluated after the same steps."""
    before, after = ({(each.seed, tuple(each.steps)): each for each in runs} for runs in (first, second))
    seeds = sorted(before.keys() & after.keys())
    if not seeds:
        return None
    differences = [scores_of(after[seed]) - scores_of(before[seed]) for seed in seeds]
    score_SP = np.stack(differences)
    return Difference(other, len(seeds), float(score_SP.mean()), crossed_interval(score_SP))


def crossed_interval(score_SP: NDArray[np.float64]) -> Interval:
    """The 95 % interval of the mean of a matrix of seeds by problems; see the module. Of one seed, over problems."""
    if min(score_SP.shape) < 2:
        return mean_interval(score_SP.mean(axis=0).tolist())
    return crossed_bootstrap(score_SP.shape, lambda drawn_S, drawn_P: score_SP[np.ix_(drawn_S, drawn_P)].mean())


def crossed_bootstrap(shape: Sequence[int], statistic: Callable[[Indices, Indices], float]) -> Interval:
    """The 95 % interval of a statistic of drawn seeds and drawn problems, of so many of each (at least 2)."""
    from scipy.stats import bootstrap  # half a second of imports

    found = bootstrap(
        tuple(map(np.arange, shape)),
        statistic,
        n_resamples=_RESAMPLES,
        vectorized=False,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Interval(float(found.low), float(found.high))


def scores_of(run: Result, initial: bool = False) -> NDArray[np.float64]:
    """One score (0 to 1) for each problem, in the order of their names."""
    return np.asarray(run.base_scores if initial else run.scores, np.float64)


def _check_same_problems(task: str, runs: Sequence[Result]) -> None:
    if len({tuple(run.problems) for run in runs}) > 1:
        raise UserError(
            f"the runs of task {task} were evaluated on different problems, so they cannot be compared: fix task.seed "
            "and task.eval_examples in the grid, and name another file of results with --out"
        )


def _one_a_seed(runs: Iterable[Result]) -> list[Result]:
    return list({run.seed: run for run in runs}.values())


def _numbers(row: str, runs: Sequence[Result], compared: Difference | None, initial: bool = False) -> RowNumbers:
    score_SP = np.stack([scores_of(run, initial) for run in runs])
    measured: Callable[[str], float | None] = (lambda name: None) if initial else (lambda name: _mean(runs, name))
    return RowNumbers(
        row=row,
        task=runs[0].task,
        wrong_demonstrations=runs[0].wrong_demonstrations,
        seeds=[run.seed for run in runs],
        accuracies=[run.base_accuracy if initial else run.mean_accuracy for run in runs],
        interval=crossed_interval(score_SP),
        steps=[] if initial else runs[0].steps,
        last=fmean(run.base_accuracy if initial else run.accuracies[-1] for run in runs),
        difference=compared,
        out_of_domain=measured("out_of_domain"),
        ppl_fit=measured("ppl_fit"),
        ppl_ret=measured("ppl_ret"),
        jsd=measured("jsd"),
        generated_tokens=measured("generated_tokens") or 0.0,
        trained_tokens=measured("trained_tokens") or 0.0,
        staleness=measured("staleness"),
        seconds=measured("seconds") or 0.0,
        cpu_seconds=measured("cpu_seconds") or 0.0,
        peak_mib=measured("peak_mib") or 0.0,
        trials=0 if initial else max(run.trials for run in runs),
    )


def _mean(runs: Sequence[Result], name: str) -> float | None:
    values = [value for run in runs if (value := getattr(run, name)) is not None]
    return fmean(values) if len(values) == len(runs) else None
