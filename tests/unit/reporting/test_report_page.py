"""The page of a run: what it says follows from the run's files, whoever wrote the text in them."""

import json
import re

import pytest

from tests.fakes.run_folder import HOSTILE, answer, run_folder, sample, step
from unisd_rl.errors import UserError
from unisd_rl.reporting import record as record_module
from unisd_rl.reporting.answers import Tone, answer_pairs, sampled_problems, shortened, visible
from unisd_rl.reporting.charts import MOST_POINTS, Chart, Curve, thinned
from unisd_rl.reporting.figures import charts_of_run, charts_of_runs
from unisd_rl.reporting.findings import describe_cuts, findings
from unisd_rl.reporting.mechanisms import strongest_tokens
from unisd_rl.reporting.model_card import model_card
from unisd_rl.reporting.page import MOST_BYTES, comparison, report, write_report
from unisd_rl.reporting.record import RunRecord


def record(path, **files):
    return RunRecord.at(run_folder(path / "run", **files))


def test_steps_and_samples_that_a_rollback_discarded_are_not_shown(tmp_path):
    run = record(
        tmp_path,
        steps=[step(0), step(1, loss=9.0), step(1, lineage=1, loss=2.0)],
        samples=[sample(1, 5) | {"length": 77}, sample(1, 5) | {"lineage": 1}, sample(0, 0)],
        rollbacks=[{"lineage": 1, "step": 1, "steps_lost": 1}],
    )
    assert [row["loss"] for row in run.rows] == [1.0, 2.0]
    assert [(row["number"], row["length"]) for row in run.samples] == [(0, 3), (5, 3)]


def test_of_a_long_run_a_bounded_number_of_steps_is_held_evenly_spread_and_the_last(tmp_path, monkeypatch):
    monkeypatch.setattr(record_module, "MOST_STEPS", 10)
    held = {}
    for steps in (10, 11, 20, 100, 1000):
        rows = [step(number) for number in range(steps)]
        run = record(tmp_path / str(steps), steps=rows)
        held[steps] = [row["step"] for row in run.rows]
    assert held[10] == list(range(10))
    assert held[11] == [0, 2, 4, 6, 8, 10]
    assert held[20] == [0, 4, 8, 12, 16, 19]
    assert held[100] == [0, 16, 32, 48, 64, 80, 96, 99]
    assert held[1000] == [0, 128, 256, 384, 512, 640, 768, 896, 999]


def test_a_page_and_a_card_read_the_answers_of_the_first_and_the_last_evaluation_however_many_there_are(
    tmp_path, monkeypatch
):
    answers = [answer(f"p{index}", index % 2 == 0) for index in range(4)]
    run = run_folder(tmp_path / "run", steps=[step(0)], evaluations=dict.fromkeys(range(0, 40, 2), answers))
    opened, open_parts = [], record_module.open_parts

    def counted(path):
        opened.append(path.name)
        return open_parts(path)

    monkeypatch.setattr(record_module, "open_parts", counted)
    report(RunRecord.at(run))
    assert [name for name in opened if name.startswith("step-")] == ["step-0.jsonl", "step-38.jsonl"]
    opened.clear()
    assert "| 38 | 50.0% |" in model_card(RunRecord.at(run), 38)
    assert opened == ["step-0.jsonl", "step-38.jsonl"]


def test_hostile_text_is_text_everywhere(tmp_path):
    run = record(
        tmp_path,
        steps=[step(0)],
        samples=[sample(0, 0, HOSTILE, (HOSTILE,) * 3)],
        evaluations={0: [answer(HOSTILE, False, HOSTILE)], 1: [answer(HOSTILE, True, HOSTILE)]},
        events=[{"time_s": 0.0, "event": "failure", "component": "x", "reason": HOSTILE}],
    )
    page = report(run)
    assert "<script>alert" not in page
    assert page.count("</script>") == 2  # those of the data and of the page's own script
    assert not re.search("[\u202e\u200f\x00\ud800-\udfff]", page)
    assert "&lt;script&gt;alert(1)" in page
    assert "\\u003cscript\\u003ealert(1)" in page
    assert "\u27e8U+202E\u27e9" in page
    page.encode()


