"""The command that prepares contexts before a run: `python -m unisd_rl.prepare [RECIPE ...] [...]`.

A run prepares what is missing by itself; this does it without a learner, and the run then finds it in the cache. So it
takes a run's words, all of them: fields that contexts do not depend on make no difference.
Exit codes: `cli.exit_code`.
"""

import sys
from collections.abc import Sequence

from unisd_rl.cli import (
    check_contexts,
    check_machine,
    check_model_folder,
    check_training_task,
    exit_code,
    limit_openmp_spinning,
    machine_gpus,
    parse_fields,
    print_lines,
    split_arguments,
    split_flag,
)
from unisd_rl.cluster.resources import generation_requirements
from unisd_rl.config import Config
from unisd_rl.config.load import load_with_defaults
from unisd_rl.driver.console import Console

PROGRAM = "python -m unisd_rl.prepare"


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare; returns the exit code."""
    return exit_code(_prepare, arguments)


def _prepare(arguments: Sequence[str]) -> int:
    quiet, others = split_flag(arguments, "--quiet")
    recipes, dry_run, fields = split_arguments(others)
    config = load_with_defaults(recipes, parse_fields(fields, PROGRAM), machine_gpus)[0]
    check_without_imports(config)
    if config.contexts_read.generated:
        check_machine(generation_requirements(config))
    limit_openmp_spinning()
    if dry_run:
        from unisd_rl.driver.dry_run import describe_preparation  # heavy: a tokenizer

        print_lines(describe_preparation(config))
        return 0
    with Console(quiet=quiet, captures=True) as console:
        with console.waiting("loading the libraries"):
            from unisd_rl.driver.context_generation import run_preparation  # heavy: torch, Ray
        run_preparation(config, console)
    return 0


def check_without_imports(config: Config) -> None:
    """Check what the files and the environment tell.

    Raises:
        UserError: one sentence with the value and the remedy.
    """
    check_model_folder("model.path", config.model.path)
    check_training_task(config.task)
    check_contexts(config.contexts)


if __name__ == "__main__":
    sys.exit(main())
