"""Rows of a grid: written, read, and made of a finished run's folder."""

import json

import pyarrow.parquet as pq
import pytest

from tests.fakes.results_rows import result
from unisd_rl.ablation.grid import Cell
from unisd_rl.ablation.results import Cost, checkpoint_evaluations, read_results, result_of, write_results
from unisd_rl.errors import RunFailed, UserError
from unisd_rl.reporting.record import RunRecord

CELL = Cell("sdft", "arithmetic", 0.3, 2)


def test_rows_are_read_as_they_were_written_and_there_are_none_before(tmp_path):
    file = tmp_path / "grid.parquet"
    assert read_results(file) == []
    rows = [result("sdft", 0), result("star", 1, out_of_domain=None, jsd=None)]
    write_results(file, rows)
    assert read_results(file) == rows
    assert [path.name for path in tmp_path.iterdir()] == ["grid.parquet"]


def test_rows_from_before_a_column_was_kept_are_read_without_it(tmp_path):
    file = tmp_path / "grid.parquet"
    write_results(file, [result("sdft", 0)])
    pq.write_table(pq.read_table(file).drop_columns(["staleness"]), file)
    assert read_results(file) == [result("sdft", 0, staleness=None)]


def test_another_file_is_refused_with_the_remedy(tmp_path):
    file = tmp_path / "grid.parquet"
    file.write_text("no parquet")
    with pytest.raises(UserError, match=r"is no file of results .*; move it away, or name another with --out"):
        read_results(file)


def run_with(folder, steps):
    (folder / "evaluations").mkdir(parents=True)
    (folder / "config.toml").write_text("")
    for step, right in steps.items():
        answers = [{"id": name, "correct": name in right} for name in "abcd"]
        retention = {"ppl_fit": 2.0, "ppl_ret": 1.0 + step, "jsd": 0.1} if step else None
        numbers = {"version": step, "lineage": 0, "accuracy": len(right) / 4, "retention": retention}
        (folder / f"evaluations/step-{step}.json").write_text(json.dumps(numbers))
        (folder / f"evaluations/step-{step}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    (folder / "metrics.jsonl").write_text(
        '{"step": 0, "tokens": 30, "staleness_mean": null}\n'
        '{"step": 1, "tokens": 40, "staleness_mean": 0.5}\n{"step": 2, "tokens": 0, "staleness_mean": 1.0}\n'
    )
    (folder / "summary.json").write_text('{"queue": {"tokens": 99}}')
    return RunRecord.at(folder)


def test_a_runs_row_has_the_mean_of_each_problem_over_the_evaluations_after_a_step(tmp_path):
    run = run_with(tmp_path / "run", {0: "a", 10: "ab", 20: "abc"})
    row = result_of(CELL, "digest", run, 0.125, Cost(61.5, 50.5, 700.0), trials=4)
    assert row.cell == CELL
    assert (row.steps, row.accuracies, row.base_accuracy) == ([10, 20], [0.5, 0.75], 0.25)
    assert (row.problems, row.scores, row.base_scores) == (list("abcd"), [1.0, 1.0, 0.5, 0.0], [1.0, 0.0, 0.0, 0.0])
    assert row.mean_accuracy == 0.625
    assert (row.ppl_fit, row.ppl_ret, row.jsd, row.out_of_domain) == (2.0, 21.0, 0.1, 0.125)
    assert (row.generated_tokens, row.trained_tokens, row.seconds, row.cpu_seconds) == (99, 70, 61.5, 50.5)
    assert (row.peak_mib, row.trials, row.staleness) == (700.0, 4, 0.75)


def test_checkpoints_that_were_evaluated_after_the_run_count_at_their_steps(tmp_path):
    folder = tmp_path / "later"
    (folder / "answers").mkdir(parents=True)
    for place, right in enumerate(("a", "ab")):
        answers = [json.dumps({"id": name, "correct": name in right}) for name in "abcd"]
        (folder / f"answers/model-{place}-arithmetic.jsonl").write_text("\n".join(answers) + "\n")
    content = {"results": [{"accuracy": 0.25}, {"accuracy": 0.5}]}
    (folder / "results.json").write_text(json.dumps(content))
    later = checkpoint_evaluations(folder, [10, 20])
    run = run_with(tmp_path / "run", {0: "a", 30: "abc"})
    row = result_of(CELL, "digest", run, None, Cost(1.0, 1.0, 1.0), 0, later)
    assert (row.steps, row.accuracies) == ([10, 20, 30], [0.25, 0.5, 0.75])
    assert row.scores == pytest.approx([1.0, 2 / 3, 1 / 3, 0.0])
    assert row.ppl_ret == 31.0, "the last evaluation is the run's own"


@pytest.mark.parametrize("evaluations", [{0: "a"}, {}])
def test_a_run_without_an_evaluation_after_a_step_is_no_row(tmp_path, evaluations):
    with pytest.raises(RunFailed, match="has no evaluation after a step"):
        result_of(CELL, "digest", run_with(tmp_path / "run", evaluations), None, Cost(1.0, 1.0, 1.0), trials=0)
