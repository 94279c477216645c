"""The command `evaluate`, from a checked request to its tables.

```
 each model:  rollout actors with that model, never updated --> answers to every task --> grades
 afterwards:  where retention is measured, one process with the base, which reads each model's answers
```
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

from actors.engines.engine import NO_WEIGHTS
from actors.group import RolloutGroup
from actors.rollout_actor import ActorSpec
from unisd_rl.base_model import model_folder
from unisd_rl.cluster.connect import connected, connecting
from unisd_rl.cluster.cores import generation_cores
from unisd_rl.cluster.resources import generation_requirements, retention_requirement
from unisd_rl.driver.console import Console
from unisd_rl.evaluation.evaluate import evaluate
from unisd_rl.evaluation.request import (
    BASE,
    EvaluationRequest,
    check_question_lengths,
    check_same_tokens,
    with_task_limits,
)
from unisd_rl.evaluation.results import (
    Result,
    comparison_table,
    comparisons,
    results_table,
    write_answers,
    write_results,
)
from unisd_rl.evaluation.retention_process import retention_scorer
from unisd_rl.evaluation.statistics import describe_cut, describe_silent
from unisd_rl.models.check import check_lengths
from unisd_rl.models.load import read_config
from unisd_rl.models.tokenizer import ChatTokenizer
from unisd_rl.storage.logs import log_path
from unisd_rl.tasks.load import load_task
from unisd_rl.tasks.task import Task
from unisd_rl.transport.weights.store import StoreClient, spawn_store

Tasks = Mapping[str, Task]


def run_evaluation(request: EvaluationRequest, console: Console) -> list[Result]:
    """Answer, grade, compare; files in `request.out`, tables on the console.

    Raises:
        UserError: the data, a model or the cluster is not what the request says.
        RunFailed: a component failed.
    """
    with console.waiting("reading the data"):
        tasks = {name: load_task(config.task, for_training=False) for name, config in request.by_task.items()}
    request = with_task_limits(request, tasks)
    config = request.config
    phases = generation_requirements(config), retention_requirement(config)
    with ExitStack() as stack:
        with console.waiting(connecting(config)):
            stack.enter_context(connected(config, *phases))
        request.out.mkdir(parents=True, exist_ok=True)
        console.keep_output(log_path(request.out, "driver"))
        configs = {target.model: target.config for target in reversed(request.targets)}
        folders = {model: model_folder(configs[model], request.out, console) for model in request.models}
        base = _base_folder(request, folders, console)
        with console.waiting("reading the problems"):
            notes = _check_tokenizers(request, folders, base, tasks)
        console.print_notes(notes)
        _check_lengths(request, folders)
        store = spawn_store()
        results = [
            result
            for index, model in enumerate(request.models)
            for result in _results_of(request, index, folders[model], tasks, store, console)
        ]
        write_answers(request.out, results)
        if base is not None:
            results = _with_retention(request, base, results, folders, tasks, console)
        compared = comparisons(results)
        write_results(request.out, results, compared)
    console.print_table(results_table(results, config.evaluation.k))
    for result in results:
        for sentence in _remarks(result):
            console.print(f"{result.model} on {result.task}: {sentence}")
    if compared:
        console.print_table(comparison_table(compared))
    console.announce(f"files  {request.out.absolute()}")
    return results


def _remarks(result: Result) -> Iterator[str]:
    """What belongs beside an accuracy."""
    evaluation, answers = result.evaluation, len(result.evaluation.answers)
    if evaluation.choice is not None:
        yield evaluation.choice.describe(answers)
    elif evaluation.silent:
        yield describe_silent(evaluation.silent, answers)
    if evaluation.cut:
        yield describe_cut(evaluation.cut, answers, result.config.rollout.max_completion_tokens)


def _results_of(
    request: EvaluationRequest, index: int, folder: Path, tasks: Tasks, store: StoreClient, console: Console
) -> Iterator[Result]:
    """The results of one model on every task. Its actors hold it as it was loaded: no version is ever applied."""
    targets = [target for target in request.targets if target.model == request.models[index]]
    config, logs = targets[0].config, request.out.absolute() / f"model-{index}"
    with closing(RolloutGroup(ActorSpec(config, folder, logs, None, store), generation_cores(config))) as group:
        with console.waiting(f"starting {config.rollout.engine.type} with {targets[0].model}"):
            group.start(config.run.start_timeout_s)
        for target in targets:
            with console.progress(f"{target.model} on {target.task}") as progress:
                evaluation = evaluate(group, tasks[target.task], target.config, NO_WEIGHTS, progress)
            yield Result(target.model, target.task, target.config, evaluation)


def _with_retention(
    request: EvaluationRequest,
    base: Path,
    results: Sequence[Result],
    folders: Mapping[str, Path],
    tasks: Tasks,
    console: Console,
) -> list[Result]:
    """The same results, each with its retention against the base."""
    config = request.config
    with ExitStack() as stack:
        with console.waiting("loading the base"):
            scorer = retention_scorer(config, generation_cores(config), base, request.out.absolute(), stack)
        assert scorer is not None, "a request with a base has the section"
        measured = []
        for result in results:
            with console.waiting(f"reading the answers of {result.model} on {result.task} with the base"):
                answers = result.evaluation.answers
                retention = scorer.measure(folders[result.model], tasks[result.task].evaluation, answers)
            measured.append(replace(result, evaluation=replace(result.evaluation, retention=retention)))
    return measured


def _base_folder(request: EvaluationRequest, folders: Mapping[str, Path], console: Console) -> Path | None:
    """The model that retention is measured against; None where it is not measured."""
    base = request.retention_base
    if base is None or base in folders:
        return None if base is None else folders[base]
    model = request.config.model.model_copy(update={"path": None if base == BASE else base})
    return model_folder(request.config.model_copy(update={"model": model}), request.out, console)


def _check_lengths(request: EvaluationRequest, folders: Mapping[str, Path]) -> None:
    """Check that no answer depends on what shares its batch, where transformers reads batches."""
    for target in request.targets:
        config, folder = target.config, folders[target.model]
        if config.rollout.engine.pads_batches or request.retention_base is not None:
            check_lengths(folder, read_config(folder), config.rollout.longest_request)


def _check_tokenizers(
    request: EvaluationRequest, folders: Mapping[str, Path], base: Path | None, tasks: Tasks
) -> list[str]:
    """Check what tokenizers alone can tell, for every model, before the first engine starts; returns notes."""
    template, notes = request.config.model.chat_template, list[str]()
    base_tokenizer = None if base is None else ChatTokenizer(base, template)
    for model, folder in folders.items():
        tokenizer = ChatTokenizer(folder, template)
        notes += tokenizer.check()
        for name, config in request.by_task.items():
            check_question_lengths(tokenizer, tasks[name], name, config.rollout)
            if base_tokenizer is not None:
                check_same_tokens(base_tokenizer, tokenizer, tasks[name], model)
    return notes
