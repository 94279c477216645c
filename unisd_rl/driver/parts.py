"""What a run is made of while it trains."""

from dataclasses import dataclass

from actors.group import RolloutGroup
from learner.group import LearnerGroup
from unisd_rl.config import Config
from unisd_rl.contexts.prompts import PromptStream
from unisd_rl.driver.bottleneck import BottleneckMeter
from unisd_rl.driver.console import Screen
from unisd_rl.driver.run_dir import RunDirectory
from unisd_rl.evaluation.retention_scorer import RetentionScorer
from unisd_rl.tasks.task import Task
from unisd_rl.transport.rollouts.driver_client import QueueClient
from unisd_rl.transport.weights.store import StoreClient, StoreWatch
from unisd_rl.types import Report


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything a run is made of, started and ready."""

    config: Config
    task: Task
    prompts: PromptStream
    queue: QueueClient
    store: StoreClient
    store_watch: StoreWatch
    rollouts: RolloutGroup
    learners: LearnerGroup
    directory: RunDirectory
    screen: Screen
    meter: BottleneckMeter
    retention: RetentionScorer | None
    """Absent where retention is not measured."""
    report: Report
    """Told of every fault and every recovery."""
