"""Accuracy is of all held-out problems: one that does not fit is told before anything is trained."""

import pytest

from unisd_rl.contexts.selection import check_held_out_lengths
from unisd_rl.errors import UserError


def test_a_held_out_problem_that_is_too_long_is_refused_with_the_limit():
    with pytest.raises(UserError, match=r"1 of 3 held-out problems of arithmetic .* rollout\.max_prompt_tokens = 512"):
        check_held_out_lengths([512, 513, 1], "arithmetic", 512)


def test_held_out_problems_that_fit_are_accepted():
    check_held_out_lengths([512, 1], "arithmetic", 512)
