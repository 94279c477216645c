"""What `--dry-run` says of a run: its data, the views of its first prompt, what acts, the memory that its processes
take, the time of a step on GPUs, and last whether there is room.

Nothing is trained, and neither an engine nor Ray is started. The data is loaded and, as far as no model has to write
or embed anything, prepared as the run does it: what the run would refuse is refused here, in the same words, and what
is prepared the run finds in the cache.
"""

import os
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from typing_extensions import override

from unisd_rl.base_model import base_model_or_tokenizer, recipe_of
from unisd_rl.cli import describe_resources
from unisd_rl.cluster.resources import (
    generation_requirements,
    learner_requirement,
    memory_here,
    requirements,
    retention_requirement,
)
from unisd_rl.config import Config
from unisd_rl.config.contexts import ContextsConfig, GeneratedConfig, RetrievalAuxiliary
from unisd_rl.config.objective import Mechanism
from unisd_rl.config.own_model import Default
from unisd_rl.contexts.prepare import Preparation
from unisd_rl.contexts.prompts import PromptStream
from unisd_rl.contexts.selection import with_data_limits
from unisd_rl.driver.duration import describe_duration
from unisd_rl.driver.memory import describe_memory
from unisd_rl.driver.origin import check_origin, model_origin, other_weights, read_origin, task_origin
from unisd_rl.errors import UserError
from unisd_rl.evaluation.request import EvaluationRequest, check_question_lengths, with_task_limits
from unisd_rl.models.check import check_model
from unisd_rl.models.load import has_text_decoder, read_config
from unisd_rl.models.shape import model_shape
from unisd_rl.models.tokenizer import ChatTokenizer
from unisd_rl.storage.jsonl import newest_json_lines
from unisd_rl.storage.recorded_run import ReplayRequest
from unisd_rl.tasks.load import load_task
from unisd_rl.tasks.task import Task, describe_overlap
from unisd_rl.transport.rollouts.ledger import Ledger
from unisd_rl.transport.rollouts.recording import Recording
from unisd_rl.types import Progress, Prompt, ReportProgress, Tokens, ViewKind

_ALL_HERE = "everything runs in this process, on one thread, without Ray"
_RECENT_STEPS, _DAY_S = 100, 86_400
_TITLES = {
    ViewKind.PRIMARY: "teacher, with the worked solution",
    ViewKind.AUXILIARY: "auxiliary view",
    ViewKind.NEGATIVE: "negative view",
}


def describe_run(config: Config, resumed: bool, defaults: Sequence[Default] = ()) -> Iterator[str]:
    """The lines of a run's dry run, as they become known; the last one says whether every process has a place.

    Raises:
        UserError: what the run would refuse before it starts a process.
    """
    yield f"run {config.run_dir}: {config.run.length} of {config.describe_batch()}"
    yield from (default.describe() for default in defaults)
    config = yield from describe_data(config, config.run_dir if resumed else None)
    yield from _mechanisms(config)
    yield describe_storage(config, resumed)
    yield from _memory_and_time(config)
    yield _ALL_HERE if config.run.in_process else describe_resources(requirements(config))


def describe_preparation(config: Config) -> Iterator[str]:
    """The same of the contexts of a run alone."""
    read = config.contexts_read
    pool = f" of {read.donors_per_step} donors a step" if read.donors_per_step else ""
    auxiliary = f"{read.auxiliary.views} auxiliary views ({read.auxiliary.type}{pool})" if read.auxiliary else None
    negative = f"a negative view ({read.negative.type})" if read.negative else None
    yield f"{auxiliary or 'no auxiliary view'}, {negative or 'no negative view'}"
    yield from describe_data(config)
    if read.generated:
        yield describe_resources(generation_requirements(config))
    else:
        yield "no process is started: no model has to write anything"


def describe_evaluation(request: EvaluationRequest) -> Iterator[str]:
    """The lines of an evaluation's dry run: problems, a prompt of each model, and last whether there is room.

    Raises:
        UserError: what the evaluation would refuse before it starts a process.
    """
    yield f"{request.out}: {', '.join(request.models)} on {', '.join(request.tasks)}"
    tasks = dict[str, Task]()
    for name, config in request.by_task.items():
        task = yield from _task(config, for_training=False)
        if task is not None:
            tasks[name] = task
    if len(tasks) == len(request.tasks):
        request = with_task_limits(request, tasks)
    with tempfile.TemporaryDirectory(prefix="dry-run-") as scratch:
        for target in request.targets:
            folder = yield from _folder_with_tokenizer(target.config, Path(scratch))
            if folder is None or target.task not in tasks:
                continue
            task, rollout = tasks[target.task], target.config.rollout
            tokenizer = ChatTokenizer(folder, target.config.model.chat_template)
            tokenizer.check()
            check_question_lengths(tokenizer, task, target.task, rollout)
            chat, limit = task.student_messages(task.evaluation[0]), rollout.max_completion_tokens
            title = f"{target.model} on {target.task}, answers of at most {limit} tokens"
            yield _shown(title, tokenizer.render(chat), tokenizer.encode(chat))
    yield describe_resources((*generation_requirements(request.config), *retention_requirement(request.config)))


