import subprocess
import sys

import numpy as np
import pytest

from unisd_rl.transport.weights.shared_memory import map_shared, shared

READ = (
    "import sys; from unisd_rl.transport.weights.shared_memory import map_shared; print(map_shared(sys.argv[1]).sum())"
)


def test_what_is_mapped_is_what_was_shared():
    buckets = [np.arange(256, dtype=np.uint8), np.empty(0, np.uint8), np.full(10_000, 3, np.uint8)]
    with shared(buckets) as paths:
        for path, bucket in zip(paths, buckets, strict=True):
            np.testing.assert_array_equal(map_shared(path), bucket)


def test_a_child_process_reads_it():
    with shared([np.full(1000, 2, np.uint8)]) as (path,):
        read = subprocess.run(
            [sys.executable, "-c", READ, path], capture_output=True, text=True, check=True, timeout=60
        )
    assert read.stdout.strip() == "2000"


def test_a_reader_writes_to_its_own_copy():
    with shared([np.zeros(8, np.uint8)]) as (path,):
        map_shared(path)[0] = 9
        assert map_shared(path)[0] == 0


def test_what_was_mapped_outlives_the_block_and_nothing_can_be_mapped_after_it():
    with shared([np.full(8, 5, np.uint8)]) as (path,):
        mapped = map_shared(path)
    assert mapped.tolist() == [5] * 8
    with pytest.raises(FileNotFoundError):
        map_shared(path)
