"""A ledger as version 0.1 wrote it: a segment and an index entry a commit; compacted, an entry that lists all rows."""

import json

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from unisd_rl.transport.rollouts.schema import SCHEMA, encode, read_ipc


def write_old_segment(folder, segment, rollouts):
    """Segment and entry of one commit."""
    data = encode(rollouts)
    _write(folder / "segments" / f"{segment:08d}.arrows", bytes(data))
    _write_entry(folder, f"{segment:08d}.json", segment, pa.Table.from_batches(read_ipc(data)), bytes(data), False)


def write_old_compacted(folder, segment, rollouts):
    """What compacting these, in prompt order, left."""
    table = pa.Table.from_batches(read_ipc(encode(rollouts)), schema=SCHEMA)
    path = folder / "segments" / f"compacted-{segment:08d}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd", write_page_checksum=True, row_group_size=2)
    _write_entry(folder, f"compacted-{segment:08d}.json", segment, table, path.read_bytes(), True)


def _write_entry(folder, name, segment, table, data, compacted):
    entry = {
        "segment": segment,
        "numbers": table["number"].to_pylist(),
        "lengths": pc.list_value_length(table["completion_tokens"]).to_pylist(),
        "nbytes": len(data),
        "checksum": xxhash.xxh3_64_hexdigest(data),
        "compacted": compacted,
    }
    _write(folder / "index" / name, json.dumps(entry).encode() + b"\n")


def _write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