def describe_replay(request: ReplayRequest) -> Iterator[str]:
    """The lines of a replay's dry run: what the ledger holds, the model, what is compared, and last whether there is
    room.

    Raises:
        UserError: what the replay would refuse before it starts a process.
    """
    config, run = request.config, request.run.path
    check_model(config)
    group_size = config.rollout.answers_per_prompt
    recording = Recording(request.run, config.learner.batch_size, group_size, config.run.total_steps)
    yield f"replay {run} -> {config.run_dir}, from the model {config.model.path}"
    yield (
        f"the ledger holds {recording.steps} of {config.run.total_steps} steps whole, {recording.rollouts} rollouts in "
        f"batches of {config.learner.batch_size}: they are trained on, and nothing is generated"
    )
    changed, losses = (*request.changed, *_other_weights(request)), request.run.losses()
    steps = sum(step < recording.steps for step in losses)
    if changed or not steps:
        yield request.run.not_compared(changed)
    else:
        yield f"losses of {steps} steps are compared with the run's, bit for bit"
    yield from _mechanisms(config)
    yield _ALL_HERE if config.run.in_process else describe_resources((learner_requirement(config),))


def describe_data(config: Config, began: Path | None = None) -> Generator[str, None, Config]:
    """How many problems there are, what becomes of them in preparation, and the views of the first prompt. Returns the
    configuration with the limits and the steps that follow from the data, where it was looked at.

    Raises:
        UserError: what the preparation would refuse; or they are not those that the run in the folder `began` has.
    """
    task = yield from _task(config)
    with tempfile.TemporaryDirectory(prefix="dry-run-") as scratch:
        folder = yield from _folder_with_tokenizer(config, Path(scratch))
        if task is None or folder is None:
            return config
        limited, defaults = with_data_limits(config, task)
        yield from (default.describe() for default in defaults)
        check_model(limited)
        # Without its model, by its fingerprint another one, whose contexts nobody will look for.
        own = folder != Path(scratch)
        prepared = limited if own else _with_contexts(limited, cache=Path(scratch) / "contexts")
        count = yield from _prepared(prepared, task, folder, began)
    return limited.counted(count)


def _task(config: Config, for_training: bool = True) -> Generator[str, None, Task | None]:
    """The task, after a line with its size; None where its data is out of reach."""
    try:
        task = load_task(config.task, for_training)
    except UserError as error:
        if not _is_unreachable(error):
            raise
        yield f"the data is not looked at, since it is neither on this machine nor reachable from it: {error}"
        return None
    yield f"{config.task.type}: {len(task.train):,} training and {len(task.evaluation):,} held-out problems"
    if overlap := describe_overlap(task):
        yield overlap
    return task


def _folder_with_tokenizer(config: Config, scratch: Path) -> Generator[str, None, Path | None]:
    """The model's folder or hub name, None where that is out of reach. Without the embedded model `scratch`, with the
    tokenizer that it would have."""
    path = None if config.model.path is None else Path(config.model.path)
    if path is None:
        of_this_run = config.run_dir / "base_model"
        if of_this_run.is_dir():  # one that is resumed
            return of_this_run.absolute()
        folder = base_model_or_tokenizer(recipe_of(config), scratch)
        if folder == scratch:
            yield "the embedded base model is not there yet: the run trains it first, and keeps it"
        return folder
    if path.is_dir():
        return path.absolute()
    try:
        ChatTokenizer(path, config.model.chat_template).check()
    except UserError as error:
        if not _is_unreachable(error):
            raise
        yield f"no prompt is looked at: {path} is neither on this machine nor reachable from it"
        return None
    return path


def _prepared(config: Config, task: Task, model: Path, began: Path | None) -> Generator[str, None, int]:
    """What becomes of the problems, and how the first one is read; returns how many are kept."""
    read, without = config.contexts_read, _without_models(config)
    preparation = Preparation.create(without, task, model, no_engine, SilentProgress())
    yield from (f"note: {note}" for note in preparation.notes)
    prepared = preparation.prepared()
    prompts = PromptStream(task, without, prepared)
    if began is not None and without is config:
        now, noted = {**model_origin(model), **task_origin(config.task, task, prompts)}, read_origin(began)
        check_origin(began, {kind: now[kind] for kind in now.keys() & noted.keys()}, model)
    completions = config.counted(len(prompts)).run.total_steps * config.learner.batch_size
    count = completions // config.rollout.answers_per_prompt
    yield f"trains on {prepared.report.describe()}; {count:,} prompts are {count / len(prompts):.3g} epochs"
    first = prompts.problem(0)
    yield f"prompt 0 is problem {first.id}, as each view reads it:"
    yield from _views(first, ChatTokenizer(model, config.model.chat_template))
    for kind, section in (("auxiliary", read.auxiliary), ("negative", read.negative)):
        if section is not None and getattr(without.contexts, kind) is None:
            yield f'--- {kind} view: a model makes it (contexts.{kind}.type = "{section.type}"), so a dry run does not'
    return len(prompts)


