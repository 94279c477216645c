"""Shared by the commands: exit codes, parsing, and the checks made before anything heavy is imported."""

import os
import sys
from argparse import Action, ArgumentParser, BooleanOptionalAction, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from io import TextIOWrapper
from itertools import takewhile
from json import JSONDecodeError
from pathlib import Path
from typing import Any, NoReturn

from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict, SettingsError
from typing_extensions import override

from unisd_rl.cluster.cores import BRIEF_SPINNING
from unisd_rl.cluster.resources import GPU, Requirement, describe_cluster, describe_local, gpus_here, missing_to_compile
from unisd_rl.cluster.stop import STOP, STOPPED
from unisd_rl.config import Config
from unisd_rl.config.base import expand_path
from unisd_rl.config.contexts import ContextsConfig, RetrievalAuxiliary
from unisd_rl.config.fields import did_you_mean, field_names
from unisd_rl.config.help import all_sections_help, overview, section_help
from unisd_rl.config.load import check_renamed, nested
from unisd_rl.config.task import TaskConfig
from unisd_rl.errors import RunFailed, UserError

DEFAULT_RECIPE = "unisd_star"
_RUN_OPTIONS = {
    "--resume RUN": "go on with the run in this folder; a larger --run.steps prolongs it",
    "--fork RUN@STEP": "begin a new run with that checkpoint and the run's settings, or other ones",
}
_QUIET = "show failures and results, and nothing else"
_OPTIONS = {"--dry-run": "look at data, prompts, settings and room; start nothing", "--quiet": _QUIET}
_UNRECOGNIZED = "unrecognized arguments:"  # argparse's words


def exit_code(command: Callable[[Sequence[str]], int], arguments: Sequence[str] | None) -> int:
    """The exit code of a command, called with these arguments (None: those of this process).

    What it returns (0: done), or 1 where a component failed, 2 where the input is wrong, 130 after Ctrl-C or SIGTERM.
    """
    with STOP.handling(ends_process=arguments is None):
        try:
            return command(sys.argv[1:] if arguments is None else arguments)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except RunFailed as error:
            print(f"failed: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt as stop:
            print(str(stop) or "stopped", file=sys.stderr)
            return STOPPED


def limit_openmp_spinning() -> None:
    """`BRIEF_SPINNING` for this process, unless its environment says otherwise; before torch is imported."""
    for name, value in BRIEF_SPINNING.items():
        os.environ.setdefault(name, value)


_SOCKET_BYTES = 107  # the longest name of a Unix socket
_RAY_SOCKET_BYTES = len("/ray/session_2000-01-01_00-00-00_000000_4194304/sockets/plasma_store")


def check_machine(needed: Sequence[Requirement]) -> None:
    """Check what processes need of this machine where Ray is started on it; those of a cluster are its nodes' affair.

    Raises:
        UserError: Ray has no folder for its sockets, or a process with a GPU could not compile its kernels.
    """
    if os.environ.get("RAY_ADDRESS"):
        return
    on_gpus = gpus_here() and any(requirement.each.get(GPU) for requirement in needed)
    if on_gpus and (lacking := missing_to_compile()):
        raise UserError(lacking)
    name = next((name for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)), "")
    folder, longest = os.environ.get(name, ""), _SOCKET_BYTES - _RAY_SOCKET_BYTES
    if len(os.fsencode(folder)) > longest:
        raise UserError(
            f"{name} = {folder!r} is longer than the {longest} characters that leave room for the names of Ray's "
            f"sockets: set it to a shorter folder, e.g. {name}=/tmp"
        )
    if folder and os.path.exists(folder) and not (os.path.isdir(folder) and os.access(folder, os.W_OK)):
        raise UserError(f"{name} = {folder!r} is not a folder that can be written: set it to one, e.g. {name}=/tmp")


