"""How a run stands is read from its folder alone, and is what the run itself shows."""

import json
import math
import re

import pytest

from unisd_rl.__main__ import main
from unisd_rl.driver.status import ConsumedTail, RunStatus, clock, read_status
from unisd_rl.storage.files import FolderLock


def step(number, lineage=0, **numbers):
    times = {"wait_s": 0.5, "learn_s": 1.0, "publish_s": 0.5}
    return {"step": number, "lineage": lineage, "loss": 0.25, **times, **numbers}


def consumed(number, actor, tokens, lineage=0):
    return {"step": number, "learner_lineage": lineage, "actor": actor, "tokens": tokens}


@pytest.fixture
def run(tmp_path):
    """A run of 10 steps that rolled back from step 4 to step 2, and took step 2 again."""
    lines = {
        "metrics.jsonl": [
            step(0), step(1), step(2), step(3),
            step(2, lineage=1, weight_mean=0.95, weight_below_half=0.05, staleness_mean=0.5, staleness_max=1.0,
                 depth=7, learner_wait=0.25, actor_idle=0.1),
        ],
        "events.jsonl": [
            {"time_s": 0.0, "event": "failure", "component": "learner", "reason": "rank 0 died"},
            {"time_s": 60.0, "event": "recovery", "component": "learner", "seconds": 60.0},
        ],
        "lineages.jsonl": [{"lineage": 1, "step": 2, "steps_lost": 2}],
        "consumed.jsonl": [
            consumed(2, "rollout-0", 500), consumed(1, "rollout-0", 30),
            consumed(2, "rollout-0", 40, 1), consumed(2, "rollout-1", 60, 1), consumed(2, "rollout-0", 20, 1),
        ],
    }  # fmt: skip
    folder = tmp_path / "trial"
    (folder / "evaluations").mkdir(parents=True)
    (folder / "control").mkdir()
    (folder / "lock").touch()
    (folder / "config.toml").write_text("[run]\nsteps = 10\n")
    for name, records in lines.items():
        (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    for version, accuracy, lineage in ((0, 0.5, 0), (2, 0.625, 0), (4, 0.9, 0)):
        numbers = {"version": version, "accuracy": accuracy, "lineage": lineage, "cut": 3 * (version == 2)}
        (folder / "evaluations" / f"step-{version}.json").write_text(json.dumps(numbers))
    return folder


def shown(folder, capsys):
    assert main(["status", str(folder)]) == 0
    return dict(re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in capsys.readouterr().out.splitlines())


def test_a_step_that_was_rolled_back_counts_no_more(run):
    status = read_status(run)
    assert (status.step, status.steps, status.line["lineage"]) == (3, 10, 1)
    assert sorted(status.accuracies) == [0, 2], "version 4 was of the lineage that ended at step 2"
    assert status.cuts == {0: 0, 2: 3}


def test_the_pace_and_the_time_left_follow_from_the_last_steps(run):
    status = read_status(run)
    assert status.step_s == 2.0
    assert status.left_s == 7 * 2.0
    assert math.isnan(RunStatus(steps=10).step_s)


def test_tokens_are_counted_by_the_actor_that_made_them_for_the_newest_step_alone(run):
    assert read_status(run).tokens == {"rollout-0": 60, "rollout-1": 60}


def test_lines_of_consumed_prompts_are_read_once_and_a_cut_one_when_it_is_whole(tmp_path):
    path = tmp_path / "consumed.jsonl"
    tail, whole = ConsumedTail(path), json.dumps(consumed(0, "rollout-0", 5)) + "\n"
    assert tail.tokens_by_actor(0, 0) == {}
    path.write_text(whole + whole[:10])
    assert tail.tokens_by_actor(0, 0) == {"rollout-0": 5}
    path.write_text(whole + whole)
    assert tail.tokens_by_actor(0, 0) == {"rollout-0": 5}


def test_everything_a_person_asks_of_a_run_is_shown(run, capsys):
    rows = shown(run, capsys)
    assert rows["run"].startswith("trial  step 3/10  2.0 s/step  0:14 left  no process here holds it")
    assert rows["loss"] == "0.2500  agreement 0.950 (5.0% < 0.5)"
    assert rows["accuracy"] == "50.0% (version 0)  62.5% (version 2, 3 cut)"
    assert rows["rollouts"] == "staleness 0.50 (max 1)  7 ready for later steps"
    assert rows["actors"] == "rollout-0 30 tokens/s  rollout-1 30 tokens/s"
    assert rows["waiting"] == "learner idle 25%  actors idle 10%"
    assert re.search(r"learner: rank 0 died \(works again since .*\)", rows["last fault"])


def test_a_run_that_is_alive_says_so_and_where_its_actors_stand(run, capsys):
    counts = {"wanted": 3, "serving": 2, "states": ["rollout-1: serving", "rollout-2: starting"]}
    (run / "control" / "status.json").write_text(json.dumps(counts))
    lock = FolderLock(run)
    assert lock.acquire()
    rows = shown(run, capsys)
    lock.close()
    assert "running, last written 0:0" in rows["run"]
    assert rows["actors"] == "rollout-0 gone 30 tokens/s  rollout-1 serving 30 tokens/s  rollout-2 starting"


def test_a_finished_and_a_failed_run_say_how_they_ended(run, capsys):
    (run / "summary.json").write_text('{"status": "completed"}')
    assert shown(run, capsys)["run"].endswith("completed")
    (run / "summary.json").write_text('{"status": "failed", "error": "the disk is full"}')
    assert shown(run, capsys)["run"].endswith("failed: the disk is full")


def test_a_run_that_has_only_begun_is_shown_too(tmp_path, capsys):
    (tmp_path / "config.toml").write_text("[run]\nepochs = 1\n")
    assert shown(tmp_path, capsys)["run"].startswith(f"{tmp_path.name}  step 0/?")


def test_another_folder_is_refused(tmp_path, capsys):
    assert main(["status", str(tmp_path)]) == 2
    assert "is not the folder of a run" in capsys.readouterr().err


def test_numbers_that_are_not_defined_are_not_shown():
    status = RunStatus("trial", 3)
    status.observe_step(step(0, weight_mean=math.nan, weight_below_half=1.0, staleness_mean=math.nan, depth=0))
    rows = {title: str(said) for title, said in status.rows() if title != "run"}
    assert rows == {"loss": "0.2500", "rollouts": "0 ready for later steps"}


@pytest.mark.parametrize("seconds,said", [(0.4, "0:00"), (59.6, "1:00"), (725, "12:05"), (11220, "3:07:00")])
def test_times_are_read_as_clocks_are(seconds, said):
    assert clock(seconds) == said
