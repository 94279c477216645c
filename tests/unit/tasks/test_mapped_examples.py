"""Examples on the disk are the same sequence as in memory, and a run prepares and reads the same prompts from them."""

import json
import os
import tracemalloc

import pytest

from tests.fakes.preparing import configuration, model_in, preparation
from unisd_rl.config.task import JsonlTask
from unisd_rl.contexts.prompts import PromptStream
from unisd_rl.tasks import mapped_examples, records
from unisd_rl.tasks.load import load_task
from unisd_rl.tasks.mapped_examples import MappedExamples, gathered
from unisd_rl.types import Example, Message

EXAMPLES = [
    Example(
        f"id {number}",
        f"What is {number} + {number % 7}?",
        f"Say {number}.\nAnswer: {number + number % 7}",
        str(number + number % 7),
        (Message("system", "Brief é."), Message("user", "Q", '{"a": 1}')) if number % 5 == 0 else (),
    )
    for number in range(2500)
]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped_examples, "user_cache_path", lambda _: tmp_path / "cache")


def mapped(examples=EXAMPLES):
    return gathered(iter(examples), most=0)


def test_few_examples_stay_in_memory_and_many_are_mapped_and_equal():
    assert gathered(iter(EXAMPLES[:10])) == EXAMPLES[:10]
    on_disk = mapped()
    assert isinstance(on_disk, MappedExamples)
    assert list(on_disk) == EXAMPLES
    assert [on_disk[index] for index in (0, 999, 1000, 2499, -1)] == [
        EXAMPLES[index] for index in (0, 999, 1000, 2499, -1)
    ]
    assert len(on_disk) == 2500


@pytest.mark.parametrize(
    "part", [slice(0, 3), slice(-3, None), slice(None, -2000), slice(None, None, 700), slice(5, 5)]
)
def test_a_part_is_that_of_the_list(part):
    assert list(mapped()[part]) == EXAMPLES[part]
    assert len(mapped()[part]) == len(EXAMPLES[part])


def test_nothing_is_left_on_the_disk(tmp_path):
    assert len(list(mapped())) == 2500
    assert os.listdir(tmp_path / "cache" / "records") == []


def test_what_stays_in_memory_does_not_grow_with_the_records(tmp_path):
    """40 MB of records, of which a batch at a time is held."""
    text = "x" * 4000

    def examples():
        return (Example(str(n), text + str(n), text, "1") for n in range(5000))

    next(iter(mapped(EXAMPLES[:5])))  # imports
    tracemalloc.start()
    on_disk = gathered(examples(), most=1 << 20)
    assert sum(len(example.question) for example in on_disk) > 20_000_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 24 << 20


def rows(count=60):
    return [{"prompt": e.question, "demonstration": e.demonstration, "answer": e.answer} for e in EXAMPLES[:count]]


def test_a_file_of_records_larger_than_memory_is_the_same_task(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    config = JsonlTask(type="jsonl", train=path, eval_examples=10)
    held = load_task(config)
    monkeypatch.setattr(records, "gathered", lambda examples: gathered(examples, most=100))
    on_disk = load_task(config)
    assert isinstance(on_disk.train, MappedExamples)
    assert (list(on_disk.train), list(on_disk.evaluation)) == (held.train, held.evaluation)
    wrong = [list(task.wrong_demonstrations(held.train[3], seed=1)) for task in (held, on_disk)]
    assert wrong[0] == wrong[1]


def test_prompts_of_examples_on_the_disk_are_those_of_examples_in_memory(tmp_path):
    config = configuration(tmp_path / "contexts", rollout={"max_prompt_tokens": 512})
    first = preparation(config, model_in(tmp_path / "model"))
    held = first.prepared()
    first.task.train = mapped(first.task.train)
    second = first.prepared()
    assert not isinstance(second.kept, tuple)
    assert (list(second.kept), list(second.contexts)) == (list(held.kept), list(held.contexts))
    assert second.report == held.report
    streams = [PromptStream(first.task, config, prepared) for prepared in (held, second)]
    assert streams[0].checksum == streams[1].checksum
    assert [streams[0].problem(place) for place in (0, 7, 650)] == [streams[1].problem(place) for place in (0, 7, 650)]
