"""docker-compose.yml in real containers, by Podman and podman-compose, under a project name of a test's own."""

import json
import os
import secrets
import shlex
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.fakes.deployment import ROOT
from tests.fakes.local_nodes import free_port, wait_until

BUILT = "localhost/unisd-rl-test"
IMAGE = os.environ.get("UNISD_TEST_IMAGE") or BUILT
"""Its tag is `cpu`. UNISD_TEST_IMAGE names one that is there already."""
RUN = "/shared/runs/arithmetic"
MODELS = "cache/unisd-rl/base-models"
"""Where the containers look for base models, below /shared."""
BUILD_TIMEOUT_S, COMMAND_TIMEOUT_S = 3600.0, 180.0


def lacking() -> str | None:
    """Why no container can be run here; None where one can."""
    for program in ("podman", "podman-compose"):
        if shutil.which(program) is None:
            return f"needs {program}: deploy/install_podman.sh installs it"
    return None


def build_image() -> None:
    """The image of the target `cpu`; layers of an earlier build are used again.

    Where UNISD_TEST_IMAGE is set nothing is built. UNISD_BUILD_OPTIONS: options of `podman build` that a machine needs,
    such as mounts of its pip and apt settings.
    """
    if IMAGE != BUILT:
        return
    options = shlex.split(os.environ.get("UNISD_BUILD_OPTIONS", ""))
    target = ["--file", "deploy/Dockerfile", "--target", "cpu", "--tag", f"{IMAGE}:cpu"]
    _run(["podman", "build", *options, *target, "."], timeout_s=BUILD_TIMEOUT_S)


@dataclass(slots=True)
class Containers:
    """One project: its containers, its network and its volume, which outlives containers until `close`."""

    folder: Path
    project: str = field(default_factory=lambda: f"unisd-test-{secrets.token_hex(4)}")
    environment: dict[str, str] = field(default_factory=dict)
    _given: bool = False

    def __post_init__(self) -> None:
        token = self.folder / "token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o644)  # the containers' user is another one
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "UNISD_"))}
        self.environment = ours | {
            "RAY_AUTH_TOKEN_PATH": str(token),
            "UNISD_IMAGE": IMAGE,
            "UNISD_DASHBOARD_PORT": str(free_port()),
            "UNISD_WAIT_S": "900",  # longer than a test waits: a head takes minutes on a busy machine
        }

    def compose(self, *words: str, timeout_s: float = COMMAND_TIMEOUT_S, **variables: str) -> str:
        """`podman-compose` with these words; fails with what it printed."""
        command = ["podman-compose", "--project-name", self.project, *words]
        return _run(command, environment=self.environment | variables, timeout_s=timeout_s)

    def podman(self, *words: str, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """`podman` with these words; fails with what it printed."""
        return _run(["podman", *words], timeout_s=timeout_s)

    def name(self, service: str, number: int = 1) -> str:
        """The container of a service."""
        return f"{self.project}_{service}_{number}"

    def give_base_model(self, folder: Path) -> None:
        """Fill the volume, before anything is started, with the base model that this machine has trained."""
        archive = self.folder / "volume.tar"
        with tarfile.open(archive, "w") as tar:
            for name in (".", "cache", "cache/unisd-rl", MODELS):
                tar.addfile(_of_the_user(tarfile.TarInfo(name), tarfile.DIRTYPE))
            tar.add(folder, f"{MODELS}/{folder.name}", filter=_of_the_user)
        self.podman("volume", "create", self._volume)
        self._given = True
        self.podman("volume", "import", self._volume, str(archive))

    def in_head(self, *words: str) -> str:
        """What a command prints in the head's container."""
        return self.podman("exec", self.name("head"), *words)

    def rows(self, file: str) -> list[dict]:
        """The lines of a file of the run so far; none where there is no file yet. The last one may be half written."""
        text = self.in_head("sh", "-c", f"cat {RUN}/{file} 2>/dev/null || true")
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def wait_until(self, ready: Callable[[], bool], what: str, timeout_s: float) -> None:
        """Fails with the job's log when the job's container ends before, or the time is up."""

        def checked() -> bool:
            state = self.podman("inspect", "--format", "{{.State.Status}}", self.name("job")).strip()
            log = "" if state in ("created", "running") else self.podman("logs", self.name("job"))
            assert not log, f"the job ended before {what}:\n{log[-4000:]}"
            return ready()

        wait_until(checked, what, timeout_s=timeout_s)

    def copy_run(self) -> Path:
        """The run's folder, copied out of the volume through the head's container, which may have ended."""
        self.podman("cp", f"{self.name('head')}:{RUN}", str(self.folder))
        return self.folder / Path(RUN).name

    def down(self, *options: str) -> None:
        """Stop and remove containers and network; with the option `--volumes` the volume too.

        `podman-compose down` knows one container of a service, however many there are: the pod has them all.
        """
        self.podman("pod", "rm", "--force", "--ignore", f"pod_{self.project}")
        self.compose("down", *options)
        if "--volumes" in options and self._given:  # it knows only the volumes that it made itself
            self.podman("volume", "rm", self._volume)

    @property
    def _volume(self) -> str:
        return f"{self.project}_shared"


def _of_the_user(entry: tarfile.TarInfo, kind: bytes | None = None) -> tarfile.TarInfo:
    """An entry that belongs to the user of the image."""
    entry.uid = entry.gid = 1000
    entry.type = kind or entry.type
    entry.mode = 0o755 if entry.isdir() else 0o644
    return entry


def _run(command: list[str], timeout_s: float, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=timeout_s,
    )  # fmt: skip
    assert done.returncode == 0, f"{shlex.join(command)} ended with {done.returncode}:\n{done.stdout[-4000:]}"
    return done.stdout
