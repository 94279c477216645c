import numpy as np
import pytest
import torch

from learner.batch import PackingConfig, RankBatch
from learner.plan import ViewSpec
from unisd_rl.types import Rollout, Source, TokenView, ViewKind

CPU = torch.device("cpu")
ROW, ROWS = PackingConfig(True, 100, 100), PackingConfig(False, 100, 100)


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


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("budget", [1, 5, 6, 7, 100])
def test_gradient_passes_predict_the_tokens_of_the_share_in_order(packed, budget):
    others = [rollout(20 + n, tokens(*range(40, 43 + n)), tokens(*range(50, 52 + n % 3))) for n in range(6)]
    batch = RankBatch([LONG, EMPTY, SHORT, *others], CPU, PackingConfig(packed, budget, 1))
    found = [batch.collate(group).result_index_N for group in batch.gradient_groups()]
    assert torch.cat(found).tolist() == list(range(batch.tokens))


def test_each_completion_token_is_predicted_by_the_position_before_it_in_padded_rows():
    batch = RankBatch([LONG, SHORT], CPU, ROWS)
    inputs = batch.collate(batch.student_sequences())
    assert inputs.ids_BL.tolist() == [[1, 2, 3, 4, 5], [21, 22, 0, 0, 0]]
    assert inputs.packing is None
    assert inputs.predicts_N.tolist() == [2, 3, 4, 5, 6]
    assert inputs.targets_N.tolist() == [4, 5, 6, 22, 23]
    assert inputs.result_index_N.tolist() == [0, 1, 2, 3, 4]
    assert (inputs.tokens, inputs.positions) == (7, 10)


def test_each_completion_token_is_predicted_by_the_position_before_it_in_a_packed_row():
    batch = RankBatch([LONG, SHORT], CPU, ROW)
    inputs = batch.collate(batch.student_sequences())
    assert inputs.ids_BL.tolist() == [[1, 2, 3, 4, 5, 21, 22]]
    assert inputs.packing.lengths == (5, 2)
    assert inputs.packing.starts_S.tolist() == [0, 5, 7]
    assert inputs.packing.positions_T.tolist() == [0, 1, 2, 3, 4, 0, 1]
    assert inputs.predicts_N.tolist() == [2, 3, 4, 5, 6]
    assert inputs.targets_N.tolist() == [4, 5, 6, 22, 23]
    assert (inputs.tokens, inputs.positions) == (7, 7)


def test_views_of_one_line_fill_that_line_of_the_results():
    batch = RankBatch([LONG, SHORT], CPU, ROWS)
    inputs = batch.collate(batch.view_sequences(specs(ViewKind.AUXILIARY, ViewKind.AUXILIARY, ViewKind.NEGATIVE)))
    assert inputs.result_index_N.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 14]
    assert inputs.ids_BL[2].tolist() == [12, 13, 4, 5]
    assert inputs.ids_BL[4].tolist() == [28, 29, 22, 0]


def test_kinds_of_views_share_passes_and_lines_follow_each_other_in_them():
    batch = RankBatch([LONG, SHORT], CPU, PackingConfig(True, 100, 8))
    groups = batch.scoring_groups(batch.view_sequences(specs(ViewKind.PRIMARY, ViewKind.AUXILIARY, ViewKind.AUXILIARY)))
    assert [[sequence.view for sequence in group] for group in groups] == [[0, 2], [0, 1, 1], [2]]
    assert [sum(batch.length(sequence) for sequence in group) for group in groups] == [7, 8, 2]


def test_completions_without_tokens_are_not_read():
    batch = RankBatch([EMPTY, SHORT], CPU, ROW)
    assert [sequence.row for sequence in batch.student_sequences()] == [1]
    assert [sequence.row for sequence in batch.view_sequences(specs(ViewKind.PRIMARY))] == [1]


@pytest.mark.parametrize("packing", [ROW, ROWS])
def test_an_empty_pass_reads_one_token_and_predicts_none(packing):
    inputs = RankBatch([], CPU, packing).collate([])
    assert inputs.ids_BL.shape == (1, 1)
    assert inputs.predicts_N.numel() == inputs.targets_N.numel() == inputs.tokens == 0


def test_a_rollout_with_another_number_of_views_is_refused_by_its_number():
    with pytest.raises(AssertionError, match="rollout 7 has 2 auxiliary views, not 3"):
        RankBatch([LONG], CPU, ROW).view_sequences(specs(*[ViewKind.AUXILIARY] * 3))
    with pytest.raises(AssertionError, match="rollout 5 has 0 primary views, not 1"):
        RankBatch([rollout(5, tokens(1), tokens(2))], CPU, ROW).view_sequences(specs(ViewKind.PRIMARY))
