"""What `benchmarks.trees` compares, and the arithmetic of its ratios."""

import numpy as np
import pytest

from benchmarks.layouts.rollouts import CASES, Problem, answers_needed, steps_of
from benchmarks.layouts.shapes import SHAPES
from benchmarks.layouts.worker import StepFigures
from benchmarks.trees import Options, Step, ratios_of, rows_of, schedule
from unisd_rl.types import TokenView, ViewKind


def figures(wall_s=1.0, teacher_s=1.0, teacher_tokens=100, student_tokens=10, peak_mib=50.0, logprobs=None, norm=2.0):
    return StepFigures(
        wall_s=wall_s,
        teacher_s=teacher_s,
        student_s=0.0,
        update_s=0.0,
        teacher_tokens=teacher_tokens,
        clip_tokens=student_tokens,
        student_tokens=student_tokens,
        passes=1,
        peak_mib=peak_mib,
        loss=0.0,
        gradient_norm=norm,
        logprobs={0: np.zeros((1, 1), np.float32)} if logprobs is None else logprobs,
    )


def problems(count):
    views = (TokenView(ViewKind.PRIMARY, np.arange(3, dtype=np.int32)),)
    return [Problem(str(index), np.full(2, index, np.int32), views) for index in range(count)]


@pytest.mark.parametrize("name", CASES)
def test_a_case_has_8_answers_a_step_and_4_distinct_prompts_and_no_answer_twice(name):
    case, counts = CASES[name], answers_needed(list(CASES.values()), 8)
    assert counts == [4, 4, 4, 4, 1, 1, 1, 1]
    answers = [[np.array([index, copy]) for copy in range(count)] for index, count in enumerate(counts)]
    steps = steps_of(case, problems(8), answers, 8)
    assert [len(step) for step in steps] == [8] * (2 if case.answers == 4 else 1)
    rollouts = [rollout for step in steps for rollout in step]
    assert len({rollout.id for rollout in rollouts}) == (4 if case.answers == 4 else 8)
    assert len({tuple(rollout.completion_tokens) for rollout in rollouts}) == len(rollouts)
    assert all(rollout.id == str(rollout.completion_tokens[0]) for rollout in rollouts)
    assert [rollout.number for rollout in steps[-1]] == list(range(8))


def rows(packed, tree):
    """Rows of one case over two steps, each taken in as many rounds as there are figures."""
    options = Options(["tiny"], ["r"], False, ["packed", "tree"], ["g4"], 8, 9, 3, "cpu", "float32", None, 4096, 1)
    steps = [Step("r", "g4", []) for _ in packed]
    found = {(place, "packed"): rounds for place, rounds in enumerate(packed)}
    found |= {(place, "tree"): rounds for place, rounds in enumerate(tree)}
    return rows_of("tiny", steps, found, options)


def test_ratios_are_of_medians_over_rounds_summed_over_steps():
    packed = [[figures(wall_s=second, teacher_s=second / 2) for second in (90.0, 10.0, 12.0)], [figures(wall_s=6.0)]]
    tree = [[figures(wall_s=second, teacher_s=second / 3) for second in (3.0, 99.0, 1.0)], [figures(wall_s=3.0)]]
    ratios = ratios_of(rows(packed, tree))
    assert ratios["step_time.g4"] == ratios["step_time.g4.tiny.r"] == (12 + 6) / (3 + 3)
    assert ratios["teacher_time.g4"] == (6 + 1) / (1 + 1)


def test_tokens_with_gradient_count_three_times_and_efficiency_is_time_s_ratio_over_theirs():
    packed = [[figures(wall_s=8.0, teacher_s=6.0, teacher_tokens=1000, student_tokens=100, peak_mib=60.0)]]
    tree = [[figures(wall_s=4.0, teacher_s=2.0, teacher_tokens=250, student_tokens=50, peak_mib=45.0)]]
    ratios = ratios_of(rows(packed, tree))
    assert ratios["teacher_tokens.g4"] == 4.0
    assert ratios["step_tokens.g4"] == (1000 + 100 + 3 * 100) / (250 + 50 + 3 * 50)
    assert ratios["teacher_efficiency.g4"] == 3.0 / 4.0
    assert ratios["step_efficiency.g4"] == pytest.approx(2.0 / (1400 / 450))
    assert ratios["memory.g4"] == 45 / 60


def test_work_counts_the_head_of_every_view_which_no_layout_saves():
    packed = [[figures(wall_s=8.0, teacher_s=6.0, teacher_tokens=1000, student_tokens=100)]]
    tree = [[figures(wall_s=4.0, teacher_s=2.0, teacher_tokens=250, student_tokens=50)]]
    sizes = {"layer_weights": 2, "head_weights": 3, "answer_tokens": 20}
    ratios = ratios_of([row | sizes for row in rows(packed, tree)])
    assert ratios["teacher_work.g4"] == (2 * 1000 + 5 * 60) / (2 * 250 + 5 * 60)
    assert ratios["step_work.g4"] == (2 * 1400 + 9 * 60) / (2 * 450 + 9 * 60)
    assert ratios["teacher_work_efficiency.g4"] == 3.0 / ratios["teacher_work.g4"]
    assert ratios["step_work_efficiency.g4"] == 2.0 / ratios["step_work.g4"]


def test_a_shape_s_weights_are_those_of_its_linear_layers():
    tiny = SHAPES["tiny"]  # 64 wide, 4 heads, 2 of keys, 128 in between, 2 layers
    assert (tiny.layer_weights, tiny.head_weights) == (2 * (64 * (64 + 32 + 32 + 64) + 3 * 64 * 128), 8192 * 64)


def test_differences_are_of_the_first_round_and_the_largest():
    packed = [[figures(logprobs={0: np.array([[-1.0, -2.0]]), 1: np.array([[-1.0]])}), figures()]]
    tree = [[figures(logprobs={1: np.array([[-1.5]]), 0: np.array([[-1.0, -2.25]])}, norm=3.0), figures(norm=99.0)]]
    found = rows(packed, tree)
    assert [row["logprob_difference"] for row in found] == [0.0, 0.5]
    assert [row["gradient_difference"] for row in found] == [0.0, 0.5]
    assert ratios_of(found)["logprob_difference"] == 0.5


def test_a_view_that_a_completion_has_not_got_is_no_difference_and_one_that_only_one_layout_has_is():
    without = {0: np.array([[-1.0, -1.0], [np.nan, np.nan]])}
    assert figures(logprobs=without).largest_difference(figures(logprobs=without)) == 0.0
    with_it = {0: np.array([[-1.0, -1.0], [-3.0, -3.0]])}
    assert figures(logprobs=with_it).largest_difference(figures(logprobs=without)) == np.inf


def test_a_round_takes_one_step_of_each_case_and_two_rounds_take_every_step():
    steps = [Step("r", "g1", []), Step("r", "g4", []), Step("r", "g4", []), Step("s", "g1", [])]
    assert schedule(steps, 3) == [(0, 0), (0, 1), (0, 3), (1, 0), (1, 2), (1, 3), (2, 0), (2, 1), (2, 3)]
