"""The command `replay`: a run's training again, rows out of its ledger straight to the learner's ranks.

```
ledger of RUN --read, checksums--> batch of step k --split--> learner ranks --> loss, compared with RUN's
```

With `learner.ranks` and threads as in the run, on the CPU in float32, everything that determines a loss is the same:
rows, their split among ranks, seeds, schedule. So is every bit of it.
A prompt's number is stored once, whatever happened to the run, so the rows of a step are the same in every lineage.
"""

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from learner.group import LearnerGroup
from unisd_rl.base_model import model_folder
from unisd_rl.cluster.cores import CorePlan, core_plan
from unisd_rl.cluster.ray_cluster import connected
from unisd_rl.cluster.resources import learner_requirement
from unisd_rl.config import Config
from unisd_rl.driver.console import Console
from unisd_rl.driver.origin import read_origin, weights_fingerprint
from unisd_rl.driver.run_dir import RunDirectory
from unisd_rl.errors import RunFailed, UserError
from unisd_rl.metrics import StepMetrics
from unisd_rl.models.check import check_model
from unisd_rl.storage.checkpoints import RunState
from unisd_rl.storage.recorded_run import RecordedRun, ReplayRequest
from unisd_rl.transport.rollouts.batch import split_for_ranks
from unisd_rl.transport.rollouts.ledger import Ledger


class Recording:
    """The steps of a run, from 0 on, of which no prompt is missing."""

    def __init__(self, run: RecordedRun, batch_size: int, steps: int) -> None:
        """Read every row of at most `steps` steps once.

        Raises:
            UserError: a segment is damaged, or not even the first step is whole.
        """
        self._location, self._batch_size = run.ledger, batch_size
        self._quarantined = run.quarantined()
        try:
            self._ledger = Ledger(self._location, fsync=False)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"the index of {self._location} is damaged: {error}") from None
        if missing := self._missing(0):
            raise UserError(
                f"{self._location} ends before the first step is whole: {len(missing)} of its {self._batch_size} "
                f"prompts are not there, {missing[0]} first; there is nothing to train on"
            )
        self.steps = next((step for step in range(steps) if self._missing(step)), steps)
        self.rollouts = sum(len(self.shards(step, 1)[1]) for step in range(self.steps))

    def shards(self, step: int, ranks: int) -> tuple[tuple[bytes, ...], list[int]]:
        """What each rank trains on in this step, and the prompt numbers of all of it, in order.

        Raises:
            UserError: the segment is damaged.
        """
        numbers = [number for number in self._numbers(step) if number not in self._quarantined]
        try:
            return split_for_ranks(self._ledger.read(numbers), ranks), numbers
        except (OSError, ValueError) as error:
            raise UserError(f"{error}; the rollouts of step {step} cannot be trained on again") from None

    def _missing(self, step: int) -> list[int]:
        return [n for n in self._numbers(step) if n not in self._ledger and n not in self._quarantined]

    def _numbers(self, step: int) -> range:
        return range(step * self._batch_size, (step + 1) * self._batch_size)


@dataclass(frozen=True, slots=True)
class LossDifference:
    """The two losses of one step (counted from 0, as in metrics.jsonl), where they differ."""

    step: int
    run: float
    replay: float


@dataclass(frozen=True, slots=True)
class LossComparison:
    """`steps` losses were compared; `first` is the first pair that differs, None if none does."""

    steps: int
    first: LossDifference | None


@dataclass(frozen=True, slots=True)
class ReplaySummary:
    """summary.json of a replay. `compared` is None if a `changed` setting affects losses, or RUN has none."""

    status: str
    run: str
    steps: int
    steps_asked: int
    rollouts: int
    changed: tuple[str, ...]
    compared: LossComparison | None
    cores: str
    wall_s: float


def run_replay(request: ReplayRequest) -> ReplaySummary:
    """Train, compare, report.

    Raises:
        UserError: the ledger, the model or the cluster is not what the request says.
        RunFailed: the learner failed, or losses differ where `request.check`.
    """
    config = request.config
    check_model(config)
    recording = Recording(request.run, config.learner.batch_size, config.run.total_steps)
    directory = RunDirectory(config.run_dir)
    with directory.claimed(config):
        summary = _replay_in(directory, request, recording)
    if request.check and summary.compared is not None and summary.compared.first is not None:
        raise RunFailed(verdict(request, summary))
    return summary


