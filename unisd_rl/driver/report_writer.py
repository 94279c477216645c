"""Writes the page of a run beside the loop: a thread, as the driver mostly waits. No run ends for want of a page."""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from unisd_rl.reporting.page import write_report
from unisd_rl.storage.timeline import TIMELINE, write_timeline
from unisd_rl.types import Notice, Report


class ReportWriter:
    """One page at a time; one that is wanted meanwhile is written with the next."""

    def __init__(self, run: Path, report: Report) -> None:
        self._run, self._report = run, report
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="report")
        self._writing: Future[None] | None = None

    def start(self) -> None:
        """Begin to write the page of what is there now; does nothing while one is being written."""
        if self._writing is None or self._writing.done():
            self._writing = self._thread.submit(self._write)

    def finish(self) -> None:
        """Write the last page, and the timeline: seconds."""
        self.start()
        self.close()
        try:
            write_timeline(self._run)
        except Exception as error:  # as for the page
            self._report(Notice("report", f"no {self._run / TIMELINE}: {error!r}"))

    def close(self) -> None:
        """Wait for a page that is being written: seconds."""
        self._thread.shutdown()

    def _write(self) -> None:
        try:
            write_report(self._run)
        except Exception as error:  # whatever a page fails for, it must not cost the run
            reason = f"no {self._run / 'report.html'}: {error!r}; unisd-rl report {self._run} writes it later"
            self._report(Notice("report", reason))