def test_the_page_names_no_other_place_than_itself(tmp_path):
    page = report(record(tmp_path, steps=[step(0), step(1)], samples=[sample(0, 0)]))
    links = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"'\s)>]*)""", page)
    assert set(links) <= {"data:,"}
    assert "default-src 'none'" in page
    assert "@import" not in page


def test_a_page_of_long_answers_stays_below_its_limit_and_keeps_some(tmp_path):
    tokens = ["word"] * 1024
    numbers = {
        name: [0.123456] * 1024 for name in ("divergence", "weight", "entropy", "contrast", "logprob", "primary")
    }
    rows = [sample(index % 9, index, f"p{index // 2}", tokens, **numbers) for index in range(160)]
    long = "x" * 20_000
    evaluation = [answer(f"p{index}", False, long) for index in range(300)]
    run = record(tmp_path, samples=rows, evaluations={0: evaluation, 1: evaluation})
    page = report(run)
    assert len(page.encode()) <= MOST_BYTES
    assert 'id="samples-data">[[{' in page
    assert page.count('class="pair"') > 3


def test_where_texts_are_too_much_fewer_are_shown(tmp_path, monkeypatch):
    run = record(tmp_path, samples=[sample(0, index, f"p{index}") for index in range(16)])
    whole = len(report(run).encode())
    monkeypatch.setattr("unisd_rl.reporting.page.MOST_BYTES", whole - 1)
    shown = json.loads(re.search(r'id="samples-data">(.*?)</script>', report(run))[1])
    assert len(shown) == 8


def test_it_says_whether_the_run_learned_and_how_sure_that_is(tmp_path):
    wrong = [answer(f"p{index}", False) for index in range(20)]
    right = [answer(f"p{index}", index < 10) for index in range(20)]
    learnt, *_ = findings(record(tmp_path, evaluations={0: wrong, 4: right}))
    assert (learnt.answer, learnt.tone) == ("yes: 0.0% \u2192 50.0%", Tone.GOOD)
    assert learnt.reason.startswith("accuracy 0.0% before, 50.0% after 4 steps: +50.0 points (95 %: +")
    assert "20 problems; McNemar p = 0.002" in learnt.reason
    assert learnt.reason.endswith("the interval lies above zero; it is over problems, not over seeds")
    lost, *_ = findings(record(tmp_path / "lost", evaluations={0: right, 4: wrong}))
    assert (lost.answer, lost.tone) == ("no, it got worse: 50.0% \u2192 0.0%", Tone.BAD)


def test_answers_that_the_limit_cut_stand_beside_the_accuracy():
    assert describe_cuts({"cut": 3}) == " (3 answers were cut)"
    assert describe_cuts({"cut": 0}) == describe_cuts({}) == ""


def test_a_gain_of_one_problem_may_be_chance(tmp_path):
    before = [answer(f"p{index}", index < 10) for index in range(20)]
    after = [answer(f"p{index}", index < 11) for index in range(20)]
    learnt, *_ = findings(record(tmp_path, evaluations={0: before, 4: after}))
    assert learnt.answer == "not sure: 50.0% \u2192 55.0%"
    assert "may be chance" in learnt.reason


def test_it_says_what_acted_as_means_over_steps_and_what_the_settings_make_of_it(tmp_path):
    values = {"clipped_share": 0.25, "weight_mean": 0.8, "weight_below_half": 0.125}
    values |= {"divergence_loss": 1.0, "contrastive_loss": 3.0, "matching_loss": 0.0}
    objective = {"agreement": {"level": "token", "gamma": 1.0, "scale_quantile": 0.9}, "clipping": {"quantile": 0.75}}
    run = record(tmp_path, steps=[step(0, **values), step(1, **values)], objective=objective)
    _, acted, _, broken = findings(run)
    assert acted.answer == "loss: contrast 75%, divergence 25%"
    assert [(each.name, each.acted) for each in acted.mechanisms] == [
        (
            "agreement",
            "weighed 12.5% of the tokens below 0.5 (by the settings a token at the 90% quantile of disagreement weighs "
            "0.5)",
        ),
        (
            "clip",
            "no divergence gradient for 25.0% of the tokens, as the quantile 0.75 of the settings says: where it is "
            "highest",
        ),
    ]
    assert (broken.answer, broken.tone) == ("nothing", Tone.GOOD)


