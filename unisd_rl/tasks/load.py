"""Loading of tasks: from the `task` section of the configuration to a `Task`."""

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
from unisd_rl.tasks import (
    arithmetic,
    cos_e,
    gpqa,
    humaneval,
    mbpp,
    multiples,
    python_task,
    scienceqa,
    tool_use,
    toolalpaca,
)
from unisd_rl.tasks.records import check_files, load_datasets, load_jsonl
from unisd_rl.tasks.task import Task

EVALUATION_ONLY = (GPQATask, HumanEvalTask)
"""Benchmarks that bring no training problems."""


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
            return python_task.load(config)


def check_task(config: TaskConfig) -> None:
    """Refuse what a look at local files can refuse; nothing heavy is imported.

    Raises:
        UserError: for a missing file or a bad record.
    """
    if isinstance(config, JsonlTask):
        check_files(config)
    elif isinstance(config, PythonTask):
        python_task.factory_of(config)
    elif isinstance(config, Benchmark) and (config.data is not None or isinstance(config, GPQATask)):
        load_task(config)
