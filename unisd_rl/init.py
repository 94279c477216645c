"""The command that writes a recipe for data of one's own: `python -m unisd_rl.init DATA [--held-out DATA] [...]`.

The records are read and checked as a run does it. What is in doubt stands in the recipe as a comment: a line that
begins with `#` may be switched on. Exit codes: `cli.exit_code`.
"""

import json
import re
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from unisd_rl.cli import CliParser, check_model_folder, exit_code, user_model, user_path
from unisd_rl.config.own_model import ADAPTER_RATE, FULL_RATE
from unisd_rl.config.task import DatasetsTask, Fields, JsonlTask
from unisd_rl.errors import UserError
from unisd_rl.tasks.data_files import first_record, named_files
from unisd_rl.tasks.field_names import USUAL, guessed_fields
from unisd_rl.tasks.grader_choice import fitting_grader, grader_types
from unisd_rl.tasks.load import load_task
from unisd_rl.tasks.task import Task

PROGRAM = "python -m unisd_rl.init"
_DESCRIPTION = """Look at data of your own and write a commented recipe for it.

DATA: a file (.jsonl, .json, .csv, .tsv, .parquet), or several by a pattern in quotes, as 'data/train-*.parquet'."""
_ROLES = (*USUAL, "messages", "tools")
_SHARD = re.compile(r"(?<=.)-\d+-of-\d+$")
"""How `datasets` numbers the files of a split."""
_BATCH = 16
"""`learner.batch_size` where nobody says otherwise."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a recipe; returns the exit code."""
    return exit_code(_init, arguments)


