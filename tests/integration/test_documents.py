"""The quick start and the examples, run as they are written; only sizes are made small by options behind the words.

`make` targets are not run here: `make setup` made the environment that runs this.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from unisd_rl.base_model import BaseModelRecipe, ensure_base_model

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow
TIMEOUT_S = 540
SMALL = "--rollout.engine.type transformers --task.eval_examples 16"
SIZES = {
    "unisd_rl.run": f"{SMALL} --learner.batch_size 4 --task.train_examples 64",
    "unisd_rl.evaluate": SMALL,
}


def run(line, folder):
    """A line as a shell has it in a checkout whose environment is active, with small sizes behind it."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        ["bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S
    )


def with_sizes(line):
    words = shlex.split(line)
    return f"{line} {SIZES.get(words[2], '')}" if words[:2] == ["python", "-m"] and "--resume" not in words else line


def test_the_quick_start_runs_word_for_word(tmp_path):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    blocks = re.findall(r"^```console\n(.*?)^```", (ROOT / "docs/quick_start.md").read_text(), re.DOTALL | re.MULTILINE)
    lines = [line for line in "".join(blocks).splitlines() if line.startswith("python")]
    assert len(lines) >= 7
    ended = {line: run(with_sizes(line), tmp_path) for line in lines}
    resumed = next(line for line in lines if "--resume" in line)
    failed = {line: end.stdout + end.stderr for line, end in ended.items() if end.returncode and line != resumed}
    assert failed == {}
    assert ended[resumed].returncode == 2  # as the page says: that run has finished
    assert "finished" in ended[resumed].stderr
    assert json.loads((tmp_path / "runs/arithmetic/summary.json").read_text())["steps"] == 40
    assert json.loads((tmp_path / "runs/ema/summary.json").read_text())["steps"] == 20


@pytest.mark.parametrize(
    "line,name,steps",
    [
        ("python -m unisd_rl.run examples/own_data/own_data.toml --run.steps 2", "own_data", 2),
        (
            "python -m unisd_rl.run --task.type python --task.factory examples.backwards_task:load --run.name backwards"
            " --run.steps 2 --learner.batch_size 4",
            "backwards",
            2,
        ),
    ],
)
def test_an_example_trains(tmp_path, line, name, steps):
    model = ensure_base_model(BaseModelRecipe(), lambda *_: None)
    options = f"--model.path {model} --rollout.engine.type transformers --run.dir {tmp_path}"
    ended = run(f"{line} {options}", ROOT)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert json.loads((tmp_path / name / "summary.json").read_text())["steps"] == steps
