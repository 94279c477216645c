#!/usr/bin/env bash
# Writes locks/cpu.txt and locks/gpu.txt anew from pyproject.toml and locks/*.in (`make lock`).
set -euo pipefail
cd "$(dirname "$0")/.."

uv=.venv/bin/uv
lists=$(mktemp -d)
trap 'rm -rf "$lists"' EXIT

# Resolved for each Python on the one platform we support: uv's universal resolution reads the
# dependencies of one wheel only, and those of another platform's wheel may be fewer (intel-openmp).
compile() { # compile EXTRA [uv option ...]
    local extra=$1 python
    shift
    for python in 3.11 3.12; do
        "$uv" pip compile pyproject.toml "locks/$extra.in" \
            --extra "$extra" --extra dev --extra bench --extra wandb --extra mlflow --extra trackio \
            --python-version "$python" --python-platform x86_64-manylinux_2_28 \
            --quiet --upgrade --no-annotate --no-header "$@" >"$lists/$extra-$python.txt"
    done
    python3 locks/merge.py "$extra" "$lists/$extra-3.11.txt" "$lists/$extra-3.12.txt" >"$lists/$extra.txt"
    mv "$lists/$extra.txt" "locks/$extra.txt"
    echo "locks/$extra.txt: $(grep -c == "locks/$extra.txt") packages"
}

# vLLM asks for torchvision, torchaudio and torchcodec. Their registry builds are CUDA builds, which
# beside a CPU torch break `import transformers`; a text-only system does not use them.
compile cpu --config-file locks/cpu.toml \
    --no-emit-package torchvision --no-emit-package torchaudio --no-emit-package torchcodec
compile gpu --no-config
sed -i 's/^torch==2\.[0-9.]*$/&+cpu/' locks/cpu.txt