def _views(prompt: Prompt, tokenizer: ChatTokenizer) -> Iterator[str]:
    """Each kind of view once, rendered by the model's chat template."""
    yield _shown("student", tokenizer.render(prompt.messages), tokenizer.encode(prompt.messages))
    for kind in ViewKind:
        same = [view.messages for view in prompt.views if view.kind is kind]
        if same:
            more = f" (1 of {len(same)})" if len(same) > 1 else ""
            yield _shown(f"{_TITLES[kind]}{more}", tokenizer.render_view(same[0]), tokenizer.encode_view(same[0]))
    if prompt.gold is not None:
        yield _shown("gold completion", prompt.gold, tokenizer.encode_completion(prompt.gold))


def _shown(title: str, text: str, tokens: Tokens) -> str:
    return f"--- {title}, {len(tokens)} tokens:\n{text}"


def _other_weights(request: ReplayRequest) -> tuple[str, ...]:
    path = Path(str(request.config.model.path))
    # Of a model that reads more than text the replay writes the text decoder, and compares that.
    return () if has_text_decoder(read_config(path)) else other_weights(request, path)


def _mechanisms(config: Config) -> Iterator[str]:
    """Every section of the objective, and whether it acts."""
    yield "objective:"
    for name, section in config.objective:
        if isinstance(section, Mechanism):
            settings = ", ".join(f"{key} {value}" for key, value in section.model_dump(exclude_none=True).items())
            idle = "; ".join(section.ineffective(config.objective))
            yield f"  {name} ({settings}) {f'does not act: {idle}' if idle else 'acts'}"


def describe_storage(config: Config, resumed: bool) -> str:
    """Which rollouts stay on storage, and what they take there as far as the run that is resumed has measured it."""
    keep, every, checkpoints = config.rollout.keep, config.run.checkpoint_every, config.run.keep_checkpoints
    if keep == "all":
        stay = "all stay (rollout.keep)"
    else:
        stay = f"the last {max(keep, every * checkpoints)} steps stay, others go 64 MiB at a time (rollout.keep)"
    recorded = newest_json_lines(config.run_dir / "metrics.jsonl")[-_RECENT_STEPS:] if resumed else []
    unknown = f"rollouts: {stay}; a dry run of a run that is resumed says what they take in a day"
    if not recorded:
        return unknown
    try:
        ledger = Ledger(config.run_dir / "rollouts", fsync=False)
    except OSError as error:
        return f"rollouts: {stay}; those of this run cannot be read now: {error}"
    if not ledger.nbytes:
        return unknown
    rows = len(ledger) - len(ledger.discarded.numbers)
    step_s = sum(line["wait_s"] + line["learn_s"] + line["publish_s"] for line in recorded) / len(recorded)
    a_day = ledger.nbytes / rows * config.learner.batch_size * _DAY_S / step_s
    return f"rollouts: {rows:,} take {_gib(ledger.nbytes)}, and those of a day {_gib(a_day)}; {stay}"


def _gib(nbytes: float) -> str:
    return f"{nbytes / 2**30:.3g} GiB"


def _memory_and_time(config: Config) -> Iterator[str]:
    """What each process takes, and a step on GPUs; nothing where the model's configuration is out of reach."""
    with tempfile.TemporaryDirectory(prefix="dry-run-") as scratch:
        path = config.model.path
        folder = base_model_or_tokenizer(recipe_of(config), Path(scratch)) if path is None else Path(path)
        if path is None and not (folder / "config.json").is_file():
            return
        try:
            shape = model_shape(folder, config.model)
        except UserError as error:
            if not _is_unreachable(error):
                raise
            return
    yield from describe_memory(config, shape, None if os.environ.get("RAY_ADDRESS") else memory_here())
    yield from describe_duration(config, shape)


def _without_models(config: Config) -> Config:
    """The same without the contexts that a model writes or embeds."""
    contexts = config.contexts
    needing = [
        name
        for name, section in (("auxiliary", contexts.auxiliary), ("negative", contexts.negative))
        if isinstance(section, GeneratedConfig)
        or (isinstance(section, RetrievalAuxiliary) and section.model is not None)
    ]
    return _with_contexts(config, **dict.fromkeys(needing)) if needing else config


def _with_contexts(config: Config, **changes: object) -> Config:
    # Not validated: agreement without auxiliary views is no run, but its other views can be looked at.
    contexts: ContextsConfig = config.contexts.model_copy(update=changes)
    return config.model_copy(update={"contexts": contexts})


def _is_unreachable(error: BaseException) -> bool:
    """Whether a hub that does not answer is behind an error."""
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConnectionError | LocalEntryNotFoundError | OfflineModeIsEnabled):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def no_engine() -> NoReturn:
    """For a preparation in which no model writes anything."""
    raise AssertionError("what a model writes was left out")


class SilentProgress(Progress):
    """No display: a dry run's lines are its output."""

    @override
    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        yield

    @override
    @contextmanager
    def progress(self, what: str) -> Iterator[ReportProgress]:
        yield lambda *_: None
