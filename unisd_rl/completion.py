"""The command that prints a completion script for the shell: `eval "$(unisd-rl completion)"` in ~/.bashrc or ~/.zshrc.

The script holds every word, so that a TAB starts no Python: commands, recipes, options, fields, and the values of a
field that has a few. Anything else is completed as a file name. Exit codes: `cli.exit_code`.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from unisd_rl.cli import CliParser, exit_code
from unisd_rl.config import Config
from unisd_rl.config.fields import field_names, kinds_of
from unisd_rl.config.help import recipe_files
from unisd_rl.config.load import RECIPES, SETUPS

PROGRAM = "python -m unisd_rl.completion"
_DESCRIPTION = (
    """Print a completion script for bash and zsh. In ~/.bashrc or ~/.zshrc: eval "$(unisd-rl completion)"."""
)
OPTIONS: Mapping[str, str] = {
    "run": "--resume --fork --dry-run --quiet",
    "evaluate": "--task --recipe --samples --k --temperature --retention --out --dry-run --quiet",
    "prepare": "--dry-run --quiet",
    "replay": "--check --dry-run --quiet",
    "scale": "--actors --timeout --no-wait",
    "compact": "",
    "report": "",
    "compare": "--out",
    "ablate": "--only --jobs --out --runs --report --dry-run",
    "status": "--watch",
    "push": "--to --adapter --public",
    "init": "--held-out --model --out --prompt --demonstration --answer --messages --tools",
    "recipes": "",
    "completion": "",
}
"""The options of each command beside `--help` and the fields."""
_WITH_FIELDS = ("run", "prepare", "evaluate", "replay")
_WITH_RECIPES = ("run", "prepare", "recipes")
_SCRIPT = """\
[ -n "$ZSH_VERSION" ] && autoload -U +X bashcompinit && bashcompinit
_unisd_rl() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} words=""
  if [ "$COMP_CWORD" -eq 1 ]; then
    words="{commands} --help"
  else
    case "$before $word" in
{values}
      *" -"*) case "${{COMP_WORDS[1]}}" in
{options}
      esac ;;
      *) case "${{COMP_WORDS[1]}}" in
        {with_recipes}) words="{recipes}" ;;
      esac ;;
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _unisd_rl unisd-rl"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the script; returns the exit code."""
    return exit_code(_completion, arguments)


def _completion(arguments: Sequence[str]) -> int:
    CliParser(PROGRAM, "", _DESCRIPTION).parse_args(arguments)
    print(script())
    return 0


def script() -> str:
    """The completion script, for bash and zsh."""
    fields = " ".join(f"--{name}" for name in sorted(field_names()))
    recipes = " ".join(path.stem for folder in (RECIPES, SETUPS) for path in recipe_files(folder))
    options = {
        name: f"{own} --help --help-all".strip() + (f" {fields}" if name in _WITH_FIELDS else "")
        for name, own in OPTIONS.items()
    }
    values = {name: " ".join(few) for name, few in _few_values().items()}
    sections = " ".join(Config.model_fields)
    return _SCRIPT.format(
        commands=" ".join(OPTIONS),
        values=_cases({f'"--{name} "*': few for name, few in values.items()} | {'"--help "*': sections}),
        options=_cases(options),
        with_recipes="|".join(_WITH_RECIPES),
        recipes=recipes,
    )


def _cases(words: Mapping[str, str]) -> str:
    return "\n".join(f'        {pattern}) words="{choice}" ;;' for pattern, choice in words.items())


def _few_values() -> dict[str, list[str]]:
    """Dotted name -> values, of every field that has a few: words, or true and false."""
    found: dict[str, list[str]] = {}
    for name, field in Config.model_fields.items():
        for path, value in _below(name, field):
            found[path] = list(dict.fromkeys([*found.get(path, []), value]))
    return found


def _below(path: str, field: FieldInfo) -> Iterator[tuple[str, str]]:
    yield from ((path, value) for value in _values(field.annotation))
    for kind in kinds_of(field.annotation):
        for name, inner in kind.model_fields.items():
            yield from _below(f"{path}.{name}", inner)


def _values(annotation: Any) -> Iterator[str]:
    if get_origin(annotation) is Literal:
        yield from map(str, get_args(annotation))
    elif annotation is bool:
        yield from ("true", "false")
    elif get_origin(annotation) in (Union, Annotated):
        yield from (value for part in get_args(annotation) for value in _values(part))


if __name__ == "__main__":
    sys.exit(main())
