#!/usr/bin/env bash
# What needs a GPU, in one run of at most seven minutes (benchmarks/gpu.py says what): one table, and FILE as JSON.
#
#   benchmarks/gpu.sh FILE            run, with what is installed
#   benchmarks/gpu.sh FILE WHEELS     install the wheels of the folder WHEELS first, in a folder that goes away again:
#                                     for a machine without a network that has torch, transformers, peft and triton
#   benchmarks/gpu.sh wheels WHEELS   fill that folder, on a machine with a network and this project's packages
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
# Of the versions in locks/gpu.txt. pydantic-core is compiled, so PYTHON_VERSION must be that of the other machine.
PACKAGES=(pydantic pydantic-core pydantic-settings annotated-types typing-inspection msgspec platformdirs tomli-w
    python-dotenv hjson trl datasets dill multiprocess)
LIGER=liger-kernel==0.8.5

locked() { sed -nE "s/^($1==[^ ;\\]+).*/\\1/p" locks/gpu.txt; }

fetch_wheels() {
    mkdir -p "$1"
    local package wanted=("$LIGER")
    for package in "${PACKAGES[@]}"; do wanted+=("$(locked "$package")"); done
    "$PYTHON" -m pip download --quiet --no-deps --only-binary=:all: --python-version "${PYTHON_VERSION:-3.12}" \
        --implementation cp --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 \
        --platform manylinux2014_x86_64 --dest "$1" "${wanted[@]}"
    DS_BUILD_OPS=0 "$PYTHON" -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir "$1" "$(locked deepspeed)"
}

if [ $# -lt 1 ] || [ $# -gt 2 ] || { [ "$1" = wheels ] && [ $# -ne 2 ]; }; then
    sed -n '2,8p' "$0" >&2
    exit 2
fi
if [ "$1" = wheels ]; then
    fetch_wheels "$2"
    exit
fi
if [ $# -eq 2 ]; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --target "$site" "$2"/*.whl
    export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
fi
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
"$PYTHON" -m benchmarks.gpu --json "$1"
