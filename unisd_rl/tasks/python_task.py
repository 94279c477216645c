"""Tasks of users: an importable function that returns one (docs/add_a_task.md)."""

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path

from unisd_rl.config.task import PythonTask
from unisd_rl.errors import UserError
from unisd_rl.tasks.task import Task

_MEMBERS = ("train", "evaluation", "student_messages", "grade", "wrong_demonstrations")


def factory_of(config: PythonTask) -> Callable[..., Task]:
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


def load(config: PythonTask) -> Task:
    """The task the function returns.

    Raises:
        UserError: the function does not take these arguments, or what it returns lacks a member of a task.
    """
    factory = factory_of(config)
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
