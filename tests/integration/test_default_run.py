"""The default job to its end, on three seeds: it learns, every mechanism acts, and its claims can be recomputed.

Engine starts of this file: three.
"""

import statistics

import pytest

from tests.fakes.finished import (
    assert_accuracy_is_what_its_items_say,
    assert_agreement_acts,
    assert_every_prompt_exactly_once_and_in_order,
    assert_staleness_within,
    finished,
)
from tests.fakes.job import Job

pytestmark = [pytest.mark.slow, pytest.mark.engine]
LEAST_GAIN = {0: 0.2, 1: 0.15, 2: 0.15}  # accuracy, 0 to 1


@pytest.fixture(scope="module", params=LEAST_GAIN)
def default_run(request, tmp_path_factory):
    seed = request.param
    folder = tmp_path_factory.mktemp(f"seed{seed}")
    words = ("--run.seed", str(seed), "--model.base_seed", str(seed), "--run.dir", folder, "--run.name", "run")
    return seed, finished(folder, Job("unisd_rl.run", *words))


def test_held_out_accuracy_rises(default_run):
    seed, run = default_run
    assert_accuracy_is_what_its_items_say(run)
    assert run.summary["before"]["problems"] >= 500
    assert 0.4 <= run.summary["before"]["accuracy"] <= 0.7
    assert run.summary["after"]["accuracy"] - run.summary["before"]["accuracy"] >= LEAST_GAIN[seed]


def test_nothing_is_lost_nothing_comes_twice_and_nothing_is_too_stale(default_run):
    _, run = default_run
    assert_every_prompt_exactly_once_and_in_order(run, run.summary["steps"], 64)
    assert_staleness_within(run, bound=1)


def test_every_mechanism_acts_in_the_whole_run(default_run):
    _, run = default_run
    rows = run.metrics
    assert 0.005 <= statistics.mean(row["clipped_share"] for row in rows) <= 0.1
    assert_agreement_acts(rows)
    assert statistics.mean(row["contrastive_active_share"] for row in rows) >= 0.01
    assert sum(row["teacher_update_norm"] > 0 for row in rows) >= 10
    quarter = len(rows) // 4
    first, last = (statistics.mean(row["matching_loss"] for row in part) for part in (rows[:quarter], rows[-quarter:]))
    assert last < first


def test_generation_and_learning_take_turns(default_run):
    _, run = default_run
    assert run.summary["queue"]["straddling"] == 0
    assert max(row["staleness_max"] for row in run.metrics) == 0
