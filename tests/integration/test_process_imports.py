"""What processes of a run have not imported, though it is installed; that peft and DeepSpeed are imported in one file
each is in tests/unit/test_layout.py."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "program,without",
    [
        ("import learner.learner", "mlflow"),
        ("import unisd_rl.models.peft_import", "bitsandbytes"),
        ("import pyarrow, unisd_rl.transport.rollouts.schema; pyarrow.array([1, 2])", "pandas"),
    ],
)
def test_a_process_has_not_imported_what_it_does_not_use(program, without):
    """Where it is installed; else there is nothing to import."""
    words = [sys.executable, "-c", f"{program}; import sys; sys.exit({without!r} in sys.modules)"]
    assert subprocess.run(words, timeout=120, check=False).returncode == 0


def test_pyarrow_still_makes_data_frames():
    pandas = pytest.importorskip("pandas")
    import pyarrow as pa

    import unisd_rl.transport.rollouts.schema  # noqa: F401

    assert isinstance(pa.table({"a": [1, 2]}).to_pandas(), pandas.DataFrame)
