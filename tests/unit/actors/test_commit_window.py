import pytest

from actors.commit_window import CommitWindow


def test_the_window_of_a_commit_follows_the_learner_and_is_a_share_of_what_a_unit_takes():
    window = CommitWindow()
    assert window.seconds == 0.03
    window.learner_waits = False
    assert window.seconds == 0.25
    window.count(1.6)
    assert window.seconds == pytest.approx(0.1)
    window.count(3.2)  # a tenth of what changed
    assert window.seconds == pytest.approx(0.11)
    window.learner_waits = True
    assert window.seconds == 0.03
