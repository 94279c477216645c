import numpy as np
import pytest
import torch

from learner.batch import PackingConfig, Pass, RankBatch
from learner.plan import ViewSpec
from unisd_rl.types import Rollout, Source, TokenView, ViewKind

CPU = torch.device("cpu")
ROW, ROWS = PackingConfig("packed", 100, 100), PackingConfig("padded", 100, 100)
TREE = PackingConfig("tree", 100, 100)


def tokens(*ids):
    return np.array(ids, np.int32)


def rollout(number, prompt, completion, *views):
    return Rollout(
        number, str(number), Source.GOLD, prompt, views, completion, None, None, None, "stop", 0, "test", 0.0, 1.0
    )


def specs(*kinds):
    return [ViewSpec(kind, kinds[:place].count(kind), False, 1.0) for place, kind in enumerate(kinds)]


LONG = rollout(
    7,
    tokens(1, 2, 3),
    tokens(4, 5, 6),
    TokenView(ViewKind.PRIMARY, tokens(9)),
    TokenView(ViewKind.AUXILIARY, tokens(11)),
    TokenView(ViewKind.AUXILIARY, tokens(12, 13)),
)
SHORT = rollout(
    5,
    tokens(21),
    tokens(22, 23),
    TokenView(ViewKind.PRIMARY, tokens(24, 25)),
    TokenView(ViewKind.AUXILIARY, tokens(26)),
    TokenView(ViewKind.AUXILIARY, tokens(27)),
    TokenView(ViewKind.NEGATIVE, tokens(28, 29)),
)
EMPTY = rollout(9, tokens(31, 32), tokens(), TokenView(ViewKind.PRIMARY, tokens(33)))


def test_a_share_is_in_the_order_of_its_gradient_passes():
    batch = RankBatch([SHORT, EMPTY, LONG], CPU, ROW)
    assert [one.number for one in batch.rollouts] == [9, 7, 5]
    assert batch.tokens == 5
    assert batch.sequence_N.tolist() == [1, 1, 1, 2, 2]
    assert batch.order().tolist() == [2, 1, 0]
    assert batch.has_view(ViewSpec(ViewKind.NEGATIVE, 0, False, None)).tolist() == [False, False, True]
    assert batch.has_view(ViewSpec(ViewKind.AUXILIARY, 1, False, None)).tolist() == [False, True, True]


