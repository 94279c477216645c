"""No auxiliary view contains its own problem's answer, and every negative is wrong by the grader: on every task.

What contains the answer is decided here once more, literally and by kind, and not by the rule that is tested.
The benchmarks are read from the sample data beside the repository (`../shared/data`); without it they are skipped.
"""

import json
import re
from functools import cache, partial
from pathlib import Path

import pytest

from unisd_rl.config import Config
from unisd_rl.config.contexts import (
    CorruptionNegative,
    InductionAuxiliary,
    PerturbationNegative,
    ProgramMutationsNegative,
    RandomAuxiliary,
    RetrievalAuxiliary,
    TaskNegative,
)
from unisd_rl.contexts.induction import Instruction, distinct_instructions
from unisd_rl.contexts.negatives import verified_negatives
from unisd_rl.contexts.templates import with_demonstration
from unisd_rl.contexts.views import Contexts, auxiliary_contexts, negative_candidates, prompt_for
from unisd_rl.tasks.load import load_task
from unisd_rl.tasks.task import grade_all
from unisd_rl.types import ViewKind

DATA = Path(__file__).parents[4] / "shared" / "data"
LOOKED_AT = 60
SMALL = {"train_examples": 300, "eval_examples": 10}
TASKS = {
    "arithmetic": {"type": "arithmetic", **SMALL},
    "multiples": {"type": "multiples", **SMALL},
    "tool_use": {"type": "tool_use", **SMALL},
    "scienceqa": {"type": "scienceqa", "data": DATA / "scienceqa.jsonl"},
    "cos_e": {"type": "cos_e", "data": DATA / "cos_e.jsonl"},
    "mbpp": {"type": "mbpp", "data": DATA / "mbpp_sanitized.jsonl"},
    "toolalpaca": {"type": "toolalpaca", "data": DATA / "toolalpaca.jsonl"},
}
NEGATIVES = {  # task -> the kinds that give nearly every problem a negative
    "arithmetic": (TaskNegative(), CorruptionNegative(), PerturbationNegative()),
    "multiples": (TaskNegative(), CorruptionNegative(), PerturbationNegative()),
    "tool_use": (TaskNegative(),),
    "scienceqa": (TaskNegative(), CorruptionNegative()),
    "cos_e": (TaskNegative(), CorruptionNegative()),
    "mbpp": (TaskNegative(), ProgramMutationsNegative()),
    "toolalpaca": (TaskNegative(),),
}


@cache
def task_of(name):
    data = TASKS[name].get("data")
    if data is not None and not data.is_file():
        pytest.skip(f"no sample data at {data}")
    settings = {"task": TASKS[name], "model": {"path": "any/model"}, "objective": {"divergence": {}}}
    return load_task(Config.model_validate(settings).task)


def says_answer(text, example):
    """Whether the answer itself stands in the text, read by hand for each kind."""
    folded = " ".join(text.lower().split())
    if re.match(r"[A-Z]\. ", example.answer):
        option = " ".join(example.answer[3:].lower().split()).strip(" .,;:!?\"'()")
        return re.search(rf"\b{re.escape(option)}\b", folded) is not None
    if example.answer.startswith("{"):
        return any(f"def {name}(" in text for name in json.loads(example.answer)["names"])
    if example.answer.startswith("["):
        calls = json.loads(example.answer)
        spaceless = re.sub(r"\s", "", text)
        return all(
            re.sub(r"\s", "", json.dumps(call["arguments"])) in spaceless and call["name"] in text for call in calls
        )
    return re.search(rf"(?<!\d){re.escape(example.answer)}(?!\d)", text) is not None


def telling_and_silent(task):
    """Instructions of which some tell an answer: word for word, or the letter."""
    told = [Instruction(f"Remember {one.answer[3:] or one.answer}.", ()) for one in task.train[:20]]
    letters = [Instruction(f"The answer is {letter}.", ()) for letter in "ABCDE"]
    silent = [Instruction(f"Take care, {word}.", ()) for word in ("always", "as ever", "please")]
    return distinct_instructions([*told, *letters, *silent], views=3)


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("kind", [RandomAuxiliary(), RetrievalAuxiliary(), InductionAuxiliary()], ids=lambda k: k.type)
def test_no_auxiliary_view_contains_its_own_problems_answer(name, kind):
    task = task_of(name)
    chosen = auxiliary_contexts(kind, task, 5, lambda: telling_and_silent(task))
    full = 0
    for example in task.train[:LOOKED_AT]:
        texts = chosen.for_example(example)
        full += len(texts) == kind.views
        assert len(set(texts)) == len(texts)
        for view in prompt_for(task, example, Contexts(texts)).views:
            if view.kind is ViewKind.AUXILIARY:
                prompt = task.student_messages(example)[-1].content
                read = view.messages[-1].content
                assert read.endswith(prompt)
                assert not says_answer(read.removesuffix(prompt), example), (example.answer, read)
        if kind.type == "induction" and example.answer[1:3] == ". ":
            assert not any(f"answer is {example.answer[0]}." in text for text in texts)
    assert full >= 0.95 * min(LOOKED_AT, len(task.train))


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name in TASKS for kind in NEGATIVES[name]])
def test_every_negative_is_wrong_by_the_tasks_grader_and_its_view_differs_in_it_alone(name, kind):
    task = task_of(name)
    count = 12 if name == "mbpp" else LOOKED_AT  # an endless loop takes its ten seconds
    examples = task.train[:count]
    found = verified_negatives(
        examples, negative_candidates(kind, task, 5, no_writer), partial(grade_all, task), kind.attempts
    )
    assert sum(one.text is not None for one in found) >= 0.9 * len(examples)
    for example, one in zip(examples, found, strict=True):
        if one.text is not None:
            assert one.text != example.demonstration
            assert not task.grade(one.text, example)
            views = prompt_for(task, example, Contexts(negative=one.text)).views
            before, after = with_demonstration(task.student_messages(example), "\0")[-1].content.split("\0")
            primary, negative = (view.messages[-1].content for view in views)
            assert (primary, negative) == (before + example.demonstration + after, before + one.text + after)


@pytest.mark.parametrize("kind", [TaskNegative(), CorruptionNegative(), PerturbationNegative()], ids=lambda k: k.type)
@pytest.mark.parametrize("name", ["arithmetic", "multiples", "scienceqa", "cos_e"])
def test_no_negative_holds_the_gold_rationale_which_would_argue_for_the_right_answer_still(name, kind):
    task = task_of(name)
    found = verified_negatives(
        task.train, negative_candidates(kind, task, 5, no_writer), partial(grade_all, task), kind.attempts
    )
    looked_at = 0
    for example, one in zip(task.train, found, strict=True):
        rationale = " ".join(example.demonstration.rpartition("Answer:")[0].split())
        if one.text is not None and len(rationale) >= 12:
            looked_at += 1
            assert rationale not in " ".join(one.text.split())
    assert looked_at >= 0.5 * len(task.train)


def no_writer(chats, what):
    raise AssertionError("nothing is written by the model")
