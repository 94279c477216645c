"""Prepared problems without a cache, a tokenizer or a model: for tests of what reads them."""

from functools import partial

from unisd_rl.contexts.prepare import ContextBuilder
from unisd_rl.contexts.prompts import Prepared, PromptStream
from unisd_rl.contexts.selection import Lengths, select_examples
from unisd_rl.tasks.task import grade_all

TOO_LONG = Lengths(prompt=10**6, gold=0)


def made(config, task, fits=lambda prompt: True, generator=None, instructions=()):
    """The rows of all training problems; those that `fits` refuses are too long."""
    builder = ContextBuilder(
        config,
        task,
        lambda: instructions,
        generator,
        partial(grade_all, task),
        lambda prompt: Lengths(1, 1) if fits(prompt) else TOO_LONG,
    )
    return builder.rows(task.train, "all")


def prepared(config, task, **given) -> Prepared:
    return select_examples(config, task, made(config, task, **given))


def prepared_stream(config, task, **given) -> PromptStream:
    return PromptStream(task, config, prepared(config, task, **given))
