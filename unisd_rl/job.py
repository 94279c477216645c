"""One run from a checked configuration to its summary."""

import time
from contextlib import suppress

from unisd_rl.cluster.ray_cluster import connected
from unisd_rl.cluster.resources import requirements
from unisd_rl.config import Config
from unisd_rl.driver.build import core_plan, model_folder, prompt_stream, started_parts
from unisd_rl.driver.console import Screen
from unisd_rl.driver.run_dir import RunDirectory
from unisd_rl.driver.summary import Summary, summarise
from unisd_rl.errors import RunFailed, UserError
from unisd_rl.tasks.load import load_task
from unisd_rl.tasks.task import Task
from unisd_rl.train import Outcome, train


def run_job(config: Config, resumed: bool = False) -> Summary:
    """Prepare, connect, train, report; `resumed`: go on in the folder that a run of this configuration left.

    Raises:
        UserError: the data, the model or the cluster is not what the configuration says.
        RunFailed: a part failed in mid-run; what was committed is on storage.
    """
    task = load_task(config.task)
    directory = RunDirectory(config.run_dir)
    (directory.reopen if resumed else directory.create)(config)
    try:
        return _run_in(directory, task, config, resumed)
    except (RunFailed, UserError) as error:
        _sum_up(directory, {"status": "failed", "error": str(error)})
        raise
    except KeyboardInterrupt:
        _sum_up(directory, {"status": "interrupted"})
        raise
    finally:
        directory.close()


def _sum_up(directory: RunDirectory, summary: dict[str, str]) -> None:
    """What ended the run is on its way to the screen: a disk that does not take it as well says nothing new."""
    with suppress(RunFailed):
        directory.write_summary(summary)


def _run_in(directory: RunDirectory, task: Task, config: Config, resumed: bool) -> Summary:
    started = time.monotonic()
    with Screen(config.run.steps) as screen, connected(config, requirements(config)):
        model = model_folder(config, directory.path, screen)
        prompts = prompt_stream(config, task, model, directory, screen)
        directory.refuse_other_prompts(prompts.checksum)
        with started_parts(config, task, prompts, model, directory, screen) as parts:
            outcome = train(parts, resumed)
            summary = summarise(
                config,
                outcome,
                prompts.preparation,
                directory.fall_backs(),
                parts.queue.report(),
                parts.rollouts.reports(),
                parts.meter.total(),
                core_plan(config).describe(),
                time.monotonic() - started,
            )
        directory.write_summary(summary.to_json())
        if summary.bottleneck is not None:
            screen.say(summary.bottleneck.describe())
        _say_goodbye(screen, directory, outcome)
    return summary


def _say_goodbye(screen: Screen, directory: RunDirectory, outcome: Outcome) -> None:
    checkpoint = directory.checkpoint(outcome.version.number)
    if outcome.after is None:
        screen.interrupted(directory.path)
    else:
        screen.finished(outcome.before, outcome.after, directory.path, checkpoint)
