"""Which prepared problems are trained on: those that fit; the rest is counted, and too much of it is refused."""

from dataclasses import replace

import pytest

from unisd_rl.config.load import load_recipe
from unisd_rl.contexts.selection import Lengths, PreparedRow, select_examples
from unisd_rl.contexts.views import Contexts
from unisd_rl.errors import UserError
from unisd_rl.tasks.load import load_task

CONFIG = load_recipe("unisd_star", {"task": {"train_examples": 100, "eval_examples": 5}})
TASK = load_task(CONFIG.task)
FULL = Contexts(("one", "two", "three"), "wrong")
FITS = Lengths(512, 0)


def rows(changed=()):
    """A row for every problem; those of `changed`, by place, differ."""
    given = dict(changed)
    return [PreparedRow(example.id, *given.get(place, (FULL, 0, 0, FITS))) for place, example in enumerate(TASK.train)]


def test_problems_that_fit_are_kept_in_order_with_their_contexts():
    prepared = select_examples(CONFIG, TASK, rows())
    assert prepared.kept == tuple(TASK.train)
    assert prepared.contexts == (FULL,) * 100
    assert prepared.report.held_out == 5


def test_whatever_is_dropped_or_discarded_is_counted():
    changed = {
        3: (FULL, 0, 0, Lengths(513, 0)),
        5: (FULL, 0, 0, Lengths(1, 65)),
        7: (Contexts(("one", "two"), "wrong"), 0, 0, FITS),
        9: (Contexts(("one", "two", "three"), None), 2, 1, FITS),
    }
    prepared = select_examples(CONFIG, TASK, rows(changed))
    assert [place for place, example in enumerate(TASK.train) if example not in prepared.kept] == [3, 5, 7]
    report = prepared.report
    assert (report.examples, report.kept, report.dropped) == (100, 97, 3)
    assert (report.too_long, report.without_views) == (2, 1)
    assert (report.without_negative, report.right, report.implausible) == (1, 2, 1)


def test_more_than_one_in_twenty_without_silent_contexts_is_refused_with_the_setting():
    few = {place: (Contexts(("one",), "wrong"), 0, 0, FITS) for place in range(6)}
    with pytest.raises(
        UserError, match=r"6 of 100 .* contexts\.auxiliary\.views = 3 .*another contexts\.auxiliary\.type"
    ):
        select_examples(CONFIG, TASK, rows(few))
    few.pop(0)
    assert select_examples(CONFIG, TASK, rows(few)).report.without_views == 5


def test_problems_without_another_demonstration_are_dropped_where_the_primary_view_reads_one():
    small = {"train_examples": 100, "eval_examples": 5}
    config = load_recipe("sdft", {"task": small, "contexts": {"primary": "another"}})
    plain = PreparedRow("", Contexts(another="others"), 0, 0, FITS)
    some = [replace(plain, contexts=Contexts()) if place < 6 else plain for place in range(100)]
    with pytest.raises(UserError, match=r'6 of 100 .* contexts\.primary = "another"'):
        select_examples(config, TASK, some)
    assert select_examples(config, TASK, [plain, *some[1:]]).report.without_views == 5


def test_a_kind_of_negative_that_gives_none_at_all_is_refused_with_the_counts():
    none = {place: (Contexts(FULL.auxiliary, None), 1, 2, FITS) for place in range(100)}
    with pytest.raises(UserError, match=r'negative\.type = "task" gives none of 100 .*100 candidates .* 200 as'):
        select_examples(CONFIG, TASK, rows(none))
    none.pop(0)
    assert select_examples(CONFIG, TASK, rows(none)).report.without_negative == 99


def test_wrong_demonstrations_that_are_other_problems_solutions_are_counted_and_said():
    solutions = [example.demonstration for example in TASK.train]
    lent = {place: (Contexts(FULL.auxiliary, solutions[place + 1]), 0, 0, FITS) for place in (3, 5)}
    report = select_examples(CONFIG, TASK, rows(lent)).report
    assert report.borrowed == 2
    assert "2 wrong demonstrations are solutions of other problems" in report.describe()
    assert "solutions of other problems" not in select_examples(CONFIG, TASK, rows()).report.describe()


def test_contexts_that_no_term_reads_are_neither_needed_nor_counted():
    plain = load_recipe("clip", {"task": {"train_examples": 100, "eval_examples": 5}})
    report = select_examples(plain, TASK, rows({0: (Contexts(), 0, 0, FITS)})).report
    assert (report.kept, report.without_negative) == (100, 0)


def test_a_longer_tail_may_be_dropped_where_a_field_says_so_and_the_longest_is_named():
    long = {place: (FULL, 0, 0, Lengths(600 + place, 0)) for place in range(20)}
    with pytest.raises(
        UserError,
        match=r"20 of 100 .*contexts\.max_dropped = 0\.05 of them \(the longest, problem '.+', has 619 tokens\)",
    ):
        select_examples(CONFIG, TASK, rows(long))
    more = load_recipe("unisd_star", {"contexts": {"max_dropped": 0.2}})
    report = select_examples(more, TASK, rows(long)).report
    assert (report.kept, report.too_long, report.longest, report.longest_id) == (80, 20, 619, TASK.train[19].id)
    assert f"20 dropped as too long (the longest, {TASK.train[19].id!r}, has 619 tokens)" in report.describe()
