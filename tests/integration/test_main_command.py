"""`python -m unisd_rl` in a process of its own."""

import subprocess
import sys
from pathlib import Path

from unisd_rl.__main__ import COMMANDS

ROOT = Path(__file__).parents[2]


def test_the_help_names_every_command_and_imports_nothing_heavy():
    script = (
        "import sys; from unisd_rl.__main__ import main; code = main(['--help']); "
        "assert not {'transformers', 'torch', 'ray', 'pyarrow'} & set(sys.modules), 'heavy'; sys.exit(code)"
    )
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert all(f"  {name} " in ended.stdout for name in COMMANDS)


def test_it_starts_as_a_module_too():
    command = [sys.executable, "-m", "unisd_rl", "run", "--help"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert "--run.steps" in ended.stdout


def test_a_reader_that_has_seen_enough_ends_no_command():
    """As `| head -1` does: no traceback, and the command ends well."""
    words = [sys.executable, "-m", "unisd_rl.run", "--help-all"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as command:
        command.stdout.close()
        assert (command.stderr.read(), command.wait(60)) == ("", 0)
