"""The page of a run as a browser shows it: a run whose model wrote hostile text, in real headless Chromium."""

import random

import pytest

from tests.fakes.browser import CHROMIUM, browser_page
from tests.fakes.run_folder import HOSTILE, answer, run_folder, sample, step
from unisd_rl.reporting.page import comparison, write_report
from unisd_rl.reporting.record import RunRecord

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)")
WORDS = ("nine", " and", "\n", HOSTILE, "", "x" * 400, "\u0627\u0644\u0639", " end")
NAMES = ("divergence", "weight", "contrast", "entropy")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with browser_page(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run with an answer of 10,000 tokens, of which 1,024 are kept."""
    draw = random.Random(0)

    def rollout(at, number, tokens):
        values = {name: [draw.gauss(0, 1) if name == "contrast" else draw.random() for _ in tokens] for name in NAMES}
        line = sample(at, number, f"{HOSTILE} {number % 4}", tokens, **values)
        return line | {"versions": [at - index % 2 for index in range(len(tokens))]}

    rows = [rollout(at, 4 * at + place, WORDS) for at in (0, 5) for place in range(3)]
    rows.append(rollout(5, 23, [f" w{index}" for index in range(1024)]) | {"length": 10_000})
    path = tmp_path_factory.mktemp("runs") / "hostile"
    return run_folder(
        path,
        steps=[step(index, divergence=1 / (index + 1), weight_mean=0.8, staleness_mean=0.5) for index in range(6)],
        samples=rows,
        evaluations={at: [answer(f"{HOSTILE} {p}", p < at, HOSTILE * 3) for p in range(8)] for at in (0, 3, 6)},
        events=[{"time_s": 1.8e9, "event": "failure", "component": "rollout-0", "reason": HOSTILE}],
    )


@pytest.fixture(scope="module")
def report(folder):
    return write_report(folder)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1440])
def test_no_error_no_request_and_nothing_sticks_out(page, report, width, dark):
    page.open(report, width, dark)
    page.run("document.querySelectorAll('details').forEach((each) => (each.open = true))")
    assert page.run("document.documentElement.scrollWidth") <= width
    assert page.complaints == []
    assert [url for url in page.requests if not url.startswith("data:")] == [report.as_uri()]


def test_hostile_text_is_shown_as_text(page, report):
    page.open(report, 1440)
    assert page.run("document.scripts.length") == 2
    assert page.run("document.querySelector('.tokens').textContent").count("<script>alert(1)</script>") == 1
    assert "\u27e8U+202E\u27e9" in page.run(
        "document.querySelector('.pair pre').textContent"
    ) or "\u27e8U+202E\u27e9" in (page.run("document.querySelector('.pair').textContent"))
    assert page.run("document.querySelectorAll('.tokens span').length") == 6 * len(WORDS) + 1024


def test_each_colouring_is_chosen_with_a_click_shows_its_legend_and_changes_the_tokens(page, report):
    page.open(report, 1440)
    names = page.run("[...document.querySelectorAll('#colourings input')].map((each) => each.value)")
    assert names == ["divergence", "weight", "version", "contrast", "entropy"]
    colours = "[...document.querySelectorAll('.tokens span')].map((each) => each.style.background).join()"
    seen = {}
    for name in (*reversed(names),):
        page.run(f"document.querySelector('#colourings input[value={name}]').click()")
        seen[name] = (page.run(colours), page.run("document.getElementById('legend').textContent"))
    assert len({tokens for tokens, _ in seen.values()}) == len({legend for _, legend in seen.values()}) == len(names)
    assert "wrong" in seen["contrast"][1]
    assert all(tokens.strip(",") for tokens, _ in seen.values())


def test_without_a_mouse_tokens_are_reached_by_tab_and_read_with_the_arrows(page, report):
    page.open(report, 1440)
    for _ in range(20):
        page.press("Tab")
        if page.run("document.activeElement.className") == "tokens":
            break
    page.press("ArrowRight")
    first = page.run("document.getElementById('token').textContent")
    page.press("ArrowRight")
    assert first.startswith('"nine"')
    assert "divergence" in first
    assert page.run("document.getElementById('token').textContent").startswith('" and"')


def test_the_theme_is_the_systems_until_the_button_is_pressed(page, report):
    background = "getComputedStyle(document.body).backgroundColor"
    page.open(report, 1440, dark=True)
    dark = page.run(background)
    page.run("document.getElementById('theme').click()")
    light = page.run(background)
    page.open(report, 1440)
    assert page.run(background) == light != dark


def test_a_comparison_fits_and_says_nothing_on_the_console(page, folder, tmp_path):
    other = run_folder(
        tmp_path / "other", steps=[step(index) for index in range(6)], evaluations={6: [answer("a", True)]}
    )
    path = tmp_path / "comparison.html"
    path.write_text(comparison([RunRecord.at(folder), RunRecord.at(other)]))
    for width in (360, 1440):
        page.open(path, width)
        assert page.run("document.documentElement.scrollWidth") <= width
        assert page.complaints == []