@pytest.mark.parametrize(
    "ended,said",
    [
        ({"bound_by": "rollouts", "actor_idle": 0.0}, "generation: the learner waited for rollouts"),
        ({"bound_by": "learner", "actor_idle": 0.5}, "the learner: actors had no work"),
        ({"bound_by": "both", "actor_idle": 0.5}, "neither side: both waited as long"),
        ({"bound_by": "both", "colocated": True}, "neither side: generation and learning took turns"),
        ({}, "not known yet; most of the time was waiting for rollouts (75%)"),
    ],
)
def test_it_says_which_side_the_other_waited_for_as_the_end_of_the_run_does(tmp_path, ended, said):
    run = record(tmp_path, steps=[step(0), step(1)])
    if ended:
        read = {"read_s": {"auxiliary": 3.0, "primary": 5.0, "negative": 0.0}}
        (run.path / "summary.json").write_text(json.dumps({"bottleneck": ended | read}))
    _, _, held_up, _ = findings(run)
    assert held_up.answer == said
    assert held_up.shares == [("learning", 0.25), ("waiting for rollouts", 0.75), ("publishing", 0.0)]
    assert held_up.reason.endswith("; learning: primary 5 s, auxiliary 3 s") == bool(ended)


def test_it_names_the_tokens_to_which_most_of_a_mechanism_belongs():
    tokens = ("=", " carry", "\n", "=", "rare")
    values = {"divergence": [3.0, 2.0, 1.0, None, 0.5], "weight": [1.0, 0.25, 0.75, 1.0, 1.0]}
    rows = [sample(0, number, tokens=tokens[: 5 if number else 4], **values) for number in range(3)]
    assert strongest_tokens(rows, "divergence") == [("=", 9 / 19), ("\u2423carry", 6 / 19), ("\u23ce", 3 / 19)]
    assert strongest_tokens(rows, "weight", fullest=1.0) == [("\u2423carry", 0.75), ("\u23ce", 0.25)]
    assert strongest_tokens(rows, "contrast") == []


def test_the_page_says_which_run_it_is_of(tmp_path):
    page = report(record(tmp_path, steps=[step(0), step(1)], model={"path": "some/model"}, run={"steps": 40}))
    assert "arithmetic \u00b7 some/model \u00b7 2 of 40 steps \u00b7 not ended" in page


def test_answers_that_changed_come_first_lost_ones_not_behind_all_gained_ones(tmp_path):
    before = [answer("a", True), answer("b", True), answer("c", False), answer("d", False), answer("e", False)]
    after = [answer("a", True), answer("b", False), answer("c", True), answer("d", True), answer("e", False)]
    run = record(tmp_path, evaluations={0: before, 3: after})
    pairs = answer_pairs(*run.evaluations, most=4)
    assert [(pair.problem, pair.verdict) for pair in pairs] == [
        ("c", "now right"), ("b", "now wrong"), ("d", "now right"), ("e", "wrong before and after"),
    ]  # fmt: skip
    assert pairs[0].question == "what is c?"
    assert "Of 5 problems 2 got better and 1 worse" in report(run)


def test_of_a_problem_its_first_and_last_rollouts_are_beside_each_other_and_lone_ones_come_last():
    rows = [sample(0, 0, "lone"), sample(0, 1, "two"), sample(4, 40, "two"), sample(9, 90, "two")]
    found = sampled_problems(rows, most=2)
    assert [[(each["problem"], each["step"]) for each in problem] for problem in found] == [
        [("two", 0), ("two", 9)],
        [("lone", 0)],
    ]


def test_where_no_problem_came_twice_those_shown_are_of_the_whole_run():
    rows = [sample(index, index, f"p{index}") for index in range(30)]
    assert [problem[0]["step"] for problem in sampled_problems(rows, most=5)] == [0, 6, 12, 18, 24]
    assert sampled_problems(rows, most=0) == []


