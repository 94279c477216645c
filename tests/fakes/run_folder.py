"""The folder of a run that nobody made: its files as a run writes them, for what reads them."""

import json
from pathlib import Path

from unisd_rl.config.load import load_recipe
from unisd_rl.driver.run_dir import RunDirectory

HOSTILE = "<script>alert(1)</script></script>\u202eevil\u200f\x00\ud83d"


def sample(step: int, number: int, problem: str = "1+1", tokens=("2", "\n", "end"), **values) -> dict:
    """A line of samples.jsonl."""
    values = values or {"divergence": [0.1] * len(tokens), "weight": [0.5] * len(tokens)}
    return {
        "lineage": 0, "step": step, "number": number, "id": problem, "source": "policy", "finish_reason": "stop",
        "messages": [{"role": "user", "content": "what is 1+1?"}],
        "views": [{"kind": "primary", "messages": [{"role": "user", "content": "it is 2"}]}],
        "length": len(tokens), "tokens": list(tokens), "versions": [step] * len(tokens), "values": values,
    }  # fmt: skip


def answer(problem: str, correct: bool, completion: str = "Answer: 2") -> dict:
    """A line of evaluations/step-N.jsonl."""
    return {
        "id": problem, "sample": 0, "question": f"what is {problem}?", "completion": completion, "tokens": 3,
        "reference": "2", "correct": correct, "finish_reason": "stop",
    }  # fmt: skip


def step(number: int, lineage: int = 0, **values) -> dict:
    """A line of metrics.jsonl."""
    times = {"wait_s": 3.0, "learn_s": 1.0, "publish_s": 0.0, "actor_idle": None}
    return (
        {"lineage": lineage, "step": number, "loss": 1.0 / (number + 1), "tokens": 20, "sequences": 10} | times | values
    )


def run_folder(path: Path, steps=(), samples=(), evaluations=None, events=(), rollbacks=(), **sections) -> Path:
    """`evaluations`: step -> lines of answers."""
    RunDirectory(path).create(load_recipe("unisd_star", sections))
    for name, rows in {"metrics": steps, "samples": samples, "events": events, "lineages": rollbacks}.items():
        (path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (path / "evaluations").mkdir()
    for number, answers in (evaluations or {}).items():
        accuracy = sum(each["correct"] for each in answers) / len(answers)
        numbers = {"lineage": 0, "version": number, "accuracy": accuracy, "interval": {"low": 0.0, "high": 1.0}}
        (path / "evaluations" / f"step-{number}.json").write_text(json.dumps(numbers))
        lines = "".join(json.dumps(each) + "\n" for each in answers)
        (path / "evaluations" / f"step-{number}.jsonl").write_text(lines)
    return path
