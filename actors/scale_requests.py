"""Requests for another number of rollout actors in mid-run, and what became of them: two small files in a run's folder.

| file | written by | holds |
|---|---|---|
| control/actors.json | `python -m unisd_rl.scale` | how many rollout actors there shall be |
| control/status.json | the driver, when it changes | the number wanted, how many serve, where each stands |

Each is replaced as a whole: a reader never finds half of one. They work wherever the folder is seen.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unisd_rl.storage.files import is_locked, write_text_atomic


class InvalidRequest(Exception):
    """A control file that nobody can read; the message is a sentence with its path."""


@dataclass(frozen=True, slots=True)
class ActorCounts:
    """`wanted` rollout actors, `serving` of them; `states` says where each stands, e.g. `rollout-2: starting`."""

    wanted: int
    serving: int
    states: tuple[str, ...]


class ScaleRequests:
    """Both ends of the control files of one run's folder."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir, self._folder = run_dir, run_dir / "control"
        self._reported: ActorCounts | None = None

    @property
    def running(self) -> bool:
        """Whether a driver has this run's folder now."""
        return is_locked(self._run_dir)

    def request_actors(self, count: int) -> None:
        """Ask for so many rollout actors."""
        self._replace("actors.json", {"actors": count})

    def requested_actors(self) -> int | None:
        """The newest request; None if there was none.

        Raises:
            InvalidRequest: the file holds something else.
        """
        request = self._read("actors.json")
        if request is None:
            return None
        if not isinstance(request, dict) or not isinstance(count := request.get("actors"), int) or count < 1:
            raise InvalidRequest(f'{self._folder / "actors.json"} is not {{"actors": N}} with N >= 1: it is ignored')
        return count

    def reset(self) -> None:
        """A driver starts: what an earlier one reported holds no more. What was asked of it does."""
        (self._folder / "status.json").unlink(missing_ok=True)

    def report(self, counts: ActorCounts) -> None:
        """Write what there is, if it is not what was written last."""
        if counts != self._reported:
            self._replace("status.json", asdict(counts))
            self._reported = counts

    def status(self) -> ActorCounts | None:
        """The driver's newest report; None before the first."""
        report = self._read("status.json")
        return None if report is None else ActorCounts(report["wanted"], report["serving"], tuple(report["states"]))

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
