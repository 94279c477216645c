"""What a run began with: fingerprints of all that it trains on and is compared with, noted in `prompts.json`.

A run that is resumed goes on with it: rollouts that are stored, accuracies of the same problems, factors of an adapter
on the same base. So what differs is refused. What an older run did not note is not compared, and noted now.
"""

import inspect
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import xxhash

from unisd_rl.config.task import PythonTask, TaskConfig
from unisd_rl.contexts.cache import WEIGHT_FILES, model_fingerprint, records_fingerprint
from unisd_rl.contexts.prompts import PromptStream
from unisd_rl.errors import UserError
from unisd_rl.storage.files import write_text_atomic
from unisd_rl.storage.recorded_run import ReplayRequest
from unisd_rl.tasks.task import Task

_FILE = "prompts.json"
_WHOLE_BYTES, _BLOCKS, _BLOCK_BYTES = 64 << 20, 1024, 4096
_CHANGED = {
    "weights": "the weights of {model} are not those that {run} began with, and its checkpoints and teachers build on "
    "them: bring them back, or start a new run",
    "tokenizer": "the configuration or the tokenizer of {model} is not that which {run} began with, and its rollouts "
    "are stored as tokens: bring the files back, or start a new run",
    "checksum": "the problems and contexts are not those that {run} began with: its data, the model's tokenizer or the "
    "code that makes contexts changed since; bring them back, or start a new run",
    "rendered": "the texts that the model reads of each problem are not those that {run} began with: the code of the "
    "task or of the views changed since; bring it back, or start a new run",
    "held_out": "the held-out problems are not those that {run} began with, and its accuracies are compared with each "
    "other: bring them back, or start a new run",
    "task_code": "the file of task.factory is not that which {run} began with, and it grades the answers: bring it "
    "back, or start a new run",
}


def model_origin(model: Path) -> dict[str, str]:
    """The fingerprints of a model: a folder, or a hub name (then the name and the commit of the copy here)."""
    return {"weights": weights_fingerprint(model), "tokenizer": model_fingerprint(model, weights=False)}


def task_origin(config: TaskConfig, task: Task, prompts: PromptStream) -> dict[str, str]:
    """The fingerprints of what is trained on, of the held-out problems, and of the file of a task of one's own."""
    own = {"task_code": _code_of(config)} if isinstance(config, PythonTask) else {}
    held_out = records_fingerprint(task, task.evaluation)
    return {"checksum": prompts.checksum, "rendered": _rendered(prompts), "held_out": held_out, **own}


def _rendered(prompts: PromptStream) -> str:
    """Of what the student and every teacher read of each problem, and of gold completions: one epoch, in its order."""
    state = xxhash.xxh3_128()
    for place in range(len(prompts)):
        prompt = prompts.problem(place)
        chats = [(view.kind, view.messages) for view in prompt.views]
        for kind, messages in (("student", prompt.messages), *chats):
            turns = [message.texts for message in messages]
            state.update(json.dumps([kind, turns, prompt.gold]).encode())
    return state.hexdigest()


def weights_fingerprint(model: Path) -> str:
    """The fingerprint of a model's weights: names and sizes of its files, and their bytes.

    Of a file above 64 MiB 1,024 blocks of 4 KiB, evenly spread: another model, another precision and another training
    differ there, and so does another tensor of a few MiB or more; a change of single numbers may not.
    """
    if not model.is_dir():
        return model_fingerprint(model, weights=True)
    state = xxhash.xxh3_128()
    for file in sorted(path for path in model.iterdir() if path.suffix in WEIGHT_FILES):
        state.update(f"{file.name} {file.stat().st_size}\n".encode())
        for block in _sample(file):
            state.update(block)
    return state.hexdigest()


def _sample(file: Path) -> Iterator[bytes]:
    size = file.stat().st_size
    with file.open("rb") as stream:
        if size <= _WHOLE_BYTES:
            yield stream.read()
            return
        for block in range(_BLOCKS):
            stream.seek(block * (size - _BLOCK_BYTES) // (_BLOCKS - 1))  # the first and the last block are among them
            yield stream.read(_BLOCK_BYTES)


def _code_of(config: PythonTask) -> str:
    """Of the module's file; the module was imported when the task was loaded."""
    source = inspect.getsourcefile(sys.modules[config.factory.partition(":")[0]])
    return "" if source is None else xxhash.xxh3_64_hexdigest(Path(source).read_bytes())


def read_origin(run: Path) -> dict[str, str]:
    """What the run in this folder noted: kind -> fingerprint; nothing where it noted nothing."""
    path = run / _FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def check_origin(run: Path, now: Mapping[str, str], model: Path) -> None:
    """Compare fingerprints with those that the run in this folder began with; those it has none of are noted.

    Raises:
        UserError: one is another; the sentence says of what, and what to do.
    """
    began = read_origin(run)
    for kind, fingerprint in now.items():
        if began.get(kind, fingerprint) != fingerprint:
            raise UserError(_CHANGED[kind].format(model=model, run=run))
    if now.keys() - began.keys():
        write_text_atomic(run / _FILE, json.dumps({**now, **began}) + "\n")


def other_weights(request: ReplayRequest, model: Path) -> tuple[str, ...]:
    """Names the weights among the changed settings where they are not those that the run began with.

    Raises:
        UserError: losses were to be compared.
    """
    began, now = read_origin(request.run.path).get("weights"), weights_fingerprint(model)
    if began is None or began == now:
        return ()
    if request.check:
        raise UserError(
            f"--check compares losses, and the weights of {model} are not those that {request.run.path} began with: "
            "bring them back, or leave --check out"
        )
    return ("the weights of the model",)
