"""Trackers of the extras keep what metrics.jsonl has that counts; none reaches out, hangs the end or asks for a key."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.fakes.black_hole import BlackHole
from tests.fakes.run_folder import HOSTILE, answer, run_folder, step
from tests.fakes.tracker_readers import INSTALLED, curves, mlflow_run, trackio_logs, wandb_records
from unisd_rl.config.load import load_recipe
from unisd_rl.reporting.record import RunRecord
from unisd_rl.tracking.build import run_information, trackers
from unisd_rl.tracking.tracker import COLUMNS

ROOT = Path(__file__).parents[2]
FIRST = [step(0), step(1), step(2, loss=9.0), step(3, loss=8.0, views_seen=3.0)]
SECOND = [step(2, 1), step(3, 1, loss=7.0)]
RESUMED = [step(3, 2), step(4, 2)]
ROLLBACKS = [{"lineage": 1, "step": 2, "steps_lost": 2}, {"lineage": 2, "step": 3, "steps_lost": 1}]
ANSWERS = [("1+1|?", HOSTILE, "wrong"), ("2+2", "Answer: `4`\n", "right")]


@pytest.fixture
def folder(tmp_path):
    return run_folder(tmp_path / "run", [*FIRST, *SECOND, *RESUMED], rollbacks=ROLLBACKS)


def steps(lines):
    return [("step", line) for line in lines]


def tell(name, folder, calls, **close):
    events = []
    told = trackers(load_recipe("unisd_star", {"tracking": {"to": (name,)}}), folder, events.append)
    for method, *arguments in calls:
        getattr(told, method)(*arguments)
    told.close(**{"timeout_s": 120.0, **close})
    number_wandb_folders(folder)
    return [event.reason for event in events]


def number_wandb_folders(folder):
    """W&B calls its folders after the second: two processes are further apart than what is told twice here."""
    done = len(list(folder.glob("wandb/offline-run-1*")))
    for number, path in enumerate(sorted(folder.glob("wandb/offline-run-2*")), start=done):
        path.rename(path.with_name(path.name.replace("offline-run-2", f"offline-run-1{number}-2", 1)))


@pytest.fixture
def without_variables(tmp_path, monkeypatch):
    """Nobody has said where trackers keep what they are told, nor who one is there."""
    for variable in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_DIR", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no.netrc"))


@pytest.fixture(params=("wandb", "mlflow", "trackio"))
def tracker(request, folder, without_variables, monkeypatch):
    if request.param not in INSTALLED:
        pytest.skip(f"{request.param} is not installed: it is the extra of that name")
    monkeypatch.setenv("TRACKIO_DIR", str(folder / "trackio"))
    if request.param == "trackio":
        import trackio  # it reads the variable when it is imported, which another test of this process may have done

        for module in [module for name, module in sys.modules.items() if name.partition(".")[0] == trackio.__name__]:
            if hasattr(module, "TRACKIO_DIR"):
                monkeypatch.setattr(module, "TRACKIO_DIR", folder / "trackio")
    return request.param


def test_a_tracker_reads_what_counts_after_a_rollback_and_a_resume(tracker, folder):
    began = [("begin", 0), *steps(FIRST[:2]), ("evaluation", 2, {"accuracy": 0.5, "interval": {"low": 0.25}}, ANSWERS)]
    evaluated_and_discarded = ("evaluation", 4, {"accuracy": 0.75}, ())
    assert (
        tell(tracker, folder, [*began, *steps(FIRST[2:]), evaluated_and_discarded, ("begin", 2), *steps(SECOND)]) == []
    )
    assert tell(tracker, folder, [("begin", 3), *steps(RESUMED)]) == []
    read, counts = curves(tracker, folder), RunRecord.at(folder).rows
    assert [line["step"] for line in counts] == [0, 1, 2, 3, 4]
    keys = {"loss/loss": "loss", "timing/wait_s": "wait_s", "lineage": "lineage", "queue/tokens": "tokens"}
    for name, key in keys.items():
        assert read[name] == {line["step"] + 1: pytest.approx(line[key]) for line in counts}, name
    assert read["evaluation/accuracy"] == {2: 0.5}
    assert read["evaluation/interval/low"] == {2: 0.25}
    assert not read.get("loss/views_seen")
    INFORMATION[tracker](folder, run_information(load_recipe("unisd_star"), folder))


@pytest.mark.skipif("wandb" not in INSTALLED, reason="wandb is not installed: it is the extra of that name")
def test_wandb_is_told_again_what_a_killed_process_lost(tmp_path, without_variables):
    evaluations = {2: [answer("1+1", True)]}
    folder = run_folder(tmp_path / "run", [*FIRST, *SECOND], rollbacks=ROLLBACKS[:1], evaluations=evaluations)
    assert tell("wandb", folder, [("begin", 0), *steps(FIRST)]) == []
    (folder / "tracking/wandb.closed").unlink()
    shutil.rmtree(folder / "wandb")
    assert tell("wandb", folder, [("begin", 3), *steps([step(3, 2, loss=5.0)])]) == []
    read = curves("wandb", folder)
    losses = {1: FIRST[0]["loss"], 2: FIRST[1]["loss"], 3: SECOND[0]["loss"], 4: 5.0}
    assert read["loss/loss"] == {version: pytest.approx(loss) for version, loss in losses.items()}
    assert read["evaluation/accuracy"] == {2: 1.0}
    assert tell("wandb", folder, [("begin", 4)]) == []
    histories = [record for record in wandb_records(folder) if record.WhichOneof("record_type") == "history"]
    assert len(histories) == 1 + 4 + 1 + 1, "what was closed is not told again"


def wandb_information(folder, expected):
    records = list(wandb_records(folder))
    runs = {record.run.run_id for record in records if record.WhichOneof("record_type") == "run"}
    assert runs == {(folder / "tracking/wandb").read_text()}
    updates = [item for record in records for item in record.config.update]
    kept = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in updates}
    assert kept["learner"] == expected.config["learner"]
    assert (kept["recipe"], kept["git_commit"], kept["command"]) == (expected.recipe, expected.commit, expected.command)
    axes = [record.metric for record in records if record.WhichOneof("record_type") == "metric"]
    assert [(axis.glob_name, axis.step_metric) for axis in axes if axis.glob_name] == [("*", "version")] * 2
    (table,) = (folder / "wandb").glob("offline-run-*/files/media/table/evaluation/completions*.table.json")
    assert json.loads(table.read_text())["columns"] == list(COLUMNS)
    assert json.loads(table.read_text())["data"] == readable(ANSWERS)


def mlflow_information(folder, expected):
    _, run = mlflow_run(folder)
    assert run.info.status == "FINISHED"
    assert run.data.params["learner.batch_size"] == str(expected.config["learner"]["batch_size"])
    assert run.data.tags["mlflow.source.git.commit"] == expected.commit
    artifacts = folder / "mlruns" / run.info.experiment_id / run.info.run_id / "artifacts"
    assert (artifacts / "recipe-from-version-0.toml").read_text() == expected.recipe
    table = json.loads((artifacts / "evaluation/completions-version-2.json").read_text())
    assert (table["columns"], table["data"]) == (list(COLUMNS), readable(ANSWERS))


def trackio_information(folder, expected):
    from trackio.sqlite_storage import SQLiteStorage

    logs = trackio_logs(folder)
    (name,) = SQLiteStorage.get_runs("unisd-rl")
    kept = SQLiteStorage.get_run_config("unisd-rl", name)
    assert (kept["recipe"], kept["git_commit"]) == (expected.recipe, expected.commit)
    (table,) = [row["evaluation/completions"] for row in logs if "evaluation/completions" in row]
    assert [list(row.values()) for row in table["_value"]] == readable(ANSWERS)


INFORMATION = {"wandb": wandb_information, "mlflow": mlflow_information, "trackio": trackio_information}


def readable(rows):
    return [[text.encode(errors="replace").decode() for text in row] for row in rows]


def test_a_run_that_fails_is_marked_as_failed(folder, without_variables):
    if "mlflow" not in INSTALLED:
        pytest.skip("mlflow is not installed: it is the extra of that name")
    assert tell("mlflow", folder, [("begin", 0)], failed=True) == []
    _, run = mlflow_run(folder)
    assert run.info.status == "FAILED"


@pytest.fixture
def black_hole():
    hole = BlackHole()
    yield hole
    hole.close()


REMOTE = {
    "wandb": lambda address: {"WANDB_BASE_URL": address, "WANDB_API_KEY": "0" * 40, "WANDB_MODE": "online"},
    "mlflow": lambda address: {"MLFLOW_TRACKING_URI": address},
    "trackio": lambda address: {"TRACKIO_SERVER_URL": address, "TRACKIO_WRITE_TOKEN": "token"},
}
"""The variables that send a tracker to a server."""
AT_THE_END_S = 5.0


def test_a_server_that_never_answers_holds_no_step_and_the_end_for_five_seconds(tracker, folder, black_hole):
    command = [sys.executable, "-m", "tests.fakes.tracked_process", tracker, str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **REMOTE[tracker](black_hole.address)}
    with subprocess.Popen(
        command, env=environment, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        said = (json.loads(line) for line in process.stdout if line.startswith("{"))
        try:
            assert next(said)["told_s"] < AT_THE_END_S
            black_hole.wait_for_client(60.0)
            services = psutil.Process(process.pid).children(recursive=True)
            process.stdin.write("\n")
            process.stdin.flush()
            closed, closed_at_s = next(said), time.monotonic()
            assert process.wait(40) == 0, "W&B's library alone takes 85 s"
            ended_s = time.monotonic() - closed_at_s
        finally:
            process.kill()
    assert closed["closed_s"] < AT_THE_END_S + 1.0
    assert closed["notices"] == [f"{tracker} did not take everything in the 5 s that it had at the end"]
    assert ended_s < 2 * AT_THE_END_S, "the library holds the process when all is done"
    assert psutil.wait_procs(services, timeout=10.0)[1] == [], "it leaves a process behind"
