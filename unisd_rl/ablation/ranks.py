"""Whether a cheap bench predicts: the ranks of rows that train on others' rollouts, beside those of their twins.

Spearman's correlation of the mean accuracies of the rows that have a twin (`on_policy`) and of the twins, on the seeds
and problems of all of them. Its interval draws seeds and problems anew, as `analysis` does, and not rows: it is of
these rows, and says how far noise moves their ranks.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unisd_rl.ablation.analysis import Indices, crossed_bootstrap, scores_of
from unisd_rl.ablation.grid import Grid
from unisd_rl.ablation.results import Result
from unisd_rl.evaluation.statistics import Interval

_FEWEST = 3  # rows: two are in the same order or in the other one


@dataclass(frozen=True, slots=True)
class RankedRow:
    """A row that trains on others' rollouts, its twin on-policy, and the mean accuracy of each."""

    row: str
    accuracy: float
    on_policy: str
    on_policy_accuracy: float


@dataclass(frozen=True, slots=True)
class RankAgreement:
    """The rank correlation of rows and their twins. With one seed it has no interval."""

    task: str
    wrong_demonstrations: float
    seeds: int
    rows: Sequence[RankedRow]
    correlation: float
    interval: Interval | None


def rank_agreements(grid: Grid, results: Sequence[Result]) -> list[RankAgreement]:
    """One for each task and share of wrong demonstrations in which three rows and their twins have a seed in common."""
    conditions = [(task, wrong) for task in grid.tasks for wrong in grid.wrong_demonstrations]
    of_each = [
        [each for each in results if (each.task, each.wrong_demonstrations) == condition] for condition in conditions
    ]
    return [found for runs in of_each if (found := _agreement(grid, runs)) is not None]


def _agreement(grid: Grid, results: Sequence[Result]) -> RankAgreement | None:
    runs = {(each.row, each.seed): each for each in results}
    made = {each.row for each in results}
    twins = {name: row.on_policy for name, row in grid.rows.items() if row.on_policy and {name, row.on_policy} <= made}
    both = [*twins, *twins.values()]
    seeds = [seed for seed in sorted({each.seed for each in results}) if all((row, seed) in runs for row in both)]
    if len(twins) < _FEWEST or not seeds:
        return None

    def scores(rows: Iterable[str]) -> NDArray[np.float64]:
        return np.stack([[scores_of(runs[row, seed]) for seed in seeds] for row in rows])

    replayed_RSP, on_policy_RSP = scores(twins), scores(twins.values())

    def correlation(drawn_S: Indices, drawn_P: Indices) -> float:
        drawn = np.ix_(np.arange(len(twins)), drawn_S, drawn_P)
        return _spearman(replayed_RSP[drawn].mean(axis=(1, 2)), on_policy_RSP[drawn].mean(axis=(1, 2)))

    _, *shape = replayed_RSP.shape
    means = zip(twins.items(), replayed_RSP.mean(axis=(1, 2)), on_policy_RSP.mean(axis=(1, 2)), strict=True)
    return RankAgreement(
        task=results[0].task,
        wrong_demonstrations=results[0].wrong_demonstrations,
        seeds=len(seeds),
        rows=[RankedRow(row, float(one), twin, float(other)) for (row, twin), one, other in means],
        correlation=correlation(*map(np.arange, shape)),
        interval=crossed_bootstrap(shape, correlation) if min(shape) > 1 else None,
    )


def _spearman(one_R: NDArray[np.float64], other_R: NDArray[np.float64]) -> float:
    """0 where one of the two ranks nothing, all its means being equal."""
    from scipy.stats import spearmanr  # half a second of imports

    if np.ptp(one_R) == 0.0 or np.ptp(other_R) == 0.0:
        return 0.0
    return float(spearmanr(one_R, other_R).statistic)
