"""The request that `python -m unisd_rl.evaluate` makes: every model on every task, each pair with its configuration.

A task is named by its type or by a TOML file with a `[task]` section; limits, engine and time-outs come from a recipe,
as in a run. Of that recipe only what concerns answering is read. Imports nothing heavy.

The two checks at the end need tokenizers; they are made before any engine starts.
"""

import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

import numpy as np

from unisd_rl.cli import DEFAULT_RECIPE, check_fields_are_read, parse_fields
from unisd_rl.config import Config
from unisd_rl.config.load import DEFAULT_TASK, overlay, recipe_path, recipe_tree, validate_config, with_defaults
from unisd_rl.config.own_model import evaluated_model_defaults, value_at
from unisd_rl.config.rollout import RolloutConfig
from unisd_rl.config.task import TaskConfig
from unisd_rl.contexts.selection import LIMITS, check_held_out_lengths, with_data_limits
from unisd_rl.errors import UserError
from unisd_rl.models.tokenizer import ChatTokenizer
from unisd_rl.tasks.task import Task

BASE = "base"
"""The name of the embedded base model."""
UNREAD = (
    "contexts", "weights", "learner", "objective", "faults", "run.name", "run.steps", "run.epochs",
    "run.placement", "run.checkpoint_every", "run.keep_checkpoints", "model.lora", "rollout.sources", "rollout.top_p",
    "rollout.top_k", "rollout.max_staleness", "rollout.lease_s", "rollout.max_attempts", "rollout.fsync",
    "rollout.ledger", "evaluation.every",
)  # fmt: skip
"""What an evaluation has no use for: it trains nothing, leases nothing, and samples over the whole vocabulary."""
Tree = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class EvaluationTarget:
    """One model on one task, by their names on the command line; `config.model.path` is None for the embedded base."""

    model: str
    task: str
    config: Config


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """Every pair, models in the outer order, and where the results go."""

    models: tuple[str, ...]
    tasks: tuple[str, ...]
    targets: tuple[EvaluationTarget, ...]
    retention_base: str | None
    """The model that retention is measured against; None where it is not measured."""
    out: Path

    @property
    def by_task(self) -> dict[str, Config]:
        """One configuration per task; its problems are the same for every model."""
        return {target.task: target.config for target in self.targets[: len(self.tasks)]}

    @property
    def config(self) -> Config:
        """The configuration of the first pair: the others differ from it in model and task only."""
        return self.targets[0].config


def evaluation_request(
    models: Sequence[str],
    options: Namespace,
    fields: Sequence[str],
    program: str,
    gpus: Callable[[], int] = lambda: 0,
) -> EvaluationRequest:
    """The checked request that the command line makes; `gpus` counts those there are.

    Raises:
        UserError: one sentence with the value and the remedy.
    """
    if repeated := next((model for model in models if models.count(model) > 1), None):
        raise UserError(f"MODEL = {repeated} is given twice: leave one out")
    overrides = _overrides(parse_fields(fields, program), options)
    tree = recipe_tree(options.recipe or [DEFAULT_RECIPE])
    if BASE not in models:
        tree = with_defaults(tree, evaluated_model_defaults(overlay(tree, overrides), gpus))
    trees = {name: {**tree, "task": section} for name, section in _task_sections(options.task).items()}
    trees = trees or {tree["task"]["type"]: tree}
    now, targets = datetime.now(), list[EvaluationTarget]()
    for model in models:
        for task, sections in trees.items():
            config = validate_config(_answering(overlay(sections, overrides), model, options.retention))
            targets.append(EvaluationTarget(model, task, config.with_clock_stopped(now)))
    out = options.out or targets[0].config.run.dir / time.strftime("evaluation-%Y%m%d-%H%M%S")
    return EvaluationRequest(tuple(models), tuple(trees), tuple(targets), options.retention, Path(out))


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
    """The fields of the command line, and its short options for some of them."""
    check_fields_are_read(fields, UNREAD, "an evaluation")
    if isinstance(model := fields.get("model"), Mapping) and "path" in model:
        raise UserError(
            "--model.path does not apply to an evaluation: name the models as MODEL, before the first option"
        )
    if options.retention is None and value_at(fields, "evaluation.retention") is not None:
        raise UserError(
            "--evaluation.retention.* says how retention is measured; say against which model: --retention BASE"
        )
    short = {key: vars(options)[key] for key in ("samples", "k", "temperature") if vars(options)[key] is not None}
    return overlay(fields, {"evaluation": short})