def print_lines(lines: Iterable[str]) -> None:
    """Print lines as they become known, for as long as somebody reads them (`| head` stops after ten); a character
    that the terminal's encoding lacks is written as an escape."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        for line in lines:
            print(line, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains when it ends


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], bool, list[str]]:
    """(recipes, whether it is a dry run, fields): the recipes are the arguments before the first option."""
    others = [argument for argument in arguments if argument != "--dry-run"]
    recipes = list(takewhile(lambda argument: not argument.startswith("-"), others))
    fields = others[len(recipes) :]
    return recipes or default_recipes(fields), len(others) < len(arguments), fields


def default_recipes(fields: Sequence[str]) -> list[str]:
    """What a command runs that names no recipe: UniSD*; the embedded model on a machine by itself in turns, where it is
    faster. A cluster, which `RAY_ADDRESS` names, may have several nodes, and a model of one's own a GPU for each side.
    """
    names_model = any(word.partition("=")[0] == "--model.path" for word in fields)
    in_turns = not names_model and not os.environ.get("RAY_ADDRESS")
    return [DEFAULT_RECIPE, "colocated"] if in_turns else [DEFAULT_RECIPE]


def split_flag(arguments: Sequence[str], flag: str) -> tuple[bool, list[str]]:
    """(Whether this option without a value is given, the other arguments)."""
    others = [argument for argument in arguments if argument != flag]
    return len(others) < len(arguments), others


def split_resume(arguments: Sequence[str]) -> tuple[Path | None, list[str]]:
    """(the folder after `--resume`, None without that option; the other arguments).

    Raises:
        UserError: no folder follows it.
    """
    folder, others = _split_option(arguments, "--resume", "the folder of the run to resume", "runs/arithmetic")
    return (None if folder is None else user_path(folder)), others


def split_fork(arguments: Sequence[str]) -> tuple[tuple[Path, int] | None, list[str]]:
    """((the folder, the step) of `--fork RUN@STEP`, None without that option; the other arguments).

    Raises:
        UserError: no such word follows it.
    """
    remedy = "the folder of a run and a step that it has a checkpoint of", "runs/arithmetic@20"
    word, others = _split_option(arguments, "--fork", *remedy)
    if word is None:
        return None, others
    folder, _, step = word.rpartition("@")
    if not folder or not (step.isascii() and step.isdecimal()):
        raise UserError(f"--fork {word!r:.80} needs {remedy[0]}, e.g. --fork {remedy[1]}")
    return (user_path(folder), int(step)), others


def _split_option(arguments: Sequence[str], name: str, what: str, example: str) -> tuple[str | None, list[str]]:
    """(The word after this option, None without it; the other arguments)."""
    others = list(arguments)
    for index, argument in enumerate(others):
        option, equals, word = argument.partition("=")
        if option != name:
            continue
        if not equals:
            word = others.pop(index + 1) if index + 1 < len(others) else ""
        if not word or word.startswith("-"):
            raise UserError(f"{name} needs {what}, e.g. {name} {example}")
        del others[index]
        return word, others
    return None, others


def user_path(text: str) -> Path:
    """A path of the command line, with the home folder for `~`, which a shell leaves in `--out=~/x`.

    Raises:
        UserError: there is no such home folder, or no file system takes the path.
    """
    try:
        if not text or "\0" in text:
            raise ValueError("a path has at least one character, and no NUL")
        return expand_path(Path(text))
    except ValueError as error:
        raise UserError(f"{text!r:.80} is no path: {error}") from None


def user_model(text: str) -> str:
    """A model folder of the command line, as `user_path` has it, or a name on a hub."""
    return str(user_path(text)) if text.startswith("~") else text


def check_absolute_under_a_job(setting: str, folder: Path) -> None:
    """Raise `UserError` for a relative folder where what is written there would be lost."""
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and not folder.is_absolute():
        raise UserError(
            f"{setting} = {str(folder)!r} is relative, but a Ray job's working directory is thrown away; "
            f"give an absolute folder that lasts, e.g. --{setting} /data/runs"
        )


def check_model_folder(setting: str, path: str | None) -> None:
    """Raise `UserError` for a model that should be a folder and is not there; None is the embedded one, or none."""
    if path is not None and looks_local(path) and not os.path.isdir(path):
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
        check_absolute_under_a_job("contexts.cache", contexts.cache)
        if os.path.lexists(contexts.cache) and not os.path.isdir(contexts.cache):
            raise UserError(f"contexts.cache = {str(contexts.cache)!r} is not a folder; name one, or leave it out")
    if isinstance(contexts.auxiliary, RetrievalAuxiliary):
        check_model_folder("contexts.auxiliary.model", contexts.auxiliary.model)


def check_trackers(trackers: Iterable[str]) -> None:
    """Raise `UserError` for one whose library is not installed."""
    for tracker in set(trackers) - {"tensorboard", "prometheus"}:
        spec = find_spec(tracker)
        if spec is None or spec.origin is None:  # a folder of that name, as W&B leaves one, is no library
            remedy = f"pip install 'unisd-rl[{tracker}]', or leave it out"
            raise UserError(f"tracking.to names {tracker!r}, which is not installed: {remedy}")


def machine_gpus() -> int:
    """GPUs that a run could use: of the cluster at RAY_ADDRESS, or of this machine.

    Raises:
        UserError: no cluster answers at RAY_ADDRESS.
    """
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        return gpus_here()
    from unisd_rl.cluster.ray_cluster import cluster_state  # Ray

    return int(sum(node.resources.get(GPU, 0.0) for node in cluster_state(address).nodes))


def describe_resources(needed: Sequence[Requirement]) -> str:
    """One line for each kind of process and what it asks for; then whether every process can run.

    Ray is imported only where there is a cluster to look at.

    Raises:
        UserError: no cluster answers at RAY_ADDRESS.
    """
    lines = [requirement.describe() for requirement in needed]
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        check_machine(needed)
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
            check_renamed(nested(option, {}))

    try:
        fields = _fields_of(program)(args=list(arguments))()
    except SettingsError as error:
        given = f"{error.__cause__.doc:.80}" if isinstance(error.__cause__, JSONDecodeError) else "null"
        raise UserError(
            f"{given!r} is given for a section: {error}; set its fields one by one, as --run.steps 3, or give it as a "
            "JSON object"
        ) from None
    return {key: value for key, value in fields.items() if key != "dry_run"}


def check_fields_are_read(fields: Mapping[str, Any], unread: Iterable[str], command: str) -> None:
    """Check that of a command line's fields none is among those that its command does not read.

    `unread`: dotted names of fields, or of sections of which no field is read. A recipe may have them: it is a run's.

    Raises:
        UserError: one is given.
    """
    for name in unread:
        *sections, field = name.split(".")
        within: Any = fields
        for section in sections:
            within = within.get(section) if isinstance(within, Mapping) else None
        if isinstance(within, Mapping) and field in within:
            option = f"--{name}.*" if isinstance(within[field], Mapping) else f"--{name}"
            raise UserError(f"{option} does not apply to {command}, which does not read it: leave it out")


@cache  # the parser has an option for each of two hundred fields
def _fields_of(program: str) -> CliSettingsSource[Any]:
    class Fields(Config, BaseSettings):
        """On-policy self-distillation. RECIPE: a shipped recipe's name or a TOML file (default: unisd_star)."""

        model_config = SettingsConfigDict(cli_implicit_flags=True)

    parser = _FieldsParser(program)
    parser.add_dry_run()
    return CliSettingsSource(
        Fields, cli_parse_args=[], cli_hide_none_type=True, root_parser=parser, add_argument_method=_add_argument
    )


