"""The commands `report` and `compare`: where the page goes, and what is refused."""

import gzip
import json

import pytest

from tests.fakes.run_folder import run_folder, step
from unisd_rl import compare, report
from unisd_rl.storage.timeline import Track


def test_report_writes_the_page_into_the_runs_folder_and_names_it(tmp_path, capsys):
    run = run_folder(tmp_path / "run", [step(0)])
    assert report.main([str(run)]) == 0
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    assert (run / "report.html").is_file()


def test_report_also_writes_the_timeline_where_the_processes_wrote_spans(tmp_path, capsys):
    run = run_folder(tmp_path / "run", [step(0)])
    track = Track(run, "driver")
    track.add("learning", 1.0, 2.0, step=0)
    track.flush()
    assert report.main([str(run)]) == 0
    assert capsys.readouterr().out == f"{run / 'report.html'}\n{run / 'timeline.json.gz'}\n"
    trace = json.loads(gzip.decompress((run / "timeline.json.gz").read_bytes()))
    assert [event["name"] for event in trace["traceEvents"] if event["ph"] == "X"] == ["learning"]


def test_compare_writes_one_page_of_all_runs(tmp_path, capsys):
    runs = [str(run_folder(tmp_path / name, [step(0)])) for name in ("one", "two", "three")]
    out = tmp_path / "page.html"
    assert compare.main([*runs, "--out", str(out)]) == 0
    assert "Is two better than one?" in out.read_text()
    assert "Is three better than two?" in out.read_text()


def test_compare_needs_two_runs(tmp_path, capsys):
    assert compare.main([str(tmp_path)]) == 2
    assert "is one run: name two or more" in capsys.readouterr().err


@pytest.mark.parametrize("command", [report.main, lambda words: compare.main([*words, *words])])
def test_a_folder_that_is_no_run_is_refused_in_one_sentence(command, tmp_path, capsys):
    assert command([str(tmp_path)]) == 2
    assert "is not the folder of a run: it has no config.toml; name the folder" in capsys.readouterr().err


def test_a_page_that_cannot_be_written_is_a_failure_with_its_reason(tmp_path, capsys):
    runs = [str(run_folder(tmp_path / name)) for name in ("one", "two")]
    assert compare.main([*runs, "--out", str(tmp_path / "no" / "page.html")]) == 1
    assert "cannot be written to" in capsys.readouterr().err
