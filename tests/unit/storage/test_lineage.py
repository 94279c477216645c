"""What survives a rollback: worked by hand on the drawing of lineages.py."""

from unisd_rl.storage.lineage import Rollback, read_rollbacks, step_survives, version_survives

DRAWN = (Rollback(1, 4, 2), Rollback(2, 6, 1))


def test_the_chain_has_every_step_once():
    trained = [(0, step) for step in range(6)] + [(1, step) for step in (4, 5, 6)] + [(2, 6), (2, 7)]
    survive = [(lineage, step) for lineage, step in trained if step_survives(lineage, step, DRAWN)]
    assert survive == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 4), (1, 5), (2, 6), (2, 7)]


def test_a_version_survives_if_the_step_that_made_it_does():
    assert [version_survives(0, version, DRAWN) for version in range(7)] == [True] * 5 + [False] * 2
    assert [version_survives(1, version, DRAWN) for version in (4, 5, 6, 7)] == [True, True, True, False]
    assert version_survives(0, 0, (Rollback(1, 0, 3),))


def test_a_later_lineage_that_began_earlier_ends_all_before_it():
    falls = (*DRAWN, Rollback(3, 1, 7))
    assert [step_survives(0, step, falls) for step in range(3)] == [True, False, False]
    assert not step_survives(2, 6, falls)


def test_a_line_cut_short_was_never_written(tmp_path):
    path = tmp_path / "lineages.jsonl"
    assert read_rollbacks(path) == ()
    path.write_text('{"lineage": 1, "step": 4, "steps_lost": 2}\n{"lineage": 2, "st')
    assert read_rollbacks(path) == (Rollback(1, 4, 2),)
