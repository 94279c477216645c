"""The commands run, resume and evaluate on a model of a family, one after the other in one process.

`python -m tests.fakes.family_commands FOLDER NAME KIND ENGINE` walks one; RAY_ADDRESS names the cluster. What it left
is read by `Walk`.
"""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.fakes.families import TARGETS, save_family
from tests.fakes.finished import REPOSITORY, TIMEOUT_S, FinishedRun, lines

STEPS, BATCH, HELD_OUT = 2, 4, 4
OPTIONS = (
    "--run.steps", str(STEPS), "--run.checkpoint_every", "1", "--learner.batch_size", str(BATCH),
    "--learner.learning_rate", "1e-3", "--task.eval_examples", str(HELD_OUT), "--rollout.max_prompt_tokens", "900",
    "--rollout.max_completion_tokens", "12",
)  # fmt: skip


@dataclass(frozen=True)
class Walk:
    """The folders that a walk leaves."""

    folder: Path

    @property
    def released(self) -> Path:
        return self.folder / "released"

    @property
    def run(self) -> FinishedRun:
        return FinishedRun(self.folder / "run", "")

    @property
    def losses_before(self) -> list[float]:
        """Of the run before its last step was taken from it."""
        return json.loads((self.folder / "losses.json").read_text())

    @property
    def evaluation(self) -> dict:
        return json.loads((self.folder / "evaluation" / "results.json").read_text())

    @property
    def started_from(self) -> Path:
        """What the learner read: the released folder, or its text decoder in the run's folder."""
        return next(iter(self.run.path.glob("text_decoder-*")), self.released)


def walk(folder: Path, address: str, *words: str) -> Walk:
    """Walk in a process of its own; fails with what it printed."""
    import os

    command = [sys.executable, "-m", "tests.fakes.family_commands", str(folder), *words]
    environment = {**os.environ, "RAY_ADDRESS": address}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return Walk(folder)


def records(path: Path) -> Path:
    rows = [
        {"question": f"{a}+{a + 20}?", "worked": f"{a}+{a + 20}\nAnswer: {2 * a + 20}", "result": str(2 * a + 20)}
        for a in range(10, 40)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def main(folder: Path, name: str, kind: str, engine: str) -> None:
    from unisd_rl import evaluate, run

    folder.mkdir(parents=True, exist_ok=True)
    released = save_family(name, folder / "released")
    task = ("--task.type", "jsonl", "--task.train", str(records(folder / "train.jsonl")))
    task += (
        "--task.fields.prompt",
        "question",
        "--task.fields.demonstration",
        "worked",
        "--task.fields.answer",
        "result",
    )
    lora = ("--model.lora.rank", "4", "--model.lora.alpha", "8") if kind == "lora" else ()
    if lora and name in TARGETS:
        lora += ("--model.lora.targets", json.dumps(TARGETS[name]))
    place = ("--run.dir", str(folder), "--run.name", "run", "--rollout.engine.type", engine)
    _done(run.main(["--model.path", str(released), *place, *task, *lora, *OPTIONS]))
    left = folder / "run"
    (folder / "losses.json").write_text(json.dumps([row["loss"] for row in lines(left / "metrics.jsonl")]))
    # As a run that was killed in its last step: its checkpoint and its summary are not there.
    shutil.rmtree(left / "checkpoints" / f"step-{STEPS}")
    (left / "summary.json").unlink()
    _done(run.main(["--resume", str(left)]))
    models = [str(released), str(left / "checkpoints" / f"step-{STEPS}")]
    options = ["--recipe", str(left / "config.toml"), "--retention", models[0], "--rollout.engine.type", engine]
    _done(evaluate.main([*models, *options, "--out", str(folder / "evaluation")]))


def _done(code: int) -> None:
    if code:
        sys.exit(code)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
