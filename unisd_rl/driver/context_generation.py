"""The generator of contexts: rollout actors on the initial model, with all cores, before a run or without one.

```
chats --too long? None--> rollout actor (as in a run, without queue or updates) --cut? None--> texts
```
"""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path

from typing_extensions import override

from actors.engines.engine import NO_WEIGHTS
from actors.group import RolloutGroup
from actors.rollout_actor import ActorSpec
from unisd_rl.base_model import model_folder, recipe_of
from unisd_rl.cluster.connect import connected
from unisd_rl.cluster.cores import CorePlan, generation_cores
from unisd_rl.cluster.resources import generation_requirements
from unisd_rl.config import Config
from unisd_rl.config.contexts import GeneratedConfig
from unisd_rl.contexts.prepare import ContextGenerator, Preparation, cache_folder
from unisd_rl.contexts.prompts import PreparationReport
from unisd_rl.contexts.selection import with_data_limits
from unisd_rl.contexts.templates import Chat
from unisd_rl.driver.console import Console
from unisd_rl.errors import UserError
from unisd_rl.models.tokenizer import ChatTokenizer
from unisd_rl.tasks.load import load_task
from unisd_rl.transport.weights.store import spawn_store
from unisd_rl.types import Sampling

_SLICE = 64  # requests that go out together; fixed, because each one's seed follows from its place
_MARGIN = 256  # tokens that a request may be longer than a prompt, where nothing else is said


def run_preparation(config: Config, console: Console) -> PreparationReport:
    """Prepare, and say what came of it. A cluster is joined, and engines start, only for what the model has to write.

    Raises:
        UserError: the data, the model or the cluster is not what the configuration says.
        RunFailed: an engine failed; what was prepared until then stays.
    """
    config = config.with_clock_stopped(datetime.now())
    with console.waiting("reading the data"):
        task, cache = load_task(config.task), cache_folder(config)
        config, _ = with_data_limits(config, task)
    base = recipe_of(config)
    model = model_folder(config, cache / f"base-{base.seed}-{base.question_first}", console)

    @contextmanager
    def open_generator() -> Iterator[ContextGenerator]:
        needed, cores = generation_requirements(config), generation_cores(config)
        with connected(config, needed), generation_engine(config, cores, model, cache) as generator:
            yield generator

    preparation = Preparation.create(config, task, model, open_generator, console)
    console.print_notes(preparation.notes)
    report = preparation.prepared().report
    console.announce(f"prepared {report.describe()}\nfiles  {cache}")
    return report


class EngineGenerator(ContextGenerator):
    """A generator through a group of rollout actors that have received no update: the initial model."""

    def __init__(self, config: Config, group: RolloutGroup, tokenizer: ChatTokenizer) -> None:
        self._config, self._group, self._tokenizer = config, group, tokenizer

    @override
    def generate(self, chats: Sequence[Chat], settings: GeneratedConfig, seed: int) -> list[str | None]:
        limit, positions = longest_request(self._config, settings), self._tokenizer.limits.positions
        if positions is not None:
            limit = min(limit, positions - settings.max_tokens)
        if limit < 1:
            raise UserError(
                f'contexts: type = "{settings.type}" with max_tokens = {settings.max_tokens} leaves no room for a '
                f"request in the model's {positions} positions: lower max_tokens"
            )
        texts: list[str | None] = [None] * len(chats)
        fitting = [index for index, chat in enumerate(chats) if len(self._tokenizer.encode(chat)) <= limit]
        for start in range(0, len(fitting), _SLICE):
            indices = fitting[start : start + _SLICE]
            sampling = Sampling(settings.temperature, 1.0, settings.max_tokens, seed=(seed + start) % 2**31)
            answers = self._group.answers([chats[index] for index in indices], sampling, NO_WEIGHTS)
            for index, answer in zip(indices, answers, strict=True):
                texts[index] = answer.text if answer.generation.finish_reason == "stop" else None
        return texts


@contextmanager
def generation_engine(config: Config, plan: CorePlan, model: Path, folder: Path) -> Iterator[ContextGenerator]:
    """A generator for the time of this block, which must be connected to a cluster; `folder` gets the engines' logs.

    Raises:
        RunFailed: the engine does not start.
    """
    spec = ActorSpec(engine_config(config), model, folder, None, spawn_store())
    with closing(RolloutGroup(spec, plan)) as group:
        group.start(config.run.start_timeout_s)
        yield EngineGenerator(config, group, ChatTokenizer(model, config.model.chat_template))


def engine_config(config: Config) -> Config:
    """The configuration of engines that only generate: no adapters, no updates, as long as requests and texts are."""
    sections = config.contexts_read.generated
    rollout = config.rollout.model_copy(
        update={
            "engine": config.rollout.engine.without_length_limit(),
            "max_prompt_tokens": max((longest_request(config, section) for section in sections), default=1),
            "max_completion_tokens": max((section.max_tokens for section in sections), default=1),
        }
    )
    return config.model_copy(
        update={
            "rollout": rollout,
            "model": config.model.model_copy(update={"lora": None}),
            "weights": config.weights.model_copy(update={"transport": "object_store"}),
        }
    )


def longest_request(config: Config, settings: GeneratedConfig) -> int:
    """Tokens of the longest request that is made."""
    return settings.max_prompt_tokens or config.rollout.max_prompt_tokens + _MARGIN
