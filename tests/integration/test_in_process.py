"""A run in one process: without Ray, and with the rollouts and losses of the same run in Ray's processes."""

import subprocess
import sys

import pytest

from tests.fakes.finished import (
    REPOSITORY,
    FinishedRun,
    assert_accuracy_is_what_its_items_say,
    assert_every_prompt_exactly_once_and_in_order,
    assert_staleness_within,
    finished,
    run_job,
)
from unisd_rl.transport.rollouts.ledger import Ledger

STEPS, BATCH, UNIT = 3, 16, 8
REFERENCE = (
    "--rollout.engine.type", "transformers", "--rollout.max_staleness", "0", "--rollout.lease_unit", str(UNIT),
    "--learner.batch_size", str(BATCH), "--run.steps", str(STEPS), "--run.checkpoint_every", "2",
    "--task.train_examples", "100", "--task.eval_examples", "8",
)  # fmt: skip
WITHOUT_RAY = "import sys; sys.modules['ray'] = None; from unisd_rl.run import main; sys.exit(main(sys.argv[1:]))"


def start_without_ray(folder, *arguments: str) -> subprocess.Popen[str]:
    """The command in a process in which `import ray` fails."""
    words = [sys.executable, "-c", WITHOUT_RAY, *arguments, "--run.dir", str(folder), "--run.name", "run"]
    return subprocess.Popen(words, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> FinishedRun:
    folder = tmp_path_factory.mktemp("alone")
    return finished(folder, start_without_ray(folder, "unisd_star", "in_process", *REFERENCE))


def test_a_run_in_one_process_imports_no_ray_and_keeps_what_every_run_keeps(alone):
    assert "all in this process, on one thread" in alone.output
    assert_every_prompt_exactly_once_and_in_order(alone, STEPS, BATCH)
    assert_staleness_within(alone, bound=0)
    assert_accuracy_is_what_its_items_say(alone)
    assert alone.summary["steps"] == STEPS
    assert {path.name for path in (alone.path / "checkpoints").iterdir()} == {"step-2", f"step-{STEPS}"}


def test_it_is_resumed_as_any_run(alone):
    words = [sys.executable, "-c", WITHOUT_RAY, "--resume", str(alone.path), "--run.steps", str(STEPS + 1)]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert_every_prompt_exactly_once_and_in_order(FinishedRun(alone.path, done.stdout), STEPS + 1, BATCH)


def rollouts(run: FinishedRun):
    ledger = Ledger(run.path / "rollouts", fsync=False)
    return [
        (row.number, row.seed, row.completion_tokens.tobytes(), row.logprobs.tobytes(), row.versions.tobytes())
        for row in ledger.rollouts(range(STEPS * BATCH))
    ]


def test_in_rays_processes_it_makes_the_same_rollouts_and_losses_bit_for_bit(alone, tmp_path):
    """With fixed groups and staleness 0 (reference mode). One core each, so that sums have one order."""
    cores = ("--rollout.cores", "[0]", "--learner.cores", "[0]")
    through_ray = run_job(tmp_path, "unisd_star", *REFERENCE, *cores)
    assert rollouts(alone) == rollouts(through_ray)
    assert [(row["loss"], row["grad_norm"]) for row in alone.metrics[:STEPS]] == [
        (row["loss"], row["grad_norm"]) for row in through_ray.metrics
    ]
