import numpy as np
import pytest
import torch

from learner.batch import Reading, Share, passes
from unisd_rl.types import Rollout, Source, TokenView, ViewKind

CPU = torch.device("cpu")


def tokens(*ids):
    return np.array(ids, np.int32)


def rollout(number, prompt, completion, *views):
    return Rollout(
        number, str(number), Source.GOLD, prompt, views, completion, None, None, None, "stop", 0, "test", 0.0, 1.0
    )


LONG = rollout(
    7,
    tokens(1, 2, 3),
    tokens(4, 5, 6),
    TokenView(ViewKind.PRIMARY, tokens(9)),
    TokenView(ViewKind.AUXILIARY, tokens(11)),
    TokenView(ViewKind.AUXILIARY, tokens(12, 13)),
)
SHORT = rollout(
    8,
    tokens(21),
    tokens(22, 23),
    TokenView(ViewKind.PRIMARY, tokens(24, 25)),
    TokenView(ViewKind.AUXILIARY, tokens(26)),
    TokenView(ViewKind.AUXILIARY, tokens(27)),
    TokenView(ViewKind.NEGATIVE, tokens(28, 29)),
)
EMPTY = rollout(9, tokens(31, 32), tokens(), TokenView(ViewKind.PRIMARY, tokens(33)))


def test_a_share_is_packed_shortest_first():
    share = Share([LONG, EMPTY, SHORT], CPU)
    assert [one.number for one in share.rollouts] == [9, 8, 7]
    assert share.tokens == 5
    assert share.sequence_N.tolist() == [1, 1, 2, 2, 2]
    assert share.has_negative().tolist() == [False, True, False]


def test_each_completion_token_is_predicted_by_the_position_before_it():
    share = Share([LONG, SHORT], CPU)
    padded = share.pad(share.students())
    assert padded.ids_BL.tolist() == [[21, 22, 0, 0, 0], [1, 2, 3, 4, 5]]
    assert padded.predicts_N.tolist() == [0, 1, 7, 8, 9]
    assert padded.targets_N.tolist() == [22, 23, 4, 5, 6]
    assert padded.places_N.tolist() == [0, 1, 2, 3, 4]
    assert padded.read == 7


def test_views_of_one_line_fill_that_line_of_the_results():
    share = Share([LONG, SHORT], CPU)
    padded = share.pad(share.auxiliaries(2) + share.negatives(line=2))
    assert padded.places_N.tolist() == [0, 1, 5, 6, 2, 3, 4, 7, 8, 9, 10, 11]
    assert padded.ids_BL[2].tolist() == [11, 4, 5, 0]
    assert padded.ids_BL[4].tolist() == [28, 29, 22, 0]


def test_completions_without_tokens_are_not_read():
    share = Share([EMPTY, SHORT], CPU)
    assert [reading.row for reading in share.students()] == [1]
    assert [reading.row for reading in share.primaries()] == [1]


def test_an_empty_pass_reads_one_token_and_predicts_none():
    padded = Share([], CPU).pad([])
    assert padded.ids_BL.shape == (1, 1)
    assert padded.predicts_N.numel() == padded.targets_N.numel() == padded.read == 0


def test_passes_hold_every_reading_once_and_are_filled_up_with_empty_ones():
    readings = [Reading(tokens(index), 0) for index in range(5)]
    groups = list(passes(readings, size=2, count=4))
    assert [len(group) for group in groups] == [2, 2, 1, 0]
    assert [reading for group in groups for reading in group] == readings


def test_too_few_passes_are_refused():
    with pytest.raises(AssertionError, match="do not hold"):
        list(passes([Reading(tokens(1), 0)] * 5, size=2, count=2))


def test_a_rollout_with_another_number_of_views_is_refused_by_its_number():
    with pytest.raises(AssertionError, match="rollout 7 has 2 auxiliary views, not 3"):
        Share([LONG], CPU).auxiliaries(3)
