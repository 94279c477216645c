"""A page in headless Chromium (a Debian package), driven through its DevTools protocol."""

import asyncio
import itertools
import json
import re
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

from websockets.sync.client import connect

CHROMIUM = shutil.which("chromium")
START_S = 60
_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0",
)  # fmt: skip


class Page:
    """One tab. `events` are those that the browser sent since the page was opened."""

    def __init__(self, socket) -> None:
        self._socket, self._numbers, self.events = socket, itertools.count(1), []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters):
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv(timeout=START_S))
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def open(self, path: Path, width: int, dark: bool = False) -> None:
        """Load a file in a window of so many pixels."""
        self.events.clear()
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=path.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(json.loads(self._socket.recv(timeout=START_S)))

    def run(self, script: str):
        """The value of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, userGesture=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key: str) -> None:
        """A key, as a keyboard sends it."""
        for kind in ("keyDown", "keyUp"):
            codes = {"Tab": 9, "ArrowRight": 39, "ArrowDown": 40}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key])

    @property
    def complaints(self) -> list[dict]:
        """What a console shows as an error or a warning."""
        return [event for event in self.events if _complains(event)]

    @property
    def requests(self) -> list[str]:
        """Addresses that the page asked for."""
        sent = (event for event in self.events if event.get("method") == "Network.requestWillBeSent")
        return [event["params"]["request"]["url"] for event in sent]


def _complains(event: dict) -> bool:
    method, parameters = event.get("method"), event.get("params", {})
    if method == "Runtime.consoleAPICalled":
        return parameters["type"] in ("error", "warning")
    if method == "Log.entryAdded":
        return parameters["entry"]["level"] in ("error", "warning")
    return method == "Runtime.exceptionThrown"


@contextmanager
def browser_page(profile: Path):
    """A tab of a browser of its own."""
    process = subprocess.Popen(
        [CHROMIUM, *_OPTIONS, f"--user-data-dir={profile}", "about:blank"], stderr=subprocess.PIPE, text=True
    )
    try:
        port = next(found[1] for line in process.stderr if (found := re.search(r"ws://[^:]+:(\d+)/", line)))
        with asyncio.Runner() as runner:
            target = runner.run(_first_tab(port))
        with connect(target, max_size=None) as socket:
            yield Page(socket)
    finally:
        process.terminate()
        process.wait(START_S)


async def _first_tab(port: str) -> str:
    import aiohttp

    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/json/list") as answer:
        tabs = await answer.json(content_type=None)
    return next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