def test_a_chart_has_a_curve_for_each_number_that_is_there_and_a_table_of_them(tmp_path):
    run = record(tmp_path, steps=[step(0, divergence=None), step(1, divergence=0.5), step(2, divergence=0.25)])
    by_title = {chart.title: chart for chart in charts_of_run(run)}
    assert [curve.points for curve in by_title["Divergence"].curves] == [[(2, 0.5), (3, 0.25)]]
    assert by_title["Divergence"].table() == [["2", "0.5"], ["3", "0.25"]]
    assert "Agreement weights" not in by_title
    drawn = by_title["Divergence"].svg()
    assert drawn.startswith("<svg")
    assert "<style" not in drawn
    assert "<script" not in drawn
    assert "<title>2: 0.5</title>" in drawn


def test_lengths_are_tokens_per_completion(tmp_path):
    run = record(tmp_path, steps=[step(0), step(1, tokens=70)])
    chart = next(chart for chart in charts_of_run(run) if chart.title == "Lengths")
    assert chart.curves[0].points == [(1, 2.0), (2, 7.0)]


def test_the_band_of_an_interval_has_the_colour_of_its_curve_and_its_borders_stand_in_the_table():
    curves = [Curve("accuracy", [(0, 0.5), (4, 0.75)], [(0.25, 0.6), (0.5, 1.0)]), Curve("b", [(0, 0.125)])]
    chart = Chart("t", "", curves, percent=True)
    assert curves[0].band == [(0, 0.25), (4, 0.5), (4, 1.0), (0, 0.6)]
    assert chart.head == ["step", "accuracy", "accuracy, 95 %", "b"]
    assert chart.table() == [["0", "50%", "25% to 60%", "12.5%"], ["4", "75%", "50% to 100%", ""]]
    drawn = chart.svg()
    assert "curve-0 band" in drawn
    assert "curve-1" in drawn
    assert "curve-2" not in drawn


def test_long_curves_are_thinned_and_keep_both_ends():
    points = [(step, float(step)) for step in range(10_001)]
    found = thinned(points)
    assert len(found) == MOST_POINTS
    assert found[0] == points[0]
    assert found[-1] == points[-1]
    assert thinned(points[:10]) == points[:10]


def test_of_two_runs_the_curves_lie_over_one_another_and_only_differing_settings_are_listed(tmp_path):
    evaluation = [answer(f"p{index}", False) for index in range(20)]
    better = [answer(f"p{index}", index < 10) for index in range(20)]
    first = RunRecord.at(run_folder(tmp_path / "a" / "x", [step(0)], evaluations={1: evaluation}))
    second = RunRecord.at(
        run_folder(tmp_path / "b" / "x", [step(0)], evaluations={1: better}, learner={"learning_rate": 0.5})
    )
    loss = next(chart for chart in charts_of_runs([first, second], ["one", "two"]) if chart.title == "Loss terms: loss")
    assert [curve.name for curve in loss.curves] == ["one", "two"]
    page = comparison([first, second])
    assert "Is x (2) better than x (1)?" in page
    assert "yes: +50.0 points" in page
    (table,) = re.findall(r"<h2>The runs</h2>.*?</table>", page, re.DOTALL)
    cells = ["x (1)", "0.0%", "0.0%", "0.0% to 100.0%", "1", "20", "4"]
    assert re.findall(r"<td>(.*?)</td>", table)[:7] == cells
    assert re.findall(r'<th scope="row">(.*?)</th>', page) == ["learner.learning_rate"]


def test_what_is_cut_and_what_is_not_seen_says_so():
    assert visible("a\u202eb\n\tc\x1b") == "a\u27e8U+202E\u27e9b\n\tc\u27e8U+001B\u27e9"
    assert shortened("y" * 4010) == "y" * 4000 + " [10 characters more]"


def test_a_run_that_has_just_begun_has_a_page_and_a_torn_line_costs_only_itself(tmp_path):
    path = run_folder(tmp_path / "run", [step(0)])
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"lineage": 0, "st')
    assert [row["step"] for row in RunRecord.at(path).rows] == [0]
    assert write_report(path).read_text().startswith("<!DOCTYPE html>")


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"is not the folder of a run: it has no config\.toml"):
        write_report(tmp_path)