@pytest.mark.parametrize("layout", ["tree", "packed", "padded"])
@pytest.mark.parametrize("budget", [1, 5, 6, 7, 30, 100])
def test_gradient_passes_predict_the_tokens_of_the_share_in_order(layout, budget):
    others = [rollout(20 + n, tokens(*range(40, 43 + n)), tokens(*range(50, 52 + n % 3))) for n in range(6)]
    stem = range(60, 80)
    others += [rollout(30 + n, tokens(*stem, n // 2), tokens(*range(50, 52 + n))) for n in range(4)]
    batch = RankBatch([LONG, EMPTY, SHORT, *others], CPU, PackingConfig(layout, budget, 1))
    passes = batch.gradient_passes()
    assert (passes[0].layout == layout) == (layout != "tree" or budget >= 30)
    found = [batch.collate(one).result_index_N for one in passes]
    assert torch.cat(found).tolist() == list(range(batch.tokens))


def test_each_completion_token_is_predicted_by_the_position_before_it_in_padded_rows():
    batch = RankBatch([LONG, SHORT], CPU, ROWS)
    inputs = batch.collate(Pass(batch.student_sequences(), "padded"))
    assert inputs.ids_BL.tolist() == [[1, 2, 3, 4, 5], [21, 22, 0, 0, 0]]
    assert inputs.packing is None
    assert inputs.predicts_N.tolist() == [2, 3, 4, 5, 6]
    assert inputs.targets_N.tolist() == [4, 5, 6, 22, 23]
    assert inputs.result_index_N.tolist() == [0, 1, 2, 3, 4]
    assert (inputs.tokens, inputs.positions) == (7, 10)


def test_each_completion_token_is_predicted_by_the_position_before_it_in_a_packed_row():
    batch = RankBatch([LONG, SHORT], CPU, ROW)
    inputs = batch.collate(Pass(batch.student_sequences(), "packed"))
    assert inputs.ids_BL.tolist() == [[1, 2, 3, 4, 5, 21, 22]]
    assert inputs.packing.lengths == (5, 2)
    assert inputs.packing.starts_S.tolist() == [0, 5, 7]
    assert inputs.packing.depth_T.tolist() == [0, 1, 2, 3, 4, 0, 1]
    assert inputs.predicts_N.tolist() == [2, 3, 4, 5, 6]
    assert inputs.targets_N.tolist() == [4, 5, 6, 22, 23]
    assert (inputs.tokens, inputs.positions) == (7, 7)


def test_views_of_one_line_fill_that_line_of_the_results():
    batch = RankBatch([LONG, SHORT], CPU, ROWS)
    views = batch.view_sequences(specs(ViewKind.AUXILIARY, ViewKind.AUXILIARY, ViewKind.NEGATIVE))
    inputs = batch.collate(Pass(views, "padded"))
    assert inputs.result_index_N.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 14]
    assert inputs.ids_BL[2].tolist() == [12, 13, 4, 5]
    assert inputs.ids_BL[4].tolist() == [28, 29, 22, 0]


def test_kinds_of_views_share_passes_and_lines_follow_each_other_in_them():
    batch = RankBatch([LONG, SHORT], CPU, PackingConfig("packed", 100, 8))
    passes = batch.scoring_passes(batch.view_sequences(specs(ViewKind.PRIMARY, ViewKind.AUXILIARY, ViewKind.AUXILIARY)))
    assert [[sequence.view for sequence in one.sequences] for one in passes] == [[0, 2], [0, 1, 1], [2]]
    assert [batch.collate(one).read for one in passes] == [(3, 4), (3, 3, 2), (2,)]


PROMPT = tokens(*range(60, 80))


def test_answers_to_one_prompt_read_it_once_and_each_token_keeps_its_place():
    """Equal answers are rollouts of their own, and one may end on another's path."""
    answers = [tokens(4, 5, 6), tokens(4, 5), tokens(4, 5, 6), tokens(7)]
    batch = RankBatch([rollout(n, PROMPT, answer) for n, answer in enumerate(answers)], CPU, TREE)
    assert [one.number for one in batch.rollouts] == [0, 2, 1, 3]
    (one,) = batch.gradient_passes()
    inputs = batch.collate(one)
    assert inputs.ids_BL.tolist() == [[*PROMPT.tolist(), 4, 5]]
    assert inputs.predicts_N.tolist() == [19, 20, 21, 19, 20, 21, 19, 20, 19]
    assert inputs.targets_N.tolist() == [4, 5, 6, 4, 5, 6, 4, 5, 7]
    assert inputs.result_index_N.tolist() == list(range(9))
    assert inputs.read == (22, 0, 0, 0)
    assert inputs.tokens == inputs.positions == 22


def test_views_that_share_are_read_together_and_results_stay_view_after_view():
    one, other = (
        rollout(
            number,
            tokens(1),
            completion,
            TokenView(ViewKind.PRIMARY, tokens(*PROMPT, 90)),
            TokenView(ViewKind.AUXILIARY, tokens(*PROMPT, 91)),
        )
        for number, completion in enumerate([tokens(4, 5), tokens(6)])
    )
    batch = RankBatch([one, other], CPU, TREE)
    (found,) = batch.scoring_passes(batch.view_sequences(specs(ViewKind.PRIMARY, ViewKind.AUXILIARY)))
    assert [(sequence.view, sequence.row) for sequence in found.sequences] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    inputs = batch.collate(found)
    assert inputs.ids_BL.tolist() == [[*PROMPT.tolist(), 91, 4, 90, 4]]
    assert inputs.packing.lengths == (22, 2)
    assert inputs.predicts_N.tolist() == [22, 23, 22, 20, 21, 20]
    assert inputs.targets_N.tolist() == [4, 5, 6, 4, 5, 6]
    assert inputs.result_index_N.tolist() == list(range(6))
    assert sorted(inputs.read) == [0, 0, 2, 22]


def test_completions_without_tokens_are_not_read():
    batch = RankBatch([EMPTY, SHORT], CPU, ROW)
    assert [sequence.row for sequence in batch.student_sequences()] == [1]
    assert [sequence.row for sequence in batch.view_sequences(specs(ViewKind.PRIMARY))] == [1]


@pytest.mark.parametrize("packing", [ROW, ROWS, PackingConfig("tree", 100, 100)])
def test_an_empty_pass_reads_one_token_and_predicts_none(packing):
    batch = RankBatch([], CPU, packing)
    inputs = batch.collate(batch.empty_pass())
    assert inputs.ids_BL.shape == (1, 1)
    assert inputs.predicts_N.numel() == inputs.targets_N.numel() == inputs.tokens == 0


def test_a_rollout_with_another_number_of_views_is_refused_by_its_number():
    with pytest.raises(AssertionError, match="rollout 7 has 2 auxiliary views, not 3"):
        RankBatch([LONG], CPU, ROW).view_sequences(specs(*[ViewKind.AUXILIARY] * 3))
    with pytest.raises(AssertionError, match="rollout 5 has 0 primary views, not 1"):
        RankBatch([rollout(5, tokens(1), tokens(2))], CPU, ROW).view_sequences(specs(ViewKind.PRIMARY))
