"""Composition of a run: every component, built in the order in which they depend on each other.

`evaluate_job`, `replay_job` and `context_generation` compose the few components that they need themselves.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from actors.group import RolloutGroup
from actors.rollout_actor import ActorSpec
from actors.scale_requests import ScaleRequests
from actors.scaling import TargetActorCount
from learner.group import LearnerGroup
from unisd_rl.base_model import model_folder
from unisd_rl.cluster.cores import CorePlan, core_plan, generation_cores
from unisd_rl.cluster.runtime import runtime
from unisd_rl.config import Config
from unisd_rl.config.schema import ineffective_settings
from unisd_rl.contexts.prepare import ContextGenerator, Preparation
from unisd_rl.contexts.prompts import PromptStream
from unisd_rl.driver.alarms import Alarms
from unisd_rl.driver.answer_grader import AnswerGrader, answer_grader
from unisd_rl.driver.bottleneck import BottleneckMeter
from unisd_rl.driver.console import Console
from unisd_rl.driver.context_generation import generation_engine
from unisd_rl.driver.origin import check_origin, model_origin, task_origin
from unisd_rl.driver.report_writer import ReportWriter
from unisd_rl.driver.run_dir import RunDirectory
from unisd_rl.driver.sample_recorder import SampleRecorder
from unisd_rl.driver.status import ConsumedTail
from unisd_rl.errors import UserError
from unisd_rl.evaluation.retention_process import RetentionScorer, retention_scorer
from unisd_rl.storage.timeline import Track
from unisd_rl.tasks.task import Task
from unisd_rl.tracking.build import trackers
from unisd_rl.tracking.tracker import Trackers
from unisd_rl.transport.rollouts.driver_client import QueueClient, spawn_queue
from unisd_rl.transport.weights.store import StoreClient, StoreMonitor, spawn_store
from unisd_rl.types import Event, Report


@dataclass(frozen=True, slots=True)
class Run:
    """The components of a run, started and ready: what the functions of the driver work on."""

    config: Config
    task: Task
    prompts: PromptStream
    queue: QueueClient
    store: StoreClient
    store_monitor: StoreMonitor
    rollouts: RolloutGroup
    learners: LearnerGroup
    directory: RunDirectory
    console: Console
    consumed: ConsumedTail
    meter: BottleneckMeter
    retention: RetentionScorer | None
    """None where retention is not measured."""
    grader: AnswerGrader | None
    """None where training answers are not graded."""
    samples: SampleRecorder
    page: ReportWriter
    trackers: Trackers
    track: Track
    """Of this process, in the timeline."""
    alarms: Alarms
    report: Report
    """Receives every event."""

    @contextmanager
    def phase(self, what: str, **of: int) -> Iterator[None]:
        """The run does this in this block, for the screen and the timeline; of a step or version."""
        with self.console.phase(what), self.track.span(what, **of):
            yield


@contextmanager
def started_run(config: Config, task: Task, directory: RunDirectory, console: Console) -> Iterator[Run]:
    """The run with its contexts prepared and every process started; closed in reverse order.

    The initial model comes first, then the prompts, whose contexts it may have to generate, then queue and store, and
    last those that use both.

    Raises:
        UserError: the data, the model or the cluster is not what the configuration says.
        RunFailed: a component does not start.
    """
    if config.run.colocated and runtime().nodes() > 1:
        raise UserError(
            'run.placement = "colocated" is for one machine, and this cluster has several nodes: set it to '
            '"apart", or unset RAY_ADDRESS to run on this one alone'
        )
    model = model_folder(config, directory.path, console)
    check_origin(directory.path, model_origin(model), model)
    prompts = prompt_stream(config, task, model, directory, console)
    check_origin(directory.path, task_origin(config.task, task, prompts), model)
    config = counted(config, len(prompts), directory, console)
    plan = core_plan(config)
    console.print("all in this process, on one thread" if config.run.in_process else plan.describe())
    with ExitStack() as stack:

        def report(event: Event) -> None:
            console.print_event(event)
            directory.record(event)
            told.event(event)

        queue = spawn_queue(directory.path, config)
        store = spawn_store()
        target = TargetActorCount(config.rollout, ScaleRequests(directory.path), report)
        rollouts = RolloutGroup(ActorSpec(config, model, directory.path, queue, store), plan, report, target)
        store_monitor = StoreMonitor(store, config.faults)

        def check_others() -> None:
            rollouts.check_beside_learner()
            store_monitor.check_health()

        grader = answer_grader(config, task, prompts, model)
        if grader is not None:
            stack.callback(grader.close)
        page = ReportWriter(directory.path, report)
        stack.callback(page.close)
        track = Track(directory.path, "driver")
        stack.callback(track.flush)
        told = trackers(config, directory.path, report)
        stack.push(lambda kind, *_: told.close(failed=kind is not None))
        learners = LearnerGroup(config, plan, model, directory.path, check_others)
        stack.callback(learners.close)
        stack.callback(rollouts.close)
        with console.waiting("starting learner and engines"), track.span("starting learner and engines"):
            start_processes(config, learners, rollouts)
        yield Run(
            config=config,
            task=task,
            prompts=prompts,
            queue=QueueClient(queue, config, report),
            store=store,
            store_monitor=store_monitor,
            rollouts=rollouts,
            learners=learners,
            directory=directory,
            console=console,
            consumed=ConsumedTail(directory.path / "consumed.jsonl"),
            meter=bottleneck_meter(config, plan),
            retention=retention_scorer(config, plan, model, directory.path, stack),
            grader=grader,
            samples=SampleRecorder(config, prompts, model, task),
            page=page,
            trackers=told,
            track=track,
            alarms=Alarms(config, report),
            report=report,
        )


def start_processes(config: Config, learners: LearnerGroup, rollouts: RolloutGroup) -> None:
    """Start the learner and the engines, side by side where neither disturbs the other; returns when all are ready.

    Raises:
        UserError: the cluster has no room for the ranks or for the actors.
        RunFailed: one of them did not start.
    """
    learners.place()  # first: the number of ranks is fixed, and actors may join later
    shares_gpu = config.rollout.gpus_per_actor % 1 != 0  # such an engine measures how much of the GPU is free
    if not shares_gpu and not config.run.in_process:
        rollouts.begin()
    learners.start(config.run.start_timeout_s)
    rollouts.start(config.run.start_timeout_s)


def bottleneck_meter(config: Config, plan: CorePlan) -> BottleneckMeter:
    """Empty; it suggests turns where both sides are on this machine and have cores of their own."""
    apart = not {core for cores in plan.rollout for core in cores} & {core for cores in plan.learner for core in cores}
    may_be = config.may_be_colocated and not config.rollout.on_gpu  # what turns gain is computed from cores
    return BottleneckMeter(
        config.learner.ranks,
        colocated=config.run.colocated,
        may_be_colocated=apart and may_be and not config.run.colocated and runtime().nodes() == 1,
        lockstep=config.rollout.max_staleness == 0,
    )


def counted(config: Config, problems: int, directory: RunDirectory, console: Console) -> Config:
    """The configuration with its length in steps, which is recorded: a resumed run and a replay read it there."""
    steps = config.counted(problems)
    if steps != config:
        directory.write_config(steps)
        console.print(f"{config.run.length} of {problems:,} problems: {steps.run.length} of {config.describe_batch()}")
        said = ineffective_settings(config)
        console.print_notes(sentence for sentence in ineffective_settings(steps) if sentence not in said)
    console.expect_steps(steps.run.total_steps, config.run.name)
    return steps


def prompt_stream(config: Config, task: Task, model: Path, directory: RunDirectory, console: Console) -> PromptStream:
    """All prompts of the run; contexts that are not in the cache are prepared now (decision 2).

    An engine for the contexts that the model generates is started only if some are missing, and closed again.
    """

    def open_generator() -> AbstractContextManager[ContextGenerator]:
        return generation_engine(config, generation_cores(config), model, directory.path)

    preparation = Preparation.create(config, task, model, open_generator, console)
    console.print_notes(preparation.notes)
    prepared = preparation.prepared()
    console.print(f"training on {prepared.report.describe()}")
    return PromptStream(task, config, prepared)
