"""The report of a grid: the numbers of `numbers_of`, in Markdown and on a page, whatever rows are called."""

from xml.etree import ElementTree

import pytest

from tests.fakes.results_rows import result
from tests.unit.ablation.test_grid import grid
from unisd_rl.ablation.dots import dots_svg
from unisd_rl.ablation.report import Progress, write_report

LOW, MIDDLE, HIGH = (1.0, 0.0, 0.0, 0.0), (1.0, 1.0, 0.0, 0.0), (1.0, 1.0, 1.0, 0.0)
RESULTS = [
    *(result("sdft", seed, (0.0, 0.0, 1.0, 0.0)) for seed in (0, 1)),
    *(result("star", seed, (1.0, 1.0, 1.0, 1.0)) for seed in (0, 1)),
    result("less", 0, (0.0, 1.0, 1.0, 1.0)),
]


def written(tmp_path):
    paths = write_report(tmp_path / "small.toml", grid(), RESULTS, Progress(5, 10), tmp_path / "small.parquet")
    return [path.read_text() for path in paths]


def test_markdown_has_each_row_its_comparison_and_what_repeats_it(tmp_path):
    markdown, _ = written(tmp_path)
    lines = markdown.splitlines()
    assert "5 of 10 runs." in lines
    (star,) = [line for line in lines if line.startswith("| star | 100.0%")]
    assert star.split(" | ")[2:5] == ["100.0 100.0", "100.0%", "sdft"]
    assert "+75.0" in star
    assert "| better |" in star
    (less,) = [line for line in lines if line.startswith("- less")]
    assert less.startswith("- less cannot be told from star: -25.0 (")
    assert less.endswith("points, 1 seed")
    assert f"unisd-rl ablate {tmp_path / 'small.toml'} --only ROW --out FILE.parquet" in lines
    assert "| sdft | 1.5000 | 1.2500 | 0.1250 | 1,000 | 900 | 0.50 | 60 | 50 | 700 | 0 |" in lines


def test_the_page_draws_every_seed_and_says_each_verdict(tmp_path):
    _, page = written(tmp_path)
    assert page.count("<circle") == 2 + 2 + 2 + 1, "the initial models have two seeds"
    assert 'star, arithmetic, 0% wrong demonstrations</h2><p class="answer">better</p>' in page
    assert "<script src" not in page


def test_ranks_stand_in_both_where_rows_have_twins(tmp_path):
    rows = {row: {"recipe": "sdft", "on_policy": "sdft"} for row in ("a", "b", "c")}
    twins = grid(rows={"sdft": {"recipe": "sdft"}, **rows}, wrong_demonstrations=[0.0])
    made = [result(row, 0, scores) for row, scores in zip("abc", (LOW, MIDDLE, HIGH), strict=True)]
    made.append(result("sdft", 0, LOW))
    paths = write_report(tmp_path / "g.toml", twins, made, Progress(4, 4), tmp_path / "g.parquet")
    markdown, page = (path.read_text() for path in paths)
    assert "## Ranks: arithmetic, 0% wrong demonstrations" in markdown
    assert "of the same rows on-policy is +0.00, 1 seed." in markdown
    assert "| b | 50.0% | sdft | 25.0% |" in markdown
    assert "Ranks: arithmetic, 0% wrong demonstrations" in page


def test_a_drawing_has_each_seed_at_its_share_and_no_text_that_is_markup():
    rows = [("<b>", (0.2, 0.4), 0.3), ("other", (0.6,), 0.6)]
    root = ElementTree.fromstring(dots_svg("a title", rows))
    first, second, third = [float(dot.get("cx")) for dot in root.iter("circle")]
    assert second - first == pytest.approx(third - second, abs=0.2)
    assert [text.text for text in root.iter("text")][-2:] == ["<b>", "other"]
    means = [float(line.get("x1")) for line in root.iter("line") if line.get("class") == "mean"]
    assert means == pytest.approx([(first + second) / 2, third], abs=0.2)
