"""Loading of tasks: from the `task` section of the configuration to a `Task`.

A task of a user's own is what an importable function returns (docs/add_a_task.md).
"""

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path

from unisd_rl.config.grader import MathGrader, PythonGrader
from unisd_rl.config.task import (
    ArithmeticTask,
    Benchmark,
    CosETask,
    DatasetsTask,
    GPQATask,
    GSM8KTask,
    HumanEvalTask,
    JsonlTask,
    MATHTask,
    MBPPTask,
    MultiplesTask,
    PythonTask,
    ScienceQATask,
    SelfContained,
    TaskConfig,
    ToolAlpacaTask,
    ToolUseTask,
)
from unisd_rl.errors import UserError
from unisd_rl.tasks import (
    arithmetic,
    cos_e,
    gpqa,
    gsm8k,
    humaneval,
    math500,
    mbpp,
    multiples,
    scienceqa,
    tool_use,
    toolalpaca,
)
from unisd_rl.tasks.own_code import import_function, of_own_code
from unisd_rl.tasks.records import check_files, load_datasets, load_jsonl
from unisd_rl.tasks.source_records import print_once
from unisd_rl.tasks.task import Task, check_gold, check_problems, describe_overlap

EVALUATION_ONLY = (GPQATask, HumanEvalTask)
"""Benchmarks that bring no training problems."""
_GRADED, _GRADED_MATHEMATICS, _GRADED_PROGRAMS = 4096, 512, 64
"""Worked solutions that are graded at most when a task is loaded: where that is text compared, where processes compare
mathematics, where programs run."""
_MEMBERS = ("train", "evaluation", "student_messages", "grade", "wrong_demonstrations")


def load_task(config: TaskConfig, for_training: bool = True) -> Task:
    """The task a configuration names, with its problems checked (`task.py`).

    Raises:
        UserError: for missing data, a bad record, more examples asked for than there are, no held-out problems, or no
            training problems where they are needed.
        SandboxError: the sandbox failed.
    """
    task, origin = _loaded(config), _origin(config)
    check_problems(task, origin)
    if for_training and not task.train and not isinstance(config, EVALUATION_ONLY):
        raise UserError(f"{origin}: it has no training problems; give some, or evaluate on it")
    if not task.evaluation:
        raise UserError(f"{origin}: it has no held-out problems; give some")
    if overlap := describe_overlap(task):
        print_once(f"{origin}: {overlap}")
    if not isinstance(config, SelfContained):  # these make their solutions, some wrong on purpose
        check_gold(task, origin, _most_graded(config))
    return task


def _most_graded(config: TaskConfig) -> int:
    if runs_programs(config):
        return _GRADED_PROGRAMS
    own = isinstance(config, JsonlTask | DatasetsTask) and isinstance(config.grader, MathGrader)
    mathematics = own or isinstance(config, MATHTask)
    return _GRADED_MATHEMATICS if mathematics else _GRADED


def runs_programs(config: TaskConfig) -> bool:
    """Whether a grade may take a program that is run: of a benchmark of programs, or a task or grader of one's own."""
    own_grader = isinstance(config, JsonlTask | DatasetsTask) and isinstance(config.grader, PythonGrader)
    return own_grader or isinstance(config, MBPPTask | HumanEvalTask | PythonTask)


def _loaded(config: TaskConfig) -> Task:
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
        case GSM8KTask():
            return gsm8k.load(config)
        case MATHTask():
            return math500.load(config)
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


def _origin(config: TaskConfig) -> str:
    """What a sentence about a task's problems opens with."""
    match config:
        case JsonlTask():
            return str(config.train)
        case DatasetsTask():
            return f"task.path = {config.path!r}"
        case PythonTask():
            return f"task.factory = {config.factory!r}"
        case Benchmark(data=Path()):
            return f"task.data = {str(config.data)!r}"
        case _:
            return f'task.type = "{config.type}"'


def check_task(config: TaskConfig) -> None:
    """Refuse what a look at local files can refuse; nothing heavy is imported.

    Raises:
        UserError: for a missing file or a bad record.
    """
    if isinstance(config, JsonlTask | DatasetsTask):
        check_files(config)
    elif isinstance(config, PythonTask):
        _factory_of(config)
    elif isinstance(config, Benchmark) and (config.data is not None or isinstance(config, GPQATask)):
        _loaded(config)


def _load_python(config: PythonTask) -> Task:
    """The task the function returns.

    Raises:
        UserError: the function raises, or what it returns lacks a member of a task.
    """
    factory, origin = _factory_of(config), f"task.factory = {config.factory!r}"
    task = of_own_code(origin, f"task.arguments = {config.arguments}", partial(factory, **config.arguments))
    if missing := [member for member in _MEMBERS if not hasattr(task, member)]:
        raise UserError(f"{origin} returns a {type(task).__name__} without {', '.join(missing)}")
    for split in ("train", "evaluation"):
        if not all(hasattr(getattr(task, split), method) for method in ("__len__", "__getitem__")):
            raise UserError(f"{origin}: its {split} must be a list, but it is a {type(getattr(task, split)).__name__}")
    return task


def _factory_of(config: PythonTask) -> Callable[..., Task]:
    """The function a `python` section names; the job's own folder is looked in too.

    Raises:
        UserError: there is no such module or function, or it does not take these arguments.
    """
    factory = import_function("task.factory", config.factory)
    try:
        inspect.signature(factory).bind(**config.arguments)
    except (TypeError, ValueError) as error:  # ValueError: a built-in without a signature
        raise UserError(
            f"task.factory = {config.factory!r} with task.arguments = {config.arguments}: {error}"
        ) from error
    return factory