def _answering(tree: Tree, model: str, retention_base: str | None) -> dict[str, Any]:
    """The sections that concern answering: full weights, no adapter, and a placeholder for the required objective."""
    evaluation = _without(tree.get("evaluation", {}), "every", "retention")
    if retention_base is not None and isinstance(evaluation, Mapping):
        evaluation = {**evaluation, "retention": tree.get("evaluation", {}).get("retention") or {}}
    return {
        "run": _placed(tree.get("run", {})),
        "model": _of_model(tree.get("model", {}), model),
        "task": tree["task"],
        "rollout": _without(tree.get("rollout", {}), "sources"),
        "evaluation": evaluation,
        "objective": {"divergence": {}},
    }


def _placed(section: Any) -> Any:
    """The section `run`, whose placement says only whether an evaluation is in one process: there is no learner."""
    in_process = isinstance(section, Mapping) and section.get("placement") == "in_process"
    return section if in_process else _without(section, "placement")


def _of_model(section: Any, model: str) -> Any:
    section = _without(section, "lora")
    return {**section, "path": None if model == BASE else model} if isinstance(section, Mapping) else section


def _without(section: Any, *names: str) -> Any:
    """A section without some fields; what is no section is refused where it is validated."""
    if not isinstance(section, Mapping):
        return section
    return {key: value for key, value in section.items() if key not in names}


def with_task_limits(request: EvaluationRequest, tasks: Mapping[str, Task]) -> EvaluationRequest:
    """The request with one pair of limits for all its models and tasks, where it names none: the largest that fits one.
    The embedded model keeps its own, so that what is compared with it has them too."""
    if BASE in request.models:
        return request
    fitted = [with_data_limits(target.config, tasks[target.task])[0].rollout for target in request.targets]
    limits = {name: max(getattr(rollout, name) for rollout in fitted) for name in LIMITS}
    targets = [
        replace(
            target,
            config=target.config.model_copy(update={"rollout": target.config.rollout.model_copy(update=limits)}),
        )
        for target in request.targets
    ]
    return replace(request, targets=tuple(targets))


def check_question_lengths(tokenizer: ChatTokenizer, task: Task, name: str, rollout: RolloutConfig) -> None:
    """Raise `UserError` if a held-out problem of `task` is longer than the limit, or than the model's positions."""
    lengths = [len(tokenizer.encode(task.student_messages(example))) for example in task.evaluation]
    check_held_out_lengths(lengths, name, rollout.max_prompt_tokens)
    tokenizer.limits.check_prompts(
        f"a held-out problem of {name}", max(lengths, default=0), rollout.max_completion_tokens
    )


def check_same_tokens(base: ChatTokenizer, tokenizer: ChatTokenizer, task: Task, model: str) -> None:
    """Raise `UserError` unless the base of retention reads every problem and gold completion as the model does."""
    for example in task.evaluation:
        chat, gold = task.student_messages(example), tokenizer.encode_completion(example.demonstration)
        prompt = tokenizer.encode(chat)
        tokenizer.limits.check_positions(
            f"--retention: problem {example.id} and its gold completion, {len(prompt) + len(gold)} tokens,",
            len(prompt) + len(gold),
            "shorten the record, or leave out --retention",
        )
        same_chat = np.array_equal(base.encode(chat), prompt)
        if not same_chat or not np.array_equal(base.encode_completion(example.demonstration), gold):
            raise UserError(
                f"--retention: the base and {model} turn problem {example.id} into different tokens, so they do not "
                "belong together; name the model it was trained from"
            )
