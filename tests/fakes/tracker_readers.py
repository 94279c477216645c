"""What trackers have of a run, by each one's own reader: name -> version -> number, of what counts."""

import importlib.util
import json
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from unittest.mock import patch

EXTRAS = ("wandb", "mlflow", "trackio")
INSTALLED = tuple(name for name in EXTRAS if (spec := importlib.util.find_spec(name)) and spec.origin)
"""Those of the extras that are."""
Curves = dict[str, dict[int, float]]


def curves(tracker: str, run: Path) -> Curves:
    """What that tracker keeps in the run's folder."""
    return READERS[tracker](run)


def what_counts(points: Iterable[tuple[str, int, float]]) -> Curves:
    """(name, version, number) in the order in which they were told; `resumed_from` takes back what was told before."""
    kept: Curves = {}
    for name, version, number in points:
        if name == "resumed_from":
            for curve in kept.values():
                for later in [at for at in curve if at > number]:
                    del curve[later]
        else:
            kept.setdefault(name, {})[version] = number
    return kept


def tensorboard_curves(run: Path) -> Curves:
    """By TensorBoard's accumulator, which knows of starts itself."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    reader.Reload()
    return {name: {event.step: event.value for event in reader.Scalars(name)} for name in reader.Tags()["scalars"]}


def wandb_curves(run: Path) -> Curves:
    """Of the history in W&B's offline folders."""
    rows = [record.history for record in wandb_records(run) if record.WhichOneof("record_type") == "history"]
    return what_counts(point for row in rows for point in _points(row))


def _points(row) -> Iterator[tuple[str, int, float]]:
    told = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row.item}
    version = told.pop("version", None)
    for name, value in told.items():
        if version is not None and isinstance(value, int | float) and not name.startswith("_"):
            yield name, version, value


def wandb_records(run: Path) -> Iterator:
    """The records of W&B's offline folders in order: its protocol buffers in the blocks of a LevelDB log."""
    from wandb.proto.wandb_internal_pb2 import Record

    for file in sorted((run / "wandb").glob("offline-run-*/run-*.wandb")):
        for data in _leveldb_records(file.read_bytes()):
            yield Record.FromString(data)


def _leveldb_records(data: bytes) -> Iterator[bytes]:
    block_bytes, header_bytes, at, record = 1 << 15, 7, 7, b""  # the file begins with 7 bytes that say what it is
    first_or_only, last_or_only = (1, 2), (1, 4)
    while at + header_bytes <= len(data):
        left = block_bytes - at % block_bytes
        if left < header_bytes:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        piece = data[at + header_bytes : at + header_bytes + length]
        record = piece if kind in first_or_only else record + piece
        if kind in last_or_only:
            yield record
        at += header_bytes + length


def mlflow_run(run: Path):
    """MLflow's client, and the one run that it has."""
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow.tracking import MlflowClient

    client = MlflowClient((run / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("unisd-rl")
    (found,) = client.search_runs([experiment.experiment_id])
    return client, found


def mlflow_curves(run: Path) -> Curves:
    """By MLflow's client."""
    client, found = mlflow_run(run)
    told = [
        (point.timestamp, name, point.step, point.value)
        for name in found.data.metrics
        for point in client.get_metric_history(found.info.run_id, name)
    ]
    return what_counts(point[1:] for point in sorted(told))


def trackio_curves(run: Path) -> Curves:
    """Of Trackio's database, by its storage."""
    return what_counts(
        (name, row["step"], value)
        for row in trackio_logs(run)
        for name, value in row.items()
        if name != "step" and isinstance(value, int | float)
    )


def trackio_logs(run: Path) -> list[dict]:
    """Every row of the one run in Trackio's database, in order."""
    from trackio import sqlite_storage

    with patch.object(sqlite_storage, "TRACKIO_DIR", run / "trackio"):  # set at the import, and here are several
        (name,) = sqlite_storage.SQLiteStorage.get_runs("unisd-rl")
        return sorted(sqlite_storage.SQLiteStorage.get_logs("unisd-rl", name), key=lambda row: row["timestamp"])


READERS = {"tensorboard": tensorboard_curves, "wandb": wandb_curves, "mlflow": mlflow_curves, "trackio": trackio_curves}
