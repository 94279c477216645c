"""The command that the console tells a person to type works."""

import shlex

from unisd_rl.driver.console import Console
from unisd_rl.run import PROGRAM, main


def test_the_command_to_go_on_with_a_stopped_run_is_accepted(tmp_path, capsys):
    run = tmp_path / "my runs" / "first"
    run.mkdir(parents=True)
    (run / "config.toml").write_text(f'[run]\nname = "first"\ndir = "{run.parent}"\n[objective.divergence]\n')
    Console(steps=9).print_interrupted(run)
    typed = capsys.readouterr().out.partition(PROGRAM)[2]
    assert main([*shlex.split(typed), "--dry-run"]) == 0
