"""The documents name what is there, and the checker that says so finds what is not."""

import re
import shutil
import tomllib

import pytest
import yaml

from docs import check, configuration


def test_links_paths_and_names_of_the_documents_are_there():
    assert check.problems() == []


def test_the_configurations_page_is_what_the_schema_says():
    assert configuration.PAGE.read_text() == configuration.page(), "make docs-config writes it anew"


def test_every_field_has_a_row_with_documentation():
    rows = [line for line in configuration.page().splitlines() if line.startswith("| `")]
    assert len(rows) > 150
    assert [row for row in rows if row.rstrip(" |").endswith("|") or row.endswith("|  |")] == []


def test_the_page_on_resuming_lists_the_fields_that_may_change():
    may_change = set(re.findall(r"^\| `([\w.]+)` \|.*\| yes \|", configuration.page(), flags=re.MULTILINE))
    (text,) = re.findall(r"Those that may change.*?`run.steps`", (check.ROOT / "docs/resume.md").read_text(), re.DOTALL)
    listed = {name for name in re.findall(r"`([a-z_.]+)`", text) if name in check.fields()} - {"run.steps"}
    assert {field for field in may_change if not any(f"{field}.".startswith(f"{name}.") for name in listed)} == set()
    assert {name for name in listed if not any(f"{field}.".startswith(f"{name}.") for field in may_change)} == set()


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A small repository of its own."""
    root = tmp_path_factory.mktemp("tree")
    (root / "docs").mkdir()
    shutil.copytree(check.ROOT / "unisd_rl/objective", root / "unisd_rl/objective")
    (root / "unisd_rl/__init__.py").touch()
    for name in ("architecture", "method"):
        shutil.copy(check.ROOT / f"docs/{name}.md", root / "docs")
    return root


@pytest.mark.parametrize(
    "text,said",
    [
        ("[a page](missing.md)", "leads to no file"),
        ("[a heading](method.md#nowhere)", "leads to no heading"),
        ("`unisd_rl/objective/nothing.py`", "does not exist"),
        ("`unisd_rl.objective.nothing`", "no module"),
        ("`unisd_rl.objective.ema.nothing`", "no module"),
        ("`objective.nothing`", "is no field"),
        ("```console\npython -m unisd_rl.run --objective.nothing 1\n```", "is no field"),
        ("`nothing_of_the_kind`", "stands nowhere"),
        ("`nothing.py`", "is no file"),
        ("<<<<<<< HEAD\none\n=======\nother\n>>>>>>> branch", "half done"),
    ],
)
def test_what_is_not_there_is_found(tree, text, said):
    page = tree / "docs/page.md"
    page.write_text(text)
    (problem,) = [problem for problem in check.problems(tree) if problem.startswith("docs/page.md")]
    assert said in problem


@pytest.mark.parametrize(
    "text",
    [
        "[a page](method.md#2-notation)",
        "`unisd_rl/objective/ema.py`, `unisd_rl.objective.ema`, `objective.ema.beta`, `ema.py`",
        "```console\npython -m unisd_rl.run --objective.ema.beta 1\n```",
        "[elsewhere](https://example.org/nothing.md)",
    ],
)
def test_what_is_there_is_not_complained_about(tree, text):
    page = tree / "docs/page.md"
    page.write_text(text)
    assert [problem for problem in check.problems(tree) if problem.startswith("docs/page.md")] == []


@pytest.mark.parametrize(
    "line,said",
    [
        ("decision 99", "decision 99 is not in"),
        ("method.md, section 99", "section 99 is not in"),
        ("see docs/nothing.md", "docs/nothing.md does not exist"),
    ],
)
def test_what_the_code_cites_and_no_document_has_is_found(tmp_path, tree, line, said):
    root = shutil.copytree(tree, tmp_path / "tree")
    (root / "unisd_rl/cites.py").write_text(f'"""{line}"""\n')
    assert [problem for problem in check.problems(root) if said in problem] != []


def test_the_site_has_every_page():
    pages = re.findall(r"[\w/]+\.md", (check.ROOT / "mkdocs.yml").read_text())
    assert sorted(pages) == sorted(str(path.relative_to(check.ROOT)) for path in check.documents())


def test_the_commit_hooks_run_what_lint_runs():
    hooks = yaml.safe_load((check.ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    entries = {hook["entry"].removeprefix(".venv/bin/").split()[0] for hook in hooks}
    assert entries == {"ruff", "mypy", "python", "codespell"}


def test_the_workflow_calls_what_ci_runs():
    workflow = yaml.safe_load((check.ROOT / ".github/workflows/ci.yml").read_text())
    runs = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    assert runs == [".ci/run"]


def test_the_readme_is_short():
    assert len((check.ROOT / "README.md").read_text().splitlines()) <= 180


def test_where_something_is_takes_at_most_two_files_to_see():
    text = (check.ROOT / "CONTRIBUTING.md").read_text()
    rows = [
        line for line in text.splitlines() if line.startswith(("| where ", "| who ", "| what ", "| how ", "| which "))
    ]
    assert len(rows) >= 9
    for row in rows:
        assert len(re.findall(r"`[\w/]+\.py`|\]\(", row)) <= 2, row


def test_what_is_said_to_be_in_a_file_is_defined_there():
    text = (check.ROOT / "CONTRIBUTING.md").read_text()
    said = re.findall(r"((?:`\w+` and )?`\w+`) in `([\w/]+\.py)`", text)
    assert len(said) >= 7
    for names, path in said:
        code = (check.ROOT / path).read_text()
        for name in re.findall(r"`(\w+)`", names):
            assert re.search(rf"(?m)^\s*(?:async )?(?:def|class) {name}\b", code), (name, path)


def test_the_drawing_of_the_loop_is_that_of_the_code():
    page, code = ((check.ROOT / path).read_text() for path in ("docs/concepts.md", "unisd_rl/train.py"))
    (drawing,) = re.findall(r"```\n(driver .*?)```", page, flags=re.DOTALL)
    assert [line for line in drawing.splitlines() if line.strip() not in code] == []


def test_the_rows_of_the_architecture_are_the_layers_of_the_import_contract():
    contract = tomllib.loads((check.ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    layers = [set(layer.split(" | ")) for layer in contract["layers"]]
    page = (check.ROOT / "docs/architecture.md").read_text()
    (table,) = re.findall(r"\| row \| what it is \|\n\|---\|---\|\n(.*?)\n\n", page, flags=re.DOTALL)
    rows = [re.findall(r"`([\w/]+?)(?:\.py|/)`", row.split(" | ")[0]) for row in table.splitlines()]
    assert [{name.replace("/", ".") for name in row} for row in rows] == layers
