"""Trackio, through its own client: to TRACKIO_DIR, a Space or a server where its variables name one, or else to a
database in RUN/trackio, which needs no network: `TRACKIO_DIR=runs/NAME/trackio trackio show`."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from typing_extensions import override

from unisd_rl.tracking.run_id import run_id
from unisd_rl.tracking.tracker import RESUMED_FROM, Rows, RunInformation, Tracker

_ELSEWHERE = ("TRACKIO_SERVER_URL", "TRACKIO_SPACE_ID")
"""Variables that send it to a server."""


class Trackio(Tracker):
    """One Trackio run; its step is the version. A history there cannot be taken back, hence `resumed_from`."""

    def __init__(self, run: Path, name: str) -> None:
        os.environ.setdefault("TRACKIO_DIR", str(run / "trackio"))  # read at the import
        import trackio

        self.waits_for_a_server = any(os.environ.get(variable) for variable in _ELSEWHERE)
        self._library = trackio
        self._name, known = run_id(run, "trackio", lambda: name)
        self._project = os.environ.get("TRACKIO_PROJECT", "unisd-rl")
        self._run = trackio.init(
            project=self._project,
            name=self._name,
            resume="allow" if known else "never",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    @override
    def begin(self, version: int, information: RunInformation) -> None:
        commit, command = information.commit, information.command
        kept = {**information.config, "git_commit": commit, "command": command, "recipe": information.recipe}
        self._run.config.update(kept)
        self.numbers(version, {RESUMED_FROM: version})

    @override
    def numbers(self, version: int, numbers: Mapping[str, float]) -> None:
        told = {name: number for name, number in numbers.items() if name != "step"}  # its own word for the axis
        self._run.log(told, step=version)

    @override
    def table(self, version: int, name: str, columns: Sequence[str], rows: Rows) -> None:
        cells = [list(row) for row in rows]
        self._run.log({name: self._library.Table(columns=list(columns), data=cells)}, step=version)

    @override
    def close(self, failed: bool) -> None:
        self._run.finish()
