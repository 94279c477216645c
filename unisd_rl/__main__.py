"""The command `unisd-rl NAME ...`, the same as `python -m unisd_rl.NAME ...`; a command is imported when it is used."""

import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module

COMMANDS = {
    "run": "train a model by a recipe, or resume a run",
    "evaluate": "let models answer held-out problems, and compare them",
    "prepare": "prepare the contexts of a recipe before a run",
    "replay": "train again from the rollouts that a run stored",
    "scale": "change the number of rollout actors during a run",
    "compact": "rewrite the rollouts of a stopped run as few Parquet files",
    "report": "write the page of a run: accuracy, curves, answers and their tokens",
    "compare": "write one page of several runs",
    "ablate": "make every run of a grid, side by side, and compare them",
    "status": "show how a running or finished run stands",
    "push": "put a run's model on a hub, with its model card",
    "init": "look at data of your own and write a commented recipe for it",
    "recipes": "list the shipped recipes, what each is and what it costs",
    "completion": "print a completion script for bash or zsh",
}


def _help() -> str:
    from unisd_rl.config.help import overview  # pydantic; no other command waits for it

    options = {"COMMAND --help": "the options of a command"}
    return overview("unisd-rl COMMAND ...", options, COMMANDS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the first word names with the other words; returns the exit code."""
    name, *others = (sys.argv[1:] if arguments is None else arguments) or [""]
    if name in ("-h", "--help"):
        print(_help())
        return 0
    if name not in COMMANDS:
        close = get_close_matches(name, COMMANDS, n=1)
        remedy = f"did you mean {close[0]}?" if close else "name one of them first"
        print(f"error: COMMAND = {name!r} is none of {', '.join(COMMANDS)}; {remedy}", file=sys.stderr)
        return 2
    command = import_module(f"unisd_rl.{name}")
    if arguments is not None:
        return int(command.main(others))
    sys.argv[1:] = others  # this process is the command's
    return int(command.main())


if __name__ == "__main__":
    sys.exit(main())
