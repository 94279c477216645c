"""Triton's rows without a GPU, through Triton's interpreter: the same numbers and gradients as torch's rows.

The interpreter must be chosen before triton is first imported, hence the process of its own.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytest.importorskip("triton", reason="Triton comes with torch on Linux")


def test_every_divergence_contrast_cap_and_likelihood_agrees_with_torch_under_the_interpreter():
    done = subprocess.run(
        [sys.executable, "-m", "tests.fakes.triton_rows"],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "all agree\n"
