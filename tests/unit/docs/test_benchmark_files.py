"""`--json FILE` of the benchmarks: results are replaced by results, and nothing else is."""

from argparse import ArgumentTypeError

import pytest

from benchmarks.output import finish, result_file
from docs.check import ROOT


def test_a_file_that_holds_something_else_is_refused_and_left_as_it_is(tmp_path):
    for text in ("my notes", "{}", "[1]"):
        (tmp_path / "file").write_text(text)
        with pytest.raises(ArgumentTypeError, match="holds no results of a benchmark: name another file"):
            result_file(str(tmp_path / "file"))
        assert (tmp_path / "file").read_text() == text
    with pytest.raises(ArgumentTypeError, match="is not a folder"):
        result_file(str(tmp_path / "nowhere" / "file"))


def test_results_are_replaced(tmp_path):
    file = tmp_path / "results.json"
    for _ in range(2):
        assert result_file(str(file)) == file
        finish({"cores": 2}, [{"row": 1}], {}, file)


def test_every_benchmark_looks_at_its_file_first():
    options = [line for file in (ROOT / "benchmarks").glob("*.py") for line in file.read_text().splitlines()]
    options = [line for line in options if '"--json"' in line]
    assert len(options) >= 8
    assert all("type=result_file" in line for line in options)
