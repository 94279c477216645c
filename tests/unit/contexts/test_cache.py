"""The cache: whole or not at all, resumed where it ended, and filed under everything that matters."""

import multiprocessing
import shutil
import signal
from pathlib import Path

import pytest

import unisd_rl
from tests.fakes import preparing
from tests.fakes.preparing import (
    INDUCES,
    WRITES,
    CountingGrader,
    HandGenerator,
    configuration,
    killed_in_segment,
    model_in,
    preparation,
)
from unisd_rl.contexts.cache import Segments, code_fingerprint, records_fingerprint
from unisd_rl.contexts.prepare import folder_of, training_inputs
from unisd_rl.errors import UserError
from unisd_rl.tasks.load import load_task


@pytest.fixture
def model(tmp_path):
    return model_in(tmp_path / "model")


def files(cache: Path) -> dict[str, bytes]:
    """Everything but the folders' names; unfinished files are none of it."""
    return {str(path.relative_to(cache)): path.read_bytes() for path in cache.rglob("*") if path.is_file()}


def test_what_a_killed_process_made_is_kept_and_the_rest_is_made_the_same(tmp_path, model):
    """SIGKILL in the third segment of three: a second process makes that one only, and nothing differs."""
    # A fork: it has imported what a new process would need seconds for.
    killed = multiprocessing.get_context("fork").Process(target=killed_in_segment, args=(3, tmp_path / "cache", model))
    killed.start()
    killed.join(120)
    assert killed.exitcode == -signal.SIGKILL
    left = files(tmp_path / "cache" / "problems")
    assert sorted(Path(name).name for name in left) == ["segment-00000.jsonl", "segment-00001.jsonl"]

    resumed = configuration(tmp_path / "cache")
    grader = CountingGrader(load_task(resumed.task))
    assert preparation(resumed, model, grader).prepared().report.kept == preparing.PROBLEMS
    assert grader.calls == 1
    preparation(configuration(tmp_path / "whole"), model).prepared()
    assert files(tmp_path / "cache") == files(tmp_path / "whole")


def test_a_second_preparation_makes_nothing_and_prepares_the_same(tmp_path, model):
    config = configuration(tmp_path)
    grader = CountingGrader(load_task(config.task))
    first, seen = preparation(config, model, grader).prepared(), files(tmp_path)
    made = grader.calls
    assert preparation(config, model, grader).prepared() == first
    assert (grader.calls, files(tmp_path)) == (made, seen)


def test_a_failure_in_mid_segment_leaves_no_part_of_it(tmp_path, model):
    config = configuration(tmp_path)
    with pytest.raises(InterruptedError):
        preparation(config, model, CountingGrader(load_task(config.task), end=2)).prepared()
    names = sorted(Path(name).name for name in files(tmp_path / "problems"))
    assert names == ["segment-00000.jsonl"]


def test_written_contexts_are_asked_for_once_and_no_writer_is_opened_again(tmp_path, model):
    config = configuration(tmp_path, contexts={**WRITES, **INDUCES}, task={"train_examples": 70, "eval_examples": 5})
    generator = HandGenerator()
    first = preparation(config, model, generator=generator).prepared()
    assert generator.asked == 20 + 70
    assert preparation(config, model).prepared() == first
    again = preparation(configuration(tmp_path, **changed_rows(config)), model, generator=(later := HandGenerator()))
    assert len(again.prepared().kept) == 70
    assert later.asked == 70  # another seed of nothing: the instructions were there, the negatives were not


def changed_rows(config):
    """The same instructions, and rows under another key: one attempt more for the negatives."""
    negative = {"type": "generated", "attempts": config.contexts.negative.attempts + 1}
    return {"contexts": {**INDUCES, "negative": negative}, "task": {"train_examples": 70, "eval_examples": 5}}


