"""Preparation reads every prompt with the model's own tokenizer: what the model could not read is refused there."""

from datetime import datetime

import pytest

from tests.fakes.chat_tokenizers import (
    LEAVES_THE_QUESTION_OUT,
    REFUSES_A_SYSTEM_TURN,
    TURNS,
    WRITES_THE_DATE,
    ChatFolder,
)
from unisd_rl.config.load import load_recipe
from unisd_rl.contexts.leakage import contains_answer
from unisd_rl.contexts.prepare import Preparation
from unisd_rl.contexts.prompts import PromptStream, prompt_of
from unisd_rl.driver.console import Console
from unisd_rl.errors import UserError
from unisd_rl.tasks.arithmetic import Arithmetic
from unisd_rl.types import Example, Message, Prompt, ViewKind


class Told(Arithmetic):
    """Sums and differences, with a system turn if so asked."""

    system = False

    def student_messages(self, example):
        told = (Message("system", "Answer in one line."),) if self.system else ()
        return (*told, *super().student_messages(example))


def prepared(tmp_path, chat, system=False, time=None, **sections):
    """Ten problems, views of the combined objective. The longest view of one has 127 tokens."""
    settings = {"chat_template": {"time": time}} if time else {}
    given = {"contexts": {"cache": str(tmp_path / "cache")}, "model": settings, **sections}
    task = Told(train_examples=10, eval_examples=5, seed=0)
    task.system = system
    (tmp_path / "model").mkdir(exist_ok=True)
    model = chat.save(tmp_path / "model")
    preparation = Preparation.create(load_recipe("unisd_star", given), task, model, None, Console())
    return preparation, preparation.prepared()


def folders(tmp_path, kind):
    return sorted(path.name for path in (tmp_path / "cache" / kind).iterdir())


def test_another_problems_demonstration_is_read_by_the_primary_view_and_gives_no_answer_away(tmp_path):
    asked = {"primary": "another", "cache": str(tmp_path / "cache")}
    preparation, made = prepared(tmp_path, ChatFolder(), contexts=asked)
    demonstrations = {example.demonstration for example in preparation.task.train}
    chosen = [contexts.another for contexts in made.contexts]
    assert set(chosen) <= demonstrations
    assert len(set(chosen)) > 3
    for example, another in zip(made.kept, chosen, strict=True):
        assert another != example.demonstration
        assert not contains_answer(another, example)
    again = prepared(tmp_path, ChatFolder(), contexts=asked)[1]
    assert again.contexts == made.contexts, "read from the cache"


@pytest.mark.parametrize(
    "positions,longest", [(191, None), (190, "a prompt or a view of it"), (96, "held-out problem")]
)
def test_views_and_held_out_problems_have_positions_for_the_longest_answer_too(tmp_path, positions, longest):
    chat = ChatFolder(config={"max_position_embeddings": positions})
    if longest is None:
        assert prepared(tmp_path, chat)[1].report.kept == 10
        return
    with pytest.raises(UserError, match=rf"{longest} of \d+ tokens and .*_tokens = 64 are more than the {positions}"):
        prepared(tmp_path, chat)


def test_gold_completions_have_positions_where_retention_reads_them(tmp_path):
    chat = ChatFolder(config={"max_position_embeddings": 68})
    short = {"rollout": {"max_completion_tokens": 1}, "objective": {"agreement": None, "contrastive": None}}
    reads = {"evaluation": {"retention": {}}, **short}
    with pytest.raises(UserError, match=r"its gold completion, \d+ tokens, are more than the 68 positions"):
        prepared(tmp_path, chat, **reads)


