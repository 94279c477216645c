"""What the command leaves behind and shows is what the answers say."""

import json
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from tests.fakes.evaluation_answers import evaluation
from unisd_rl.config.load import load_recipe
from unisd_rl.driver.console import Console
from unisd_rl.evaluation.results import (
    Result,
    comparison_table,
    comparisons,
    results_table,
    write_answers,
    write_results,
)
from unisd_rl.evaluation.retention import Drift, Likelihood, Retention
from unisd_rl.evaluation.statistics import compare

CONFIG = load_recipe("unisd_star")
FIRST, SECOND = [1, 1, 0, 0, 0, 0], [1, 0, 1, 1, 1, 0]


def results():
    pairs = [("before", FIRST), ("after", SECOND)]
    return [Result(model, task, CONFIG, evaluation(grades)) for model, grades in pairs for task in ("sums", "words")]


def with_retention(result):
    likelihood = Likelihood("p0", 0, 2, -1.0)
    retention = Retention((likelihood,), (Drift(likelihood, 0.25),))
    return replace(result, evaluation=replace(result.evaluation, retention=retention))


def test_every_model_is_compared_with_the_first_one_task_by_task():
    found = comparisons(results())
    assert [(one.task, one.first, one.second) for one in found] == [
        ("sums", "before", "after"),
        ("words", "before", "after"),
    ]
    assert found[0].comparison == compare(FIRST, SECOND)


def test_one_model_has_nothing_to_be_compared_with():
    assert comparisons(results()[:2]) == []


def test_every_answer_is_in_the_parquet_file_with_its_tokens_and_as_a_line(tmp_path):
    write_answers(tmp_path, results())
    rows = pq.read_table(tmp_path / "answers.parquet").to_pylist()
    assert len(rows) == 24
    assert {(row["model"], row["task"]) for row in rows} == {
        (m, t) for m in ("before", "after") for t in ("sums", "words")
    }
    assert rows[0] == {
        "model": "before", "task": "sums", "id": "p0", "sample": 0, "prompt_tokens": [0, 1, 2],
        "completion": "text of p0", "completion_tokens": [5, 6], "logprobs": [-0.5, -0.5], "reference": "ref",
        "correct": True, "finish_reason": "stop",
        "question": "", "stated": None,
    }  # fmt: skip
    lines = (tmp_path / "answers" / "model-1-words.jsonl").read_text().splitlines()
    assert [json.loads(line)["correct"] for line in lines] == [bool(grade) for grade in SECOND]


def test_the_numbers_and_the_comparison_are_in_the_json_file(tmp_path):
    found = [with_retention(result) for result in results()]
    write_results(tmp_path, found, comparisons(found))
    content = json.loads((tmp_path / "results.json").read_text())
    row = content["results"][0]
    assert (row["model"], row["task"], row["correct"], row["problems"]) == ("before", "sums", 2, 6)
    assert row["accuracy"] == pytest.approx(2 / 6)
    assert row["retention"]["jsd"] == pytest.approx(0.125)
    assert row["settings"]["rollout"]["max_completion_tokens"] == CONFIG.rollout.max_completion_tokens
    assert content["comparisons"][0]["comparison"]["only_second"] == 3
    by_completion = pq.read_table(tmp_path / "retention.parquet").to_pylist()
    assert [(one["completion"], one["divergence"]) for one in by_completion[:2]] == [("gold", None), ("own", 0.25)]


def test_the_tables_show_counts_rates_intervals_and_the_test(capsys):
    found = [with_retention(result) for result in results()]
    console = Console()
    console.print_table(results_table(found, (1,)))
    console.print_table(comparison_table(comparisons(found)))
    shown = capsys.readouterr().out
    assert "33.3 (9.7 to 70.0)" in shown  # Wilson: 2 of 6
    assert "66.7 (30.0 to 90.3)" in shown
    assert "+33.3" in shown
    assert "0.625" in shown  # 2 (1 + 4) / 2^4
    assert "0.1250" in shown
    assert "PPLret" in shown


def test_without_retention_no_column_speaks_of_it(capsys):
    Console().print_table(results_table(results(), (1,)))
    assert "PPL" not in capsys.readouterr().out
