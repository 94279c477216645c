import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.snapshots import take_snapshot
from unisd_rl.transport.weights.manifest import CorruptSnapshotError, SnapshotManifest, label, parse_label
from unisd_rl.transport.weights.snapshot import BucketMemory, manifest_of, pack, unpack
from unisd_rl.types import PolicyVersion

VERSION = PolicyVersion(lineage=2, number=7)
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8]
TENSORS = st.lists(
    st.tuples(st.lists(st.integers(0, 7), max_size=3), st.sampled_from(DTYPES), st.booleans()), max_size=8
)


def tensor_of(shape, dtype, transposed):
    made = (torch.randn(tuple(shape)) * 100).to(dtype)
    return made.transpose(0, -1) if transposed and len(shape) > 1 else made


@given(TENSORS, st.integers(1, 700))
def test_unpacking_gives_back_names_order_dtypes_shapes_and_every_bit(kinds, bucket_bytes):
    tensors = [(f"layer.{index}", tensor_of(*kind)) for index, kind in enumerate(kinds)]
    manifest, arrays = take_snapshot(VERSION, iter(tensors), bucket_bytes)
    unpacked = list(unpack(manifest.buckets, arrays))
    assert [name for name, _ in unpacked] == [name for name, _ in tensors]
    for (_, back), (_, sent) in zip(unpacked, tensors, strict=True):
        assert (back.dtype, back.shape) == (sent.dtype, sent.shape)
        assert back.contiguous().view(-1).view(torch.uint8).equal(sent.contiguous().view(-1).view(torch.uint8))
    assert manifest.nbytes == sum(tensor.nbytes for _, tensor in tensors)


@given(TENSORS, st.integers(1, 700))
def test_a_bucket_is_larger_than_asked_only_if_one_tensor_is(kinds, bucket_bytes):
    tensors = [(str(index), tensor_of(*kind)) for index, kind in enumerate(kinds)]
    manifest, arrays = take_snapshot(VERSION, tensors, bucket_bytes)
    for specs, array in zip(manifest.buckets, arrays, strict=True):
        assert len(array) <= bucket_bytes or len([spec for spec in specs if spec.nbytes]) == 1


def test_read_only_arrays_unpack_without_a_copy():
    manifest, (array,) = take_snapshot(VERSION, [("w", torch.arange(6.0))], 64)
    array.setflags(write=False)
    ((_, tensor),) = unpack(manifest.buckets, [array])
    assert tensor.data_ptr() == array.ctypes.data


def test_a_snapshot_does_not_change_with_the_weights_it_was_taken_of():
    weight = torch.ones(3)
    manifest, arrays = take_snapshot(VERSION, [("w", weight)], 64)
    weight.zero_()
    ((_, tensor),) = unpack(manifest.buckets, arrays)
    assert tensor.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("position", [0, 41, 64 + 399])
def test_one_flipped_bit_anywhere_is_refused_and_its_bucket_named(position):
    manifest, arrays = take_snapshot(VERSION, [("a", torch.ones(10)), ("b", torch.ones(100))], 512)
    manifest.verify(arrays)
    arrays[0][position] ^= 4
    with pytest.raises(CorruptSnapshotError, match="bucket 0 of 2:7"):
        manifest.verify(arrays)


def test_a_missing_bucket_is_refused():
    manifest, arrays = take_snapshot(VERSION, [("a", torch.ones(10)), ("b", torch.ones(10))], 40)
    with pytest.raises(CorruptSnapshotError, match="2 buckets were sent and 1 arrived"):
        manifest.verify(arrays[:1])


def test_a_manifest_survives_a_boundary_of_plain_text():
    manifest, _ = take_snapshot(VERSION, [("a", torch.ones(2, 3)), ("s", torch.tensor(1.0))], 16)
    assert SnapshotManifest.from_json(manifest.to_json()) == manifest


def test_the_same_weights_have_the_same_checksums():
    tensors = [("a", torch.ones(3, dtype=torch.bfloat16)), ("b", torch.ones(5))]
    assert take_snapshot(VERSION, tensors, 256)[0] == take_snapshot(VERSION, tensors, 256)[0]


@given(st.integers(0, 99), st.integers(-1, 10**6))
def test_a_label_names_one_version(lineage, number):
    assert parse_label(label(PolicyVersion(lineage, number))) == PolicyVersion(lineage, number)


def test_an_empty_model_is_an_empty_snapshot():
    manifest, arrays = take_snapshot(VERSION, [], 64)
    assert (manifest.buckets, arrays) == ((), [])
    assert isinstance(np.concatenate([np.empty(0, np.uint8), *arrays]), np.ndarray)


def test_buckets_in_memory_that_is_used_again_are_those_of_fresh_memory():
    memory = BucketMemory()
    memory(5000)[:] = 255  # whatever lay there before is in no gap
    tensors = [(str(index), torch.randn(7 + index)) for index in range(40)]
    expected, arrays = take_snapshot(VERSION, tensors, 256)
    packed = []
    for bucket, array in zip(pack(tensors, 256, memory), arrays, strict=True):
        assert bucket.array.tobytes() == array.tobytes()
        packed.append(bucket)
    assert manifest_of(VERSION, packed) == expected
    expected.verify(arrays)
