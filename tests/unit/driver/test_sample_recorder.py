"""Which rollouts are sampled follows from configuration and problems; what is kept of them is text and numbers."""

import numpy as np
import pytest

from tests.fakes.prepared import prepared_stream
from unisd_rl.config.load import load_recipe
from unisd_rl.config.task import MBPPTask
from unisd_rl.contexts.prompts import PromptStream
from unisd_rl.driver.sample_recorder import EPOCHS, PROBLEMS, SampleRecorder, sampled_numbers
from unisd_rl.tasks.load import load_task
from unisd_rl.types import PolicyVersion, Source, TokenSample


class Places:
    """Problems in an order of each epoch's own: that of epoch e is turned by e."""

    def __init__(self, problems):
        self._problems = problems

    def __len__(self):
        return self._problems

    def index(self, place):
        epoch, position = divmod(place, self._problems)
        return (position + epoch) % self._problems

    def places(self, problem, epochs):
        return [epoch * self._problems + (problem - epoch) % self._problems for epoch in epochs]


def config(steps, batch, **rollout):
    sections = {"run": {"steps": steps}, "learner": {"batch_size": batch}, "task": {"train_examples": 64}}
    return load_recipe("unisd_star", {**sections, "rollout": rollout})


def problems_of(numbers, places, answers=1):
    return [places.index(number // answers) for step in sorted(numbers) for number in sorted(numbers[step])]


def test_the_first_problems_are_followed_through_every_epoch():
    places = Places(20)
    numbers = sampled_numbers(places, config(steps=12, batch=5))  # three epochs
    found = problems_of(numbers, places)
    assert all(found.count(problem) >= 3 for problem in range(PROBLEMS))
    assert all(number // 5 == step for step in numbers for number in numbers[step])


def test_of_many_epochs_only_some_are_kept_the_first_and_the_last_among_them():
    places = Places(10)
    numbers = sampled_numbers(places, config(steps=1000, batch=10))
    followed = [number for step in numbers for number in numbers[step] if places.index(number) == 3]
    assert EPOCHS <= len(followed) <= EPOCHS + 8
    assert min(followed) < 10
    assert max(followed) >= 9990
    assert sum(map(len, numbers.values())) <= PROBLEMS * EPOCHS + 32


def test_a_run_shorter_than_an_epoch_is_seen_through_the_first_problems_of_steps_to_its_end():
    numbers = sampled_numbers(Places(10_000), config(steps=40, batch=64))
    assert {0, 39} <= numbers.keys()
    assert sum(map(len, numbers.values())) <= 40
    assert numbers[39] == {39 * 64, 39 * 64 + 1}


def test_of_a_group_of_answers_the_first_is_sampled():
    numbers = sampled_numbers(Places(10_000), config(steps=4, batch=8, answers_per_prompt=4))
    assert numbers == {
        0: {0, 4},
        1: {8, 12},
        2: {16, 20},
        3: {24, 28},
    }


def test_a_streams_places_are_where_its_problems_stand():
    settings = config(steps=10, batch=8)
    stream = prepared_stream(settings, load_task(settings.task))
    for problem in (0, 7):
        assert [stream.index(place) for place in stream.places(problem, (0, 2, 5))] == [problem] * 3
        assert [place // len(stream) for place in stream.places(problem, (0, 2, 5))] == [0, 2, 5]


@pytest.fixture
def recorder(monkeypatch):
    settings = config(steps=2, batch=8)
    stream: PromptStream = prepared_stream(settings, load_task(settings.task))
    made = SampleRecorder(settings, stream, None, load_task(settings.task))
    monkeypatch.setattr(made._tokenizer, "pieces", lambda tokens: [f"<{token}>" for token in tokens])
    return made, stream


def test_a_line_has_the_text_of_prompt_views_and_tokens_and_numbers_of_four_digits(recorder):
    made, stream = recorder
    (number, *_) = sorted(made.numbers(1))
    values = {"divergence": np.array([0.123456, np.nan], np.float32)}
    tokens = np.array([4, 5], np.int32)
    sample = TokenSample(number, Source.POLICY, "length", tokens, 7, np.array([0, 1], np.int32), values)
    line = made.line(PolicyVersion(3, 2), sample)
    prompt = stream.prompt(number).prompt
    assert (line["lineage"], line["step"], line["number"], line["id"]) == (3, 1, number, prompt.id)
    assert line["messages"] == [{"role": message.role, "content": message.content} for message in prompt.messages]
    assert [view["kind"] for view in line["views"]] == [view.kind.value for view in prompt.views]
    assert line["tokens"] == ["<4>", "<5>"]
    assert line["versions"] == [0, 1]
    assert line["values"]["divergence"][0] == 0.1235
    assert np.isnan(line["values"]["divergence"][1])
    assert (line["length"], line["finish_reason"], line["correct"]) == (7, "length", None)


def test_a_whole_answer_is_graded_and_one_that_programs_grade_is_not(recorder, monkeypatch):
    made, stream = recorder
    (number, *_) = sorted(made.numbers(1))
    sample = TokenSample(number, Source.POLICY, "stop", np.array([4, 5], np.int32), 2, None, {})
    for text, right in {stream.example(number).demonstration: True, "Answer: -1": False}.items():
        monkeypatch.setattr(made._tokenizer, "decode", lambda tokens, text=text: text)
        assert made.line(PolicyVersion(0, 2), sample)["correct"] is right
    settings = config(steps=2, batch=8)
    programs = settings.model_copy(update={"task": MBPPTask(type="mbpp")})
    made = SampleRecorder(programs, stream, None, load_task(settings.task))
    monkeypatch.setattr(made._tokenizer, "pieces", lambda tokens: [])
    assert made.line(PolicyVersion(0, 2), sample)["correct"] is None
