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
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass

from learner.group import LearnerGroup
from unisd_rl.base_model import model_folder
from unisd_rl.cluster.connect import connected, connecting
from unisd_rl.cluster.cores import CorePlan, core_plan
from unisd_rl.cluster.resources import learner_requirement
from unisd_rl.config import Config
from unisd_rl.driver.console import Console
from unisd_rl.driver.origin import other_weights
from unisd_rl.driver.run_dir import RunDirectory
from unisd_rl.errors import RunFailed
from unisd_rl.metrics import StepMetrics
from unisd_rl.models.check import check_model
from unisd_rl.storage.checkpoints import RunState, keep_newest
from unisd_rl.storage.fork import fork_of
from unisd_rl.storage.logs import log_path
from unisd_rl.storage.recorded_run import ReplayRequest
from unisd_rl.transport.rollouts.recording import Recording


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


def run_replay(request: ReplayRequest, console: Console) -> ReplaySummary:
    """Train, compare, report.

    Raises:
        UserError: the ledger, the model or the cluster is not what the request says.
        RunFailed: the learner failed, or losses differ where `request.check`.
    """
    config = request.config
    check_model(config)
    group_size = config.rollout.answers_per_prompt
    recording = Recording(request.run, config.learner.batch_size, group_size, config.run.total_steps)
    directory = RunDirectory(config.run_dir)
    with directory.claimed(config):
        console.keep_output(log_path(directory.path, "driver"))
        summary = _replay_in(directory, request, recording, console)
    if request.check and summary.compared is not None and summary.compared.first is not None:
        raise RunFailed(verdict(request, summary))
    return summary


def _replay_in(
    directory: RunDirectory, request: ReplayRequest, recording: Recording, console: Console
) -> ReplaySummary:
    started, config = time.monotonic(), request.config
    plan = CorePlan((), core_plan(config).learner)
    console.expect_steps(recording.steps, config.run.name)
    with ExitStack() as stack:
        with console.waiting(connecting(config)):
            stack.enter_context(connected(config, (learner_requirement(config),)))
        console.print("all in this process, on one thread" if config.run.in_process else plan.describe())
        if recording.steps < config.run.total_steps:
            console.print(
                f"the ledger ends early: {recording.steps} of {config.run.total_steps} steps are whole and trained on"
            )
        model = model_folder(config, directory.path, console)
        changed = (*request.changed, *other_weights(request, model))
        with closing(LearnerGroup(config, plan, model, directory.path)) as learners:
            with console.waiting("starting the learner"):
                learners.start(config.run.start_timeout_s)
                if (fork := fork_of(request.run.original, request.run.path)) is not None:
                    learners.load(fork.path, fork.state.version)
            losses = dict[int, float]()
            for metrics in steps(request, recording, learners, directory, console):
                losses[metrics.step] = metrics.loss.loss
                save_where_due(metrics.step + 1, recording.steps, learners, directory, config)
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
        console.announce(f"{verdict(request, summary)}\nmodel  {directory.checkpoint(recording.steps)}")
    return summary


def steps(
    request: ReplayRequest, recording: Recording, learners: LearnerGroup, directory: RunDirectory, console: Console
) -> Iterator[StepMetrics]:
    """Train step after step; the line of each goes to metrics.jsonl and to the console."""
    config = request.config
    for step in range(recording.steps):
        started = time.monotonic()
        shards, _ = recording.shards(step, config.learner.ranks)
        console.status.begin("learning")
        metrics = learners.step(shards, step, config.run.step_timeout_s, request.run.lineage_of(step))
        learn_s = time.monotonic() - started
        tokens_per_s = metrics.counts.tokens / learn_s
        line = {"lineage": 0, **metrics.flat(), "learn_s": learn_s, "tokens_per_s": tokens_per_s}
        directory.log_step(line)
        console.observe_step(line, {})
        console.print_step(metrics, tokens_per_s)
        yield metrics


def save_where_due(step: int, last: int, learners: LearnerGroup, directory: RunDirectory, config: Config) -> None:
    """Leave a checkpoint after every `run.checkpoint_every` steps and after the last one; as many as a run keeps."""
    every, kept = config.run.checkpoint_every, config.run.keep_checkpoints
    if step == last or (every and step % every == 0):
        learners.save(directory.checkpoint(step), state_after(step, config))
        keep_newest(directory.checkpoints_folder, kept + 1 if step == last else kept)


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
    if compared is None:
        return request.run.not_compared(summary.changed)
    if compared.first is None:
        return f"all {compared.steps} losses compared equal those of {run} bit for bit"
    first = compared.first
    return (
        f"step {first.step} is the first of {compared.steps} whose loss is not that of {run}: {first.replay!r}, and it "
        f"was {first.run!r}; the same bits need the CPU, float32, as many ranks and threads ({summary.cores}) and the "
        "same versions of the libraries"
    )
