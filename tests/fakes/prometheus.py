"""A real Prometheus that scrapes a Ray cluster by the configuration of `deploy/prometheus`."""

import contextlib
import json
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.fakes.local_nodes import free_port

CONFIGURATION = Path(__file__).parents[2] / "deploy/prometheus/prometheus.yml"
RAYS_FOLDER, RAYS_INTERVAL = "/tmp/ray", "10s"


@dataclass(frozen=True)
class PrometheusServer:
    address: str
    started_s: float

    def answer(self, query: str) -> list[dict]:
        """The series of a query, from the start of this server until now."""
        span = {"start": self.started_s, "end": time.time() + 1.0, "step": 1}
        words = urllib.parse.urlencode({"query": query, **span})
        with urllib.request.urlopen(f"{self.address}/api/v1/query_range?{words}", timeout=30) as answer:
            return json.load(answer)["data"]["result"]


@contextlib.contextmanager
def prometheus(binary: str, rays_folder: Path, folder: Path) -> Iterator[PrometheusServer]:
    """It scrapes each second the cluster whose `--temp-dir` is `rays_folder`, and keeps what it reads in `folder`."""
    text = CONFIGURATION.read_text()
    assert RAYS_FOLDER in text
    assert f"interval: {RAYS_INTERVAL}" in text
    text = (
        text.replace(RAYS_FOLDER, str(rays_folder)).replace(RAYS_INTERVAL, "1s").replace("timeout: 5s", "timeout: 1s")
    )
    (folder / "prometheus.yml").write_text(text)
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [
            binary, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{port}", "--log.level=error",
        ],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        _wait_until_ready(address, server)
        yield PrometheusServer(address, time.time())
    finally:
        server.terminate()
        server.wait(timeout=60)


def _wait_until_ready(address: str, server: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/-/ready", timeout=1):
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            raise AssertionError(f"prometheus ended with exit code {server.wait(timeout=0.2)}")
    raise AssertionError(f"waited 60 s for Prometheus at {address}")