@pytest.mark.parametrize("writes", [False, True], ids=["nothing written", "written"])
def test_the_key_changes_with_whatever_the_rows_follow_from_and_with_nothing_else(tmp_path, model, writes):
    contexts = WRITES if writes else {}

    def key(**sections):
        given = {**sections, "contexts": {**contexts, **sections.get("contexts", {})}}
        config = configuration(tmp_path, **given)
        return folder_of(config, "problems", training_inputs(config, load_task(config.task), model)).name

    first = key()
    assert key() == first
    others = {
        "seed": key(run={"seed": 1}),
        "records": key(task={"train_examples": 30, "seed": 1}),
        "fewer records": key(task={"train_examples": 30}),
        "views": key(contexts={"auxiliary": {"views": 4}}),
        "kind of views": key(contexts={"auxiliary": {"type": "random"}}),
        "attempts": key(
            contexts={"negative": {**WRITES["negative"], "attempts": 2}} if writes else {"negative": {"attempts": 2}}
        ),
        "gold completions": key(rollout={"sources": {"policy": 0.5, "gold": 0.5}}),
        "no agreement": key(objective={"agreement": None}),
        "order of views": key(contexts={"order": "question_first"}),
    }
    assert len({first, *others.values()}) == 1 + len(others)
    for same in (
        {"run": {"name": "x", "steps": 3}},
        {"task": {"train_examples": 600, "eval_examples": 9}},
        {"contexts": {"donors_per_step": 8}},
    ):
        assert key(**same) == first
    longer, other_engine = {"rollout": {"max_prompt_tokens": 600}}, {"rollout": {"engine": {"type": "transformers"}}}
    assert [key(**longer) != first, key(**other_engine) != first] == [writes, writes]
    (model / "model.safetensors").write_text("other weights")
    assert (key() != first) is writes
    (model / "tokenizer.json").write_text("another tokenizer")
    assert key() != first


def test_records_that_differ_in_any_field_or_in_what_the_student_reads_have_another_fingerprint():
    task = load_task(configuration(Path()).task)
    example = task.train[0]
    fields = ("id", "question", "demonstration", "answer")
    changed = [[type(example)(**{**{f: getattr(example, f) for f in fields}, name: "x"})] for name in fields]
    assert len({records_fingerprint(task, one) for one in ([example], *changed)}) == 5

    class Wordy(type(task)):
        def student_messages(self, example):
            return (*super().student_messages(example), *super().student_messages(example))

    assert records_fingerprint(Wordy(5, 5, 0), [example]) != records_fingerprint(task, [example])


@pytest.mark.parametrize("name", ["tasks/calls.py", "tasks/tool_use.toml", "tasks/perturbation.toml", "seeds.py"])
def test_a_changed_module_or_table_beside_one_has_another_fingerprint(tmp_path, monkeypatch, name):
    copy = shutil.copytree(Path(unisd_rl.__file__).parent, tmp_path / "unisd_rl")
    monkeypatch.setattr(unisd_rl, "__file__", str(copy / "__init__.py"))
    before = code_fingerprint.__wrapped__()
    assert before == code_fingerprint.__wrapped__()
    (copy / name).write_text((copy / name).read_text() + "# another\n")
    assert code_fingerprint.__wrapped__() != before


def test_of_two_that_make_the_same_segment_the_first_counts(tmp_path):
    one, other = Segments(tmp_path, 3, size=2), Segments(tmp_path, 3, size=2)
    one.write(0, [{"n": 0}, {"n": 1}])
    other.write(0, [{"n": 7}, {"n": 8}])
    other.write(1, [{"n": 2}])
    other.finish({"from": "both"})
    one.finish({"from": "both"})
    assert one.read() == other.read() == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "manifest.json",
        "segment-00000.jsonl",
        "segment-00001.jsonl",
    ]


def test_any_text_comes_back_as_it_was(tmp_path):
    rows = [{"text": text} for text in ("a\nb", "\u2028", "\ud800", "\x00", 'q"q', "")]
    segments = Segments(tmp_path, len(rows))
    segments.write(0, rows)
    segments.finish({})
    assert segments.read() == rows


@pytest.mark.parametrize("damage", [lambda path: path.write_text('{"n": 5}\n'), lambda path: path.unlink()])
def test_a_file_that_was_changed_or_lost_is_refused_with_the_remedy(tmp_path, damage):
    segments = Segments(tmp_path, 1)
    segments.write(0, [{"n": 0}])
    segments.finish({})
    damage(tmp_path / "segment-00000.jsonl")
    with pytest.raises(UserError, match=r"segment-00000.*delete"):
        segments.read()


def test_a_folder_that_cannot_be_written_is_refused_with_the_setting(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"contexts\.cache"):
        Segments(tmp_path / "file" / "inside", 1).write(0, [{}])
