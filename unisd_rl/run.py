"""The command that trains: `python -m unisd_rl.run [RECIPE ...] [--section.field VALUE ...] [--dry-run]`, and that
resumes a run: `python -m unisd_rl.run --resume RUN_FOLDER [--section.field VALUE ...] [--dry-run]`.

The input is checked here, before anything heavy is imported; the rest is `train.py`. Exit codes: `cli.exit_code`.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from learner.schedule import learning_rate
from unisd_rl.cli import (
    check_absolute_under_a_job,
    check_contexts,
    check_machine,
    check_model_folder,
    check_trackers,
    check_training_task,
    exit_code,
    limit_openmp_spinning,
    machine_gpus,
    parse_fields,
    print_lines,
    split_arguments,
    split_flag,
    split_fork,
    split_resume,
)
from unisd_rl.cluster.resources import requirements
from unisd_rl.cluster.stop import STOPPED
from unisd_rl.config import Config
from unisd_rl.config.load import describe_recipes, load_with_defaults
from unisd_rl.config.own_model import Default
from unisd_rl.config.schema import ineffective_settings, slower_settings
from unisd_rl.driver.console import Console
from unisd_rl.errors import UserError
from unisd_rl.storage.fork import forked_config
from unisd_rl.storage.recorded_run import check_run_folder, resumed_config
from unisd_rl.storage.stores import check_reachable

PROGRAM = "python -m unisd_rl.run"


def main(arguments: Sequence[str] | None = None) -> int:
    """Train; returns the exit code."""
    return exit_code(_run, arguments)


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What the command line asks for: a run or, `resumed`, one to go on with; with `dry_run` it is only described."""

    config: Config
    resumed: bool
    dry_run: bool
    defaults: tuple[Default, ...]
    """What of the configuration nobody gave, for a model of one's own."""


def _run(arguments: Sequence[str]) -> int:
    quiet, others = split_flag(arguments, "--quiet")
    request = checked_request(others)
    config = request.config
    for sentence in () if quiet else notes(config):
        print(f"note: {sentence}", file=sys.stderr)
    if not config.run.in_process:
        check_machine(requirements(config))
    limit_openmp_spinning()
    if request.dry_run:
        from unisd_rl.driver.dry_run import describe_run  # heavy: a tokenizer

        print_lines(describe_run(config, request.resumed, request.defaults))
        return 0
    with Console(quiet=quiet, captures=not config.run.in_process) as console:  # a debugger needs the terminal
        console.print(f"run {config.run_dir}: {config.run.length} of {config.describe_batch()}")
        with console.waiting("loading the libraries"):
            from unisd_rl.train import run_job  # heavy: torch, Ray
        summary = run_job(config, request.resumed, console)
    return STOPPED if summary.status == "interrupted" else 0


def notes(config: Config) -> tuple[str, ...]:
    """What a person should know of settings that are right but do less than they say."""
    return (*ineffective_settings(config), *slower_settings(config), *_schedules(config))


def _schedules(config: Config) -> Iterator[str]:
    """What becomes of the learning rate of a run that was prolonged."""
    run, learner = config.run, config.learner
    lengths = (*run.earlier_steps, run.total_steps) if run.earlier_steps else ()
    for before, after in pairwise(lengths):
        last, first = (
            learning_rate(step, steps, learner.learning_rate, learner.warmup_fraction, learner.warmup_from_zero)
            for step, steps in ((before - 1, before), (before, after))
        )
        yield (
            f"prolonged from {before} to {after} steps: the learning rate ends the schedule of {before} with "
            f"{last:.2g} in step {before}, and goes on by that of {after} with {first:.2g} in step {before + 1}"
        )


def checked_request(arguments: Sequence[str]) -> RunRequest:
    """The command line, parsed and checked as far as files and the environment tell; nothing heavy is imported.

    Raises:
        UserError: one sentence with the value and the remedy.
    """
    folder, others = split_resume(arguments)
    fork, others = split_fork(others)
    recipes, dry_run, fields = split_arguments(others)
    overrides = parse_fields(fields, PROGRAM)
    defaults: tuple[Default, ...] = ()
    if fork is not None:
        config = _forked(*fork, folder, others, overrides)
    elif folder is None:
        config, defaults = load_with_defaults(recipes, overrides, machine_gpus)
        config = config.made_from(describe_recipes(recipes))
        check_without_imports(config)
    else:
        config = _resumed(folder, others, overrides)
    return RunRequest(config, folder is not None, dry_run, defaults)


def _forked(
    source: Path, step: int, resumed: Path | None, others: Sequence[str], overrides: Mapping[str, Any]
) -> Config:
    if resumed is not None:
        raise UserError(f"--resume {resumed} goes on with a run, and --fork begins another: leave one of them out")
    if others and not others[0].startswith("-"):
        raise UserError(f"--fork {source}@{step} has its own recipe, config.toml in it; leave out {others[0]!r}")
    config = forked_config(source, step, overrides)
    if config.run_dir.absolute() == source.absolute():
        raise UserError(f"--run.name {config.run.name} is the run to fork from; take another name")
    check_without_imports(config)
    return config


def _resumed(folder: Path, others: Sequence[str], overrides: Mapping[str, Any]) -> Config:
    if others and not others[0].startswith("-"):
        raise UserError(f"--resume {folder} has its own recipe, config.toml in it; leave out {others[0]!r}")
    check_absolute_under_a_job("resume", folder)
    config = resumed_config(folder, overrides)
    check_data(config)
    return config


def check_without_imports(config: Config) -> None:
    """Check what the files and the environment tell.

    Raises:
        UserError: one sentence with the value and the remedy.
    """
    check_absolute_under_a_job("run.dir", config.run.dir)
    check_run_folder(config.run_dir)
    if config.model.path is not None:
        _check_model_stays(config.model.path, config)
    check_data(config)


def check_data(config: Config) -> None:
    """Check model, ledger, task, contexts and trackers, as far as files and addresses tell.

    Raises:
        UserError: one sentence with the value and the remedy.
    """
    check_model_folder("model.path", config.model.path)
    if config.rollout.ledger is not None and "://" in config.rollout.ledger:
        check_reachable("rollout.ledger", config.rollout.ledger)
    check_training_task(config.task)
    check_contexts(config.contexts)
    check_trackers(config.tracking.to)


def _check_model_stays(path: str, config: Config) -> None:
    if Path(path).absolute().is_relative_to(config.run_dir.absolute()):
        raise UserError(
            f"model.path = {path!r} lies in {config.run_dir}, which a run of the same name moves aside; "
            "give this run another run.name"
        )


if __name__ == "__main__":
    sys.exit(main())
