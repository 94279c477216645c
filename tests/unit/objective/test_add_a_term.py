"""The guide's term, applied to a copy of the tree as the guide says, is a term: three files, nothing else."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
GUIDE = ROOT / "docs" / "add_a_term.md"


def after(path, line, addition):
    """Put text behind the first place where `line` stands."""
    text = path.read_text()
    assert line in text
    path.write_text(text.replace(line, line + addition, 1))


@pytest.fixture
def tree(tmp_path):
    """A copy of the package with the guide's four pieces of code where they belong."""
    section, field, module, entry = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), flags=re.DOTALL)
    shutil.copytree(ROOT / "unisd_rl", tmp_path / "unisd_rl", ignore=shutil.ignore_patterns("__pycache__"))
    config, objective = tmp_path / "unisd_rl/config/objective.py", tmp_path / "unisd_rl/objective"
    config.write_text(config.read_text().replace("class ObjectiveConfig", f"{section}\n\nclass ObjectiveConfig", 1))
    after(config, '"""Cross-entropy on the completions. Absent: none."""\n', field)
    (objective / "margin.py").write_text(module)
    after(objective / "unisd.py", "    LikelihoodConfig: LikelihoodTerm,\n", entry)
    imports = "from unisd_rl.config.objective import MarginConfig\nfrom unisd_rl.objective.margin import MarginTerm\n"
    after(objective / "unisd.py", "from unisd_rl.objective.likelihood import LikelihoodTerm\n", imports)
    return tmp_path


def run_in(tree, *command):
    path = os.pathsep.join([str(tree), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-P", *command], env=environment, cwd=tree, capture_output=True, text=True, timeout=120
    )


def test_the_guides_term_has_the_loss_the_gradient_the_views_and_the_metrics_of_its_formula(tree):
    result = run_in(tree, str(ROOT / "tests/fakes/margin_term.py"))
    assert (result.stdout.strip(), result.returncode) == ("all as it should be", 0), result.stderr


def test_a_command_takes_the_guides_term_and_a_tree_without_it_refuses_it(tree):
    options = ("-m", "unisd_rl.run", "ema", "--objective.margin.weight", "0.1", "--dry-run")
    result = run_in(tree, *options)
    assert (result.stderr, result.returncode) == ("", 0)
    assert run_in(ROOT, *options).returncode != 0