def _replay_in(directory: RunDirectory, request: ReplayRequest, recording: Recording) -> ReplaySummary:
    started, config = time.monotonic(), request.config
    plan = CorePlan((), core_plan(config).learner)
    with Console(recording.steps) as console, connected(config, (learner_requirement(config),)):
        console.print(plan.describe())
        if recording.steps < config.run.total_steps:
            console.print(
                f"the ledger ends early: {recording.steps} of {config.run.total_steps} steps are whole and trained on"
            )
        model = model_folder(config, directory.path, console)
        changed = (*request.changed, *other_weights(request, model))
        with closing(LearnerGroup(config, plan, model, directory.path)) as learners:
            with console.waiting("starting the learner"):
                learners.start(config.run.start_timeout_s)
            trained = steps(request, recording, learners, directory, console)
            losses = {metrics.step: metrics.loss.loss for metrics in trained}
            learners.save(directory.checkpoint(recording.steps), state_after(recording.steps, config))
        summary = ReplaySummary(
            status="completed",
            run=str(request.run.path),
            steps=recording.steps,
            steps_asked=config.run.total_steps,
            rollouts=recording.rollouts,
            changed=changed,
            compared=None if changed else compare_losses(request.run.losses(), losses),
            cores=plan.describe(),
            wall_s=time.monotonic() - started,
        )
        directory.write_summary(asdict(summary))
        console.print(f"{verdict(request, summary)}\nmodel  {directory.checkpoint(recording.steps)}")
    return summary


def other_weights(request: ReplayRequest, model: Path) -> tuple[str, ...]:
    """Names the weights among the changed settings where they are not those that the run began with.

    Raises:
        UserError: losses were to be compared.
    """
    began, now = read_origin(request.run.path).get("weights"), weights_fingerprint(model)
    if began is None or began == now:
        return ()
    if request.check:
        raise UserError(
            f"--check compares losses, and the weights of {model} are not those that {request.run.path} began with: "
            "bring them back, or leave --check out"
        )
    return ("the weights of the model",)


def steps(
    request: ReplayRequest, recording: Recording, learners: LearnerGroup, directory: RunDirectory, console: Console
) -> Iterator[StepMetrics]:
    """Train step after step; the line of each goes to metrics.jsonl and to the console."""
    config = request.config
    for step in range(recording.steps):
        started = time.monotonic()
        shards, _ = recording.shards(step, config.learner.ranks)
        metrics = learners.step(shards, step, config.run.step_timeout_s, request.run.lineage_of(step))
        learn_s = time.monotonic() - started
        tokens_per_s = metrics.counts.tokens / learn_s
        directory.log_step({"lineage": 0, **metrics.flat(), "learn_s": learn_s, "tokens_per_s": tokens_per_s})
        console.print_step(metrics, tokens_per_s)
        yield metrics


def state_after(step: int, config: Config) -> RunState:
    """The run state in the checkpoint of a replay, which has no lineages of its own."""
    return RunState(0, step, step * config.learner.batch_size, ())


def compare_losses(run: dict[int, float], replay: dict[int, float]) -> LossComparison | None:
    """Compare the losses of the steps that both have, bit for bit; None where there is no such step."""
    common = sorted(run.keys() & replay.keys())
    if not common:
        return None
    differing = next((step for step in common if run[step] != replay[step]), None)
    first = None if differing is None else LossDifference(differing, run[differing], replay[differing])
    return LossComparison(len(common), first)


def verdict(request: ReplayRequest, summary: ReplaySummary) -> str:
    """The result of the comparison, in one sentence."""
    compared, run = summary.compared, request.run.path
    if summary.changed:
        return f"losses are not compared with those of {run}: {', '.join(summary.changed)} changed"
    if compared is None:
        return f"losses are not compared: {run / 'metrics.jsonl'} has none of these steps"
    if compared.first is None:
        return f"all {compared.steps} losses compared equal those of {run} bit for bit"
    first = compared.first
    return (
        f"step {first.step} is the first of {compared.steps} whose loss is not that of {run}: {first.replay!r}, and it "
        f"was {first.run!r}; the same bits need the CPU, float32, as many ranks and threads ({summary.cores}) and the "
        "same versions of the libraries"
    )
