"""TensorBoard, through its own event files in RUN/tensorboard: `tensorboard --logdir runs`. Needs no network."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.text.metadata import create_summary_metadata
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from typing_extensions import override

from unisd_rl.tracking.tracker import Rows, RunInformation, Tracker


class TensorBoard(Tracker):
    """One event file for each process that runs or resumes the run."""

    waits_for_a_server = False

    def __init__(self, folder: Path) -> None:
        self._writer = EventFileWriter(str(folder))

    @override
    def begin(self, version: int, information: RunInformation) -> None:
        # A start at this step: readers forget what earlier events, in this file or an earlier one, have from it on.
        self._write(version + 1, session_log=SessionLog(status=SessionLog.START))
        self._text(version, "configuration", f"```toml\n{information.recipe}\n```")
        self._text(version, "command", f"`{information.command}`")
        if information.commit:
            self._text(version, "git commit", f"`{information.commit}`")

    @override
    def numbers(self, version: int, numbers: Mapping[str, float]) -> None:
        values = [Summary.Value(tag=name, simple_value=number) for name, number in numbers.items()]
        self._write(version, summary=Summary(value=values))

    @override
    def table(self, version: int, name: str, columns: Sequence[str], rows: Rows) -> None:
        self._text(version, name, markdown_table(columns, rows))

    @override
    def close(self, failed: bool) -> None:
        self._writer.close()

    def _text(self, version: int, name: str, markdown: str) -> None:
        tensor = TensorProto(dtype=DT_STRING, string_val=[markdown.encode()])
        value = Summary.Value(tag=name, metadata=create_summary_metadata("", ""), tensor=tensor)
        self._write(version, summary=Summary(value=[value]))

    def _write(self, version: int, **content: Summary | SessionLog) -> None:
        self._writer.add_event(Event(step=version, wall_time=time.time(), **content))


def markdown_table(columns: Sequence[str], rows: Rows) -> str:
    """The rows as a table in Markdown, each cell as code."""
    lines = [" | ".join(columns), "|".join("---" for _ in columns), *(" | ".join(map(_cell, row)) for row in rows)]
    return "\n".join(f"| {line} |" for line in lines)


def _cell(text: str) -> str:
    """In one line and without a mark that ends the cell or the code."""
    return f"`{text[:500].replace('|', '/').replace('`', chr(39))!r}`"
