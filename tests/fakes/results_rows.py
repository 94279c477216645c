"""Rows of a grid's results with scores that a test says."""

from unisd_rl.ablation.results import Result

PROBLEMS = ("a", "b", "c", "d")


def result(row, seed, scores=(1.0, 0.0, 1.0, 0.0), wrong=0.0, **changes) -> Result:
    """A finished run; its accuracy is the mean of `scores`, at both of its evaluations."""
    accuracy = sum(scores) / len(scores)
    fields = {
        "row": row, "task": "arithmetic", "wrong_demonstrations": wrong, "seed": seed, "settings": "s",
        "steps": [10, 20], "accuracies": [accuracy, accuracy], "base_accuracy": 0.25, "problems": list(PROBLEMS),
        "scores": list(scores), "base_scores": [1.0, 0.0, 0.0, 0.0], "out_of_domain": 0.5, "ppl_fit": 1.5,
        "ppl_ret": 1.25, "jsd": 0.125, "generated_tokens": 1000, "trained_tokens": 900, "staleness": 0.5,
        "seconds": 60.0, "cpu_seconds": 50.0, "peak_mib": 700.0,
        "trials": 0, "machine": "a machine, 2 cores", "finished": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    return Result(**{**fields, **changes})
