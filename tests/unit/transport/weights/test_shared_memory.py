import subprocess
import sys

import numpy as np
import pytest

from tests.fakes.snapshots import shared
from unisd_rl.transport.weights.manifest import checksum
from unisd_rl.transport.weights.shared_memory import Mappings, SharedMemory, map_shared

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


def test_memory_is_written_anew_for_every_snapshot_and_a_mapping_of_it_sees_that():
    memory, mappings = SharedMemory(), Mappings()
    first = memory.write([np.full(300_000, 1, np.uint8), np.empty(0, np.uint8)])
    before = mappings.map(first.paths)
    assert before[0].sum() == 300_000
    second = memory.write([np.full(300_000, 2, np.uint8), np.empty(0, np.uint8)])
    after = mappings.map(second.paths)
    assert second.paths == first.paths
    assert after[0] is before[0]
    assert after[0].sum() == 600_000
    memory.close()


def test_buckets_of_other_sizes_get_other_memory():
    memory, mappings = SharedMemory(), Mappings()
    small = mappings.map(memory.write([np.full(8, 1, np.uint8)]).paths)
    (large,) = mappings.map(memory.write([np.full(5000, 7, np.uint8)]).paths)
    assert large.sum() == 35_000
    assert small[0].tolist() == [1] * 8  # who has it mapped keeps it
    memory.close()
    memory.close()


@pytest.mark.parametrize("size", [0, 1, 1 << 18, (1 << 18) + 1, 700_001])
def test_what_is_written_is_checked_as_it_lies_there(size):
    bucket = np.random.default_rng(size).integers(0, 256, size).astype(np.uint8)
    memory = SharedMemory()
    written = memory.write([bucket])
    assert written.checksums == [checksum(map_shared(written.paths[0]))] == [checksum(bucket)]
    memory.close()
