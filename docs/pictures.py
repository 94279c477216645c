"""The pictures of README and docs, of real runs in headless Chromium: `python -m docs.pictures RUN RUN_A RUN_B`.

RUN is shown by its report and by the live view as it was in mid-run, RUN_A and RUN_B by their comparison, pages in both
themes. Needs the program `chromium`. Writes docs/pictures.
"""

import base64
import io
import re
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.terminal_theme import MONOKAI

from tests.fakes.browser import Page, browser_page
from unisd_rl.driver.status import ConsumedTail, RunStatus
from unisd_rl.reporting.page import comparison, report
from unisd_rl.reporting.record import RunRecord

FOLDER = Path(__file__).parent / "pictures"
WIDTH = 1100  # pixels
MOST_BYTES = 200_000
_LIVE_COLUMNS = 104


def main(run: Path, *compared: Path) -> None:
    """Write all of them."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, browser_page(Path(folder) / "profile") as page:
        for name, text, dark, height in _pages(run, compared):
            path = Path(folder) / "page.html"
            path.write_text(text, encoding="utf-8")
            page.open(path, WIDTH, dark)
            (FOLDER / f"{name}.png").write_bytes(_screenshot(page, height))
    (FOLDER / "live.svg").write_text(_live_view(run), encoding="utf-8")
    for path in sorted(FOLDER.iterdir()):
        assert path.stat().st_size <= MOST_BYTES, f"{path} has {path.stat().st_size} bytes: lower its height"
        print(f"{path} {path.stat().st_size // 1000} kB")


def _pages(run: Path, compared: Sequence[Path]) -> Iterator[tuple[str, str, bool, int]]:
    """(Name, HTML, dark, height in pixels)."""
    one, several = report(RunRecord.at(run)), comparison([RunRecord.at(each) for each in compared])
    for theme in ("light", "dark"):
        yield f"report-{theme}", one, theme == "dark", 1180
        yield f"comparison-{theme}", several, theme == "dark", 850


def _screenshot(page: Page, height: int) -> bytes:
    clip = {"x": 0, "y": 0, "width": WIDTH, "height": height, "scale": 1}
    shot = page.call("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
    drawn = Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")
    small = io.BytesIO()
    few = drawn.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)  # which keeps small ramps
    few.save(small, "PNG", optimize=True)
    return small.getvalue()


def _live_view(run: Path) -> str:
    """What stood below the lines of the screen when half of the steps were taken."""
    record = RunRecord.at(run)
    steps = tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))["run"]["steps"]
    status = RunStatus(run.name, steps)
    for line in islice(record.rows, steps // 2):
        status.observe_step(line)
    tokens = ConsumedTail(run / "consumed.jsonl").tokens_by_actor(status.line["step"], status.line["lineage"])
    status.tokens, status.actor_states = tokens, tuple(f"{name}: serving" for name in tokens)
    numbers = {evaluation.step: evaluation.numbers["accuracy"] for evaluation in record.evaluations}
    status.accuracies = {version: accuracy for version, accuracy in numbers.items() if version <= status.step}
    status.begin("learning")
    status.now_since_s = time.monotonic()
    terminal = Console(record=True, width=_LIVE_COLUMNS, file=io.StringIO(), force_terminal=True)
    terminal.print(status)
    drawn = terminal.export_svg(title=f"unisd-rl run   {run.name}", theme=MONOKAI)
    return re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL)  # fonts of a server


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
