"""What `python -m unisd_rl.replay` was asked for, and which changed settings keep its losses from being compared."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from unisd_rl.config import Config
from unisd_rl.storage.recorded_run import RecordedRun

_DECIDING = (
    "run.seed", "run.steps", "model.dtype", "model.lora", "contexts", "objective", "learner",
    "rollout.temperature", "rollout.top_p", "rollout.top_k",
)  # fmt: skip
_PLACES = ("learner.cores", "learner.resources", "learner.logprob_tolerance", "contexts.cache")


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """A recorded run and the configuration it is trained again with.

    `changed`: settings that losses depend on and that are not the run's. `check`: losses that differ are a failure.
    """

    run: RecordedRun
    config: Config
    changed: tuple[str, ...]
    check: bool


def changed_settings(run: Config, replay: Config) -> tuple[str, ...]:
    """Names of the settings that a step's loss depends on, beside its rollouts and the model, and that differ.

    The place of the model is none of them: a run's folder may have moved.
    """
    before, after = dict(_deciding(run)), dict(_deciding(replay))
    return tuple(name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name))


def _deciding(config: Config) -> Iterator[tuple[str, Any]]:
    for name, value in _leaves("", config.model_dump()):
        if _below(name, _DECIDING) and not _below(name, _PLACES):
            yield name, value


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        yield name, value
        return
    for key, inner in value.items():
        yield from _leaves(f"{name}.{key}" if name else key, inner)


def _below(name: str, sections: tuple[str, ...]) -> bool:
    return any(name == section or name.startswith(f"{section}.") for section in sections)
