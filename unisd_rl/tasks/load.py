"""Loading of tasks: from the `task` section of the configuration to a `Task`.

A task of a user's own is what an importable function returns (docs/add_a_task.md).
"""

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path

from unisd_rl.config.task import (
    ArithmeticTask,
    Benchmark,
    CosETask,
    DatasetsTask,
    GPQATask,
    HumanEvalTask,
    JsonlTask,
    MBPPTask,
    MultiplesTask,
    PythonTask,
    ScienceQATask,
    TaskConfig,
    ToolAlpacaTask,
    ToolUseTask,
)
from unisd_rl.errors import UserError
from unisd_rl.tasks import (
    arithmetic,
    cos_e,
    gpqa,
    humaneval,
    mbpp,
    multiples,
    scienceqa,
    tool_use,
    toolalpaca,
)
from unisd_rl.tasks.records import check_files, load_datasets, load_jsonl
from unisd_rl.tasks.task import Task

EVALUATION_ONLY = (GPQATask, HumanEvalTask)
"""Benchmarks that bring no training problems."""
_MEMBERS = ("train", "evaluation", "student_messages", "grade", "wrong_demonstrations")


def load_task(config: TaskConfig) -> Task:
    """The task a configuration names.

    Raises:
        UserError: for missing data, a bad record, or more examples asked for than there are.
    """
    match config:
        case ArithmeticTask():
            return arithmetic.load(config)
        case MultiplesTask():
            return multiples.load(config)
        case ToolUseTask():
            return tool_use.load(config)
        case ScienceQATask():
            return scienceqa.load(config)
        case CosETask():
            return cos_e.load(config)
        case GPQATask():
            return gpqa.load(config)
        case MBPPTask():
            return mbpp.load(config)
        case HumanEvalTask():
            return humaneval.load(config)
        case ToolAlpacaTask():
            return toolalpaca.load(config)
        case JsonlTask():
            return load_jsonl(config)
        case DatasetsTask():
            return load_datasets(config)
        case PythonTask():
            return _load_python(config)


def check_task(config: TaskConfig) -> None:
    """Refuse what a look at local files can refuse; nothing heavy is imported.

    Raises:
        UserError: for a missing file or a bad record.
    """
    if isinstance(config, JsonlTask):
        check_files(config)
    elif isinstance(config, PythonTask):
        _factory_of(config)
    elif isinstance(config, Benchmark) and (config.data is not None or isinstance(config, GPQATask)):
        load_task(config)


def _load_python(config: PythonTask) -> Task:
    """The task the function returns.

    Raises:
        UserError: the function does not take these arguments, or what it returns lacks a member of a task.
    """
    factory = _factory_of(config)
    try:
        inspect.signature(factory).bind(**config.arguments)
    except TypeError as error:
        raise UserError(
            f"task.factory = {config.factory!r} with task.arguments = {config.arguments}: {error}"
        ) from error
    task = factory(**config.arguments)
    if missing := [member for member in _MEMBERS if not hasattr(task, member)]:
        raise UserError(
            f"task.factory = {config.factory!r} returns a {type(task).__name__} without {', '.join(missing)}"
        )
    return task


def _factory_of(config: PythonTask) -> Callable[..., Task]:
    """The function a `python` section names; the job's own folder is looked in too.

    Raises:
        UserError: there is no such module or function.
    """
    module, _, name = config.factory.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"task.factory = {config.factory!r} cannot be imported from {here}: {error}") from error
    if not callable(factory):
        raise UserError(f"task.factory = {config.factory!r} is no function, but a {type(factory).__name__}")
    return factory
