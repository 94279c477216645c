"""locks/install.sh before it installs anything, on a copy: it removes what is half installed."""

import shutil
import subprocess

import pytest

from tests.fakes.deployment import ROOT


@pytest.fixture
def machine(tmp_path):
    """A checkout with the script alone, and a Python that says where its headers would be."""
    (tmp_path / "locks").mkdir()
    shutil.copy(ROOT / "locks" / "install.sh", tmp_path / "locks")
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python3"
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] && echo {tmp_path}/include && exit\nexit 7\n')
    python.chmod(0o755)
    (tmp_path / "include").mkdir()
    return tmp_path


def install(machine, extra, **environment):
    return subprocess.run(
        [machine / "locks" / "install.sh", machine / "bin" / "python3", extra],
        env={"PATH": f"{machine}/bin:/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_what_compiles_kernels_for_gpus_is_looked_for_before_anything_is_installed(machine):
    lacking = install(machine, "gpu")
    assert lacking.returncode == 2
    assert len(lacking.stderr.splitlines()) == 1
    assert f"needs {machine}/include/Python.h and a C++ compiler" in lacking.stderr
    assert "python3-dev" in lacking.stderr
    assert not (machine / ".venv").exists()


@pytest.mark.parametrize("extra", ["cpu", "gpu"])
def test_with_headers_and_on_the_cpu_without_them_the_environment_is_made(machine, extra):
    if extra == "gpu":
        (machine / "include" / "Python.h").touch()
    compiler = machine / "bin" / "c++"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    made = install(machine, extra, CXX="c++")
    assert "cannot make a virtual environment" in made.stderr  # the next step: this Python makes none
