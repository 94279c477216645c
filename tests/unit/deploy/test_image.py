"""deploy/Dockerfile: checked by hadolint, built from what `make` installs, without rights and without the world."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.fakes.commands import SMALL, dry_run
from tests.fakes.deployment import DEPLOY, ROOT, checker

DOCKERFILE = (DEPLOY / "Dockerfile").read_text()


def stages() -> dict[str, list[str]]:
    """Name of each stage -> its lines."""
    parts = re.split(r"^FROM \S+ AS (\S+)$", DOCKERFILE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], (body.strip().splitlines() for body in parts[2::2]), strict=True))


def test_hadolint_finds_nothing():
    done = subprocess.run([checker("hadolint"), DEPLOY / "Dockerfile"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("base", "headers"), [("Debian's own Python", False), ("python's image", True)])
def test_the_headers_that_programs_are_compiled_with_are_there_whatever_the_base(tmp_path, base, headers):
    """The first RUN with stand-ins for what it calls: apt-get puts Python.h where the base's Python looks for it."""
    include = tmp_path / "include"
    include.mkdir()
    if headers:
        (include / "Python.h").touch()
    for name, body in {
        "python3.11": f"echo {include}",
        "apt-get": f'echo "$@"; case "$*" in *libpython3.11-dev*) touch {include}/Python.h ;; esac',
        "rm": "exit 0",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    lines = "\n".join(stages()["system"])
    (command,) = re.findall(r"^RUN (apt-get (?:.*\\\n)*.*)", lines, flags=re.MULTILINE)
    path = f"{tmp_path}:/usr/bin:/bin"
    done = subprocess.run(["/bin/sh", "-c", command], env={"PATH": path}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (include / "Python.h").exists()
    assert ("libpython3.11-dev" in done.stdout) is not headers
    for compiler in ("gcc", "g++"):
        assert compiler in done.stdout.split()


def test_both_targets_install_their_lock_file_by_the_script_of_make():
    for extra in ("cpu", "gpu"):
        lines = stages()[f"packages-{extra}"]
        assert f"COPY locks/{extra}.txt locks/{extra}.txt" in lines
        assert f"RUN locks/install.sh python3.11 {extra}" in lines
        assert f"COPY --from=packages-{extra} /opt/unisd-rl/.venv .venv" in stages()[extra]
    assert "locks/install.sh" in (ROOT / "Makefile").read_text()


def test_nothing_runs_as_root():
    for extra in ("cpu", "gpu"):
        assert stages()[extra][-1] == "USER $UID"
    assert 'RUN useradd --uid "$UID"' in DOCKERFILE


def test_the_code_is_a_layer_over_the_packages():
    for extra in ("cpu", "gpu"):
        lines = stages()[extra]
        assert lines.index("COPY --from=code / ./") > next(i for i, line in enumerate(lines) if "packages" in line)


def test_all_that_is_copied_is_let_in_and_nothing_else():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    let_in = {line[1:] for line in lines if line.startswith("!")}
    copied = set()
    for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, flags=re.MULTILINE):
        copied |= set(line.split()[:-1])
    assert "*" in lines
    assert all((ROOT / path).exists() for path in copied)
    assert copied == {path for path in let_in if path != "locks"} | {
        path for path in copied if path.startswith("locks/")
    }


def test_what_is_copied_is_enough_to_start_a_run(tmp_path):
    for line in stages()["code"]:
        *sources, place = line.removeprefix("COPY ").split()
        for source in sources:
            target = tmp_path / place.lstrip("/")
            (shutil.copytree if (ROOT / source).is_dir() else _copied)(ROOT / source, target)
    done = dry_run("unisd_rl.run", "unisd_star", "cluster", *SMALL, tree=tmp_path)
    assert done.code == 0, done.errors
    assert "run /shared/runs/arithmetic: 40 steps of 64 prompts" in done.output
    assert (tmp_path / "deploy/node.sh").stat().st_mode & 0o111


def _copied(source: Path, target: Path) -> None:
    """As COPY does: a target that is a folder takes the file under its own name."""
    target = target / source.name if target.is_dir() else target
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)
