"""A grid made by the command: a run and a replay of it, each trained, its checkpoints and out of domain evaluated, and
then a row."""

import tomli_w

from tests.fakes.job import Job
from unisd_rl.ablation.results import read_results

GRID = {
    "name": "one",
    "setups": ["in_process"],
    "seeds": [0],
    "wrong_demonstrations": [0.5],
    "reference": "ssd",
    "tasks": {
        "arithmetic": {
            "task": {"type": "arithmetic", "train_examples": 64, "eval_examples": 8},
            "out_of_domain": {"evaluation": "out_of_domain"},
        }
    },
    "fields": {
        "run": {"steps": 2, "checkpoint_every": 0},
        "learner": {"batch_size": 8},
        "evaluation": {"every": 1, "retention": {"examples": 4}},
        "tracking": {"to": []},
    },
    "rows": {
        "ssd": {"recipe": "ssd", "trials": 2, "evaluates_checkpoints": True},
        "again": {"recipe": "ssd", "replays": "ssd"},
    },
}


def test_a_run_of_a_grid_becomes_a_row_and_the_command_is_then_done(tmp_path):
    grid = tmp_path / "one.toml"
    grid.write_text(tomli_w.dumps(GRID))
    first, second = (
        Job("unisd_rl.ablate", grid, "--runs", tmp_path / "runs").communicate(timeout=300)[0] for _ in range(2)
    )
    assert "2 of 2 runs to make" in first
    assert "failed" not in first
    assert "0 of 2 runs to make" in second
    row, again = read_results(tmp_path / "one.parquet")
    assert (row.row, row.wrong_demonstrations, row.seed, row.trials) == ("ssd", 0.5, 0, 2)
    assert row.steps == [1, 2]
    assert len(row.problems) == 8
    assert row.base_accuracy == sum(row.base_scores) / 8
    assert abs(row.mean_accuracy - sum(row.scores) / 8) < 1e-12
    assert 0.0 <= row.out_of_domain <= 1.0
    assert min(row.ppl_fit, row.ppl_ret) >= 1.0
    assert row.jsd >= 0.0
    assert row.trained_tokens > 0
    assert row.peak_mib > 100.0
    assert row.cpu_seconds > 0.0
    assert "| ssd |" in (tmp_path / "one.md").read_text()
    assert (again.row, again.steps, again.accuracies) == ("again", row.steps, row.accuracies), "the same objective"
    assert (again.scores, again.base_scores, again.out_of_domain) == (row.scores, row.base_scores, row.out_of_domain)
    assert (again.generated_tokens, again.trained_tokens) == (0, row.trained_tokens)
