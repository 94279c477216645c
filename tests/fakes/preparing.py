"""A preparation with a model folder of three small files, a generator by hand and no engine: for tests of the cache."""

import os
import signal
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from unisd_rl.config import Config
from unisd_rl.config.load import load_recipe
from unisd_rl.contexts.negatives import GradeMany
from unisd_rl.contexts.prepare import Preparation
from unisd_rl.contexts.selection import Lengths
from unisd_rl.driver.console import Console
from unisd_rl.tasks.load import load_task
from unisd_rl.tasks.task import grade_all

PROBLEMS = 600  # three segments
WRITES = {"negative": {"type": "generated"}}
INDUCES = {"auxiliary": {"type": "induction", "views": 2, "instructions": 20}}


class HandGenerator:
    """Writes what its request and its seed say, so that the same request gives the same text."""

    def __init__(self):
        self.asked = 0

    def generate(self, chats, settings, seed):
        self.asked += len(chats)
        return [f"{sum(map(ord, chat[-1].content)) + seed}\nAnswer: 1000" for chat in chats]


class CountingGrader:
    """The task's grader; kills its process, or fails, at its `end`-th call."""

    def __init__(self, task, end=None, kill=False):
        self._task, self._end, self._kill, self.calls = task, end, kill, 0

    def __call__(self, pairs):
        self.calls += 1
        if self.calls == self._end:
            if self._kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise InterruptedError("in mid-segment")
        return grade_all(self._task, pairs)


def configuration(cache: Path, **sections) -> Config:
    given = {"task": {"train_examples": PROBLEMS, "eval_examples": 5}, **sections}
    given["contexts"] = {"cache": str(cache), **given.get("contexts", {})}
    return load_recipe("unisd_star", given)


def model_in(folder: Path) -> Path:
    """A folder that looks like a model's."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (folder / name).write_text(f"{name} of the first model")
    return folder


def preparation(config: Config, model: Path, grade: GradeMany | None = None, generator=None) -> Preparation:
    """Lengths are counted in characters; without a generator none may be opened."""
    task = load_task(config.task)

    @contextmanager
    def open_generator():
        assert generator is not None, "a generator was opened"
        yield generator

    def measure(prompt):
        chats = (prompt.messages, *(view.messages for view in prompt.views))
        return Lengths(max(len(chat[-1].content) for chat in chats), len(prompt.gold or ""))

    return Preparation(config, task, model, open_generator, Console(), measure, grade or partial(grade_all, task))


def killed_in_segment(end: int, cache: Path, model: Path) -> None:
    """A preparation that kills its process in the `end`-th segment."""
    config = configuration(cache)
    preparation(config, model, CountingGrader(load_task(config.task), end, kill=True)).prepared()
