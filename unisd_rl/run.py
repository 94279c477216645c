"""`python -m unisd_rl.run [RECIPE ...] [--section.field VALUE ...] [--dry-run]`: the main job.

What can be refused is refused here, before anything heavy is imported; the rest is `build` and `train`.
Exit codes: 0 done, 1 the run failed, 2 the input is wrong, 130 stopped by Ctrl-C.
"""

import os
import sys
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from learner.settings import objective_settings
from unisd_rl.config import Config, JsonlTask
from unisd_rl.errors import RunFailed, UserError
from unisd_rl.objective.inert import inert_settings
from unisd_rl.requirements import requirements
from unisd_rl.settings import load_recipe, parse_fields

PROGRAM = "python -m unisd_rl.run"
DEFAULT_RECIPE = "unisd_star"
STOPPED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    try:
        recipes, dry_run, fields = split_arguments(sys.argv[1:] if arguments is None else arguments)
        config = load_recipe(recipes, parse_fields(fields, PROGRAM))
        check_without_imports(config)
        for sentence in (*inert_settings(objective_settings(config)), *config.unread_contexts):
            print(f"note: {sentence}", file=sys.stderr)
        if dry_run:
            print(describe(config))
            return 0
        # Threads that wait spin briefly, then sleep: without spinning two threads train the base model no faster than
        # one, and with torch's usual long spinning they starve whatever runs beside them.
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
        from unisd_rl.job import run_job  # heavy: torch, Ray

        return STOPPED if run_job(config).status == "interrupted" else 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RunFailed as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return STOPPED


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], bool, list[str]]:
    """(recipes, dry run?, fields): the recipes are the words before the first option."""
    words = [word for word in arguments if word != "--dry-run"]
    recipes = list(takewhile(lambda word: not word.startswith("-"), words))
    return recipes or [DEFAULT_RECIPE], len(words) < len(arguments), words[len(recipes) :]


def check_without_imports(config: Config) -> None:
    """Refuse what a look at the files and the environment can refuse.

    Raises:
        UserError: one sentence with the value and the remedy.
    """
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and not config.run.dir.is_absolute():
        raise UserError(
            f"run.dir = {str(config.run.dir)!r} is relative, but a Ray job's working directory is thrown away; "
            "give an absolute folder that lasts, e.g. --run.dir /data/runs"
        )
    if config.model.path is not None:
        _check_model(config.model.path, config)
    if isinstance(config.task, JsonlTask):
        from unisd_rl.tasks.files import check_files

        check_files(config.task)


def _check_model(path: str, config: Config) -> None:
    folder = Path(path).expanduser()
    if looks_local(path) and not folder.is_dir():
        raise UserError(f"model.path = {path!r} is not a folder; give a model folder or a hub name")
    if folder.absolute().is_relative_to(config.run_dir.absolute()):
        raise UserError(
            f"model.path = {path!r} lies in {config.run_dir}, which a run of the same name moves aside; "
            "give this run another run.name"
        )


def looks_local(path: str) -> bool:
    """Whether a model path means a folder rather than `owner/name` on a hub."""
    return path.startswith((".", "/", "~")) or path.count("/") != 1


def describe(config: Config) -> str:
    """What would run, and which process needs which resources."""
    lines = [f"run {config.run_dir}: {config.run.steps} steps of {config.learner.batch_size} prompts"]
    lines += [requirement.describe() for requirement in requirements(config)]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
