"""Defaults for a model of one's own, each with its reason: they lie below every recipe, in the place of `embedded`.

The embedded recipe's numbers are of a tiny model all of whose weights are trained on one machine without a GPU. Of
another model they say nothing: its rate follows from what is trained, its type and device from the machine. The limits
on lengths follow from the data, once that is read (`contexts.selection.with_data_limits`).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Tree = Mapping[str, Any]
ADAPTER_RATE, FULL_RATE = 2e-5, 1e-5


@dataclass(frozen=True, slots=True)
class Default:
    """The value of a setting (dotted name) that nobody gave, and why it is that."""

    name: str
    value: int | float | str
    reason: str

    def describe(self) -> str:
        """E.g. `learner.batch_size = 16: as in the authors' runs`."""
        return f"{self.name} = {self.value}: {self.reason}"


def has_own_model(tree: Tree) -> bool:
    """Whether these sections name a model instead of the embedded one."""
    return isinstance(value_at(tree, "model.path"), str)


def value_at(tree: Tree, name: str) -> Any:
    """What a tree of sections has under a dotted name; None for nothing."""
    below: Any = tree
    for part in name.split("."):
        below = below.get(part) if isinstance(below, Mapping) else None
    return below


def own_model_defaults(given: Tree, gpus: Callable[[], int]) -> tuple[Default, ...]:
    """The defaults that `given` leaves open; `gpus` counts those there are, and is asked only where that matters."""
    defaults = (*_length(given), *_rate(given), *_devices(given, gpus))
    return tuple(default for default in defaults if value_at(given, default.name) is None)


def evaluated_model_defaults(given: Tree, gpus: Callable[[], int]) -> tuple[Default, ...]:
    """The same where models only answer: each actor has a GPU of its own, if there is any."""
    if value_at(given, "rollout.gpus_per_actor") is not None or not gpus():
        return ()
    defaults = (
        Default("rollout.gpus_per_actor", 1, "there are GPUs here"),
        Default("model.dtype", "bfloat16", "as most models are released"),
    )
    return tuple(default for default in defaults if value_at(given, default.name) is None)


def _length(given: Tree) -> Iterator[Default]:
    if value_at(given, "run.steps") is None:
        yield Default("run.epochs", 1, "one pass over the problems, as in the paper")
    yield Default("learner.batch_size", 16, "as in the authors' runs")


def _rate(given: Tree) -> Iterator[Default]:
    if value_at(given, "model.lora") is not None:
        yield Default("learner.learning_rate", ADAPTER_RATE, "adapters are trained: the paper's rate")
    else:
        yield Default(
            "learner.learning_rate",
            FULL_RATE,
            f"all weights are trained, which takes less than the paper's {ADAPTER_RATE:g} for adapters",
        )


def _devices(given: Tree, gpus: Callable[[], int]) -> Iterator[Default]:
    """Who computes where, and in which type."""
    sides = ("rollout.gpus_per_actor", "learner.gpus_per_rank")
    in_process = value_at(given, "run.placement") == "in_process"
    if any(value_at(given, side) is not None for side in sides):
        on_gpus = all(value_at(given, side) for side in sides)
        reason = "as most models are released" if on_gpus else "a side computes on the CPU, which is slow in bfloat16"
    else:
        count = 0 if in_process else gpus()
        on_gpus = count > 0
        without = 'run.placement = "in_process" computes on the CPU' if in_process else "no GPU here"
        reason = "as most models are released" if on_gpus else f"{without}, and a CPU is slow in bfloat16"
        share, why = (1, f"one of the {count} GPUs here") if count > 1 else (0.5, "the only GPU here is shared")
        for side in sides if on_gpus else ():
            yield Default(side, share, why)
        if count == 1 and value_at(given, "rollout.engine.type") in (None, "vllm"):
            yield Default("rollout.engine.gpu_memory_utilization", 0.4, "the learner has the rest of the only GPU")
    yield Default("model.dtype", "bfloat16" if on_gpus else "float32", reason)
