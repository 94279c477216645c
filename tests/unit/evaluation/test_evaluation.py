"""Every problem is answered as often as asked, by one version, and graded; how it is drawn depends on nothing else."""

import pytest

from tests.fakes.evaluation_answers import VERSION, FakeGroup, answer, evaluation
from unisd_rl.config.load import load_recipe
from unisd_rl.evaluation.evaluate import Evaluation, evaluate
from unisd_rl.evaluation.statistics import wilson_interval
from unisd_rl.types import Example, Message


class Echo:
    """Right are the problems whose answer is yes."""

    train = ()
    evaluation = tuple(Example(f"p{i}", f"question {i}", "", "yes" if i % 3 == 0 else "no") for i in range(7))

    def student_messages(self, example):
        return (Message("user", example.question),)

    def grade(self, completion, example):
        assert completion == f"said: {example.question}"
        return example.answer == "yes"


def config(**evaluation):
    return load_recipe("unisd_star", {"evaluation": {"concurrency": 4, **evaluation}})


def examined(settings, task=None, group=None):
    shares = []
    found = evaluate(
        group or FakeGroup(), task or Echo(), settings, VERSION, lambda done, total, _: shares.append(done / total)
    )
    return found, shares


def test_each_problem_is_answered_once_greedily_in_slices_and_in_order():
    group = FakeGroup()
    found, shares = examined(config(), group=group)
    assert [answer.id for answer in found.answers] == [f"p{i}" for i in range(7)]
    assert [answer.correct for answer in found.answers] == [i % 3 == 0 for i in range(7)]
    assert [len(texts) for texts, _, _ in group.calls] == [4, 3]
    assert all(sampling.temperature == 0 and sampling.seed is None for _, sampling, _ in group.calls)
    assert {version for _, _, version in group.calls} == {VERSION}
    assert shares == [4 / 7, 1.0]


def test_samples_of_a_problem_stand_in_a_row_and_each_has_a_seed_of_its_own_whatever_the_slices():
    seeds = {}
    for concurrency in (4, 6):
        group = FakeGroup()
        found, _ = examined(config(samples=3, k=[1, 3], concurrency=concurrency), group=group)
        assert [(answer.id, answer.sample) for answer in found.answers[:4]] == [
            ("p0", 0),
            ("p0", 1),
            ("p0", 2),
            ("p1", 0),
        ]
        assert {sampling.temperature for _, sampling, _ in group.calls} == {0.7}
        seeds[concurrency] = [sampling.seed + i for texts, sampling, _ in group.calls for i in range(len(texts))]
    assert seeds[4] == seeds[6]
    assert len(set(seeds[4])) == 21


def test_one_answer_a_problem_gives_wilsons_interval():
    found = evaluation([1, 0, 1, 1]).pass_rate()
    assert (found.k, found.rate) == (1, 0.75)
    assert found.interval == wilson_interval(3, 4)


def test_answers_that_the_limit_cut_and_their_lengths_are_counted():
    short, long = answer("p0", True), answer("p1", False, tokens=range(6), finish_reason="length")
    found = Evaluation(VERSION, 1, (short, long), 1.0)
    assert (found.cut, found.mean_tokens) == (1, 4.0)


def test_pass_at_k_of_several_answers_is_the_mean_over_problems():
    found = evaluation([(1, 0, 0, 0), (1, 1, 0, 0), (0, 0, 0, 0)], samples=4)
    assert found.problems == 3
    assert found.accuracy == pytest.approx(3 / 12)
    # 1 - C(3,2)/C(4,2) = 1/2, 1 - C(2,2)/C(4,2) = 5/6, 0
    assert found.scores(2) == pytest.approx([1 / 2, 5 / 6, 0.0])
    assert found.pass_rate(2).rate == pytest.approx((1 / 2 + 5 / 6) / 3)
    assert found.pass_rate(2).interval == wilson_interval(1 / 2 + 5 / 6, 3)
    assert found.pass_rate(1).rate == pytest.approx(found.accuracy)
