"""Composition: the one place that knows every part, in the order they come to life.

What a run is made of while it trains.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from actors.group import RolloutGroup
from actors.scale_requests import ScaleRequests
from actors.scaling import TargetActorCount
from learner.group import LearnerGroup
from unisd_rl.cluster.cores import answering_cores, core_plan
from unisd_rl.config import Config
from unisd_rl.contexts.generator import ContextGenerator
from unisd_rl.contexts.prepare import Preparation
from unisd_rl.contexts.prompts import PromptStream
from unisd_rl.driver.bottleneck import BottleneckMeter
from unisd_rl.driver.console import Screen
from unisd_rl.driver.context_generation import generation_engine
from unisd_rl.driver.run_dir import RunDirectory
from unisd_rl.evaluation.retention_process import RetentionScorer, retention_scorer
from unisd_rl.tasks.task import Task
from unisd_rl.transport.rollouts.driver_client import QueueClient, spawn_queue
from unisd_rl.transport.weights.store import StoreClient, StoreMonitor, spawn_store
from unisd_rl.types import Event, Report


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything a run is made of, started and ready."""

    config: Config
    task: Task
    prompts: PromptStream
    queue: QueueClient
    store: StoreClient
    store_watch: StoreMonitor
    rollouts: RolloutGroup
    learners: LearnerGroup
    directory: RunDirectory
    screen: Screen
    meter: BottleneckMeter
    retention: RetentionScorer | None
    """Absent where retention is not measured."""
    report: Report
    """Told of every fault and every recovery."""


def prompt_stream(config: Config, task: Task, model: Path, directory: RunDirectory, screen: Screen) -> PromptStream:
    """All prompts of the run; their contexts are prepared now if they are not in the cache (decision 2)."""
    prepared = preparation(config, task, model, directory.path, screen).prepared()
    screen.say(f"training on {prepared.report.describe()}")
    return PromptStream(task, config, prepared)


def preparation(config: Config, task: Task, model: Path, logs: Path, screen: Screen) -> Preparation:
    """What makes contexts. An engine for those that the model writes is started if need be, and logs below `logs`."""

    def open_writer() -> AbstractContextManager[ContextGenerator]:
        return generation_engine(config, answering_cores(config), model, logs)

    return Preparation.of(config, task, model, open_writer, screen)


@contextmanager
def started_parts(
    config: Config, task: Task, prompts: PromptStream, model: Path, directory: RunDirectory, screen: Screen
) -> Iterator[Parts]:
    """Queue, store, learner and rollout actors, started and ready; closed in reverse order."""
    plan = core_plan(config)
    screen.say(plan.describe())
    with ExitStack() as stack:
        report = reporter(directory, screen)
        queue = spawn_queue(directory.path, config)
        store = spawn_store()
        demand = TargetActorCount(config.rollout, ScaleRequests(directory.path), report)
        rollouts = RolloutGroup(config, plan, model, directory.path, queue, store, report, demand)
        store_watch = StoreMonitor(store, config.faults)

        def look_after_the_others() -> None:
            rollouts.check()
            store_watch.check_health()

        learners = LearnerGroup(config, plan, model, directory.path, look_after_the_others)
        stack.callback(learners.close)
        stack.callback(rollouts.close)
        with screen.waiting("starting learner and engines"):
            learners.start(config.run.start_timeout_s)
            rollouts.start(config.run.start_timeout_s)
        retention = retention_scorer(config, plan, model, directory.path, stack)
        yield Parts(
            config,
            task,
            prompts,
            QueueClient(queue, config, report),
            store,
            store_watch,
            rollouts,
            learners,
            directory,
            screen,
            BottleneckMeter(config.learner.ranks),
            retention,
            report,
        )


def reporter(directory: RunDirectory, screen: Screen) -> Report:
    """Who is told of faults and recoveries: the person, and the run's folder."""

    def report(event: Event) -> None:
        screen.event(event)
        directory.record(event)

    return report
