"""What a run began with is recognised when it is resumed, and whatever differs is refused with the remedy."""

import importlib
import json
import os
import sys
from dataclasses import dataclass, replace

import pytest
import xxhash

from tests.fakes.prepared import prepared_stream
from unisd_rl.config.load import load_recipe
from unisd_rl.config.task import PythonTask
from unisd_rl.contexts.prompts import Prepared, PromptStream
from unisd_rl.contexts.views import Contexts
from unisd_rl.driver.origin import check_origin, model_origin, read_origin, task_origin, weights_fingerprint
from unisd_rl.errors import UserError
from unisd_rl.tasks.load import load_task
from unisd_rl.types import Example, Message

CONFIG = load_recipe("unisd_star", {"task": {"train_examples": 24, "eval_examples": 8}})
MIB = 1 << 20


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"vocab_size": 8}')
    (folder / "tokenizer.json").write_text('{"model": "a"}')
    (folder / "model.safetensors").write_bytes(b"weights" * 100)
    return folder


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


def began(task):
    return task_origin(CONFIG.task, task, prepared_stream(CONFIG, task))


def test_the_same_things_are_the_same(run, model):
    for _ in range(2):
        check_origin(run, model_origin(model), model)
        check_origin(run, began(load_task(CONFIG.task)), model)
    assert read_origin(run).keys() == {"weights", "tokenizer", "checksum", "rendered", "held_out"}


OTHER_MODEL = {
    "weights": lambda model: (model / "model.safetensors").write_bytes(b"Weights" * 100),
    "another_file_of_weights": lambda model: (model / "model-2.safetensors").write_bytes(b""),
    "tokenizer": lambda model: (model / "tokenizer.json").write_text('{"model": "b"}'),
    "template": lambda model: (model / "chat_template.jinja").write_text("{{ messages }}"),
}


@pytest.mark.parametrize("change", OTHER_MODEL.values(), ids=OTHER_MODEL)
def test_another_model_in_the_same_place_is_refused(run, model, change):
    check_origin(run, model_origin(model), model)
    change(model)
    with pytest.raises(UserError, match=rf"of {model} .* that .*{run} began with.*: bring .* back, or start a new run"):
        check_origin(run, model_origin(model), model)


class Changed:
    """A task with other problems in one of its parts."""

    def __init__(self, task, part):
        self._task, self._part = task, part

    def __getattr__(self, name):
        found = getattr(self._task, name)
        return [replace(found[0], answer="4711", demonstration="4711"), *found[1:]] if name == self._part else found


@pytest.mark.parametrize(("part", "said"), [("evaluation", "held-out problems"), ("train", "problems and contexts")])
def test_other_problems_to_train_on_or_to_be_compared_on_are_refused(run, model, part, said):
    task = load_task(CONFIG.task)
    check_origin(run, began(task), model)
    with pytest.raises(UserError, match=rf"{said} .*not those that {run} began with.* start a new run"):
        check_origin(run, began(Changed(task, part)), model)


class Reworded(Changed):
    """A task that puts its questions in other words; the problems are the same."""

    def student_messages(self, example):
        return (*self._task.student_messages(example), Message("user", "Hurry."))


def test_other_words_around_the_same_problems_are_refused(run, model):
    task = load_task(CONFIG.task)
    check_origin(run, began(task) | {"held_out": ""}, model)
    with pytest.raises(UserError, match=rf"texts that the model reads .*not those that {run} began with"):
        check_origin(run, began(Reworded(task, "")) | {"held_out": ""}, model)


def test_another_grader_of_a_task_of_ones_own_is_refused(run, model, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_grader.py").write_text("RIGHT = '3'\n")
    importlib.import_module("own_grader")
    task = load_task(CONFIG.task)
    section = PythonTask(type="python", factory="own_grader:make")
    try:
        origin = task_origin(section, task, prepared_stream(CONFIG, task))
        check_origin(run, origin, model)
        (tmp_path / "own_grader.py").write_text("RIGHT = '4'\n")
        changed = task_origin(section, task, prepared_stream(CONFIG, task))
    finally:
        del sys.modules["own_grader"]
    assert {kind for kind in origin if origin[kind] != changed[kind]} == {"task_code"}
    with pytest.raises(UserError, match=r"file of task\.factory"):
        check_origin(run, changed, model)


def test_a_run_of_before_that_noted_less_is_resumed_and_notes_the_rest(run, model):
    (run / "prompts.json").write_text('{"checksum": "abc"}\n')
    check_origin(run, model_origin(model), model)
    assert json.loads((run / "prompts.json").read_text()) == {"checksum": "abc", **model_origin(model)}
    with pytest.raises(UserError, match="problems and contexts are not those"):
        check_origin(run, {"checksum": "abd"}, model)


@dataclass(frozen=True)
class LaterExample:
    """A problem of a version to come, with a field more, in another order."""

    topic: str
    id: str
    answer: str
    question: str
    demonstration: str
    chat: tuple = ()


def test_a_further_field_of_a_problem_or_its_contexts_refuses_no_older_run():
    """The checksum is the one that runs have noted since they note any: of both as Python shows them."""
    kept = (Example("a", "What is 1 + 1?", 'It is "2".\nAnswer: 2', "2"), Example("b", "2 + 2?", "It's\n4", "4"))
    contexts = (Contexts(("One.", "Two's"), "3"), Contexts((), None))
    shown = (
        "".join(repr(pair) for pair in zip(kept, contexts, strict=True))
        .replace(", chat=()", "")
        .replace(", another=None", "")
    )
    noted = xxhash.xxh3_64_hexdigest(shown.encode())
    assert noted == "fb1a82cddfe5d854"
    later = tuple(LaterExample("sums", e.id, e.answer, e.question, e.demonstration) for e in kept)
    for problems in (kept, later):
        assert PromptStream(None, CONFIG, Prepared(problems, contexts, None)).checksum == noted
    chat = (Message("user", "What is 1 + 1?"),)
    for change in ({"answer": "3"}, {"id": "c"}, {"question": ""}, {"chat": chat}):
        changed = replace(kept[0], **change)
        assert PromptStream(None, CONFIG, Prepared((changed, kept[1]), contexts, None)).checksum != noted


def test_of_big_weights_a_sample_is_read_that_no_other_training_passes(model):
    """A file of 200 MiB with holes: a tensor of 1 MiB that differs anywhere is seen, and 4 MiB are read."""
    file = model / "model.safetensors"
    file.write_bytes(b"")
    os.truncate(file, 200 * MIB)
    before = weights_fingerprint(model)
    for start in (0, 37 * MIB + 1234, 199 * MIB):
        with file.open("r+b") as stream:
            stream.seek(start)
            stream.write(b"\1" * MIB)
        assert weights_fingerprint(model) != before, f"1 MiB from byte {start} on"
        with file.open("r+b") as stream:
            stream.seek(start)
            stream.write(b"\0" * MIB)
        assert weights_fingerprint(model) == before
    os.truncate(file, 200 * MIB + 1)
    assert weights_fingerprint(model) != before
