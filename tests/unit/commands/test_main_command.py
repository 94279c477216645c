"""`unisd-rl NAME` is the command `python -m unisd_rl.NAME`."""

import tomllib
from pathlib import Path

import pytest

from unisd_rl.__main__ import COMMANDS, main

ROOT = Path(__file__).parents[3]


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
