"""What the person in front of this process reads, apart from what libraries write.

```
 Console.print, say ----------------------------------> the terminal (or the pipe that stands for it)
 print, warnings, loggers, native code --> 1 and 2 --\
                                  OutputCapture --> temporary file --> RUN/logs/driver.log
```

Ray, vLLM, DeepSpeed, torch and transformers write warnings that mean nothing to a user. While output is captured, all
that goes to the file descriptors 1 and 2 is a log's; the terminal is reached by `say` and by the stream of the capture.
"""

import io
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO

_STREAMS = (1, 2)
_SHOW_CURSOR = b"\x1b[?25h"  # a live view hides it
_error_descriptors = [2]  # the last one is the terminal's
_speakers: list[Callable[[str], None]] = []


def say(line: str) -> None:
    """Show the person a line, by whom has the terminal: the console where there is one, else standard error."""
    if _speakers:
        _speakers[-1](line)
    else:
        print(line, file=sys.stderr, flush=True)


@contextmanager
def spoken_by(speaker: Callable[[str], None]) -> Iterator[None]:
    """In this block `speaker` shows the lines of `say`."""
    _speakers.append(speaker)
    try:
        yield
    finally:
        _speakers.remove(speaker)


def write_at_once(text: bytes) -> None:
    """Write to the terminal's standard error, past all buffers, for a process that ends without another word."""
    descriptor = _error_descriptors[-1]
    os.write(descriptor, (_SHOW_CURSOR if os.isatty(descriptor) else b"") + text)


class OutputCapture:
    """The file descriptors 1 and 2 of this process, and of those it starts, lead to a file instead of the terminal.

    `stream` still leads to where 1 led before. What was written before `keep_in` is known is copied there.
    """

    def __init__(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        self._before = [os.dup(number) for number in _STREAMS]
        self.stream: TextIO = io.TextIOWrapper(
            io.FileIO(self._before[0], "w", closefd=False), sys.stdout.encoding, "backslashreplace", line_buffering=True
        )
        self._log: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115  closed by `close`
        self._lead_to(self._log)
        _error_descriptors.append(self._before[1])

    def keep_in(self, path: Path) -> None:
        """Append what is written from now on, and what was, to the file at `path`; not where the disk refuses it."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            log = path.open("ab", buffering=0)
        except OSError:
            return
        self._lead_to(log)
        self._log.seek(0)
        shutil.copyfileobj(self._log, log)
        self._log.close()
        self._log = log

    def close(self) -> None:
        """Lead 1 and 2 to where they led before."""
        for stream in (sys.stdout, sys.stderr, self.stream):
            stream.flush()
        _error_descriptors.remove(self._before[1])
        for before, number in zip(self._before, _STREAMS, strict=True):
            os.dup2(before, number)
            os.close(before)
        self._log.close()

    def _lead_to(self, log: BinaryIO) -> None:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for number in _STREAMS:
            os.dup2(log.fileno(), number)


def is_terminals_process() -> bool:
    """Whether standard output is the process's own: not replaced by a test, a notebook or `redirect_stdout`."""
    own = (sys.__stdout__, sys.__stderr__)
    try:
        return (sys.stdout, sys.stderr) == own and tuple(stream.fileno() for stream in own if stream) == _STREAMS
    except (AttributeError, OSError, ValueError):  # closed, or none at all
        return False
