"""locks/install.sh before it installs anything, on a copy: it removes what is half installed. And uv's settings."""

import runpy
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


UV_ENVIRONMENT = runpy.run_path(str(ROOT / "locks" / "uv_environment.py"))["uv_environment"]


def test_uv_looks_for_packages_where_pip_does():
    listed = r"""
:env:.disable-pip-version-check='1'
:env:.find-links='/wheels'
global.cert='/certificates.crt'
global.constraint='/constraints.txt'
global.extra-index-url='file:///a/simple\nfile:///b/simple'
global.find-links='/a /b'
global.index-url='https://user:pa=ss@packages.example/simple'
global.trusted-host='packages.example'
install.find-links='/c /d'
"""
    # A variable counts before a command's section, and that before `global`.
    assert UV_ENVIRONMENT(listed, {}) == {
        "UV_FIND_LINKS": "/wheels",
        "SSL_CERT_FILE": "/certificates.crt",
        "UV_INDEX": "file:///a/simple file:///b/simple",
        "UV_DEFAULT_INDEX": "https://user:pa=ss@packages.example/simple",
        "UV_INSECURE_HOST": "packages.example",
    }
    assert UV_ENVIRONMENT(listed.replace(":env:.f", ":env:.un"), {})["UV_FIND_LINKS"] == "/c,/d"


def test_what_is_set_for_uv_already_stays():
    listed = "global.index-url='https://packages.example/simple'\nglobal.timeout='60'"
    assert UV_ENVIRONMENT(listed, {"UV_DEFAULT_INDEX": "https://other.example"}) == {"UV_HTTP_TIMEOUT": "60"}
    assert UV_ENVIRONMENT("", {}) == {}


def test_a_failed_installation_shows_what_the_package_manager_said_and_a_success_shows_nothing(machine):
    """With stand-ins for pip and uv: where uv fails, pip is asked; where both do, pip's words are shown once."""
    (machine / "locks" / "cpu.txt").write_text("deepspeed==1\nother==1\ntorch==1\nuv==1\n")
    shutil.copy(ROOT / "locks" / "uv_environment.py", machine / "locks")
    venv = machine / ".venv" / "bin"
    venv.mkdir(parents=True)
    (machine / ".venv" / ".packages-cpu").touch()
    uv_fails = 'echo "uv: noise" >&2; echo "uv $*" >>{0}/asked; exit 2'
    pip_says = 'echo "pip: noise" >&2; echo "pip $*" >>{0}/asked; case "$*" in *{1}*) exit 1 ;; esac'
    pip_says = f'case "$*" in locks/*) exit ;; esac; {pip_says}'
    for refused, code in (("nothing", 0), ("deepspeed==1", 1)):
        for name, body in (("uv", uv_fails), ("python", pip_says)):
            (venv / name).write_text(f"#!/bin/sh\n{body.format(machine, refused)}\n")
            (venv / name).chmod(0o755)
        (machine / "asked").unlink(missing_ok=True)
        done = install(machine, "cpu")
        asked = (machine / "asked").read_text().splitlines()
        assert done.returncode == code
        assert done.stderr == ("pip: noise\n" if code else "")
        assert [line for line in asked if line.startswith("uv") and "torch==1" in line]
        assert [line for line in asked if line.startswith("pip") and "torch==1" in line]
        assert (machine / ".venv" / ".packages-cpu").exists() is not bool(code)
