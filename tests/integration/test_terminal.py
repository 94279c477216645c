"""While a command runs, the screen is the console's: what libraries and native code write goes to a log."""

import os
import pty
import subprocess
import sys
import textwrap
from pathlib import Path

from unisd_rl.driver.console import Console
from unisd_rl.terminal import say

ROOT = Path(__file__).parents[2]
NOISY = """
import logging, os, subprocess, sys, warnings
from pathlib import Path
from unisd_rl.driver.console import Console
from unisd_rl.terminal import say, write_at_once

def noise(word):
    os.write(1, f"{word} native out\\n".encode())
    os.write(2, f"{word} native err\\n".encode())
    print(word, "printed")
    print(word, "printed err", file=sys.stderr)
    warnings.warn(f"{word} warning")
    logging.getLogger("vllm").error(f"{word} logged")
    subprocess.run([sys.executable, "-c", f"print('{word} child')"])

with Console(captures=True) as console:
    noise("early")
    console.print("ours")
    console.keep_output(Path(sys.argv[1]))
    noise("late")
    say("said")
    write_at_once(b"signalled\\n")
    if len(sys.argv) > 2:
        raise RuntimeError("a bug of ours")
print("after")
"""
KINDS = ("native out", "native err", "printed", "printed err", "warning", "logged", "child")


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-c", NOISY, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


def test_nothing_that_libraries_write_reaches_the_screen_and_all_of_it_the_log(tmp_path):
    ended = run(tmp_path / "logs" / "driver.log")
    assert ended.stdout == "ours\nsaid\nafter\n"
    assert ended.stderr == "signalled\n"
    log = (tmp_path / "logs" / "driver.log").read_text()
    assert [f"{word} {kind}" for word in ("early", "late") for kind in KINDS if f"{word} {kind}" not in log] == []


def test_an_unexpected_error_still_shows_its_traceback(tmp_path):
    ended = run(tmp_path / "driver.log", "raise")
    assert ended.returncode == 1
    assert "RuntimeError: a bug of ours" in ended.stderr


def test_a_log_that_cannot_be_written_costs_the_log_alone(tmp_path):
    (tmp_path / "file").touch()
    ended = run(tmp_path / "file" / "driver.log")
    assert (ended.returncode, ended.stdout) == (0, "ours\nsaid\nafter\n")


def test_what_is_said_goes_to_the_console_while_there_is_one(capsys):
    say("before")
    with Console() as console:
        say("within")
        console.print("printed")
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("within\nprinted\n", "before\n")


def on_a_terminal(body, columns=100):
    """What a script writes to a terminal of so many columns."""
    script = "import time\nfrom unisd_rl.driver.console import Console\n" + textwrap.dedent(body)
    leader, follower = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "LINES": "24", "TERM": "xterm"}
    child = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, stdin=follower, stdout=follower, stderr=follower
    )
    os.close(follower)
    shown = b""
    while True:
        try:
            block = os.read(leader, 65536)
        except OSError:  # the last process closed it
            break
        if not block:
            break
        shown += block
    os.close(leader)
    assert child.wait(60) == 0, shown.decode()
    return shown.decode()


def test_something_moves_on_a_terminal_while_a_step_or_a_wait_lasts():
    shown = on_a_terminal(
        """
        with Console(captures=True) as console:
            with console.waiting("starting the engines"):
                time.sleep(1.2)
            with console.phase("learning"):
                time.sleep(1.2)
        """
    )
    frames = {character for character in shown if "\u2800" <= character <= "\u28ff"}
    assert len(frames) > 2, "the spinner turns"
    assert "learning, 0 s" in shown
    assert "learning, 1 s" in shown


def test_a_process_that_ends_hard_leaves_the_terminal_its_cursor():
    shown = on_a_terminal(
        """
        import os
        from unisd_rl.terminal import write_at_once
        with Console(captures=True) as console, console.waiting("something"):
            time.sleep(0.3)
            write_at_once(b"stopped at once")
            os._exit(0)
        """
    )
    assert "\x1b[?25l" in shown, "the live view hid it"
    assert "stopped at once" in shown
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l")


def test_what_is_done_is_counted_in_problems(tmp_path):
    shown = on_a_terminal(
        """
        with Console(captures=True) as console, console.progress("evaluating version 3") as report:
            report(384, 512, "")
            time.sleep(0.6)
        """
    )
    assert "evaluating version 3" in shown
    assert "384/512" in shown
    assert "%" not in shown


def test_nothing_moves_on_the_screen_where_output_is_not_captured_for_a_debuggers_sake():
    shown = on_a_terminal(
        """
        with Console() as console, console.progress("evaluating version 3") as report:
            report(384, 512, "")
            time.sleep(0.3)
        """
    )
    assert "evaluating version 3 ..." in shown
    assert "384/512" not in shown
    assert "\x1b[" not in shown
