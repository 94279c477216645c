"""MLflow, through its own client: to MLFLOW_TRACKING_URI, or else to files in RUN/mlruns, which need no network:
`MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri runs/NAME/mlruns`."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from typing_extensions import override

from unisd_rl.tracking.run_id import run_id
from unisd_rl.tracking.tracker import RESUMED_FROM, Rows, RunInformation, Tracker

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read at the import: a run calls nobody unasked

from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient

_PARAMETERS_A_CALL = 100
_LONGEST = 6000  # characters of a parameter; a recipe that is longer is in the artifact


class MLflow(Tracker):
    """One MLflow run; its step is the version. A history there cannot be taken back, hence `resumed_from`."""

    def __init__(self, run: Path, name: str) -> None:
        address = os.environ.get("MLFLOW_TRACKING_URI")
        if address is None:
            address = (run / "mlruns").as_uri()
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # else it asks for a database
        self.waits_for_a_server = not address.startswith("file:")
        self._client = MlflowClient(address)
        self._run, self._resumed = run_id(run, "mlflow", lambda: self._create(name))
        if self._resumed:
            self._client.update_run(self._run, status="RUNNING")
        self._last_ms = 0

    @override
    def begin(self, version: int, information: RunInformation) -> None:
        tags = {"mlflow.source.name": information.command, "mlflow.source.git.commit": information.commit}
        kept = [RunTag(name, value) for name, value in tags.items() if value]
        self._client.log_batch(self._run, tags=kept)
        self._client.log_text(self._run, information.recipe, f"recipe-from-version-{version}.toml")
        if not self._resumed:  # parameters never change there
            parameters = [Param(name, value[:_LONGEST]) for name, value in _flat_texts(information.config)]
            for start in range(0, len(parameters), _PARAMETERS_A_CALL):
                self._client.log_batch(self._run, params=parameters[start : start + _PARAMETERS_A_CALL])
            self._resumed = True
        self.numbers(version, {RESUMED_FROM: version})

    @override
    def numbers(self, version: int, numbers: Mapping[str, float]) -> None:
        # Two points of one version are told apart by their times alone, which are whole milliseconds.
        self._last_ms = max(time.time_ns() // 1_000_000, self._last_ms + 1)
        metrics = [Metric(name, number, self._last_ms, version) for name, number in numbers.items()]
        self._client.log_batch(self._run, metrics=metrics)

    @override
    def table(self, version: int, name: str, columns: Sequence[str], rows: Rows) -> None:
        data = {column: list(cells) for column, cells in zip(columns, zip(*rows, strict=True), strict=True)}
        self._client.log_table(self._run, data, f"{name}-version-{version}.json")

    @override
    def close(self, failed: bool) -> None:
        self._client.set_terminated(self._run, "FAILED" if failed else "FINISHED")

    def _create(self, name: str) -> str:
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", "unisd-rl")
        known = self._client.get_experiment_by_name(experiment)
        identity = known.experiment_id if known else self._client.create_experiment(experiment)
        return self._client.create_run(identity, run_name=name).info.run_id


def _flat_texts(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(`section.field`, text of the value) of every field."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat_texts(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)
