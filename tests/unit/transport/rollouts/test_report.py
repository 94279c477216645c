"""What was thrown away counts in the mean length of what was issued, for the steps taken as they are now."""

from hypothesis import given
from hypothesis import strategies as st

from unisd_rl.transport.rollouts.batch import CommittedRow
from unisd_rl.transport.rollouts.report import RejectedRows, mean

ROWS = st.lists(st.builds(CommittedRow, st.integers(0, 12), st.integers(0, 5), st.none()))


@given(st.lists(st.tuples(ROWS, st.integers(0, 13))))
def test_the_mean_issued_is_over_all_rejected_rows_of_the_steps_taken_also_after_they_were_undone(events):
    rejected, seen = RejectedRows(), []
    for rows, end in events:
        rejected.count(rows, stored=set(), stale=())
        seen += rows
        expected = [row.tokens for row in seen if row.number < end]
        assert rejected.mean_tokens_issued(end, 2, 9) == mean(9 + sum(expected), 2 + len(expected))
