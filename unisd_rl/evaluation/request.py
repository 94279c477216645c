"""What `python -m unisd_rl.evaluate` was asked for: every model on every task, each pair with its configuration.

A task is named by its type or by a TOML file with a `[task]` section; limits, engine and patience come from a recipe,
as in a run. Of that recipe only what concerns answering is read. Imports nothing heavy.

What only a look at the tokenizers can refuse: before any engine starts.
"""

import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from unisd_rl.cli import parse_fields
from unisd_rl.config import Config
from unisd_rl.config.load import DEFAULT_TASK, configuration, overlay, recipe_path, recipe_tree
from unisd_rl.config.task import TaskConfig
from unisd_rl.errors import UserError
from unisd_rl.models.tokenizer import ChatTokenizer
from unisd_rl.tasks.task import Task

BASE = "base"
"""The name of the embedded base model."""
DEFAULT_RECIPE = "unisd_star"
_READ = ("run", "model", "task", "rollout", "evaluation")
Tree = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """One model on one task, by their names on the command line; `config.model.path` is None for the embedded base."""

    model: str
    task: str
    config: Config


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """Every pair, models in the outer order, and where the results go."""

    models: tuple[str, ...]
    tasks: tuple[str, ...]
    asked: tuple[Asked, ...]
    retention_base: str | None
    """Beside which model retention is measured; None where it is not."""
    out: Path

    @property
    def by_task(self) -> dict[str, Config]:
        """A configuration of each task: its problems are the same for every model."""
        return {asked.task: asked.config for asked in self.asked[: len(self.tasks)]}

    @property
    def config(self) -> Config:
        """What all pairs share: everything but model and task."""
        return self.asked[0].config


def evaluation_request(
    models: Sequence[str], options: Namespace, fields: Sequence[str], program: str
) -> EvaluationRequest:
    """From the words of the command line to a checked request.

    Raises:
        UserError: one sentence with the value and the remedy.
    """
    _refuse_doubles("MODEL", models)
    overrides = _overrides(parse_fields(fields, program), options)
    tree = recipe_tree(options.recipe or [DEFAULT_RECIPE])
    trees = {name: {**tree, "task": section} for name, section in _task_sections(options.task).items()}
    trees = trees or {tree["task"]["type"]: tree}
    asked = tuple(
        Asked(model, task, configuration(_answering(overlay(sections, overrides), model, options.retention)))
        for model in models
        for task, sections in trees.items()
    )
    out = options.out or asked[0].config.run.dir / time.strftime("evaluation-%Y%m%d-%H%M%S")
    return EvaluationRequest(tuple(models), tuple(trees), asked, options.retention, Path(out))


def task_types() -> tuple[str, ...]:
    """The types a `[task]` section may have."""
    kinds = get_args(get_args(TaskConfig)[0])
    return tuple(get_args(kind.model_fields["type"].annotation)[0] for kind in kinds)


def _task_sections(names: Sequence[str]) -> dict[str, Tree]:
    sections = {Path(name).stem: _task_section(name) for name in names}
    if len(sections) < len(names):
        raise UserError(f"--task {' --task '.join(names)}: two have the same name; rename one of the files")
    return sections


def _task_section(name: str) -> Tree:
    if name in task_types():
        return {"type": name}
    refusal = f"--task {name}: neither a type of task ({', '.join(task_types())}) nor a TOML file with a [task] section"
    try:
        recipe_path(name)
    except UserError:
        raise UserError(refusal) from None
    section = recipe_tree(name, under={}).get("task")
    if section is None:
        raise UserError(refusal)
    return overlay({"type": DEFAULT_TASK}, section)


def _overrides(fields: Tree, options: Namespace) -> dict[str, Any]:
    """The fields of the command line, and its shorter words for some of them."""
    if strange := sorted(set(fields) - set(_READ)):
        raise UserError(f"--{strange[0]}.* says nothing to an evaluation: leave it out; it reads {', '.join(_READ)}")
    if "path" in fields.get("model", {}):
        raise UserError("--model.path: an evaluation is told its models as MODEL, the first words; leave it out")
    words = {key: vars(options)[key] for key in ("samples", "k", "temperature") if vars(options)[key] is not None}
    return overlay(fields, {"evaluation": words})


def _answering(tree: Tree, model: str, retention_base: str | None) -> dict[str, Any]:
    """Of a run's sections those that concern answering; a model that is whole, and an objective nobody reads."""
    evaluation = {key: value for key, value in tree.get("evaluation", {}).items() if key not in ("every", "retention")}
    if retention_base is not None:
        evaluation["retention"] = tree.get("evaluation", {}).get("retention") or {}
    return {
        "run": tree.get("run", {}),
        "model": {
            **{key: value for key, value in tree.get("model", {}).items() if key not in ("path", "lora")},
            "path": None if model == BASE else model,
        },
        "task": tree["task"],
        "rollout": {key: value for key, value in tree.get("rollout", {}).items() if key != "sources"},
        "evaluation": evaluation,
        "objective": {"divergence": {}},
    }


def _refuse_doubles(what: str, names: Sequence[str]) -> None:
    if double := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{what} = {double} is given twice: leave one out")


def refuse_long_questions(tokenizer: ChatTokenizer, task: Task, name: str, limit: int) -> None:
    """Raise `UserError` if a problem has more than `limit` tokens: the score would be of fewer, and of easier ones."""
    too_long = sum(len(tokenizer.encode(task.student_messages(one))) > limit for one in task.evaluation)
    if too_long:
        raise UserError(
            f"{too_long} of {len(task.evaluation)} problems of {name} are longer than "
            f"rollout.max_prompt_tokens = {limit}: raise it, or take them out of the data"
        )


def refuse_other_tokens(base: ChatTokenizer, tokenizer: ChatTokenizer, task: Task, model: str) -> None:
    """Raise `UserError` unless the base of retention reads every problem and gold completion as the model does."""
    for one in task.evaluation:
        chat = task.student_messages(one)
        same = np.array_equal(base.encode(chat), tokenizer.encode(chat))
        gold = one.demonstration
        if not same or not np.array_equal(base.encode_completion(gold), tokenizer.encode_completion(gold)):
            raise UserError(
                f"--retention: the base and {model} turn problem {one.id} into different tokens, so they do not belong "
                "together; name the model it was trained from"
            )
