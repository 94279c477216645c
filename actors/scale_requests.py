"""What a person says to a run that is going on, and what it answers: two small files in the run's folder.

| file | written by | says |
|---|---|---|
| control/actors.json | `python -m unisd_rl.scale` | how many rollout actors there shall be |
| control/status.json | the driver, when it changes | how many there shall be, how many serve, where each stands |

Each is replaced as a whole: who reads never finds half of one. They work wherever the folder is seen.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unisd_rl.storage.files import is_locked, write_text_atomic


class InvalidRequest(Exception):
    """A control file that says nothing; the message is a sentence with its path."""


@dataclass(frozen=True, slots=True)
class ActorCounts:
    """`wanted` rollout actors, `serving` of them; `slots` says where each stands, e.g. `rollout-2: starting`."""

    wanted: int
    serving: int
    slots: tuple[str, ...]


class ScaleRequests:
    """Both ends of the control files of one run folder."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir, self._folder = run_dir, run_dir / "control"
        self._reported: ActorCounts | None = None

    @property
    def running(self) -> bool:
        """Whether a driver has this run's folder now."""
        return is_locked(self._run_dir)

    def request_actors(self, count: int) -> None:
        """Say how many rollout actors there shall be."""
        self._replace("actors.json", {"actors": count})

    def requested_actors(self) -> int | None:
        """What was last said; None if nothing was.

        Raises:
            Unreadable: somebody wrote something else there.
        """
        requested = self._read("actors.json")
        if requested is None:
            return None
        if not isinstance(requested, dict) or not isinstance(count := requested.get("actors"), int) or count < 1:
            raise InvalidRequest(f'{self._folder / "actors.json"} is not {{"actors": N}} with N >= 1: it is ignored')
        return count

    def reset(self) -> None:
        """A driver starts: what an earlier one answered holds no more. What was asked of it does."""
        (self._folder / "status.json").unlink(missing_ok=True)

    def report(self, status: ActorCounts) -> None:
        """Write the driver's answer, if it is another than before."""
        if status != self._reported:
            self._replace("status.json", asdict(status))
            self._reported = status

    def status(self) -> ActorCounts | None:
        """The driver's newest answer; None before the first."""
        report = self._read("status.json")
        return None if report is None else ActorCounts(report["wanted"], report["serving"], tuple(report["slots"]))

    def _read(self, name: str) -> Any:
        try:
            return json.loads((self._folder / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise InvalidRequest(f"{self._folder / name} is not JSON ({error}): it is ignored") from None

    def _replace(self, name: str, content: dict[str, Any]) -> None:
        self._folder.mkdir(exist_ok=True)
        write_text_atomic(self._folder / name, json.dumps(content) + "\n")
