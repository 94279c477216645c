"""Multiple choice: its numbers of a model that misses the form, and of one that lacks the knowledge."""

import math

import numpy as np
import pytest

from actors.rollout_actor import ChatAnswer
from tests.fakes.evaluation_answers import VERSION, FakeGroup, generation
from unisd_rl.config.grader import ChoiceGrader
from unisd_rl.config.load import load_recipe
from unisd_rl.evaluation.choices import options_of_task
from unisd_rl.evaluation.evaluate import evaluate
from unisd_rl.evaluation.statistics import EvaluationSummary
from unisd_rl.reporting.findings import _form
from unisd_rl.storage.jsonl import json_text
from unisd_rl.tasks.multiple_choice import MultipleChoice, Question, to_example
from unisd_rl.tasks.records import ChoiceRecords, Records, records_of
from unisd_rl.types import Example

# Right: B, B, A, C, and of the last one A and B, which read the same; 4, 4, 2, 3, 3 options.
PROBLEMS = (
    to_example("p0", Question("?", ("w", "x", "y", "z"), 1), ""),
    to_example("p1", Question("?", ("w", "x", "y", "z"), 1), ""),
    to_example("p2", Question("?", ("w", "x"), 0), ""),
    to_example("p3", Question("?", ("w", "x", "y"), 2), ""),
    to_example("p4", Question("?", ("x", "x", "y"), 0), ""),
)


class Says(FakeGroup):
    """Answers the problems with these texts, in order."""

    def __init__(self, *texts: str, likeliest: str = "") -> None:
        super().__init__(likeliest=likeliest)
        self.texts = iter(texts)

    def answers(self, prompts, sampling, version, on_wait):
        return [ChatAnswer(np.arange(2, dtype=np.int32), next(self.texts), generation()) for _ in prompts]


def scores(*texts, likeliest="", samples=1, task=None):
    config = load_recipe("unisd_star", {"evaluation": {"concurrency": 2, "samples": samples}})
    group = Says(*texts, likeliest=likeliest)
    return evaluate(group, task or MultipleChoice((), PROBLEMS), config, VERSION, lambda *_: None), group


def test_accuracy_among_those_that_state_an_option_is_told_apart_from_all():
    found, _ = scores("Answer: B", "Answer: C", "I do not know", "", "Answer: B")
    assert (found.accuracy, found.choice.stated, found.choice.accuracy_of_stated) == (2 / 5, 3, 2 / 3)
    assert [answer.stated for answer in found.answers] == ["B", "C", None, None, "B"]
    assert "3 of 5 answers state an option, 66.7% of those are right" in found.choice.describe(5)


def test_a_model_that_never_states_an_option_may_know_all_the_same():
    found, group = scores(*["Well."] * 5, likeliest="Answer: B")
    assert (found.accuracy, found.choice.stated) == (0.0, 0)
    assert math.isnan(found.choice.accuracy_of_stated)
    assert found.choice.likelihood_accuracy == 3 / 5  # p0, p1, and p4, whose first two options read the same
    assert [texts for texts, _ in group.asked[2:4]] == [
        ("Answer: A", "Answer: B"),
        ("Answer: A", "Answer: B", "Answer: C"),
    ]
    assert {version for _, version in group.asked} == {VERSION}
    assert found.choice.describe(5).startswith(
        "0 of 5 answers state an option; the likeliest option is right for 60.0%"
    )


def test_the_baselines_are_chance_and_the_letter_that_is_right_most_often():
    found, _ = scores(*["Answer: A"] * 5)
    assert found.choice.chance == pytest.approx((1 / 4 + 1 / 4 + 1 / 2 + 1 / 3 + 2 / 3) / 5)
    assert (found.choice.letter, found.choice.most_frequent) == ("B", 3 / 5)
    assert "chance 40.0%, always B 60.0%" in found.choice.describe(5)


def test_options_that_no_token_tells_apart_leave_the_likelihood_out():
    found, _ = scores(*["Answer: A"] * 5, likeliest="none of them")
    assert math.isnan(found.choice.likelihood_accuracy)
    assert "likeliest" not in found.choice.describe(5)


def test_each_problem_is_chosen_once_however_often_it_is_answered():
    found, group = scores(*["Answer: B"] * 10, samples=2, likeliest="Answer: A")
    assert (len(group.asked), found.choice.stated, found.choice.accuracy_of_stated) == (5, 10, 3 / 5)


def test_records_with_the_grader_choice_have_the_numbers_and_others_have_none():
    rows = [Example(str(n), "Q?\nA. x\nB. y", "Answer: B", "B") for n in range(4)]
    task = records_of(rows, rows, None, "here", ChoiceGrader(type="choice", grade_thinking=False))
    assert isinstance(task, ChoiceRecords)
    found, _ = scores(*["<think>Answer: B", "B", "Answer: A", "?"], task=task, likeliest="Answer: B")
    assert (found.choice.stated, found.choice.accuracy_of_stated, found.choice.likelihood_accuracy) == (2, 0.5, 1.0)
    assert options_of_task(Records(rows, rows)) is None
    assert options_of_task(MultipleChoice((), (*PROBLEMS, Example("x", "no options", "", "B")))) is None


def test_what_a_run_is_summed_up_with_keeps_them_and_reads_evaluations_of_before():
    found, _ = scores("Answer: B", *["?"] * 4, likeliest="Answer: A")
    summary = found.summary()
    assert summary.choice["stated"] == found.to_json([1])["choice"]["stated"] == 1
    numbers = {name: getattr(summary, name) for name in summary.__slots__ if name not in ("choice", "interval")}
    assert EvaluationSummary.from_json({**numbers, "interval": {"low": 0.0, "high": 1.0}}).choice is None
    assert '"accuracy_of_stated": null' in json_text(scores(*["?"] * 5)[0].to_json([1]))


def test_the_report_says_whether_the_form_was_learnt_or_the_knowledge():
    before, after = (scores(*texts, likeliest="Answer: B")[0].to_json([1]) for texts in (["?"] * 5, ["Answer: B"] * 5))
    assert _form(before, after) == (
        "; 0.0% of the answers stated an option before, 100.0% after; the likeliest option was right for 60.0%, "
        "then 60.0%; chance is 40.0%, always B 60.0%"
    )
    assert _form({**before, "choice": None}, after) == ""
