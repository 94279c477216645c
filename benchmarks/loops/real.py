"""The loop on the real engine and the real learner, and each of the two by itself.

    ahead          the loop of `unisd_rl.train` at max_staleness 1: both sides at once, connected
    alternating    the same at max_staleness 0: a batch, a step, a batch, ...
    unconnected    vLLM alone goes round the same prompts while a learner trains on the batches that `ahead` left in its
                   ledger: the same cores and threads, nothing between the two

The embedded task and model. Times are of steps in the middle of a run, of every one of which the next is prepared for
already and followed by another. The side that is slower alone sets the time of `unconnected`.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import ray

from benchmarks.loops.bare_engine import spawn_bare_engine
from benchmarks.loops.rows import Row
from learner.group import LearnerGroup
from unisd_rl.cluster.cores import CorePlan, core_plan
from unisd_rl.cluster.ray_cluster import connected
from unisd_rl.cluster.resources import requirements
from unisd_rl.cluster.stop import StopSignals
from unisd_rl.config import Config
from unisd_rl.config.load import load_recipe
from unisd_rl.driver.build import Run, prompt_stream, started_run
from unisd_rl.driver.console import Console
from unisd_rl.driver.recovery import LearnerRecovery
from unisd_rl.driver.replay_job import Recording
from unisd_rl.driver.run_dir import RunDirectory
from unisd_rl.storage.recorded_run import RecordedRun
from unisd_rl.tasks.load import load_task
from unisd_rl.train import train_steps
from unisd_rl.transport.rollouts.schema import decode

FIRST = 2  # steps before the first that is timed: threads and pages are warm, the self-check is over
AFTER = 2  # steps after the last that is timed
STEP_S, CALL_S = 300.0, 60.0
NOTHING: Mapping[str, Mapping[str, Any]] = {}


class TimedDirectory(RunDirectory):
    """Notes when each step ended."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.ended_s: list[float] = []
        self.lines: list[Mapping[str, Any]] = []

    def log_step(self, row: Mapping[str, Any]) -> None:
        self.ended_s.append(time.perf_counter())
        self.lines.append(row)
        super().log_step(row)


def real(options: argparse.Namespace) -> list[Row]:
    """`options.repeats` times in turn: ahead, unconnected, alternating."""
    rows, steps = [], FIRST + options.steps + AFTER
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for repeat in range(options.repeats):
            ahead = configured(Path(folder) / f"ahead-{repeat}", options.concurrency, steps, staleness=1)
            rows += [looped("ahead", ahead, options.steps), unconnected(ahead, options.steps)]
            alternating = configured(Path(folder) / f"alternating-{repeat}", options.concurrency, steps, staleness=0)
            rows.append(looped("alternating", alternating, options.steps))
    return rows


def configured(
    path: Path, concurrency: int, steps: int, staleness: int, changes: Mapping[str, Mapping[str, Any]] = NOTHING
) -> Config:
    """The default recipe with these sizes; the embedded model's cache is the user's."""
    settings: dict[str, dict[str, Any]] = {
        "run": {"dir": str(path.parent), "name": path.name, "steps": steps, "checkpoint_every": 0},
        "rollout": {"max_staleness": staleness, "concurrency": concurrency},
        "evaluation": {"concurrency": concurrency},
        "task": {"type": "arithmetic", "eval_examples": 1},
    }
    for section, values in changes.items():
        settings[section] = {**settings.get(section, {}), **values}
    return load_recipe("unisd_star", settings)


@contextmanager
def run_of(config: Config, directory: RunDirectory) -> Iterator[Run]:
    """A run, started; what it prints goes to a file."""
    task = load_task(config.task)
    with (
        directory.claimed(config),
        (directory.path / "screen.log").open("w") as log,
        redirect_stdout(log),
        Console() as console,
        connected(config, requirements(config)),
        started_run(config, task, directory, console) as run,
    ):
        yield run


def looped(part: str, config: Config, steps: int) -> Row:
    """The loop itself, timed from the end of step `FIRST` on."""
    directory = TimedDirectory(config.run_dir)
    with run_of(config, directory) as run:
        recovery = LearnerRecovery(run)
        recovery.start_or_resume(resumed=False)
        run.rollouts.run()
        train_steps(run, recovery.version, StopSignals())
    lines = directory.lines[FIRST : FIRST + steps]
    seconds = directory.ended_s[FIRST + steps - 1] - directory.ended_s[FIRST - 1]
    learn_s, waited_s, published_s = (sum(line[name] for line in lines) for name in ("learn_s", "wait_s", "publish_s"))
    return Row(part, config.rollout.max_staleness, steps, seconds, None, learn_s, waited_s, published_s)


def unconnected(config: Config, steps: int) -> Row:
    """Both sides at once, each by itself, on what the run of this configuration left."""
    run = RecordedRun.at(config.run_dir)
    group_size = config.rollout.answers_per_prompt
    recording = Recording(run, config.learner.batch_size, group_size, config.run.total_steps)
    folder, plan = config.run_dir, core_plan(config)
    model = folder / "base_model"
    (folder / "unconnected" / "logs").mkdir(parents=True)
    with (folder / "screen.log").open("a") as log, redirect_stdout(log), Console() as console:
        task, directory = load_task(config.task), RunDirectory(folder / "unconnected")
        stream = prompt_stream(config, task, model, directory, console)
        prompts = tuple(stream.prompt(number) for number in range(recording.steps * config.learner.batch_size))
    with connected(config, requirements(config)):
        learners = LearnerGroup(config, CorePlan((), plan.learner), model, folder / "unconnected")
        try:
            learners.start(config.run.start_timeout_s)
            engine = spawn_bare_engine(config, plan.of_actor(0), model, folder)
            going = engine.go_round.remote(prompts)
            for step in range(FIRST):
                train(learners, recording, step)
            before, began_s = ray.get(engine.tokens.remote(), timeout=CALL_S), time.perf_counter()
            for step in range(FIRST, FIRST + steps):
                train(learners, recording, step)
            learn_s = time.perf_counter() - began_s
            after = ray.get(engine.tokens.remote(), timeout=CALL_S)
            assert not ray.wait([going], timeout=0)[0], "the engine ended"
        finally:
            learners.close()
    tokens_per_s = (after[0] - before[0]) / (after[1] - before[1])
    rollout_s = tokens_of(recording, range(FIRST, FIRST + steps)) / tokens_per_s
    return Row("unconnected", 0, steps, max(learn_s, rollout_s), rollout_s, learn_s, 0.0, 0.0)


def train(learners: LearnerGroup, recording: Recording, step: int) -> None:
    learners.step(recording.shards(step, 1)[0], step, STEP_S, 0)


def tokens_of(recording: Recording, steps: range) -> int:
    """Completion tokens of these steps."""
    rows = (row for step in steps for row in decode(recording.shards(step, 1)[0][0]))
    return sum(len(row.completion_tokens) for row in rows)
