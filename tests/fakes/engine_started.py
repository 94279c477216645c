"""An engine of given settings in a process of its own: one that tests share, or one of their own."""

from collections.abc import Iterator

from tests.fakes.engine_process import EngineProcess
from unisd_rl.config import Config


def engine_config(engine: dict, model: dict) -> Config:
    limits = {"max_prompt_tokens": 64, "max_completion_tokens": 192, "concurrency": 32}
    settings = {"rollout": {"engine": engine, **limits}, "evaluation": {"concurrency": 32}, "model": model}
    return Config.model_validate({**settings, "objective": {"divergence": {}}})


def started(settings: dict, model_path, logs, model=None) -> Iterator[EngineProcess]:
    """An engine in a process of its own, closed afterwards."""
    engine = EngineProcess(engine_config(settings, model or {}), model_path, logs / "engine.log")
    yield engine
    engine.close()
