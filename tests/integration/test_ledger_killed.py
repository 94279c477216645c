"""`kill -9` of the process that appends, again and again: what it said is stored is there, and nothing half."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.appending import row
from tests.fakes.rollout_rows import same_rollouts
from unisd_rl.transport.rollouts.ledger import Ledger

ROUNDS, MOST_ROUNDS = 4, 20
PATIENCE_S = 120


@pytest.mark.parametrize("fsync", [False, True])
def test_what_was_acknowledged_before_a_kill_is_there_and_every_row_is_whole(tmp_path, fsync):
    chance, acknowledged = random.Random(f"kill {fsync}"), []
    for round_ in range(MOST_ROUNDS):
        ledger = Ledger(tmp_path, fsync=False)
        if round_ >= ROUNDS and ledger.compacted:
            break  # a slow machine may need more rounds until a compaction comes to its end
        acknowledged += killed_after(tmp_path, 1000 * round_, fsync, chance.randint(1, 40))
        again = Ledger(tmp_path, fsync=False)
        assert set(ledger.numbers) | set(acknowledged) <= set(again.numbers)
        assert same_rollouts(again.rollouts(list(again.numbers)), [row(number) for number in again.numbers])
        assert again.tokens == sum(1 + number % 7 for number in again.numbers)
    assert len(acknowledged) >= ROUNDS
    assert Ledger(tmp_path, fsync=False).compacted


def killed_after(place, first, fsync, lines):
    """Numbers that the process acknowledged until it was killed, which happens when it has said so many."""
    command = [sys.executable, "-m", "tests.fakes.appending", str(place), str(first), str(fsync)]
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    ) as process:
        said = [process.stdout.readline() for _ in range(lines)]
        process.send_signal(signal.SIGKILL)
        said += process.stdout.readlines()  # `communicate` would pass over what `readline` read ahead
        assert process.wait(timeout=PATIENCE_S) == -signal.SIGKILL
    return [int(line) for line in said if line.endswith("\n")]