def test_what_a_template_refuses_or_leaves_out_is_refused_with_the_problem(tmp_path):
    with pytest.raises(UserError, match="does not write what the user says"):
        prepared(tmp_path, ChatFolder(template=LEAVES_THE_QUESTION_OUT))
    with pytest.raises(UserError, match=r"^the prompt of problem .*: the chat template of .* refuses the turns system"):
        prepared(tmp_path, ChatFolder(template=REFUSES_A_SYSTEM_TURN), system=True)
    assert prepared(tmp_path, ChatFolder(template=REFUSES_A_SYSTEM_TURN))[1].report.kept == 10


def test_a_view_that_a_template_does_not_take_is_named(tmp_path):
    only_short = "{% if messages[-1].content | length > 60 %}{{ raise_exception('too much') }}{% endif %}" + TURNS
    with pytest.raises(
        UserError, match=r"^the (primary|auxiliary) view of problem .* refuses the turns user: too much"
    ):
        prepared(tmp_path, ChatFolder(template=only_short))


def test_lengths_are_made_anew_on_another_day_only_where_the_template_writes_the_day(tmp_path):
    days = [datetime(2024, 2, 29), datetime(2024, 2, 29, 23), datetime(2024, 3, 1)]
    for template, made in ((TURNS, 1), (WRITES_THE_DATE, 2)):
        folder = tmp_path / str(made)
        folder.mkdir()
        for day in days:
            prepared(folder, ChatFolder(template=template), time=day)
        assert len(folders(folder, "problems")) == len(folders(folder, "held_out")) == made


def test_what_is_odd_about_a_template_is_noted(tmp_path):
    plain = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    preparation, _ = prepared(tmp_path, ChatFolder(template=plain))
    assert [note.endswith("gold completions get '<|im_end|>'") for note in preparation.notes] == [True]


class TwoKinds(Told):
    """Long questions with short solutions, and short questions with long ones: the nearest are of the same kind."""

    def __init__(self):
        long, short = "cows graze " * 6, "because " * 20
        self.train = [Example(f"l{n}", f"{long}{n}?", f"Answer: cow {n}", f"cow {n}") for n in range(8)]
        self.train += [Example(f"s{n}", f"cats {n}?", f"{short}Answer: cat {n}", f"cat {n}") for n in range(8)]
        self.evaluation = self.train[8:9]


def longest_views(tmp_path, limit, positions=None):
    """Tokens of the longest view of the prepared contexts, and of the longest auxiliary view of forty prompts."""
    contexts = {"auxiliary": {"type": "retrieval", "views": 2}, "donors_per_step": 3, "negative": None}
    given = {"contexts": {**contexts, "cache": str(tmp_path / "cache")}, "objective": {"contrastive": None}}
    config = load_recipe("unisd_star", {**given, "rollout": {"max_prompt_tokens": limit}, "learner": {"batch_size": 4}})
    (tmp_path / "model").mkdir(exist_ok=True)
    model = ChatFolder(config={"max_position_embeddings": positions} if positions else {}).save(tmp_path / "model")
    preparation = Preparation.create(config, task := TwoKinds(), model, None, Console())
    made = preparation.prepared()
    assert made.report.kept == 16
    longest = [
        preparation.measure(prompt_of(task, config, example, contexts)).prompt
        for example, contexts in zip(made.kept, made.contexts, strict=True)
    ]
    stream = PromptStream(task, config, made)
    prompts = [stream.prompt(number).prompt for number in range(40)]
    views = [view for prompt in prompts for view in prompt.views if view.kind is ViewKind.AUXILIARY]
    return max(longest), max(preparation.measure(Prompt("", view.messages, (view,))).prompt for view in views)


def test_a_donor_of_a_step_beside_which_a_view_is_too_long_is_passed_over(tmp_path):
    prepared, of_steps = longest_views(tmp_path, 512)
    assert of_steps > prepared, "a long question beside a long solution"
    assert longest_views(tmp_path, prepared)[1] <= prepared
    assert longest_views(tmp_path, of_steps)[1] == of_steps
    assert longest_views(tmp_path, 512, positions=prepared + 64)[1] <= prepared, "completions have 64 positions"
