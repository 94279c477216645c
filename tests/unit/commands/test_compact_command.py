"""`python -m unisd_rl.compact`: refuses a run that is alive, and everything else in one sentence."""

import asyncio

import numpy as np
import pytest

from tests.fakes.full_disk import files_of_at_most
from unisd_rl.compact import main
from unisd_rl.config.load import load_recipe
from unisd_rl.driver.run_dir import RunDirectory
from unisd_rl.storage.stores import pin_location
from unisd_rl.transport.rollouts.ledger import Ledger
from unisd_rl.transport.rollouts.schema import encode
from unisd_rl.types import Rollout, Source


@pytest.fixture
def run(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    directory.create(load_recipe("unisd_star"))
    location = pin_location(directory.path / "rollouts", str(tmp_path / "shared"))
    for number in (1, 0):  # each to a segment of its own
        asyncio.run(Ledger(location, fsync=False).append(encode([row(number)])))
    yield directory
    directory.close()


def row(number):
    tokens = np.arange(3, dtype=np.int32)
    gold = (Source.GOLD, tokens, (), tokens, None, None, None)
    return Rollout(number, "id", *gold, "stop", number, "actor", 0.0, 1.0)


def test_a_run_is_compacted_once_it_has_stopped(run, tmp_path, capsys):
    assert main([str(run.path)]) == 2
    assert "a run is writing to" in capsys.readouterr().err
    assert len(Ledger(run.path / "rollouts", fsync=False).entries) == 2
    run.close()
    assert main([str(run.path)]) == 0
    assert "2 rollouts of 2 segments compacted" in capsys.readouterr().out
    ledger = Ledger(run.path / "rollouts", fsync=False)
    assert ([file.ranges.tolist() for file in ledger.compacted], ledger.entries) == ([[[0, 2]]], ())


def test_no_run_starts_while_it_is_compacted(run, monkeypatch):
    from unisd_rl.errors import UserError
    from unisd_rl.transport.rollouts.ledger import Compacted

    def start_a_run(ledger):
        with pytest.raises(UserError, match="another run is writing"):
            RunDirectory(run.path).create(load_recipe("unisd_star"))
        return Compacted(0, 0, 0, 0)

    run.close()
    monkeypatch.setattr(Ledger, "compact", start_a_run)
    assert main([str(run.path)]) == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(["nowhere"], "'nowhere' holds no rollouts"), ([], "RUN"), (["a", "b"], "unrecognized arguments: b")],
)
def test_a_bad_argument_is_one_sentence(arguments, told, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_a_disk_that_fails_is_one_sentence_and_nothing_is_lost(run, capsys):
    run.close()
    with files_of_at_most(1000):
        assert main([str(run.path)]) == 1
    assert "its rollouts are all there" in capsys.readouterr().err
    assert list(Ledger(run.path / "rollouts", fsync=False).numbers) == [0, 1]
