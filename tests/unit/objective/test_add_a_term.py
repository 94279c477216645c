"""The example's term, applied to a copy of the tree as the guide says, is a term: three files, nothing else."""

import ast
import re
import runpy
import shutil
from pathlib import Path

import pytest

from tests.fakes.commands import SMALL, command, dry_run, in_tree

ROOT = Path(__file__).parents[3]
GUIDE = ROOT / "docs" / "add_a_term.md"
EXAMPLE = ROOT / "examples" / "own_term.py"


def after(path, line, addition):
    """Put text behind the first place where `line` stands."""
    text = path.read_text()
    assert line in text
    path.write_text(text.replace(line, line + addition, 1))


def pieces():
    """The example's imports, its section and its term, each as it stands there."""
    text = EXAMPLE.read_text()
    lines, classes = text.splitlines(keepends=True), {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.ClassDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            classes[node.name] = "".join(lines[first - 1 : node.end_lineno])
    start = text.index("from collections.abc")
    return text[start : text.index("class MarginConfig")], classes["MarginConfig"], classes["MarginTerm"]


def guide():
    """The guide's blocks of code: the section, its field, the term, its entry."""
    return re.findall(r"```python\n(.*?)```", GUIDE.read_text(), flags=re.DOTALL)


@pytest.fixture
def tree(tmp_path):
    """A copy of the package with the example's two classes, and the guide's two lines, where they belong."""
    imports, section, term = pieces()
    _, field, _, entry = guide()
    module = f"{imports}from unisd_rl.config.objective import MarginConfig\n\n\n{term}"
    shutil.copytree(ROOT / "unisd_rl", tmp_path / "unisd_rl", ignore=shutil.ignore_patterns("__pycache__"))
    config, objective = tmp_path / "unisd_rl/config/objective.py", tmp_path / "unisd_rl/objective"
    config.write_text(config.read_text().replace("class ObjectiveConfig", f"{section}\n\nclass ObjectiveConfig", 1))
    after(config, '"""Cross-entropy on the completions. Absent: none."""\n', field)
    (objective / "margin.py").write_text(module)
    after(objective / "unisd.py", "    LikelihoodConfig: LikelihoodTerm,\n", entry)
    imports = "from unisd_rl.config.objective import MarginConfig\nfrom unisd_rl.objective.margin import MarginTerm\n"
    after(objective / "unisd.py", "from unisd_rl.objective.likelihood import LikelihoodTerm\n", imports)
    return tmp_path


def test_the_guide_and_the_example_are_one_text():
    _, section, term = pieces()
    assert [guide()[0], guide()[2]] == [section, term]


def test_the_example_states_the_derivative_that_autograd_finds(capsys):
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    loss, difference = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"margin loss 0\.0\d+; \d{2,3} of 1000 tokens below the margin", loss)
    assert float(difference.rpartition(" ")[2]) < 1e-9


def test_the_guides_term_has_the_loss_the_gradient_the_views_and_the_metrics_of_its_formula(tree):
    found = in_tree(tree, "tests.fakes.margin_term")
    assert (found.output.strip(), found.code) == ("all as it should be", 0), found.errors


def test_a_command_takes_the_guides_term_and_a_tree_without_it_refuses_it(tree):
    options = ("ema", "--objective.margin.weight", "0.1", *SMALL)
    taken = dry_run("unisd_rl.run", *options, tree=tree)
    assert (taken.errors, taken.code) == ("", 0)
    assert "  margin (weight 0.1, slack 0.5) acts" in taken.output
    assert command("unisd_rl.run", *options, "--dry-run").code == 2
