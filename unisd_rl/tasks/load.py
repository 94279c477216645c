"""From the `task` section of the configuration to a `Task`."""

from unisd_rl.config import ArithmeticTask, DatasetsTask, JsonlTask, TaskConfig
from unisd_rl.tasks.arithmetic import Arithmetic
from unisd_rl.tasks.records import load_datasets, load_jsonl
from unisd_rl.tasks.task import Task


def load_task(config: TaskConfig) -> Task:
    """The task a configuration names.

    Raises:
        UserError: for missing data, a bad record, or more examples asked for than there are.
    """
    match config:
        case ArithmeticTask():
            return Arithmetic(config.train_examples, config.eval_examples, config.seed)
        case JsonlTask():
            return load_jsonl(config)
        case DatasetsTask():
            return load_datasets(config)
