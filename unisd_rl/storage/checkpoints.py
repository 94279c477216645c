"""The checkpoints of a run on storage: listed, verified, and removed when newer ones are there.

    checkpoints/step-20/              a model folder, and beside the model:
        training_state/               float32 masters, moments, the teacher's average (learner/training_state.py)
        run_state.json                where the run stood
        manifest.json                 the xxh3-64 checksum of every other file, written last

A checkpoint whose manifest is missing or does not agree was cut short or damaged: it is never loaded, and the one
before it is. Nothing here needs torch.
"""

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import xxhash

from unisd_rl.storage.files import hash_file, sync_file, write_text_atomic
from unisd_rl.storage.jsonl import json_text
from unisd_rl.storage.lineage import Rollback, version_survives
from unisd_rl.types import Failure, Report

MANIFEST, RUN_STATE = "manifest.json", "run_state.json"
_PREFIX = "step-"
_OURS = re.compile(rf"{_PREFIX}\d+(\.partial|\.old)?")  # a checkpoint, or one half written or half replaced


class DamagedCheckpoint(Exception):
    """A checkpoint was cut short, or its bytes are not those that were written; the sentence names the file."""


@dataclass(frozen=True, slots=True)
class RunState:
    """Where a run stands: `version` optimiser steps were taken, prompt `next_prompt` is the next to be trained on.

    It needs no random state, since whatever is drawn is seeded by the number of what it is drawn for; and no leases,
    since what was not stored by then is leased anew.
    """

    lineage: int
    version: int
    next_prompt: int
    fall_backs: tuple[Rollback, ...]

    def to_json(self) -> str:
        """The text of the file run_state.json."""
        return json_text(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "RunState":
        """The state that `to_json` wrote."""
        fields = json.loads(text)
        return cls(**{**fields, "fall_backs": tuple(Rollback(**line) for line in fields["fall_backs"])})


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A verified checkpoint."""

    path: Path
    state: RunState


def write_manifest(folder: Path) -> None:
    """Make `folder` a checkpoint: first its files are on the disk, then the manifest with their checksums."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        sync_file(path)
    checksums = {str(path.relative_to(folder)): _xxh3(path) for path in files}
    write_text_atomic(folder / MANIFEST, json_text(checksums), fsync=True)


def open_verified(path: Path) -> Checkpoint:
    """The checkpoint at `path`, after every byte of it was compared with its manifest.

    Raises:
        DamagedCheckpoint: it is cut short, or differs from it.
    """
    try:
        checksums = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        for name, checksum in checksums.items():
            if _xxh3(path / name) != checksum:
                raise DamagedCheckpoint(f"{path / name} is not what was written: its checksum differs")
        return Checkpoint(path, RunState.from_json((path / RUN_STATE).read_text(encoding="utf-8")))
    except OSError as error:
        raise DamagedCheckpoint(f"{path} is cut short or cannot be read: {error}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise DamagedCheckpoint(f"{path} does not say what a checkpoint says: {error}") from error


def newest_first(folder: Path) -> tuple[Path, ...]:
    """Everything in `folder` that has the name of a checkpoint, valid or not."""
    numbers = [path.name.removeprefix(_PREFIX) for path in folder.glob(f"{_PREFIX}*")]
    steps = sorted((int(number) for number in numbers if number.isdecimal()), reverse=True)
    return tuple(folder / f"{_PREFIX}{step}" for step in steps)


def latest_valid(folder: Path, rollbacks: Sequence[Rollback], report: Report) -> Checkpoint | None:
    """The newest valid checkpoint whose version counts (`version_survives`); each damaged one is reported."""
    for path in newest_first(folder):
        try:
            checkpoint = open_verified(path)
        except DamagedCheckpoint as damaged:
            report(Failure("checkpoint", f"{damaged}; the one before it is used", 0, 0.0))
            continue
        if version_survives(checkpoint.state.lineage, checkpoint.state.version, rollbacks):
            return checkpoint
    return None


def keep_newest(folder: Path, count: int) -> int:
    """Remove all but the newest `count`, and what was left half written. The newest must be valid.

    Returns the step of the oldest that is kept, 0 while there are fewer: the initial model is one to go back to then.
    What a person put there under another name, e.g. a copy `step-40-best`, stays.
    """
    newest = newest_first(folder)[:count]
    kept = {path.name for path in newest}
    for path in folder.iterdir():
        if _OURS.fullmatch(path.name) and path.name not in kept:
            shutil.rmtree(path, ignore_errors=True)
    return int(newest[-1].name.removeprefix(_PREFIX)) if len(newest) == count else 0


def _xxh3(path: Path) -> str:
    return hash_file(xxhash.xxh3_64, path).hexdigest()