def _add_argument(parser: ArgumentParser, *names: str, **settings: Any) -> Action:
    if settings.get("action") is BooleanOptionalAction:
        settings["action"] = _Switch
    return parser.add_argument(*names, **settings)


class _Switch(BooleanOptionalAction):
    """`--x`, `--no-x`, and a value as every other option has one: `--x false`, `--x=null`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.nargs = "?"

    @override
    def __call__(self, parser: ArgumentParser, namespace: Namespace, values: Any, option: str | None = None) -> None:
        if values is None:
            super().__call__(parser, namespace, values, option)
        elif option is not None and option.startswith("--no-"):
            parser.error(f"{option} takes no value, but {values!r:.80} is given: leave it out")
        else:
            setattr(namespace, self.dest, values)


class _Help(Action):
    """`--help` shows the parser's own text, `--help SECTION` that section's fields, `--help-all` every field."""

    @override
    def __call__(self, parser: ArgumentParser, namespace: Namespace, values: Any, option: str | None = None) -> None:
        if option == "--help-all":
            print_lines([all_sections_help()])
        elif values:
            print_lines([section_help(values)])
        else:
            parser.print_help()
        parser.exit()


class CliParser(ArgumentParser):
    """An argument parser that refuses in one sentence, takes no abbreviations, and shows its texts as they are."""

    def __init__(self, program: str, usage: str, description: str | None = None, epilog: str | None = None) -> None:
        """`usage` is shown after the program's name."""
        super().__init__(
            prog=program,
            usage=f"{program} {usage}",
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=RawDescriptionHelpFormatter,
            add_help=False,
        )
        self.add_argument(
            "-h", "--help", action=_Help, nargs="?", metavar="SECTION", help="this text, or the fields of a section"
        )
        self.add_argument("--help-all", action=_Help, nargs=0, help="the fields of all sections of a configuration")

    def add_quiet(self) -> None:
        """Add the option `--quiet`."""
        self.add_argument("--quiet", action="store_true", help=_QUIET)

    def add_dry_run(self) -> None:
        """Add the option `--dry-run`."""
        self.add_argument(
            "--dry-run", action="store_true", help="look at data, prompts, settings and room; start nothing"
        )

    @override
    def error(self, message: str) -> NoReturn:
        unknown = next((word for word in message.split() if word.startswith("--")), "")
        own = {option.removeprefix("--") for option in self._option_string_actions}
        name = unknown.removeprefix("--").partition("=")[0]
        resembling = did_you_mean(name, own | field_names(), "--") if message.startswith(_UNRECOGNIZED) else ""
        raise UserError(f"{message}{resembling or ';'} `{self.prog} --help` lists all options")


class _FieldsParser(CliParser):
    """The parser of a command that takes recipes and fields: of its two hundred options `--help` names the sections."""

    def __init__(self, program: str) -> None:
        words = "[RECIPE ...] [OPTION ...] [--SECTION.FIELD VALUE ...]"
        runs = program.endswith(".run")
        super().__init__(
            program, words + (f"\n       {program} --resume RUN | --fork RUN@STEP [OPTION ...]" if runs else "")
        )
        self._shown = {**(_RUN_OPTIONS if runs else {}), **_OPTIONS}

    @override
    def format_help(self) -> str:
        return overview(str(self.usage), self._shown) + "\n"
