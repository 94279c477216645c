"""Composition: the one place that knows every part, in the order they come to life."""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from actors.group import RolloutGroup
from learner.group import LearnerGroup
from unisd_rl.chat import ChatTokenizer
from unisd_rl.config import Config
from unisd_rl.placement import CorePlan, plan_cores
from unisd_rl.prompts import PromptStream
from unisd_rl.run_directory import RunDirectory
from unisd_rl.screen import Screen
from unisd_rl.tasks.task import Task
from unisd_rl.train import Parts
from unisd_rl.transport.rollouts.client import QueueClient
from unisd_rl.transport.rollouts.spawn import spawn_queue
from unisd_rl.transport.weights.store import spawn_store
from unisd_rl.types import Prompt


def model_folder(config: Config, directory: RunDirectory, screen: Screen) -> Path:
    """The model to start from. The embedded one is trained at first use and copied into the run's folder,
    so that every node that sees this folder sees the model."""
    if config.model.path is not None:
        path = Path(config.model.path).expanduser()
        return path.absolute() if path.is_dir() else Path(config.model.path)
    from unisd_rl.base_model import ensure_base_model  # only the embedded default needs torch in this process

    with screen.progress("base model") as report:
        cached = ensure_base_model(config.model.base_seed, report)
    return Path(shutil.copytree(cached, directory.path / "base_model", dirs_exist_ok=True))


def prompt_stream(config: Config, task: Task, model: Path) -> PromptStream:
    """All prompts of the run, those with too long a view or gold completion dropped and counted (decision 2)."""
    tokenizer, limits = ChatTokenizer(model), config.rollout

    def fits(prompt: Prompt) -> bool:
        if prompt.gold is not None and len(tokenizer.encode_completion(prompt.gold)) > limits.max_completion_tokens:
            return False
        views = (prompt.messages, *(view.messages for view in prompt.views))
        return all(len(tokenizer.encode(messages)) <= limits.max_prompt_tokens for messages in views)

    return PromptStream(task, config, fits)


def core_plan(config: Config) -> CorePlan:
    """Cores of every process that computes on the CPU of this machine."""
    plan = plan_cores(
        sorted(os.sched_getaffinity(0)),
        config.rollout.actors,
        config.learner.ranks,
        config.rollout.cores,
        config.learner.cores,
    )
    return CorePlan(
        rollout=() if config.rollout.gpus_per_actor else plan.rollout,
        learner=() if config.learner.gpus_per_rank else plan.learner,
    )


@contextmanager
def started_parts(
    config: Config, task: Task, prompts: PromptStream, model: Path, directory: RunDirectory, screen: Screen
) -> Iterator[Parts]:
    """Queue, store, learner and rollout actors, started and ready; closed in reverse order."""
    plan = core_plan(config)
    screen.say(plan.describe())
    with ExitStack() as stack:
        queue = spawn_queue(directory.path, config)
        store = spawn_store()
        learners = LearnerGroup(config, plan, model, directory.path)
        stack.callback(learners.close)
        rollouts = RolloutGroup(config, plan, model, directory.path, queue, store)
        stack.callback(rollouts.close)
        with screen.waiting("starting learner and engines"):
            learners.start(config.run.start_timeout_s)
            rollouts.start(config.run.start_timeout_s)
        yield Parts(config, task, prompts, QueueClient(queue), store, rollouts, learners, directory, screen)
