"""What the commands share: how they begin and end, and what they refuse before anything heavy is imported."""

import os
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from functools import reduce
from itertools import takewhile
from pathlib import Path
from typing import Any, NoReturn

from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict

from unisd_rl.cluster.resources import Requirement, describe_cluster, describe_local
from unisd_rl.config import Config
from unisd_rl.config.contexts import ContextsConfig, RetrievalAuxiliary
from unisd_rl.config.load import check_renamed
from unisd_rl.config.task import TaskConfig
from unisd_rl.errors import RunFailed, UserError

STOPPED = 130

DEFAULT_RECIPE = "unisd_star"


def exit_code(work: Callable[[Sequence[str]], int], arguments: Sequence[str] | None) -> int:
    """Do `work` with these words (None: those this process was given): 0 done (what it returns), 1 a part of it failed,
    2 the input is wrong, 130 stopped by Ctrl-C."""
    try:
        return work(sys.argv[1:] if arguments is None else arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RunFailed as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return STOPPED


def limit_openmp_spinning() -> None:
    """Let threads that wait spin briefly, then sleep; before torch is imported.

    Without spinning two threads train the base model no faster than one, and with torch's usual long spinning they
    starve whatever runs beside them.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], bool, list[str]]:
    """(recipes, dry run?, fields): the recipes are the words before the first option."""
    words = [word for word in arguments if word != "--dry-run"]
    recipes = list(takewhile(lambda word: not word.startswith("-"), words))
    return recipes or [DEFAULT_RECIPE], len(words) < len(arguments), words[len(recipes) :]


def split_resume(arguments: Sequence[str]) -> tuple[Path | None, list[str]]:
    """(the folder after `--resume`, if that is there; the other arguments)."""
    others = list(arguments)
    for place, word in enumerate(others):
        if word == "--resume" or word.startswith("--resume="):
            given = others[place + 1 : place + 2] if word == "--resume" else [word.partition("=")[2]]
            if not given or not given[0] or given[0].startswith("-"):
                raise UserError("--resume needs the folder of the run to go on with, e.g. --resume runs/arithmetic")
            del others[place : place + (2 if word == "--resume" else 1)]
            return Path(given[0]).expanduser(), others
    return None, others


def refuse_relative_under_a_job(setting: str, folder: Path) -> None:
    """Raise `UserError` for a relative folder where what is written there would be lost."""
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and not folder.is_absolute():
        raise UserError(
            f"{setting} = {str(folder)!r} is relative, but a Ray job's working directory is thrown away; "
            f"give an absolute folder that lasts, e.g. --{setting} /data/runs"
        )


def refuse_missing_folder(setting: str, path: str) -> None:
    """Raise `UserError` for a model that should be a folder and is not there."""
    if looks_local(path) and not Path(path).expanduser().is_dir():
        raise UserError(f"{setting} = {path!r} is not a folder; give a model folder or a hub name")


def looks_local(path: str) -> bool:
    """Whether a model path means a folder rather than `owner/name` on a hub."""
    return path.startswith((".", "/", "~")) or path.count("/") != 1


def check_training_task(task: TaskConfig) -> None:
    """Raise `UserError` for a task without training problems, and for what a look at its files can refuse."""
    from unisd_rl.tasks.load import EVALUATION_ONLY, check_task

    if isinstance(task, EVALUATION_ONLY):
        raise UserError(f'task.type = "{task.type}" is for evaluation only: it has no training problems')
    check_task(task)


def check_contexts(contexts: ContextsConfig) -> None:
    """Raise `UserError` for a cache that would be lost, or an embedding model that is not there."""
    if contexts.cache is not None:
        refuse_relative_under_a_job("contexts.cache", contexts.cache)
        if contexts.cache.expanduser().exists() and not contexts.cache.expanduser().is_dir():
            raise UserError(f"contexts.cache = {str(contexts.cache)!r} is not a folder; name one, or leave it out")
    if isinstance(contexts.auxiliary, RetrievalAuxiliary) and contexts.auxiliary.model is not None:
        refuse_missing_folder("contexts.auxiliary.model", contexts.auxiliary.model)


def describe_places(needed: Sequence[Requirement]) -> str:
    """One line for each kind of process and what it asks for; then whether there is a place for each of them.

    Only where there is a cluster to look at is Ray imported.

    Raises:
        UserError: no cluster answers at RAY_ADDRESS.
    """
    lines = [requirement.describe() for requirement in needed]
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        return "\n".join([*lines, describe_local(needed)])
    from unisd_rl.cluster.ray_cluster import cluster_state  # Ray

    return "\n".join([*lines, describe_cluster(needed, cluster_state(address))])


def parse_fields(arguments: Sequence[str], program: str) -> dict[str, Any]:
    """The fields set on the command line, nested and unvalidated. `--help` prints every field and exits.

    Raises:
        UserError: an option that does not exist, or no longer under this name.
    """
    for word in arguments:
        if word.startswith("--"):
            option = word.removeprefix("--").partition("=")[0]
            check_renamed(reduce(lambda tree, name: {name: tree}, reversed(option.split(".")), {}))

    class Fields(Config, BaseSettings):
        """On-policy self-distillation. RECIPE: a shipped recipe's name or a TOML file (default: unisd_star)."""

        model_config = SettingsConfigDict(cli_implicit_flags=True)

    words = "[RECIPE ...] [--dry-run] [--SECTION.FIELD VALUE ...]"
    if program.endswith(".run"):
        words += f"\n       {program} --resume RUN_FOLDER [--dry-run] [--SECTION.FIELD VALUE ...]"
    parser = OneSentenceParser(program, words)
    parser.add_dry_run()
    source: CliSettingsSource[Fields] = CliSettingsSource(
        Fields, cli_parse_args=list(arguments), cli_hide_none_type=True, root_parser=parser
    )
    fields = source()
    return {key: value for key, value in fields.items() if key != "dry_run"}


class OneSentenceParser(ArgumentParser):
    """Refuses in one sentence, not with a page of usage. It takes no abbreviations, and shows its texts as they are."""

    def __init__(self, program: str, words: str, description: str | None = None, epilog: str | None = None) -> None:
        """`words` are shown after the program's name."""
        super().__init__(
            prog=program,
            usage=f"{program} {words}",
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=RawDescriptionHelpFormatter,
        )

    def add_dry_run(self) -> None:
        """The option `--dry-run`."""
        self.add_argument("--dry-run", action="store_true", help="print what would run, and on which resources")

    def error(self, message: str) -> NoReturn:
        """Raise `UserError`."""
        raise UserError(f"{message}; `{self.prog} --help` lists all options")
