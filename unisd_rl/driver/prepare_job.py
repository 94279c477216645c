"""The preparation job: contexts without a run, beforehand or on a machine that has no use for a learner."""

from collections.abc import Iterator
from contextlib import contextmanager

from unisd_rl.base_model import model_folder
from unisd_rl.cluster.cores import generation_cores
from unisd_rl.cluster.ray_cluster import connected
from unisd_rl.cluster.resources import generation_requirements
from unisd_rl.config import Config
from unisd_rl.contexts.generator import ContextGenerator
from unisd_rl.contexts.prepare import Preparation, cache_folder
from unisd_rl.contexts.prompts import PreparationReport
from unisd_rl.driver.console import Console
from unisd_rl.driver.context_generation import generation_engine
from unisd_rl.tasks.load import load_task


def run_preparation(config: Config) -> PreparationReport:
    """Prepare, and say what came of it. A cluster is joined, and engines start, only for what the model has to write.

    Raises:
        UserError: the data, the model or the cluster is not what the configuration says.
        RunFailed: an engine failed; what was prepared until then stays.
    """
    task, cache = load_task(config.task), cache_folder(config)
    with Console() as console:
        model = model_folder(config, cache / f"base-{config.model.base_seed}", console)

        @contextmanager
        def open_generator() -> Iterator[ContextGenerator]:
            needed, cores = generation_requirements(config), generation_cores(config)
            with connected(config, needed), generation_engine(config, cores, model, cache) as generator:
                yield generator

        report = Preparation.create(config, task, model, open_generator, console).prepared().report
        console.print(f"prepared {report.describe()}\nfiles  {cache}")
    return report