def _init(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    files = named_files("DATA", options.data)
    out: Path = options.out or Path(f"{_name(files)}.toml")
    if out.exists():
        raise UserError(f"--out {out} is there already: name another file, or remove it")
    check_model_folder("--model", options.model)
    given = {role: field for role in _ROLES if (field := getattr(options, role)) is not None}
    fields = guessed_fields(first_record(files[0]), given)
    section, right = fitting_grader(_section(options, files, fields))
    found = _Found(out.stem, options.model, section, load_task(section), out, right)
    try:
        out.write_text("\n".join(_recipe(found)) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error.strerror}; name another file") from None
    print(f"{out}: {_describe(found.task, fields)}")
    print(f"look first: {_command(found)} --dry-run")
    return 0


def _name(files: Sequence[Path]) -> str:
    """What to call a run on these files: as the only one, or the split that they are the shards of, or else as their
    folder."""
    splits = {_SHARD.sub("", file.stem) for file in files}
    return splits.pop() if len(splits) == 1 else files[0].parent.absolute().name


@dataclass(frozen=True, slots=True)
class _Found:
    """What the recipe is written from."""

    name: str
    model: str | None
    section: JsonlTask | DatasetsTask
    task: Task
    out: Path
    right: float
    """Share of the worked solutions that the section's grader finds right."""


def _section(options: Namespace, files: Sequence[Path], fields: Fields) -> JsonlTask | DatasetsTask:
    if len(files) == 1 and files[0].suffix == ".jsonl":
        held_out = None if options.held_out is None else user_path(options.held_out)
        return JsonlTask(type="jsonl", train=files[0], evaluation=held_out, fields=fields)
    return DatasetsTask(type="datasets", path=options.data, evaluation=options.held_out, fields=fields)


def _describe(task: Task, fields: Fields) -> str:
    last_turn, stated = f"the last turn of {fields.messages}", "what the worked solution states"
    named = (
        f"{f'chat = {fields.messages}' if fields.messages else f'prompt = {fields.prompt}'}, "
        f"worked solution = {fields.demonstration or last_turn}, answer = {fields.answer or stated}"
        f"{f', tools = {fields.tools}' if fields.tools else ''}"
    )
    return f"{len(task.train):,} problems to train on, {len(task.evaluation):,} held out; {named}"


def _command(found: _Found) -> str:
    model = "" if found.model else " --model.path PATH_OR_HUB_NAME"
    return f"python -m unisd_rl.run {found.out}{model}"


def _recipe(found: _Found) -> Iterator[str]:
    """The lines of the recipe."""
    task, steps = found.task, -(-len(found.task.train) // _BATCH)
    longest = max((example.demonstration for example in task.train), key=len)
    yield f"# UniSD*: {_describe(task, found.section.fields)}."
    yield "#"
    yield f"#     {_command(found)} --dry-run"
    yield "#"
    yield "# Lines that begin with `#` may be switched on; --dry-run shows what holds without them, and why."
    yield ""
    yield 'extends = "unisd_star"  # another row of the paper\'s table: `unisd-rl recipes` lists them'
    yield ""
    yield "[run]"
    yield f"name = {_text(found.name)}  # its files go to runs/{found.name}"
    yield f"# epochs = 1  # passes over the problems: {steps:,} steps of {_BATCH} prompts"
    yield ""
    yield "[model]"
    yield f"path = {_text(found.model)}" if found.model else '# path = "PATH_OR_HUB_NAME"  # or --model.path'
    yield ""
    yield "# [model.lora]  # adapters instead of all weights"
    yield "# rank = 64"
    yield ""
    yield from _task_lines(found.section)
    yield from _grader_lines(found)
    yield ""
    yield "[rollout]"
    yield f"# max_completion_tokens = ...  # twice the longest worked solution, which has {len(longest):,} characters"
    yield ""
    yield "[learner]"
    yield f"# batch_size = {_BATCH}"
    yield f"# learning_rate = {FULL_RATE:g}  # with adapters {ADAPTER_RATE:g}"
    yield ""
    yield "[evaluation]"
    yield "# every = 20  # steps between evaluations; without it one before the first step and one after the last"


def _task_lines(section: JsonlTask | DatasetsTask) -> Iterator[str]:
    yield "[task]"
    yield f'type = "{section.type}"'
    source = {"train": section.train} if isinstance(section, JsonlTask) else {"path": section.path}
    for key, value in source.items():
        yield f"{key} = {_text(str(value))}"
    if section.evaluation is not None:
        yield f"evaluation = {_text(str(section.evaluation))}"
    else:
        yield '# evaluation = "held_out.jsonl"  # without it a fifth of the records, at most 500, is held out'
    yield ""
    yield "[task.fields]"
    for role in _ROLES:
        if (field := getattr(section.fields, role)) is not None:
            yield f"{role} = {_text(field)}"
    yield ""


def _grader_lines(found: _Found) -> Iterator[str]:
    grader = found.section.grader
    yield f"[task.grader]  # {found.right:.0%} of the worked solutions are right by it"
    yield f'type = "{grader.type}"  # one of {", ".join(grader_types())}: docs/own_data.md'
    if found.section.grader.grade_thinking:
        yield "# grade_thinking = false  # for a model that thinks: only what follows </think> is graded"
    else:
        yield "grade_thinking = false  # worked solutions think first: only what follows </think> is graded"


def _text(text: str) -> str:
    """A TOML string: JSON's escapes are TOML's."""
    return json.dumps(text, ensure_ascii=False)


def _parser() -> CliParser:
    parser = CliParser(PROGRAM, "DATA [--held-out DATA] [--model MODEL] [--out FILE] [OPTION ...]", _DESCRIPTION)
    parser.add_argument("data", metavar="DATA", help="the records to train on")
    parser.add_argument("--held-out", metavar="DATA", help="those to evaluate on (default: some of DATA)")
    parser.add_argument("--model", type=user_model, help="a model folder or a hub name")
    parser.add_argument(
        "--out", type=user_path, metavar="FILE", help="the recipe's file, which names the run (default: as DATA)"
    )
    for role in _ROLES:
        what = {"messages": "a chat, with the worked solution as its last turn"}.get(role, f"the {role}")
        parser.add_argument(f"--{role}", metavar="FIELD", help=f"the field that is {what} (default: by its name)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
