"""Runs side by side: what ends how, within which limit, and what dies with the grid. The commands are small scripts."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field

import psutil
import pytest

from tests.fakes.finished import REPOSITORY
from unisd_rl.ablation import runner
from unisd_rl.ablation.commands import IMPORTED, Command
from unisd_rl.ablation.grid import Cell
from unisd_rl.ablation.runner import CellRun, Runner
from unisd_rl.cli import parse_fields
from unisd_rl.config.load import load_recipe, overlay, validate_config

SLEEP = "import time; time.sleep(60)"
WAIT = "import os, time\nwhile not os.path.exists({!r}): time.sleep(0.01)"


@dataclass(frozen=True, slots=True)
class Script(CellRun):
    """A run whose commands are these Python programs."""

    programs: tuple[str, ...] = ()

    @property
    def forked(self):
        return False

    def commands(self):
        for program in self.programs:
            yield Command("tests.fakes.program", (program,))


@dataclass
class Outcomes:
    finished: list = field(default_factory=list)
    failed: list = field(default_factory=list)

    def runner(self, limit_s=60.0, jobs=2):
        return Runner(
            limit_s / 60.0, jobs,
            lambda run, cost: self.finished.append((run.cell.row, cost)),
            lambda run, why: self.failed.append((run.cell.row, why)),
        )  # fmt: skip


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(runner, "_POLL_S", 0.01)
    monkeypatch.setattr(runner, "_ENDING_S", 0.05)


def script(folder, row, *programs, **fields):
    return Script(Cell(row, "arithmetic", 0.0, 0), None, None, folder, programs=programs, **fields)


def test_runs_go_side_by_side_and_their_commands_one_after_the_other(tmp_path):
    here, there = str(tmp_path / "here"), str(tmp_path / "there")
    first = script(tmp_path, "first", f"[x for x in range(10**6)]; open({here!r}, 'w')", WAIT.format(there))
    second = script(tmp_path, "second", WAIT.format(here) + f"\nopen({there!r}, 'w')")
    outcomes = Outcomes()
    outcomes.runner().make([first, second])
    assert sorted(row for row, _ in outcomes.finished) == ["first", "second"]
    assert all(cost.seconds > cost.cpu_seconds > 0 and cost.peak_mib > 1 for _, cost in outcomes.finished)


def test_a_run_that_fails_says_why_and_its_later_commands_are_not_run(tmp_path):
    outcomes = Outcomes()
    failing = script(tmp_path, "bad", "import sys; sys.exit('error: no model')", f"open({str(tmp_path / 'x')!r}, 'w')")
    outcomes.runner(jobs=1).make([failing, script(tmp_path, "good", "")])
    ((row, why),) = outcomes.failed
    assert (row, why) == ("bad", f"exit code 1: error: no model; see {failing.log}")
    assert not (tmp_path / "x").exists()
    assert [row for row, _ in outcomes.finished] == ["good"]


def test_a_run_over_its_limit_is_ended_also_one_that_does_not_listen(tmp_path):
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEP
    outcomes = Outcomes()
    outcomes.runner(limit_s=0.5).make([script(tmp_path, "slow", SLEEP), script(tmp_path, "deaf", deaf)])
    assert sorted(row for row, _ in outcomes.failed) == ["deaf", "slow"]
    assert all(why == "took more than 0.00833333 minutes (limit_minutes)" for _, why in outcomes.failed)


def test_what_an_earlier_try_left_is_gone_before_a_run_begins(tmp_path):
    run = script(tmp_path, "again", f"import os; assert not os.path.exists({str(tmp_path / 'again-arithmetic-0-0')!r})")
    run.run.mkdir()
    (run.run / "config.toml").touch()
    outcomes = Outcomes()
    outcomes.runner().make([run])
    assert [row for row, _ in outcomes.finished] == ["again"]


def test_a_second_run_waits_for_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 2**30})())
    there = tmp_path / "there"
    alone = f"import os, time; open({str(there)!r}, 'x'); time.sleep(0.1); os.remove({str(there)!r})"
    outcomes = Outcomes()
    outcomes.runner().make([script(tmp_path, row, alone) for row in ("one", "two")])
    assert outcomes.failed == [], "each found itself alone"


def test_the_runs_of_a_grid_that_is_killed_die_with_it(tmp_path):
    pid = tmp_path / "pid"
    child = f"import os; open({str(pid)!r}, 'w').write(str(os.getpid())); {SLEEP}"
    program = (
        "import sys; from pathlib import Path; from tests.integration.test_ablation_runner import Outcomes, script; "
        f"Outcomes().runner().make([script(Path({str(tmp_path)!r}), 'one', {child!r})])"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen([sys.executable, "-c", program], env=environment) as parent:
        deadline_s = time.monotonic() + 60.0
        while not pid.exists() or not pid.read_text():
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        parent.send_signal(signal.SIGKILL)
    while psutil.pid_exists(int(pid.read_text())):
        assert time.monotonic() < deadline_s, "the run lives on"
        time.sleep(0.05)


def test_a_replay_waits_for_its_recording_and_others_do_not_wait_for_it(tmp_path):
    there = str(tmp_path / "there")
    recording = script(tmp_path, "recording", WAIT.format(there))
    replay = script(tmp_path, "replay", "", recording=recording.run)
    other = script(tmp_path, "other", f"open({there!r}, 'w')")
    outcomes = Outcomes()
    outcomes.runner().make([recording, replay, other])
    assert [row for row, _ in outcomes.finished][-1] == "replay"


def test_a_replay_trains_with_the_whole_objective_of_its_row_and_then_evaluates_its_checkpoints(tmp_path):
    tree = {
        "run": {"name": "sdft-0", "dir": str(tmp_path), "steps": 20, "checkpoint_every": 10},
        "learner": {"learning_rate": 3e-4},
    }
    config = load_recipe("sdft", tree)
    cell = Cell("sdft", "arithmetic", 0.0, 0)
    replay, evaluate = CellRun(cell, config, None, tmp_path, (10, 20), tmp_path / "recording").commands()
    recording, *options = replay.arguments
    assert (replay.module, recording) == ("unisd_rl.replay", str(tmp_path / "recording"))
    given = dict(zip(options[::2], options[1::2], strict=True))
    objective = json.loads(given.pop("--objective"))
    named = {"--run.name": "sdft-0", "--run.checkpoint_every": "10", "--run.keep_checkpoints": "2"}
    assert given == named | {"--learner.learning_rate": "0.0003"}
    assert objective["contrastive"] is None, "what the recording had and this row has not is left out"
    said = parse_fields(["--objective", json.dumps(objective)], "replay")
    recorded = overlay(load_recipe("unisd_star").model_dump(mode="json"), said)
    assert validate_config(recorded).objective == config.objective
    checkpoints = [str(tmp_path / cell.name / "checkpoints" / f"step-{step}") for step in (10, 20)]
    assert (evaluate.module, *evaluate.arguments[:2]) == ("unisd_rl.evaluate", *checkpoints)


@pytest.mark.parametrize("module", IMPORTED)
def test_what_the_fork_server_imports_is_there(module):
    assert importlib.util.find_spec(module), "the server would leave it out without a word"
