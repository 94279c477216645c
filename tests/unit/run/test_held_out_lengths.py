"""Accuracy is of all held-out problems: one that does not fit is told before anything is trained."""

import pytest

from unisd_rl.errors import UserError
from unisd_rl.prompts import PromptStream
from unisd_rl.settings import load_recipe
from unisd_rl.tasks.load import load_task

CONFIG = load_recipe("unisd_star", {"task": {"train_examples": 20, "eval_examples": 10}})


def test_a_held_out_problem_that_is_too_long_is_refused_with_the_limit():
    task = load_task(CONFIG.task)
    long = task.student_messages(task.evaluation[3])
    with pytest.raises(UserError, match=r"1 of 10 held-out .* rollout\.max_prompt_tokens = 512"):
        PromptStream(task, CONFIG, lambda prompt: prompt.messages != long)


def test_held_out_problems_that_fit_are_accepted():
    assert PromptStream(load_task(CONFIG.task), CONFIG, lambda prompt: True).preparation.kept == 20
