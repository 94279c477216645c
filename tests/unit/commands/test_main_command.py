"""`unisd-rl NAME` is the command `python -m unisd_rl.NAME`."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from unisd_rl.__main__ import COMMANDS, main

ROOT = Path(__file__).parents[3]


def test_the_help_names_every_command_and_imports_nothing_heavy():
    script = (
        "import sys; from unisd_rl.__main__ import main; code = main(['--help']); "
        "assert not {'transformers', 'torch', 'ray', 'pyarrow'} & set(sys.modules), 'heavy'; sys.exit(code)"
    )
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert all(f"  {name} " in ended.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_starts_by_its_name_and_lists_its_options(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert f"python -m unisd_rl.{name}" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["train"], ["--dry-run"]])
def test_another_word_is_refused_with_the_commands(arguments, capsys):
    assert main(arguments) == 2
    assert "run, evaluate, prepare, replay, scale, compact" in capsys.readouterr().err


def test_it_is_installed_under_its_name():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"unisd-rl": "unisd_rl.__main__:main"}


def test_it_starts_as_a_module_too():
    command = [sys.executable, "-m", "unisd_rl", "run", "--help"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert "--run.steps" in ended.stdout
