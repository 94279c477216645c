import os

import pytest

from tests.fakes.rollout_rows import rollout
from unisd_rl.storage import jsonl
from unisd_rl.types import Rollout


@pytest.fixture
def policy_row() -> Rollout:
    return rollout(3, versions=(0, 0, 1))


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch):
    """What survives a power loss is not tried here, and each call would wait for a disk that others use."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def files_of_lines_roll_over():
    """consumed.jsonl and the others have a few lines a part."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsonl, "_PART_BYTES", 1000)
        yield
